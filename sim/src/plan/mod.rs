//! Plans: many runs, written as one TOML file.
//!
//! ```text
//!  [grid]      every combination of its lists --+
//!                                               +--> Base, with flows of its own or not --> Cell, with its Scenario
//!  [[scenario]] one run, by name ---------------+
//!        both change what [base] says of all
//! ```

mod base;
mod cell;
mod grid;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

pub use base::{Base, FlowSpec};
pub use cell::Cell;
pub use grid::Grid;

/// A plan: runs, in the order in which they stand in the file; those of the grid first.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is about, for reports.
    pub title: String,
    cells: Vec<Cell>,
}

/// The file. One of `grid` and `scenario` must be there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    grid: Option<Grid>,
    #[serde(default)]
    base: Base,
    /// Each with a `name`, what differs from `base`, and perhaps a [`FlowSpec`] for each `flow`.
    #[serde(default)]
    scenario: Vec<toml::Table>,
}

/// A plan that cannot be run. Fault: whoever wrote it.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Read(String, std::io::Error),
    /// It is not a plan.
    #[error("{0}: {1}")]
    Parse(String, toml::de::Error),
    /// A value makes no sense.
    #[error("{0}: {1}")]
    Value(String, String),
}

impl Plan {
    /// Reads a file.
    ///
    /// # Errors
    /// [`PlanError`], with the file's name.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| PlanError::Read(name.clone(), e))?;
        Self::parse(&name, &text)
    }

    /// Reads the text of a file of that name.
    ///
    /// # Errors
    /// [`PlanError`], with the name.
    pub fn parse(name: &str, text: &str) -> Result<Self, PlanError> {
        let file: File = toml::from_str(text).map_err(|e| PlanError::Parse(name.to_owned(), e))?;
        let wrong = |what: String| PlanError::Value(name.to_owned(), what);
        let mut cells = Vec::new();
        if let Some(grid) = &file.grid {
            for base in grid.over(&file.base) {
                cells.push(Cell::of_grid(&base).map_err(wrong)?);
            }
            if cells.is_empty() {
                return Err(wrong("a list in [grid] is empty: there is nothing to run".to_owned()));
            }
        }
        // The base again, as it stands in the file: what a scenario says replaces what is said there.
        let raw: toml::Table = toml::from_str(text).map_err(|e| PlanError::Parse(name.to_owned(), e))?;
        for scenario in file.scenario {
            let base = raw.get("base").and_then(toml::Value::as_table).cloned().unwrap_or_default();
            cells.push(Cell::of_scenario(base, scenario).map_err(wrong)?);
        }
        if cells.is_empty() {
            return Err(wrong("there is neither [grid] nor [[scenario]]: nothing to run".to_owned()));
        }
        let mut names = BTreeSet::new();
        match cells.iter().find(|cell| !names.insert(cell.name())) {
            Some(twice) => Err(wrong(format!("two runs are named {}", twice.name()))),
            None => Ok(Self { title: file.title, cells }),
        }
    }

    /// Every run.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }
}
