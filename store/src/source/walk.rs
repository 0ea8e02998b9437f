//! Visits the roots and what is below them: parents before children, the names of a directory in byte order.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metra_core::code::Code;
use metra_core::limits::PATH_MAX;
use metra_core::wire::Symlinks;

use super::place::{At, PlaceError, Places, has_dot_dot, plain, split};
use super::reader::Problem;
use super::stat::{Kind, Stat};
use super::{Filters, Root, SourceSpec};
use crate::Guard;

/// One thing that the walk came by.
#[derive(Debug)]
pub(super) enum Walked {
    /// Something of the file system.
    Node(Node),
    /// A root that is not of the file system.
    Made(u16),
    /// Something that cannot be read.
    Problem(Problem),
    /// A name that is left out.
    Nothing,
}

/// A file, directory or link that is to become an entry.
#[derive(Debug)]
pub(super) struct Node {
    /// Path of the entry.
    pub(super) path: String,
    pub(super) root: u16,
    /// Where it was found. Given up for far members of a pack, and found again by `path`.
    pub(super) at: Option<At>,
    pub(super) stat: Stat,
    /// How often it was found changed before.
    pub(super) attempt: u8,
}

/// The walk over all roots of a source.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) places: Arc<Places>,
    roots: Vec<Root>,
    /// The next root, and the next path in it if it is a list.
    next: (usize, usize),
    filters: Filters,
    symlinks: Symlinks,
    guard: Option<Guard>,
    /// The directories that are open, outermost first.
    frames: Vec<Frame>,
    /// Path of the entry of the innermost directory, from the anchor of its root on.
    path: String,
    root: u16,
    /// How much of `path` the filters do not see: the root's own name.
    hidden: usize,
}

#[derive(Debug)]
struct Frame {
    /// Closed again while the walk is far below, so that deep trees do not use up the descriptors.
    dir: Option<Arc<OwnedFd>>,
    id: (u64, u64),
    /// Length of the path of this directory.
    path_len: usize,
    names: Names,
}

/// How many directories stay open at a time.
const OPEN_DIRECTORIES: usize = 64;

impl Walk {
    pub(super) fn new(spec: &SourceSpec) -> Self {
        Self {
            places: Arc::new(Places::new(spec)),
            roots: spec.roots.clone(),
            next: (0, 0),
            filters: spec.filters.clone(),
            symlinks: spec.symlinks,
            guard: spec.guard.clone(),
            frames: Vec::new(),
            path: String::new(),
            root: 0,
            hidden: 0,
        }
    }

    /// One name further. `None`: all roots are done.
    pub(super) fn next(&mut self) -> Option<Walked> {
        let Some(frame) = self.frames.last_mut() else { return self.next_root() };
        self.path.truncate(frame.path_len);
        let Some(name) = frame.names.next() else {
            self.frames.pop();
            return Some(Walked::Nothing);
        };
        let dir = match &frame.dir {
            Some(dir) => dir.clone(),
            None => match reopen(&self.places, self.root, &self.path, frame.id) {
                Ok(dir) => frame.dir.insert(Arc::new(dir)).clone(),
                Err(e) => {
                    self.frames.pop();
                    return Some(Walked::Problem(Problem::of(&self.path, &e)));
                }
            },
        };
        let Some(text) = name.to_str() else {
            return Some(Walked::Problem(not_utf8(&Path::new(&self.path).join(&name))));
        };
        if !self.path.is_empty() {
            self.path.push('/');
        }
        self.path.push_str(text);
        Some(self.visit(At { dir, name }, true))
    }

    pub(super) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Looks once more at a file that was found changed.
    pub(super) fn again(&self, root: u16, path: String, attempt: u8) -> Walked {
        match self.places.content(root, Path::new(&path)) {
            Ok((_, stat)) if stat.kind != Kind::File => {
                let reason = "it was a file and is none any more".into();
                Walked::Problem(Problem { path, code: Code::Changed, reason })
            }
            Ok((at, stat)) => Walked::Node(Node { path, root, at: Some(at), stat, attempt }),
            Err(e) => Walked::Problem(Problem::of(&path, &e)),
        }
    }

