//! The secret that lets a restarted gateway disown the connections of the process before it (stateless reset,
//! RFC 9000 section 10.3). Without it their peers would wait for their idle timeout.

use std::fmt;
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::Error;
use crate::files::{LockedDir, PRIVATE};

const FILE: &str = "reset.key";

/// See the module's documentation.
#[derive(Clone)]
pub struct ResetKey([u8; 32]);

impl ResetKey {
    /// The secret in `state_dir` (`reset.key`, 32 bytes), made when there is none.
    ///
    /// # Errors
    /// The directory cannot be written, or the file is damaged.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, Error> {
        let dir = LockedDir::open(state_dir)?;
        if let Some(bytes) = dir.read_secret(FILE)? {
            let damaged = |_| {
                let detail = "not a reset key of 32 bytes; remove the file to make a new one";
                Error::content(&dir.path(FILE), detail.to_owned())
            };
            return bytes.as_slice().try_into().map(Self).map_err(damaged);
        }
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(Error::crypto("make a reset key"))?;
        dir.write(FILE, &key, PRIVATE)?;
        Ok(Self(key))
    }

    /// The secret itself.
    pub fn secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKey(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn is_kept_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = ResetKey::load_or_create(dir.path()).unwrap();
        assert_eq!(first.secret(), ResetKey::load_or_create(dir.path()).unwrap().secret());
        assert_ne!(first.secret(), &[0; 32]);
        std::fs::write(dir.path().join(FILE), b"short").unwrap();
        let error = ResetKey::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains(FILE), "{error}");
    }
}
