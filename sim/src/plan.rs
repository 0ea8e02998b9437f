//! Plans: many runs, written as one TOML file.

use std::path::Path;

use metra_sim_model::{Burst, Direction, Event, Police};
use serde::Deserialize;

use crate::scenario::{Controller, Flow, HostEvent, Scenario, Way};

/// A plan: every combination of the lists in `[grid]`, over what `[base]` says of all of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it is about, for reports.
    pub title: String,
    /// What differs between runs.
    pub grid: Grid,
    /// What is the same in all of them.
    #[serde(default)]
    pub base: Base,
}

/// The lists that are combined.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Of the bottleneck, each way. Mbit/s.
    pub rate_mbit: Vec<f64>,
    /// Round-trip time without queues. ms.
    pub rtt_ms: Vec<f64>,
    /// Random loss, each way. %.
    pub loss_percent: Vec<f64>,
    /// Congestion controllers.
    #[serde(default = "cubic")]
    pub controller: Vec<Controller>,
    /// Directions of the transfer.
    #[serde(default = "push")]
    pub way: Vec<Way>,
    /// Seeds: so many runs of each.
    #[serde(default = "one")]
    pub seed: Vec<u64>,
}

/// What all runs of a plan have in common.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Base {
    /// Content: what the bottleneck carries in this time. s.
    pub seconds: f64,
    /// Content at least, and at most. MB.
    pub megabytes: (f64, f64),
    /// Clients, which begin one after the other at this distance. s.
    pub flows: usize,
    /// See `flows`.
    pub stagger_s: f64,
    /// Connections of each client.
    pub links: usize,
    /// Queue before the bottleneck, in bandwidth-delay products; never less than 64 kB.
    pub queue_bdp: f64,
    /// See [`Direction`]; each way.
    pub jitter_ms: f64,
    /// See [`Direction`]; each way.
    pub reorder: bool,
    /// See [`Direction`]; each way.
    pub burst: Option<Burst>,
    /// ECN marks above this part of the queue. %.
    pub mark_above_percent: Option<f64>,
    /// See [`Direction`]; each way.
    pub duplicate_percent: f64,
    /// See [`Direction`]; each way.
    pub corrupt_percent: f64,
    /// See [`Direction`]; each way.
    pub mtu: Option<u32>,
    /// See [`Direction`]; each way.
    pub police: Option<Police>,
    /// See [`Direction`]; each way.
    pub events: Vec<Event>,
    /// What happens to each client.
    pub client_events: Vec<HostEvent>,
    /// See [`Scenario`].
    pub wake_delay_us: f64,
    /// See [`Scenario`].
    pub sample_ms: Option<f64>,
    /// A run that is not done after this time is stopped; what has moved by then counts. s.
    pub limit_s: f64,
}

impl Default for Base {
    fn default() -> Self {
        Self {
            seconds: 10.0,
            megabytes: (1.0, 2000.0),
            flows: 1,
            stagger_s: 0.0,
            links: 1,
            queue_bdp: 1.0,
            jitter_ms: 0.0,
            reorder: false,
            burst: None,
            mark_above_percent: None,
            duplicate_percent: 0.0,
            corrupt_percent: 0.0,
            mtu: None,
            police: None,
            events: Vec::new(),
            client_events: Vec::new(),
            wake_delay_us: 100.0,
            sample_ms: None,
            limit_s: 60.0,
        }
    }
}

