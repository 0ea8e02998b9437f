//! Reading: file trees in, records and chunks out.
//!
//! ```text
//! SourceSpec -> walk (names, sorted, filtered) -> Reader::step -> Entry, Chunk, ... in the order of a manifest
//!                                                      |
//!                                   ManifestCache: hashes of files that have not changed since
//!
//! LocalFile (where an entry came from) -> Loader::load -> the bytes of a chunk, once more
//! ```
//!
//! Nothing here starts a thread or waits for anything but the disk (and standard input, if that is a root): a caller
//! runs [`Reader::step`] wherever blocking is allowed. Memory is bounded by the names of the directories that are
//! open, one pack, and one block of the file at hand.
//!
//! Not here: the numbering and the root of a manifest (`metra_core::manifest`), and when to read.

mod cache;
mod expand;
mod filter;
mod generate;
mod large;
mod list;
mod loader;
mod pack;
mod place;
mod reader;
mod stat;
#[cfg(test)]
mod tests;
mod walk;

use std::path::PathBuf;

use metra_core::wire::{Keep, Symlinks};

use crate::Guard;

pub use cache::{CachedFile, FileIdentity, ManifestCache};
pub use expand::{ExpandError, expand};
pub use filter::{FilterError, Filters};
pub use list::list;
pub use loader::{LoadError, Loader, Part, resolve};
pub use reader::{Item, LocalFile, Problem, Reader, Step};

/// What to read, and how.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// In the order in which they are read. Those after the first 65,536 are refused; use a list.
    pub roots: Vec<Root>,
    /// Which names below the roots are read.
    pub filters: Filters,
    /// What becomes of symbolic links.
    pub symlinks: Symlinks,
    /// Which metadata the entries carry.
    pub keep: Keep,
    /// A folder outside of which nothing is read, whatever links say. Relative roots are relative to it, and `..` in
    /// a root is refused. `None`: the roots are the user's own, and are taken as they are.
    pub confine: Option<PathBuf>,
    /// Who says of each file, directory and link whether it may be read: what may not is reported as a problem
    /// ([`Code::Denied`](metra_core::code::Code::Denied)), and nothing below it is looked at. `None`: all may.
    pub guard: Option<Guard>,
}

/// One thing to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A file, directory or link of the file system. Its entries' paths begin with its own name.
    Path {
        /// Where it is.
        path: PathBuf,
        /// Only what is in the directory, not the directory itself: the paths of the entries begin below it. A path
        /// without a name of its own (`.`, `..`, `/`) always means the contents.
        contents: bool,
    },
    /// Paths from a list. The entries' paths are the paths of the list. A directory in it stands for all that is in
    /// it; the directories that lead to a path are not entries unless they are in the list.
    Listed {
        /// What the paths are relative to.
        base: PathBuf,
        /// Without `..`; a leading `/` is ignored.
        paths: Vec<PathBuf>,
    },
    /// Standard input, as one entry of unknown size.
    Stdin {
        /// Path of the entry.
        name: String,
    },
    /// Zero bytes, for measurements.
    Zero {
        /// Bytes.
        size: u64,
        /// Path of the entry.
        name: String,
    },
    /// Bytes that do not compress, the same for the same seed, for measurements. Not secret in any way.
    Random {
        /// Bytes.
        size: u64,
        /// Chooses the bytes.
        seed: u64,
        /// Path of the entry.
        name: String,
    },
}

impl Root {
    /// A path as it is written on a command line: a trailing `/` means the contents.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let contents = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        Root::Path { path, contents }
    }
}

impl SourceSpec {
    /// Everything below `roots`, links as links, modes and times kept, not confined.
    pub fn new(roots: Vec<Root>) -> Self {
        Self {
            roots,
            filters: Filters::default(),
            symlinks: Symlinks::Keep,
            keep: Keep { mode: true, times: true },
            confine: None,
            guard: None,
        }
    }
}
