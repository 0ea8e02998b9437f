//! Opens what a root and a path below it stand for, and nothing outside of the fence.
//!
//! Every entry's path is relative to the *anchor* of its root: the folder that holds the root, or the root itself if
//! only its contents are read. Names are opened relative to open directories and without following links; where a
//! link is followed, its target is resolved first and then opened the same way. A link that is swapped in between
//! therefore leads nowhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use metra_core::code::Code;
use metra_core::wire::Symlinks;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::stat::Stat;
use super::{Root, SourceSpec};

/// Why something cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("{}", plain(.0))]
    Io(#[from] io::Error),
    #[error("it leads outside of the folder that is served")]
    Outside,
    #[error("`..` is not accepted in a path that is asked for")]
    DotDot,
}

impl From<Errno> for PlaceError {
    fn from(e: Errno) -> Self {
        Self::Io(e.into())
    }
}

impl PlaceError {
    pub(super) fn code(&self) -> Code {
        match self {
            PlaceError::Io(e) if e.kind() == io::ErrorKind::NotFound => Code::NotFound,
            PlaceError::Io(_) => Code::ReadFailed,
            PlaceError::Outside => Code::Denied,
            PlaceError::DotDot => Code::BadName,
        }
    }
}

/// An error of the system in its own words, without the number.
pub(super) fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

/// A name in an open directory.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) name: OsString,
}

impl At {
    /// Of the name itself, not of what it may point to.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(Stat::from(&rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// For reading. Does not wait for a writer, should the name have become a FIFO.
    pub(super) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(File::from(rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty())?))
    }

    /// A directory, for its names.
    pub(super) fn open_directory(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.dir, &self.name, LISTED, Mode::empty())?)
    }

    /// The path of the name, with the real one of its directory: what the system says of the directory that is open, so no
    /// link that is swapped meanwhile makes it another.
    pub(super) fn real(&self) -> io::Result<PathBuf> {
        let fd = self.dir.as_fd().as_raw_fd();
        let dir = PathBuf::from(OsString::from_vec(
            rustix::fs::readlink(format!("/proc/self/fd/{fd}"), Vec::new())?.into_bytes(),
        ));
        Ok(if self.name == "." { dir } else { dir.join(&self.name) })
    }

    /// The text of a link.
    pub(super) fn link(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.dir, &self.name, Vec::new())?.into_bytes())
    }
}

const LISTED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory to start from; where the system can, without the right to list it.
#[cfg(target_os = "linux")]
const PASSED: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const PASSED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The roots of a source and the fence around them.
#[derive(Debug)]
pub(super) struct Places {
    anchors: Vec<Option<Anchor>>,
    /// The folder that confines, without links in its path.
    fence: Option<Fence>,
    follow: bool,
}

#[derive(Debug)]
struct Anchor {
    path: PathBuf,
    /// Whether it was asked for with `..`, which is refused inside of a fence.
    dot_dot: bool,
    dir: OnceLock<Arc<OwnedFd>>,
}

#[derive(Debug)]
struct Fence {
    path: PathBuf,
    real: OnceLock<(PathBuf, Arc<OwnedFd>)>,
}

impl Places {
    pub(super) fn new(spec: &SourceSpec) -> Self {
        let anchors = spec.roots.iter().map(|root| {
            let path = match root {
                Root::Path { path, contents } => split(path, *contents).0,
                Root::Listed { base, .. } => base.clone(),
                Root::Stdin { .. } | Root::Zero { .. } | Root::Random { .. } => return None,
            };
            let dot_dot = has_dot_dot(&path);
            let path = match &spec.confine {
                Some(fence) => fence.join(path),
                None if path.as_os_str().is_empty() => PathBuf::from("."),
                None => path,
            };
            Some(Anchor { path, dot_dot, dir: OnceLock::new() })
        });
        Self {
            anchors: anchors.collect(),
            fence: spec.confine.clone().map(|path| Fence { path, real: OnceLock::new() }),
            follow: spec.symlinks == Symlinks::Follow,
        }
    }

    /// The folder that the paths of a root's entries are relative to. `None`: the root is not of the file system.
    pub(super) fn anchor(&self, root: u16) -> Option<&Path> {
        Some(&self.anchors.get(usize::from(root))?.as_ref()?.path)
    }

    /// The anchor, opened.
    pub(super) fn anchor_dir(&self, root: u16) -> Result<Arc<OwnedFd>, PlaceError> {
        let anchor = self.anchors.get(usize::from(root)).and_then(Option::as_ref);
        let anchor = anchor.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        if let Some(dir) = anchor.dir.get() {
            return Ok(dir.clone());
        }
        if self.fence.is_some() && anchor.dot_dot {
            return Err(PlaceError::DotDot);
        }
        let dir = self.directory(&anchor.path)?;
        Ok(anchor.dir.get_or_init(|| dir).clone())
    }

