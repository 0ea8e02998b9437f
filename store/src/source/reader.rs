//! Turns a walk into the records of a manifest, a step at a time.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::id::{ChunkHash, Digest, EntryIndex};
use metra_core::limits::PACK_BELOW;
use metra_core::manifest::{Entry, EntryKind};
use metra_core::wire::Keep;

use super::cache::{ManifestCache, is_settled};
use super::generate;
use super::large::{Advance, Broken, Feed, Large, Memo};
use super::pack::Pack;
use super::stat::{Kind, Stat};
use super::walk::{Node, Walk, Walked};
use super::{Root, SourceSpec};

/// Something that the reader has to say. Entries and chunks come in the order of the manifest.
#[derive(Clone, Debug)]
pub enum Item {
    /// The next entry.
    Entry {
        /// As it goes into the manifest.
        entry: Entry,
        /// Finds the content again, with [`super::Loader`].
        local: LocalFile,
    },
    /// The next chunk.
    Chunk {
        /// Bytes.
        len: u32,
        /// Of the bytes.
        hash: ChunkHash,
        /// The bytes; `None` if they were not read, because the hash was known. Standard input always has them, and
        /// cannot be read again.
        data: Option<Bytes>,
    },
    /// The stream that is the last entry ended.
    StreamEnd {
        /// Bytes in all.
        size: u64,
    },
    /// The entry is void.
    Withdraw {
        /// Counted over the entries of this reader, from 0.
        entry: EntryIndex,
    },
    /// Something is not read. The job goes on.
    Problem(Problem),
}

/// Why something is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the entry that it would have been, or the root as it was given. Names that are not UTF-8 are shown as
    /// well as they can be.
    pub path: String,
    /// What kind of problem.
    pub code: Code,
    /// For people; does not repeat the path.
    pub reason: String,
}

/// Where an entry came from. The path is that of the entry, so that a million of these are 8 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Which root of the [`SourceSpec`].
    pub(super) root: u16,
    /// Of size, time and inode when it was read.
    pub(super) tag: u32,
}

/// What a step gave.
#[derive(Clone, Debug)]
pub struct Step {
    /// In order; may be empty.
    pub items: Vec<Item>,
    /// Whether there is nothing more to come.
    pub done: bool,
}

/// Reads a source from beginning to end, once.
///
/// The items do not depend on the cache or on the sizes of the steps, only on the file system: a second reader over
/// unchanged files gives the same entries and chunks.
pub struct Reader {
    walk: Walk,
    keep: Keep,
    cache: Option<Arc<dyn ManifestCache>>,
    stdin: Option<Box<dyn Read + Send>>,
    pack: Pack,
    large: Option<Large>,
    /// A large file that has to wait for the pack before it.
    held: Option<Node>,
    /// Files that changed while they were read; each is tried once more when all else is done.
    retries: VecDeque<(u16, String, u8)>,
    out: Out,
    done: bool,
}

/// Items that a step may give before it returns, whatever the budget.
const STEP_ITEMS: usize = 4096;
/// What the visit of a name counts for in the budget: about as long as reading this many bytes.
pub(super) const NAME_COST: usize = 4096;

impl Reader {
    /// A reader at the beginning of `spec`. With a cache, files that are known there are not read.
    pub fn new(spec: &SourceSpec, cache: Option<Arc<dyn ManifestCache>>) -> Self {
        Self {
            walk: Walk::new(spec),
            keep: spec.keep,
            cache,
            stdin: Some(Box::new(io::stdin())),
            pack: Pack::default(),
            large: None,
            held: None,
            retries: VecDeque::new(),
            out: Out::default(),
            done: false,
        }
    }

    /// Reads `stdin` in place of the standard input of the process.
    pub fn with_stdin(mut self, stdin: impl Read + Send + 'static) -> Self {
        self.stdin = Some(Box::new(stdin));
        self
    }

    /// Reads on, for about `budget` bytes (at most one block of 4 MiB or one pack more), and says what came of it.
    pub fn step(&mut self, budget: usize) -> Step {
        let mut spent = 0;
        while !self.done && spent < budget.max(1) && self.out.items.len() < STEP_ITEMS {
            spent += self.advance();
        }
        Step { items: std::mem::take(&mut self.out.items), done: self.done }
    }

    /// One thing more; returns what it counts for in the budget.
    fn advance(&mut self) -> usize {
        if self.large.is_some() {
            return self.continue_large();
        }
        if let Some(node) = self.held.take() {
            self.start_file(node);
            return NAME_COST;
        }
        let Some(walked) = self.walk.next() else { return self.wind_up() };
        self.handle(walked)
    }

