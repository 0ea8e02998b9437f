//! Paths beneath a root, and never out of it.
//!
//! Every path that a peer names is opened relative to a directory handle with `RESOLVE_BENEATH` (openat2(2)): the
//! kernel refuses `..`, absolute links and links that lead out, whatever happens to the tree meanwhile. Checking
//! first and opening by name later could be tricked in between.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

/// A directory and everything beneath it.
#[derive(Debug)]
pub struct Beneath {
    path: PathBuf,
    root: Arc<OwnedFd>,
    /// The directory used last: trees are written directory by directory.
    last: Mutex<Option<(String, Arc<OwnedFd>)>>,
}

impl Beneath {
    /// Opens `path`, which must be a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_path_buf(), root: Arc::new(fd), last: Mutex::new(None) })
    }

    /// The root, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `rel` as a path for messages and for libraries that take paths.
    pub fn join(&self, rel: &str) -> PathBuf {
        if rel.is_empty() { self.path.clone() } else { self.path.join(rel) }
    }

    /// The handle of the root.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The handle of a directory. "" is the root.
    pub fn dir(&self, rel: &str) -> io::Result<Arc<OwnedFd>> {
        if rel.is_empty() {
            return Ok(self.root.clone());
        }
        let mut last = self.last.lock().expect("no panic while held");
        if let Some((name, fd)) = &*last
            && name == rel
        {
            return Ok(fd.clone());
        }
        // A link to a directory is followed: it cannot lead out.
        let fd = Arc::new(self.open_beneath(rel, OFlags::DIRECTORY, Mode::empty())?);
        *last = Some((rel.to_owned(), fd.clone()));
        Ok(fd)
    }

    /// The handle of a directory that is made, with its parents, if it is not there.
    pub fn make_dir(&self, rel: &str) -> io::Result<Arc<OwnedFd>> {
        match self.dir(rel) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        let (parent, name) = split(rel);
        let parent = self.make_dir(parent)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        self.dir(rel)
    }

    /// Opens something beneath; the last component is not followed if it is a symbolic link.
    pub fn open_at(&self, rel: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        self.open_beneath(rel, flags | OFlags::NOFOLLOW, mode)
    }

    fn open_beneath(&self, rel: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let rel = if rel.is_empty() { "." } else { rel };
        Ok(rustix::fs::openat2(
            &self.root,
            rel,
            flags,
            mode,
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )?)
    }

    /// The status of `rel` itself (links are not followed). `None` if there is nothing.
    pub fn stat(&self, rel: &str) -> io::Result<Option<Stat>> {
        let (parent, name) = split(rel);
        let dir = match self.dir(parent) {
            Ok(dir) => dir,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let name = if name.is_empty() { "." } else { name };
        match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes `rel`; a directory that is not empty only if `recursive`. Returns how many entries went.
    pub fn remove(&self, rel: &str, recursive: bool) -> io::Result<u64> {
        let Some(stat) = self.stat(rel)? else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        let (parent, name) = split(rel);
        let dir = self.dir(parent)?;
        self.forget();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            rustix::fs::unlinkat(&dir, name, AtFlags::empty())?;
            return Ok(1);
        }
        let mut count = 1;
        if recursive {
            // Names are collected per directory: the listing must not see its own removals.
            for name in self.names(rel)? {
                count += self.remove(&metra_core::path::join(rel, &name), true)?;
            }
            self.forget();
        }
        rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?;
        Ok(count)
    }

    /// The names in a directory, sorted by bytes. Names that are not UTF-8 are left out.
    pub fn names(&self, rel: &str) -> io::Result<Vec<String>> {
        let fd = self.open_at(rel, OFlags::DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd)? {
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The text of a symbolic link.
    pub fn read_link(&self, rel: &str) -> io::Result<String> {
        let (parent, name) = split(rel);
        let dir = self.dir(parent)?;
        let target = rustix::fs::readlinkat(&dir, name, Vec::new())?;
        target.into_string().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "link is not UTF-8"))
    }

    /// Forgets the directory used last, before directories are renamed or removed.
    pub fn forget(&self) {
        *self.last.lock().expect("no panic while held") = None;
    }
}

/// A path's parent ("" at the root) and its last component.
pub fn split(rel: &str) -> (&str, &str) {
    rel.rsplit_once('/').unwrap_or(("", rel))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_leads_out() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::write(outer.path().join("secret"), b"s").unwrap();
        std::os::unix::fs::symlink(outer.path(), root.join("out")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        std::os::unix::fs::symlink("in", root.join("ok")).unwrap();
        let beneath = Beneath::open(&root).unwrap();
        for bad in ["../secret", "out/secret", "up/secret", "in/../../secret"] {
            assert!(beneath.open_at(bad, OFlags::RDONLY, Mode::empty()).is_err(), "{bad}");
            assert!(beneath.stat(bad).is_err(), "{bad}");
            assert!(beneath.remove(bad, true).is_err(), "{bad}");
        }
        assert!(beneath.make_dir("out/new").is_err());
        assert!(beneath.make_dir("ok/new/deep").is_ok());
        assert!(root.join("in/new/deep").is_dir());
        assert!(outer.path().join("secret").exists());
    }

    #[test]
    fn removes_a_tree_and_counts_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/b/f"), b"").unwrap();
        std::os::unix::fs::symlink("/", root.path().join("a/link")).unwrap();
        let beneath = Beneath::open(root.path()).unwrap();
        assert!(beneath.remove("a", false).is_err());
        assert_eq!(beneath.remove("a", true).unwrap(), 4);
        assert_eq!(beneath.names("").unwrap(), Vec::<String>::new());
        assert_eq!(beneath.remove("a", true).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
