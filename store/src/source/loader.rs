//! Reads the content of chunks again, when it is no longer in memory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::limits::CHUNK_MAX;

use super::generate;
use super::large::read_at;
use super::place::{Places, plain};
use super::reader::LocalFile;
use super::stat::Stat;
use super::{Root, SourceSpec};

/// Some bytes of one entry.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Where the entry came from.
    pub local: LocalFile,
    /// The path of the entry.
    pub path: &'a str,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub len: u32,
}

/// Why the content of a chunk cannot be had again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file is no longer what it was when its entry was made. Fault: whoever writes to it.
    #[error("{path}: it changed since it was read")]
    Changed {
        /// Of the entry.
        path: String,
    },
    /// The file cannot be read. Fault: its system.
    #[error("{path}: {reason}")]
    Read {
        /// Of the entry.
        path: String,
        /// [`Code::ReadFailed`], [`Code::NotFound`] or [`Code::Denied`].
        code: Code,
        /// For people.
        reason: String,
    },
    /// Standard input passes once; whoever may need its chunks again has to keep them. Fault: the caller.
    #[error("{path}: standard input cannot be read again")]
    Stream {
        /// Of the entry.
        path: String,
    },
    /// More than a chunk was asked for. Fault: the caller.
    #[error("more than {CHUNK_MAX} bytes at once")]
    TooLong,
}

impl LoadError {
    /// The code that says this to a peer.
    pub fn code(&self) -> Code {
        match self {
            LoadError::Changed { .. } => Code::Changed,
            LoadError::Read { code, .. } => *code,
            LoadError::Stream { .. } => Code::ReadFailed,
            LoadError::TooLong => Code::Internal,
        }
    }

    /// The entry that is at fault.
    pub fn path(&self) -> Option<&str> {
        match self {
            LoadError::Changed { path } | LoadError::Read { path, .. } | LoadError::Stream { path } => {
                Some(path)
            }
            LoadError::TooLong => None,
        }
    }
}

/// Reads content again, for any number of threads at a time. Keeps a few large files open.
#[derive(Debug)]
pub struct Loader {
    roots: Vec<Root>,
    places: Places,
    open: Mutex<Vec<Open>>,
}

#[derive(Clone, Debug)]
struct Open {
    local: LocalFile,
    path: String,
    file: Arc<File>,
}

/// Files that are kept open.
const OPEN_MAX: usize = 8;

impl Loader {
    /// For entries of a [`super::Reader`] of the same `spec`.
    pub fn new(spec: &SourceSpec) -> Self {
        Self { roots: spec.roots.clone(), places: Places::new(spec), open: Mutex::default() }
    }

    /// The bytes of all parts, one after the other; what a chunk consists of, if the parts are its segments.
    ///
    /// A file that was changed is noticed by its size, time or inode. Whether the bytes are right is for the caller to
    /// find out by their hash.
    ///
    /// # Errors
    /// The first part that cannot be had.
    pub fn load(&self, parts: &[Part<'_>]) -> Result<Bytes, LoadError> {
        let total: u64 = parts.iter().map(|p| u64::from(p.len)).sum();
        if total > CHUNK_MAX as u64 {
            return Err(LoadError::TooLong);
        }
        if let [part] = parts
            && let Some(Root::Zero { .. }) = self.root(part)
        {
            return Ok(generate::zeros(total as usize));
        }
        let mut data = Vec::with_capacity(total as usize);
        for part in parts {
            self.append(part, &mut data, parts.len() == 1)?;
        }
        Ok(data.into())
    }

    fn root(&self, part: &Part<'_>) -> Option<&Root> {
        self.roots.get(usize::from(part.local.root))
    }

    fn append(&self, part: &Part<'_>, data: &mut Vec<u8>, keep_open: bool) -> Result<(), LoadError> {
        let len = part.len as usize;
        match self.root(part) {
            Some(Root::Zero { .. }) => {
                data.resize(data.len() + len, 0);
                Ok(())
            }
            Some(Root::Random { seed, .. }) => {
                generate::random(*seed, part.offset, len, data);
                Ok(())
            }
            Some(Root::Stdin { .. }) => Err(LoadError::Stream { path: part.path.to_owned() }),
            Some(Root::Path { .. } | Root::Listed { .. }) => self.append_file(part, data, keep_open),
            None => Err(failed(part, Code::NotFound, "there is no such root".into())),
        }
    }

    fn append_file(&self, part: &Part<'_>, data: &mut Vec<u8>, keep_open: bool) -> Result<(), LoadError> {
        let io_failed = |e: io::Error| failed(part, Code::ReadFailed, plain(&e));
        let file = match self.kept(part) {
            Some(file) => file,
            None => {
                let found = self.places.content(part.local.root, Path::new(part.path));
                let opened = found.and_then(|(at, _)| Ok(Arc::new(at.open()?)));
                let file = opened.map_err(|e| failed(part, e.code(), e.to_string()))?;
                if keep_open {
                    self.keep(part, file.clone());
                }
                file
            }
        };
        let (start, len) = (data.len(), part.len as usize);
        let mut piece = Vec::with_capacity(len);
        let whole = start == 0 && data.capacity() == len;
        let target = if whole { &mut *data } else { &mut piece };
        read_at(&*file, target, part.offset, len).map_err(|e| io_failed(e.into()))?;
        if !whole {
            data.append(&mut piece);
        }
        let stat = Stat::of(&*file).map_err(io_failed)?;
        if data.len() != start + len || stat.tag() != part.local.tag {
            self.forget(part);
            return Err(LoadError::Changed { path: part.path.to_owned() });
        }
        Ok(())
    }

    fn kept(&self, part: &Part<'_>) -> Option<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().position(|o| o.is(part))?;
        // The least recently used comes first.
        let found = open.remove(at);
        let file = found.file.clone();
        open.push(found);
        Some(file)
    }

    fn keep(&self, part: &Part<'_>, file: Arc<File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|o| !o.is(part));
        if open.len() >= OPEN_MAX {
            open.remove(0);
        }
        open.push(Open { local: part.local, path: part.path.to_owned(), file });
    }

    fn forget(&self, part: &Part<'_>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|o| !o.is(part));
    }
}

impl Open {
    fn is(&self, part: &Part<'_>) -> bool {
        self.local == part.local && self.path == part.path
    }
}

fn failed(part: &Part<'_>, code: Code, reason: String) -> LoadError {
    LoadError::Read { path: part.path.to_owned(), code, reason }
}

/// Where an entry's file is, for messages. `None`: it is not a file of the file system.
pub fn resolve(spec: &SourceSpec, local: LocalFile, path: &str) -> Option<PathBuf> {
    Some(Places::new(spec).anchor(local.root)?.join(path))
}