    /// The walk is over: the last pack, then what has to be tried again.
    fn wind_up(&mut self) -> usize {
        if !self.pack.is_empty() {
            return self.flush();
        }
        match self.retries.pop_front() {
            Some((root, path, attempt)) => {
                let walked = self.walk.again(root, path, attempt);
                self.handle(walked)
            }
            None => {
                self.done = true;
                0
            }
        }
    }

    fn handle(&mut self, walked: Walked) -> usize {
        match walked {
            Walked::Node(node) => match node.stat.kind {
                Kind::File if node.stat.size >= PACK_BELOW => {
                    self.held = Some(node);
                    return NAME_COST + self.flush();
                }
                Kind::File if node.stat.size > 0 => return NAME_COST + self.pack_file(node),
                Kind::Other(what) => {
                    let reason = format!("it is {what}");
                    self.out.problem(Problem { path: node.path, code: Code::Unsupported, reason });
                }
                Kind::File | Kind::Directory | Kind::Symlink => return NAME_COST + self.plain(node),
            },
            Walked::Made(root) => return self.start_made(root),
            Walked::Problem(problem) => self.out.problem(problem),
            Walked::Nothing => {}
        }
        NAME_COST
    }

    /// An entry without content.
    fn plain(&mut self, node: Node) -> usize {
        let local = node.local();
        match node.entry(self.keep) {
            Ok(entry) if self.pack.is_empty() => drop(self.out.entry(entry, local)),
            Ok(entry) => {
                // Stays behind the small files that came before it.
                if self.pack.push_plain(entry, local) {
                    return self.flush();
                }
            }
            Err(problem) => self.out.problem(problem),
        }
        0
    }

    fn pack_file(&mut self, node: Node) -> usize {
        let mut cost = 0;
        if self.pack.ends_before(node.stat.size) {
            cost = self.flush();
        }
        if self.pack.push_file(node) {
            cost += self.flush();
        }
        cost
    }

    /// Reads the pack and gives it out.
    fn flush(&mut self) -> usize {
        let read = self.pack.flush(&self.walk.places, self.cache.as_deref(), self.keep, &mut self.out);
        for node in read.changed {
            self.changed(node);
        }
        read.cost
    }

    fn start_file(&mut self, mut node: Node) {
        let opened = match &node.at {
            Some(at) => at.open().map_err(Into::into),
            None => {
                self.walk.places.content(node.root, Path::new(&node.path)).and_then(|(at, _)| Ok(at.open()?))
            }
        };
        let opened = opened.and_then(|file| Ok((Stat::of(&file)?, file)));
        let (stat, file) = match opened {
            Ok(opened) => opened,
            Err(e) => return self.out.problem(Problem::of(&node.path, &e)),
        };
        if stat.kind != Kind::File || stat.size < PACK_BELOW {
            return self.changed(node);
        }
        node.stat = stat;
        // Large files are read from front to back; a system that does not take the hint reads them all the same.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let memo = self.cache.as_ref().filter(|_| is_settled(stat.ctime, stat.mtime, SystemTime::now()));
        let memo = memo.and_then(|cache| {
            let anchor = self.walk.places.anchor(node.root)?;
            let path = std::path::absolute(anchor.join(&node.path)).ok()?;
            Some(Memo::new(cache.clone(), stat.identity(path)))
        });
        match node.entry(self.keep) {
            Ok(entry) => {
                let index = self.out.entry(entry, node.local());
                self.large = Some(Large::new(index, Feed::File { file, node }, Some(stat.size), memo));
            }
            Err(problem) => self.out.problem(problem),
        }
    }

    /// Starts a root that is not of the file system.
    fn start_made(&mut self, root: u16) -> usize {
        if !self.pack.is_empty() {
            self.flush();
        }
        let local = LocalFile { root, tag: 0 };
        let (name, feed, size) = match &self.walk.roots()[usize::from(root)] {
            Root::Stdin { name } => {
                let Some(stdin) = self.stdin.take() else {
                    let reason = "standard input can be read only once".into();
                    self.out.problem(Problem { path: name.clone(), code: Code::ReadFailed, reason });
                    return NAME_COST;
                };
                (name, Feed::Stream { stream: stdin, name: name.clone() }, None)
            }
            Root::Zero { name, size } => (name, Feed::Zero, Some(*size)),
            Root::Random { name, size, seed } => (name, Feed::Random(*seed), Some(*size)),
            Root::Path { .. } | Root::Listed { .. } => return 0,
        };
        let kind = size.map_or(EntryKind::Stream, |size| EntryKind::File { size });
        let index = self.out.entry(Entry { path: name.clone(), kind, mode: None, mtime: None }, local);
        match size {
            Some(0) => {}
            // A pack of its own.
            Some(size) if size < PACK_BELOW => {
                let mut data = Vec::new();
                match feed {
                    Feed::Random(seed) => generate::random(seed, 0, size as usize, &mut data),
                    _ => data.resize(size as usize, 0),
                }
                self.out.chunk(data.into());
            }
            size => self.large = Some(Large::new(index, feed, size, None)),
        }
        NAME_COST
    }

