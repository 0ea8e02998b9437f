//! Whom a reader or a landing asks whether a path is for this user.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Says of a path whether what is there may be read or written, and if not, why. The path is absolute and real: where a link was
/// followed, it is what the link leads to, and no directory in it is a link. With it comes the length of a file, if it is known.
#[derive(Clone)]
pub struct Guard(Arc<Judge>);

type Judge = dyn Fn(&Path, Option<u64>) -> Result<(), String> + Send + Sync;

impl Guard {
    /// Asks `judge`, from whatever thread reads or plans.
    pub fn new(judge: impl Fn(&Path, Option<u64>) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// Asks.
    ///
    /// # Errors
    /// It may not be, and why.
    pub fn may(&self, path: &Path, size: Option<u64>) -> Result<(), String> {
        (self.0)(path, size)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard(..)")
    }
}
