//! A TOML file as a value of Rust, with the line of every key, and with every fault of form instead of the first one.
//!
//! For [`RawConfig`](super::RawConfig), and for the configuration of the clients, which is read by the same rules.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Table;
use toml::de::{DeArray, DeTable, DeValue};

use super::{ConfigError, ConfigErrors};

/// Where a configuration was read from, and what is wrong with it so far.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file, as it was named; `None`: the configuration comes from elsewhere.
    pub file: Option<PathBuf>,
    /// What is wrong, in the order in which it was found.
    pub errors: Vec<ConfigError>,
    /// By key, as [`join`] writes it; from 1.
    lines: HashMap<String, usize>,
}

impl Origin {
    /// The line of a key or, if it is not in the file, of the table that it belongs to.
    pub fn line(&self, key: &str) -> Option<usize> {
        std::iter::successors(Some(key), |k| k.rsplit_once('.').map(|(table, _)| table))
            .find_map(|k| self.lines.get(k).copied())
    }

    /// Notes that something is wrong with a key, which is written as [`join`] does it.
    pub fn error(&mut self, key: &str, message: impl Into<String>) {
        let error = ConfigError { line: self.line(key), key: key.to_owned(), message: message.into() };
        self.errors.push(error);
    }

    /// All that is wrong, in the order of the file.
    pub fn into_errors(mut self) -> ConfigErrors {
        self.errors.sort_by_key(|e| e.line.unwrap_or(usize::MAX));
        ConfigErrors { file: self.file, errors: self.errors }
    }
}

/// What is in a file, and the folder to which paths in it are relative. Keys that are not known and values of a wrong type
/// are left out, and are errors in the [`Origin`].
///
/// # Errors
/// The file cannot be read, or is not TOML. Fault: whoever wrote or named it.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Origin, PathBuf), ConfigErrors> {
    let fail = |line, message| {
        let error = ConfigError { key: String::new(), line, message };
        ConfigErrors { file: Some(path.to_owned()), errors: vec![error] }
    };
    let text = fs::read_to_string(path).map_err(|e| fail(None, format!("cannot be read: {e}")))?;
    // An absolute path, so that what is in the file does not depend on where the gateway is started.
    let file = std::path::absolute(path).map_err(|e| fail(None, format!("cannot be found: {e}")))?;
    let (raw, mut origin) = parse(&text).map_err(|e| {
        let line = e.span().map(|span| line_of(&text, span.start));
        fail(line, e.message().trim_end().to_owned())
    })?;
    origin.file = Some(path.to_owned());
    Ok((raw, origin, file.parent().map(Path::to_owned).unwrap_or_default()))
}

/// Each value is tried on its own, and left out if it does not fit: so one fault does not hide the next.
fn parse<T: DeserializeOwned>(text: &str) -> Result<(T, Origin), toml::de::Error> {
    let mut origin = Origin::default();
    note_lines(text, &DeTable::parse(text)?.into_inner(), &mut Vec::new(), &mut origin.lines);
    let mut table: Table = text.parse()?;
    for path in leaves(&table) {
        if let Err(e) = T::deserialize(only(&table, &path)) {
            let key = join(&path);
            // What follows the first line tells of the table that was made up for the trial.
            let message = e.message().lines().next().unwrap_or_default().to_owned();
            origin.error(&key, message);
            remove(&mut table, &path);
        }
    }
    Ok((T::deserialize(table)?, origin))
}

/// The paths of everything that is not a table with something in it.
fn leaves(table: &Table) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => {
                found.extend(leaves(inner).into_iter().map(|mut path| {
                    path.insert(0, key.clone());
                    path
                }))
            }
            _ => found.push(vec![key.clone()]),
        }
    }
    found
}

/// A table with nothing but the value at `path`.
fn only(table: &Table, path: &[String]) -> Table {
    let mut result = Table::new();
    if let Some((first, rest)) = path.split_first()
        && let Some(value) = table.get(first)
    {
        let value = match value {
            toml::Value::Table(inner) if !rest.is_empty() => toml::Value::Table(only(inner, rest)),
            other => other.clone(),
        };
        result.insert(first.clone(), value);
    }
    result
}

/// Removes the value at `path`, and the tables that are empty without it.
fn remove(table: &mut Table, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    if let Some(toml::Value::Table(inner)) = table.get_mut(first) {
        remove(inner, rest);
        if !inner.is_empty() {
            return;
        }
    }
    table.remove(first);
}

fn note_lines(text: &str, table: &DeTable<'_>, path: &mut Vec<String>, lines: &mut HashMap<String, usize>) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        lines.insert(join(path), line_of(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => note_lines(text, inner, path, lines),
            DeValue::Array(items) => note_items(text, items, &join(path), lines),
            _ => {}
        }
        path.pop();
    }
}

/// The tables of a list, as in `rules[1].name`; the first is 1.
fn note_items(text: &str, items: &DeArray<'_>, key: &str, lines: &mut HashMap<String, usize>) {
    for (at, item) in items.iter().enumerate() {
        let DeValue::Table(table) = item.get_ref() else { continue };
        let key = format!("{key}[{}]", at + 1);
        lines.insert(key.clone(), line_of(text, item.span().start));
        for name in table.keys() {
            lines.insert(format!("{key}.{}", quoted(name.get_ref())), line_of(text, name.span().start));
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

/// A key as TOML writes it with dots.
pub fn join(path: &[String]) -> String {
    path.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".")
}

/// One part of a key, in quotes where TOML needs them.
pub(super) fn quoted(part: &str) -> String {
    let bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { part.to_owned() } else { format!("{part:?}") }
}