/// One run of a plan.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Mbit/s.
    pub rate_mbit: f64,
    /// ms.
    pub rtt_ms: f64,
    /// %.
    pub loss_percent: f64,
    /// Of every flow.
    pub controller: Controller,
    /// Of every flow.
    pub way: Way,
    /// All of it.
    pub scenario: Scenario,
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
        let plan: Self = toml::from_str(&text).map_err(|e| PlanError::Parse(name.clone(), e))?;
        let wrong = |what: String| PlanError::Value(name.clone(), what);
        if plan.base.flows == 0 || plan.base.links == 0 {
            return Err(wrong("base.flows and base.links are 1 or more".to_owned()));
        }
        let cells = plan.cells();
        if cells.is_empty() {
            return Err(wrong("a list in [grid] is empty: there is nothing to run".to_owned()));
        }
        for cell in &cells {
            cell.scenario.up.check().map_err(|e| wrong(e.to_string()))?;
        }
        Ok(plan)
    }

    /// Every run, in the order of the lists; the last list changes fastest.
    pub fn cells(&self) -> Vec<Cell> {
        let Grid { rate_mbit, rtt_ms, loss_percent, controller, way, seed } = &self.grid;
        let mut cells = Vec::new();
        for rate_mbit in rate_mbit.iter().copied() {
            for rtt_ms in rtt_ms.iter().copied() {
                for loss_percent in loss_percent.iter().copied() {
                    for controller in controller.iter().copied() {
                        for way in way.iter().copied() {
                            for seed in seed.iter().copied() {
                                let mut cell = Cell {
                                    rate_mbit,
                                    rtt_ms,
                                    loss_percent,
                                    controller,
                                    way,
                                    scenario: self.scenario(seed),
                                };
                                self.fill(&mut cell);
                                cells.push(cell);
                            }
                        }
                    }
                }
            }
        }
        cells
    }

    fn scenario(&self, seed: u64) -> Scenario {
        let base = &self.base;
        Scenario {
            seed,
            up: Direction::default(),
            down: Direction::default(),
            flows: Vec::new(),
            wake_delay_us: base.wake_delay_us,
            sample_ms: base.sample_ms,
            limit_s: base.limit_s,
            stop_s: None,
        }
    }

    fn fill(&self, cell: &mut Cell) {
        let base = &self.base;
        let queue = (cell.rate_mbit * 125.0 * cell.rtt_ms * base.queue_bdp) as u64;
        let queue = queue.max(64_000);
        let direction = Direction {
            rate_mbit: Some(cell.rate_mbit),
            delay_ms: cell.rtt_ms / 2.0,
            jitter_ms: base.jitter_ms,
            reorder: base.reorder,
            loss_percent: cell.loss_percent,
            burst: base.burst,
            queue_bytes: Some(queue),
            mark_above_bytes: base.mark_above_percent.map(|percent| (queue as f64 * percent / 100.0) as u64),
            duplicate_percent: base.duplicate_percent,
            corrupt_percent: base.corrupt_percent,
            mtu: base.mtu,
            police: base.police,
            events: base.events.clone(),
        };
        let (least, most) = base.megabytes;
        let megabytes = (cell.rate_mbit / 8.0 * base.seconds).max(least).min(most);
        let flow = |number: usize| Flow {
            way: cell.way,
            bytes: (megabytes * 1e6) as u64,
            start_s: base.stagger_s * number as f64,
            links: base.links,
            controller: cell.controller,
            access: None,
            events: base.client_events.clone(),
        };
        cell.scenario.flows = (0..base.flows).map(flow).collect();
        (cell.scenario.up, cell.scenario.down) = (direction.clone(), direction);
    }
}

impl Cell {
    /// A name for files and messages.
    pub fn name(&self) -> String {
        format!(
            "{}mbit-{}ms-{}pct-{}-{}-seed{}",
            self.rate_mbit,
            self.rtt_ms,
            self.loss_percent,
            self.controller.name(),
            self.way.name(),
            self.scenario.seed
        )
    }
}

fn cubic() -> Vec<Controller> {
    vec![Controller::Cubic]
}

fn push() -> Vec<Way> {
    vec![Way::Push]
}

fn one() -> Vec<u64> {
    vec![1]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SMALL: &str = r#"
        title = "small"
        [grid]
        rate_mbit = [100, 1000]
        rtt_ms = [10, 100]
        loss_percent = [0, 1]
        seed = [1, 2]
        [base]
        seconds = 2
        queue_bdp = 0.5
    "#;

    #[test]
    fn a_grid_is_every_combination() {
        let cells = toml::from_str::<Plan>(SMALL).unwrap().cells();
        assert_eq!(cells.len(), 16);
        let names: std::collections::BTreeSet<String> = cells.iter().map(Cell::name).collect();
        assert_eq!(names.len(), 16);
        let last = &cells[15];
        assert_eq!(
            (last.rate_mbit, last.rtt_ms, last.loss_percent, last.scenario.seed),
            (1000.0, 100.0, 1.0, 2)
        );
        assert_eq!(last.scenario.flows[0].bytes, 250_000_000);
        assert_eq!(last.scenario.up.queue_bytes, Some(6_250_000));
    }

    #[test]
    fn what_makes_no_sense_is_said_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.toml");
        for (text, said) in [
            (SMALL.replace("rate_mbit = [100, 1000]", "rate_mbit = []"), "nothing to run"),
            (SMALL.replace("[0, 1]", "[0, 101]"), "loss_percent"),
            (SMALL.replace("seconds", "second"), "unknown field"),
            (SMALL.replace("[base]", "[base]\nflows = 0"), "base.flows"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Plan::load(&path).unwrap_err().to_string();
            assert!(error.contains("plan.toml") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_plans_that_are_here_can_be_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
        let mut plans = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            Plan::load(&entry.unwrap().path()).unwrap();
            plans += 1;
        }
        assert!(plans >= 3, "{plans}");
    }
}
