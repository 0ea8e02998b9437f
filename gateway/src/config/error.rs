//! What is wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong. Fault: whoever wrote the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, with dots, as in `users.alice.token_hash`; empty if the file as a whole is meant.
    pub key: String,
    /// The line of the file, from 1, if the key or what it belongs to is in the file.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Everything that is wrong with a configuration; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// In the order of the file, then those that are in no line of it.
    pub errors: Vec<ConfigError>,
}

impl fmt::Display for ConfigErrors {
    /// One error a line, as compilers write them: `FILE:LINE: KEY: MESSAGE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            match (&self.file, error.line) {
                (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
                (Some(file), None) => write!(f, "{}: ", file.display())?,
                (None, _) => {}
            }
            if !error.key.is_empty() {
                write!(f, "{}: ", error.key)?;
            }
            f.write_str(&error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