    fn next_root(&mut self) -> Option<Walked> {
        let (index, item) = self.next;
        let root = self.roots.get(index)?;
        let Ok(number) = u16::try_from(index) else {
            let path = format!("{} more", self.roots.len() - index);
            self.next = (self.roots.len(), 0);
            let reason = "there are too many roots; a list of paths has no such limit".into();
            return Some(Walked::Problem(Problem { path, code: Code::Limit, reason }));
        };
        self.root = number;
        self.path.clear();
        self.hidden = 0;
        let walked = match root {
            Root::Stdin { .. } | Root::Zero { .. } | Root::Random { .. } => Walked::Made(self.root),
            Root::Path { path, contents } => {
                let path = path.clone();
                let (_, name) = split(&path, *contents);
                self.named_root(&path, name)
            }
            Root::Listed { paths, .. } => {
                let Some(path) = paths.get(item) else {
                    self.next = (index + 1, 0);
                    return Some(Walked::Nothing);
                };
                let path = path.clone();
                self.next = (index, item + 1);
                return Some(self.listed(&path));
            }
        };
        self.next = (index + 1, 0);
        Some(walked)
    }

    fn named_root(&mut self, given: &Path, name: Option<OsString>) -> Walked {
        let trouble = |e: &PlaceError| Walked::Problem(Problem::of(&given.to_string_lossy(), e));
        let dir = match self.places.anchor_dir(self.root) {
            Ok(dir) => dir,
            Err(e) => return trouble(&e),
        };
        let Some(name) = name else {
            let at = At { dir, name: OsString::from(".") };
            return match at.stat().and_then(|stat| self.enter(&at, stat)) {
                Ok(()) => Walked::Nothing,
                Err(e) => trouble(&e.into()),
            };
        };
        let Some(text) = name.to_str() else { return Walked::Problem(not_utf8(given)) };
        self.path.push_str(text);
        self.hidden = text.len() + 1;
        match self.visit(At { dir, name }, false) {
            // What the user named is reported as the user named it.
            Walked::Problem(p) => {
                Walked::Problem(Problem { path: given.to_string_lossy().into_owned(), ..p })
            }
            walked => walked,
        }
    }

    fn listed(&mut self, given: &Path) -> Walked {
        let shown = given.to_string_lossy();
        if has_dot_dot(given) {
            return Walked::Problem(Problem::of(&shown, &PlaceError::DotDot));
        }
        let path: PathBuf =
            given.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
        if path.as_os_str().is_empty() {
            return Walked::Nothing;
        }
        let Some(text) = path.to_str() else { return Walked::Problem(not_utf8(given)) };
        self.path.push_str(text);
        match self.places.at(self.root, &path) {
            Ok(at) => self.visit(at, true),
            Err(e) => Walked::Problem(Problem::of(&shown, &e)),
        }
    }

