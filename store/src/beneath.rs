//! Paths beneath a root, and never out of it.
//!
//! Every path that a peer names is opened relative to a directory handle with `RESOLVE_BENEATH` (openat2(2)): the
//! kernel refuses `..`, absolute links and links that lead out, whatever happens to the tree meanwhile. Checking
//! first and opening by name later could be tricked in between.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// A directory and everything beneath it.
#[derive(Debug)]
pub struct Beneath {
    path: PathBuf,
    root: Arc<OwnedFd>,
    resolve: ResolveFlags,
    /// The directory used last: trees are written directory by directory.
    last: Mutex<Option<(String, Arc<OwnedFd>)>>,
}

/// Links that lead to links, at most.
const LINKS_MAX: u32 = 40;

impl Beneath {
    /// Opens `path`, which must be a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self::at(path.to_path_buf(), fd, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS))
    }

    /// A directory beneath, with the same rule on symbolic links.
    pub fn below(&self, rel: &str) -> io::Result<Self> {
        let fd = self.open_at(rel, OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self::at(self.join(rel), fd, self.resolve))
    }

    /// From here on no symbolic link is followed, not even one that stays beneath: `ELOOP`. Two names are then never
    /// the same file, and a name that a rule forbids is not reached by another name.
    #[must_use]
    pub fn without_links(self) -> Self {
        Self { resolve: self.resolve | ResolveFlags::NO_SYMLINKS, ..self }
    }

    fn at(path: PathBuf, root: OwnedFd, resolve: ResolveFlags) -> Self {
        Self { path, root: Arc::new(root), resolve, last: Mutex::new(None) }
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

    /// The handle of a directory, for names relative to it; it cannot be listed or synced. "" is the root.
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
        // `O_PATH` needs no right to read the directory. A link to a directory is followed if links are: it cannot
        // lead out.
        let fd = Arc::new(self.open_beneath(rel, OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?);
        *last = Some((rel.to_owned(), fd.clone()));
        Ok(fd)
    }

    /// The handle of a directory that is made, with its parents, if it is not there.
    pub fn make_dir(&self, rel: &str) -> io::Result<Arc<OwnedFd>> {
        match self.dir(rel) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        self.make_new(rel, Mode::from_raw_mode(0o777))?;
        self.dir(rel)
    }

    /// Makes a directory with `mode` (less the process's mask), and its parents with the usual one. Whether it is new.
    pub fn make_new(&self, rel: &str, mode: Mode) -> io::Result<bool> {
        let (parent, name) = split(rel);
        let parent = self.make_dir(parent)?;
        match rustix::fs::mkdirat(&parent, name, mode) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens something beneath; the last component is not followed if it is a symbolic link.
    pub fn open_at(&self, rel: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        self.open_beneath(rel, flags | OFlags::NOFOLLOW, mode)
    }

    fn open_beneath(
        &self,
        rel: impl rustix::path::Arg + AsRef<[u8]>,
        flags: OFlags,
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if rel.as_ref().is_empty() {
            return Ok(rustix::fs::openat2(&self.root, ".", flags, mode, self.resolve)?);
        }
        Ok(rustix::fs::openat2(&self.root, rel, flags, mode, self.resolve)?)
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
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Where `rel` is, in a form that goes through no symbolic link. What is not there yet is taken as it is named.
    ///
    /// # Errors
    /// `EXDEV`: a link, or `..`, leads out. `ELOOP`: too many links.
    pub fn canonical(&self, rel: &str) -> io::Result<String> {
        let mut rest: Vec<String> = rel.split('/').rev().map(str::to_owned).collect();
        let mut done = String::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." if done.is_empty() => return Err(Errno::XDEV.into()),
                ".." => {
                    done = split(&done).0.to_owned();
                    continue;
                }
                _ => {}
            }
            let next = metra_core::path::join(&done, &name);
            let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            if !self.stat(&next)?.is_some_and(is_link) {
                done = next;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP.into());
            }
            let target = self.read_link(&next)?;
            if target.starts_with('/') {
                return Err(Errno::XDEV.into());
            }
            rest.extend(target.split('/').rev().map(str::to_owned));
        }
        Ok(done)
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
        let count = if recursive { self.empty(rel.as_bytes())? } else { 0 };
        rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?;
        Ok(count + 1)
    }

    /// Removes everything in a directory, names that are not UTF-8 included.
    fn empty(&self, rel: &[u8]) -> io::Result<u64> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = self.open_beneath(rel, flags, Mode::empty())?;
        let mut count = 0;
        let mut folders = Vec::new();
        // Names are collected first: the listing must not see its own removals.
        for name in entries(&dir)? {
            match rustix::fs::unlinkat(&dir, &name, AtFlags::empty()) {
                Ok(()) => count += 1,
                // Linux says the first, POSIX the second.
                Err(Errno::ISDIR | Errno::PERM) => folders.push(name),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // A deep tree must not use up the handles.
        drop(dir);
        for name in folders {
            let path = [rel, b"/", name.as_bytes()].concat();
            count += self.empty(&path)?;
            let parent = self.open_beneath(rel, flags | OFlags::PATH, Mode::empty())?;
            rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR)?;
            count += 1;
        }
        Ok(count)
    }

    /// The names in a directory, sorted by bytes. Names that are not UTF-8 are left out.
    pub fn names(&self, rel: &str) -> io::Result<Vec<String>> {
        let fd = self.open_at(rel, OFlags::DIRECTORY, Mode::empty())?;
        let mut names: Vec<String> =
            entries(&fd)?.into_iter().filter_map(|name| name.into_string().ok()).collect();
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

fn entries(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
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

    #[test]
    fn removes_deep_trees_and_names_that_are_not_text() {
        use std::os::unix::ffi::OsStrExt;
        let root = tempfile::tempdir().unwrap();
        let beneath = Beneath::open(root.path()).unwrap();
        let deep = vec!["d"; 1500].join("/");
        for length in (99..=deep.len()).step_by(100) {
            beneath.make_dir(&deep[..length]).unwrap();
        }
        std::fs::write(root.path().join("d").join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
        assert_eq!(beneath.remove("d", true).unwrap(), 1501);
        assert_eq!(beneath.names("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn without_links_none_is_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("real/sub")).unwrap();
        std::fs::write(root.path().join("real/f"), b"").unwrap();
        std::os::unix::fs::symlink("real", root.path().join("link")).unwrap();
        let beneath = Beneath::open(root.path()).unwrap();
        assert!(beneath.open_at("link/f", OFlags::RDONLY, Mode::empty()).is_ok());
        let strict = beneath.without_links();
        assert!(strict.open_at("link/f", OFlags::RDONLY, Mode::empty()).is_err());
        assert!(strict.stat("link/f").is_err());
        assert!(strict.stat("link").unwrap().is_some(), "the link itself may be looked at");
        assert!(strict.make_dir("link/new").is_err());
        assert!(strict.below("link").is_err());
        assert!(strict.below("real").unwrap().stat("f").unwrap().is_some());
    }

    #[test]
    fn canonical_goes_through_no_link() {
        let root = tempfile::tempdir().unwrap();
        let link =
            |target: &str, name: &str| std::os::unix::fs::symlink(target, root.path().join(name)).unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        link("a/b", "to-b");
        link("../to-b/./x", "a/indirect");
        link("..", "up");
        link("/etc", "absolute");
        link("loop", "loop");
        let beneath = Beneath::open(root.path()).unwrap().without_links();
        for (rel, expected) in [
            ("", ""),
            ("a//b/", "a/b"),
            ("to-b", "a/b"),
            ("to-b/new/deep", "a/b/new/deep"),
            ("a/indirect/y", "a/b/x/y"),
            ("to-b/../c", "a/c"),
            ("not/there", "not/there"),
        ] {
            assert_eq!(beneath.canonical(rel).unwrap(), expected, "{rel}");
        }
        for bad in ["up/x", "absolute/x", "loop", "..", "a/../../x"] {
            assert!(beneath.canonical(bad).is_err(), "{bad}");
        }
    }
}