    /// Where the entry `path` of a root is. Links on the way to it are followed if they stay inside of the fence;
    /// the last component is looked at as it is.
    pub(super) fn at(&self, root: u16, path: &Path) -> Result<At, PlaceError> {
        if has_dot_dot(path) {
            return Err(PlaceError::DotDot);
        }
        let anchor = self.anchor_dir(root)?;
        let Some(name) = path.file_name() else {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = match beneath(&anchor, parent) {
            Ok(dir) => dir,
            // A link on the way: a directory of a link that is followed, or a listed path that goes through one.
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let base = self.anchor(root).unwrap_or(Path::new(""));
                self.directory(&base.join(parent))?
            }
            Err(e) => return Err(e.into()),
        };
        Ok(At { dir, name: name.to_owned() })
    }

    /// Where the link at `path` of a root leads in the end.
    pub(super) fn target(&self, root: u16, path: &Path) -> Result<At, PlaceError> {
        let base = self.anchor(root).unwrap_or(Path::new(""));
        let real = base.join(path).canonicalize()?;
        // Only "/" has neither.
        let parent = real.parent().unwrap_or(&real);
        let name = real.file_name().unwrap_or(OsStr::new("."));
        Ok(At { dir: self.real_directory(parent)?, name: name.to_owned() })
    }

    /// Where the content of the entry `path` is: where the name leads if links are followed, else the name.
    pub(super) fn content(&self, root: u16, path: &Path) -> Result<(At, Stat), PlaceError> {
        let at = self.at(root, path)?;
        let stat = at.stat()?;
        if self.follow && stat.kind == super::stat::Kind::Symlink {
            let at = self.target(root, path)?;
            let stat = at.stat()?;
            return Ok((at, stat));
        }
        Ok((at, stat))
    }

    /// Opens a directory by a path that may go through links.
    fn directory(&self, path: &Path) -> Result<Arc<OwnedFd>, PlaceError> {
        if self.fence.is_none() {
            return Ok(Arc::new(rustix::fs::openat(CWD, path, PASSED, Mode::empty())?));
        }
        self.real_directory(&path.canonicalize()?)
    }

    /// Opens a directory by a path without links.
    fn real_directory(&self, real: &Path) -> Result<Arc<OwnedFd>, PlaceError> {
        let Some(fence) = &self.fence else {
            return Ok(Arc::new(rustix::fs::openat(CWD, real, PASSED, Mode::empty())?));
        };
        let (outer, dir) = match fence.real.get() {
            Some(known) => known,
            None => {
                let outer = fence.path.canonicalize()?;
                let dir = Arc::new(rustix::fs::openat(CWD, &outer, PASSED, Mode::empty())?);
                fence.real.get_or_init(|| (outer, dir))
            }
        };
        let below = real.strip_prefix(outer).map_err(|_| PlaceError::Outside)?;
        Ok(beneath(dir, below)?)
    }
}

/// Opens a directory below another one, component by component, through no link.
fn beneath(dir: &Arc<OwnedFd>, path: &Path) -> Result<Arc<OwnedFd>, Errno> {
    let mut at = dir.clone();
    for component in path.components() {
        if let Component::Normal(name) = component {
            at = Arc::new(rustix::fs::openat(at.as_fd(), name, PASSED | OFlags::NOFOLLOW, Mode::empty())?);
        }
    }
    Ok(at)
}

/// Splits the path of a root into its anchor and its own name; no name: the contents are meant.
pub(super) fn split(path: &Path, contents: bool) -> (PathBuf, Option<OsString>) {
    // `file_name` looks through a trailing `/.`, which says as clearly as a trailing `/` that the contents are meant.
    let dot = path.as_os_str().as_encoded_bytes().ends_with(b"/.");
    match path.file_name() {
        Some(name) if !contents && !dot => {
            (path.parent().unwrap_or(Path::new("")).to_owned(), Some(name.to_owned()))
        }
        _ => (path.to_owned(), None),
    }
}

pub(super) fn has_dot_dot(path: &Path) -> bool {
    path.components().any(|c| c == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_split_as_they_are_meant() {
        let s = |path: &str, contents| {
            let (anchor, name) = split(Path::new(path), contents);
            (anchor.to_string_lossy().into_owned(), name.map(|n| n.to_string_lossy().into_owned()))
        };
        assert_eq!(s("/a/b", false), ("/a".into(), Some("b".into())));
        assert_eq!(s("b", false), (String::new(), Some("b".into())));
        assert_eq!(s("/b", false), ("/".into(), Some("b".into())));
        assert_eq!(s("/a/b", true), ("/a/b".into(), None));
        for path in [".", "..", "/", "a/.."] {
            assert_eq!(s(path, false), (path.into(), None));
        }
        assert_eq!(s("a/.", false), ("a/.".into(), None));
    }

    #[test]
    fn errors_read_well() {
        let error = PlaceError::Io(io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "no such file or directory");
        assert_eq!(error.code(), Code::NotFound);
    }
}