    /// Looks at the name that `self.path` ends with, and enters it if it is a directory.
    fn visit(&mut self, mut at: At, below: bool) -> Walked {
        if self.path.len() > PATH_MAX {
            return self.problem(Code::BadName, format!("the path is longer than {PATH_MAX} bytes"));
        }
        let mut stat = match at.stat() {
            Ok(stat) => stat,
            Err(e) => return Walked::Problem(Problem::of(&self.path, &e.into())),
        };
        if stat.kind == Kind::Symlink {
            match self.symlinks {
                Symlinks::Keep => {}
                Symlinks::Skip => return Walked::Nothing,
                Symlinks::Follow => {
                    let found = self.places.target(self.root, Path::new(&self.path));
                    match found.and_then(|target| Ok((target.stat()?, target))) {
                        Ok(found) => (stat, at) = found,
                        Err(e) => {
                            let code = match e {
                                PlaceError::Outside => Code::LinkEscapes,
                                _ => e.code(),
                            };
                            return self.problem(code, format!("the symbolic link cannot be followed: {e}"));
                        }
                    }
                }
            }
        }
        let directory = stat.kind == Kind::Directory;
        let admitted = match below {
            true => self.filters.admits(self.path.get(self.hidden..).unwrap_or(""), directory),
            false => self.filters.admits_root(&self.path, directory),
        };
        if !admitted {
            return Walked::Nothing;
        }
        if let Some(guard) = &self.guard {
            let size = (stat.kind == Kind::File).then_some(stat.size);
            let may = at.real().map_err(|e| e.to_string()).and_then(|path| guard.may(&path, size));
            if let Err(reason) = may {
                return self.problem(Code::Denied, reason);
            }
        }
        match stat.kind {
            Kind::Other(what) => return self.problem(Code::Unsupported, format!("it is {what}")),
            Kind::Directory if self.frames.iter().any(|f| f.id == (stat.dev, stat.ino)) => {
                return self
                    .problem(Code::ReadFailed, "the symbolic link leads back to a folder above it".into());
            }
            Kind::Directory => {
                if let Err(e) = self.enter(&at, stat) {
                    return Walked::Problem(Problem::of(&self.path, &e.into()));
                }
            }
            Kind::File | Kind::Symlink => {}
        }
        Walked::Node(Node { path: self.path.clone(), root: self.root, at: Some(at), stat, attempt: 0 })
    }

    fn enter(&mut self, at: &At, stat: Stat) -> io::Result<()> {
        let dir = at.open_directory()?;
        let names = Names::of(&dir)?;
        if let Some(far) = self.frames.len().checked_sub(OPEN_DIRECTORIES) {
            self.frames[far].dir = None;
        }
        self.frames.push(Frame {
            dir: Some(Arc::new(dir)),
            id: (stat.dev, stat.ino),
            path_len: self.path.len(),
            names,
        });
        Ok(())
    }

    fn problem(&self, code: Code, reason: String) -> Walked {
        Walked::Problem(Problem { path: self.path.clone(), code, reason })
    }
}

fn reopen(places: &Places, root: u16, path: &str, id: (u64, u64)) -> Result<OwnedFd, PlaceError> {
    let at = match path {
        "" => At { dir: places.anchor_dir(root)?, name: OsString::from(".") },
        path => places.content(root, Path::new(path))?.0,
    };
    let dir = at.open_directory()?;
    let stat = Stat::of(&dir)?;
    if (stat.dev, stat.ino) == id {
        Ok(dir)
    } else {
        Err(io::Error::other("the folder was replaced while it was read").into())
    }
}

fn not_utf8(path: &Path) -> Problem {
    Problem {
        path: path.to_string_lossy().into_owned(),
        code: Code::BadName,
        reason: "the name is not UTF-8".into(),
    }
}

impl Problem {
    pub(super) fn of(path: &str, e: &PlaceError) -> Self {
        Self { path: path.to_owned(), code: e.code(), reason: e.to_string() }
    }

    pub(super) fn read(path: &str, e: &io::Error) -> Self {
        Self { path: path.to_owned(), code: Code::ReadFailed, reason: plain(e) }
    }
}

/// The names of one directory, in byte order. A million of them are held in tens of megabytes.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    /// Where each name is in `bytes`; the last one of this list is the next.
    spans: Vec<(u32, u16)>,
}

impl Names {
    fn of(dir: &OwnedFd) -> io::Result<Self> {
        let mut names = Self::default();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let span = u32::try_from(names.bytes.len()).ok().zip(u16::try_from(name.len()).ok());
            names.spans.push(span.ok_or_else(|| io::Error::other("the folder has too many names"))?);
            names.bytes.extend_from_slice(name);
        }
        let bytes = &names.bytes;
        let name = |&(at, len): &(u32, u16)| &bytes[at as usize..at as usize + usize::from(len)];
        names.spans.sort_unstable_by(|a, b| name(b).cmp(name(a)));
        Ok(names)
    }

    fn next(&mut self) -> Option<OsString> {
        let (at, len) = self.spans.pop()?;
        let name = &self.bytes[at as usize..at as usize + usize::from(len)];
        Some(OsString::from_vec(name.to_vec()))
    }
}
