//! What makes two attempts the same job.

use metra_core::id::{Digest, JobKey};

use crate::error::ClientError;
use metra_core::code::Code;

/// Collects what a job consists of into its key.
pub(crate) struct KeyBuilder(blake3::Hasher);

impl KeyBuilder {
    /// For a job in this direction (`push`, `pull`).
    pub(crate) fn new(direction: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("Metra client v1 job key");
        hasher.update(machine().as_bytes());
        Self(hasher).with(direction)
    }

    /// Adds a part; order matters, and where one part ends.
    pub(crate) fn with(mut self, part: &str) -> Self {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part.as_bytes());
        self
    }

    pub(crate) fn key(self) -> JobKey {
        JobKey(Digest(*self.0.finalize().as_bytes()))
    }
}

/// Something that tells this machine from others, so that two of them with the same paths do not take one another's
/// jobs over.
fn machine() -> String {
    ["/etc/machine-id", "/proc/sys/kernel/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// A random number.
pub(crate) fn random() -> Result<u64, ClientError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| ClientError::new(Code::Internal, format!("no randomness: {e}")))?;
    Ok(u64::from_be_bytes(bytes))
}