    fn continue_large(&mut self) -> usize {
        let Some(large) = &mut self.large else { return 0 };
        let broken = match large.advance(&mut self.out) {
            Ok(Advance::More { cost }) => return cost,
            Ok(Advance::End) => {
                self.large = None;
                return 0;
            }
            Err(broken) => broken,
        };
        let Some(Large { entry, feed, .. }) = self.large.take() else { return 0 };
        self.out.items.push(Item::Withdraw { entry });
        match (broken, feed) {
            (Broken::Changed, Feed::File { node, .. }) => self.changed(node),
            (Broken::Failed(e), Feed::File { node, .. }) => self.out.problem(Problem::read(&node.path, &e)),
            (Broken::Failed(e), Feed::Stream { name, .. }) => self.out.problem(Problem::read(&name, &e)),
            // Neither a stream nor what is made up can change, and the latter cannot fail.
            (_, Feed::Stream { .. } | Feed::Zero | Feed::Random(_)) => {}
        }
        NAME_COST
    }

    /// A file is not what it was when it was found, or when reading it began.
    fn changed(&mut self, node: Node) {
        if node.attempt == 0 {
            self.retries.push_back((node.root, node.path, 1));
        } else {
            let reason = "it changed while it was read, twice".into();
            self.out.problem(Problem { path: node.path, code: Code::Changed, reason });
        }
    }
}

impl Node {
    /// What goes into the manifest.
    pub(super) fn entry(&self, keep: Keep) -> Result<Entry, Problem> {
        let (kind, mode) = match self.stat.kind {
            Kind::File | Kind::Other(_) => (EntryKind::File { size: self.stat.size }, Some(self.stat.mode)),
            Kind::Directory => (EntryKind::Directory, Some(self.stat.mode)),
            // The bits of a link mean nothing.
            Kind::Symlink => (EntryKind::Symlink { target: self.link()? }, None),
        };
        Ok(Entry {
            path: self.path.clone(),
            kind,
            mode: mode.filter(|_| keep.mode),
            mtime: Some(self.stat.mtime).filter(|_| keep.times),
        })
    }

    pub(super) fn local(&self) -> LocalFile {
        LocalFile { root: self.root, tag: self.stat.tag() }
    }

    fn link(&self) -> Result<String, Problem> {
        let text = match &self.at {
            Some(at) => at.link(),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let text = text.map_err(|e| Problem::read(&self.path, &e))?;
        String::from_utf8(text).map_err(|_| Problem {
            path: self.path.clone(),
            code: Code::BadName,
            reason: "the target of the symbolic link is not UTF-8".into(),
        })
    }
}

/// Collects items and counts entries.
#[derive(Debug, Default)]
pub(super) struct Out {
    items: Vec<Item>,
    entries: u32,
}

impl Out {
    pub(super) fn entry(&mut self, entry: Entry, local: LocalFile) -> EntryIndex {
        let index = EntryIndex(self.entries);
        self.entries = self.entries.saturating_add(1);
        self.items.push(Item::Entry { entry, local });
        index
    }

    /// A chunk that was read; returns its hash.
    pub(super) fn chunk(&mut self, data: Bytes) -> ChunkHash {
        let hash = Digest::of(&data);
        self.items.push(Item::Chunk { len: data.len() as u32, hash, data: Some(data) });
        hash
    }

    /// A chunk that did not have to be read.
    pub(super) fn known_chunk(&mut self, len: u32, hash: ChunkHash) {
        self.items.push(Item::Chunk { len, hash, data: None });
    }

    pub(super) fn stream_end(&mut self, size: u64) {
        self.items.push(Item::StreamEnd { size });
    }

    pub(super) fn problem(&mut self, problem: Problem) {
        self.items.push(Item::Problem(problem));
    }
}
