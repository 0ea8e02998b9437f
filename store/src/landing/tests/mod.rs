#![allow(clippy::unwrap_used)]

//! Landings driven as a sink job drives them, without a network: real trees are read into records, planned, written in
//! any order, synced now and then, and finished, or interrupted anywhere.

mod crash;
mod full;
mod gated;
mod hostile;
mod meaning;
mod measure;
mod resume;
mod sequence;
mod trees;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::credit::CreditLimits;
use metra_core::id::{ChunkHash, ChunkIndex, Digest, EntryIndex, JobKey};
use metra_core::manifest::{Entry, EntryKind, Ledger, LedgerLimits, Record};
use metra_core::sink::{Arrival, Sink, SinkOptions, SinkStats};
use metra_core::wire::{Keep, Overwrite, Placement};
use proptest::test_runner::Config as ProptestConfig;

use super::*;
use crate::Catalogue;
use crate::source::{Item, Reader, Root, SourceSpec};

/// What a source would send.
#[derive(Default)]
pub(super) struct Source {
    pub(super) records: Vec<Record>,
    pub(super) data: HashMap<ChunkHash, Bytes>,
}

impl Source {
    /// Everything in `path`, without `path` itself.
    pub(super) fn contents(path: &Path) -> Self {
        Self::of(Root::Path { path: path.to_owned(), contents: true })
    }

    pub(super) fn of(root: Root) -> Self {
        let mut reader = Reader::new(&SourceSpec::new(vec![root]), None);
        let mut source = Self::default();
        loop {
            let step = reader.step(1 << 20);
            for item in step.items {
                match item {
                    Item::Entry { entry, .. } => source.records.push(Record::Entry(entry)),
                    Item::Chunk { len, hash, data } => {
                        source.records.push(Record::Chunk { len, hash });
                        // A hole is not read.
                        let data = data.unwrap_or_else(|| vec![0; len as usize].into());
                        source.data.insert(hash, data);
                    }
                    Item::StreamEnd { size } => source.records.push(Record::StreamEnd { size }),
                    Item::Withdraw { entry } => source.records.push(Record::Withdraw(entry)),
                    Item::Problem(problem) => panic!("{problem:?}"),
                }
            }
            if step.done {
                return source;
            }
        }
    }

    /// A manifest by hand.
    pub(super) fn entry(mut self, entry: Entry) -> Self {
        self.records.push(Record::Entry(entry));
        self
    }

    pub(super) fn file(self, path: &str, size: u64) -> Self {
        self.entry(Entry {
            path: path.into(),
            kind: EntryKind::File { size },
            mode: Some(0o644),
            mtime: None,
        })
    }

    pub(super) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(Entry { path: path.into(), kind: EntryKind::Directory, mode: Some(mode), mtime: None })
    }

    pub(super) fn link(self, path: &str, target: &str) -> Self {
        let kind = EntryKind::Symlink { target: target.into() };
        self.entry(Entry { path: path.into(), kind, mode: None, mtime: None })
    }

    pub(super) fn chunk(mut self, data: &[u8]) -> Self {
        let hash = Digest::of(data);
        self.data.insert(hash, Bytes::copy_from_slice(data));
        self.records.push(Record::Chunk { len: data.len() as u32, hash });
        self
    }

    /// A small file in a pack of its own.
    pub(super) fn small(self, path: &str, data: &[u8]) -> Self {
        self.file(path, data.len() as u64).chunk(data)
    }

    pub(super) fn record(mut self, record: Record) -> Self {
        self.records.push(record);
        self
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    Finished(FinishReport),
    /// It was dropped after so many steps.
    Stopped,
    Failed(LandError),
}

impl End {
    #[track_caller]
    pub(super) fn finished(self) -> FinishReport {
        match self {
            End::Finished(report) => report,
            other => panic!("{other:?}"),
        }
    }
}

/// What an attempt did.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) stats: SinkStats,
    pub(super) statuses: Vec<(String, Code)>,
}

impl Told {
    /// What was said of an entry, `Ok` for one that was kept.
    pub(super) fn of(&self, path: &str) -> Option<Code> {
        self.statuses.iter().find(|(p, _)| p == path).map(|(_, code)| *code)
    }
}

/// Small, fast, and the same everywhere.
#[derive(Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }
}

/// One attempt at a job: a sink, its landing, and a source that answers in any order.
pub(super) struct Attempt<'a> {
    landing: &'a dyn Landing,
    source: &'a Source,
    sink: Sink,
    fed: usize,
    wanted: Vec<ChunkIndex>,
    now: Instant,
    told: Told,
    /// Called after each sync.
    pub(super) on_sync: Box<dyn FnMut() + 'a>,
    /// Stops when everything is durable, before names are given.
    pub(super) without_finish: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(landing: &'a dyn Landing, source: &'a Source) -> Self {
        let credit = CreditLimits::default();
        let options = SinkOptions { ledger: LedgerLimits::default(), credit, abilities: landing.abilities() };
        Self {
            landing,
            source,
            sink: Sink::new(options),
            fed: 0,
            wanted: Vec::new(),
            now: Instant::now(),
            told: Told::default(),
            on_sync: Box::new(|| {}),
            without_finish: false,
        }
    }

    /// Runs to the end, or for so many steps.
    pub(super) fn run(mut self, dice: &mut Dice, steps: usize) -> (End, Told) {
        for _ in 0..steps {
            match self.step(dice) {
                Ok(false) => {}
                Ok(true) if self.without_finish => break,
                Ok(true) => {
                    let gone = self.sink.gone_chunks().to_vec();
                    let stats = self.sink.stats();
                    let ledger = self.sink.take_ledger();
                    let end = match self.landing.finish(&ledger, &gone) {
                        Ok(report) => {
                            let statuses = report.statuses.iter();
                            self.told
                                .statuses
                                .extend(statuses.map(|(_, path, code, _)| (path.clone(), *code)));
                            End::Finished(report)
                        }
                        Err(error) => End::Failed(error),
                    };
                    self.told.stats = stats;
                    return (end, self.told);
                }
                Err(error) => {
                    self.told.stats = self.sink.stats();
                    return (End::Failed(error), self.told);
                }
            }
        }
        self.told.stats = self.sink.stats();
        (End::Stopped, self.told)
    }

    /// Whether all is ready to be finished.
    fn step(&mut self, dice: &mut Dice) -> Result<bool, LandError> {
        let batch = 1 + dice.roll(7) as usize;
        match dice.roll(8) {
            0 | 1 if self.fed < self.source.records.len() => {
                let end = (self.fed + batch).min(self.source.records.len());
                let records = &self.source.records[self.fed..end];
                self.sink.on_records(self.fed as u64, records).unwrap();
                self.fed = end;
                let planned = self.landing.plan(records)?;
                self.planned(planned)?;
            }
            0 | 1 if self.sink.root().is_none() => {
                let planned = self.landing.plan_end()?;
                self.planned(planned)?;
                let root = self.sink.ledger().finish().unwrap();
                self.sink.on_end(self.fed as u64, root).unwrap();
            }
            2 => self.sync()?,
            3 => self.copy()?,
            _ => {
                for range in self.sink.poll_want() {
                    self.wanted.extend(range.indexes().map(ChunkIndex));
                }
                if !self.wanted.is_empty() {
                    let chunk = self.wanted.swap_remove(dice.roll(self.wanted.len() as u64) as usize);
                    self.deliver(chunk)?;
                }
            }
        }
        if self.sink.is_verified() {
            self.sync()?;
        }
        Ok(self.sink.is_complete())
    }

    fn planned(&mut self, planned: Planned) -> Result<(), LandError> {
        self.told.statuses.extend(planned.statuses.into_iter().map(|(_, path, code, _)| (path, code)));
        for (chunk, resolution) in planned.resolutions {
            self.sink.resolve(chunk, resolution);
        }
        if planned.restart {
            self.sink.replan();
            self.wanted.clear();
            let records = &self.source.records[..self.fed];
            let again = self.landing.plan(records)?;
            assert!(!again.restart);
            self.planned(again)?;
        }
        Ok(())
    }

    fn deliver(&mut self, chunk: ChunkIndex) -> Result<(), LandError> {
        let info = self.sink.ledger().chunk(chunk).unwrap();
        if self.sink.accept(chunk, info.len) == Arrival::Accept {
            let data = &self.source.data[&info.hash];
            self.landing.write(chunk, &pieces(self.sink.ledger(), chunk), data)?;
            self.sink.written(self.now, chunk, true);
        }
        Ok(())
    }

    fn copy(&mut self) -> Result<(), LandError> {
        let Some((from, to)) = self.sink.poll_copy() else { return Ok(()) };
        let ledger = self.sink.ledger();
        match self.landing.read_back(from, &pieces(ledger, from)) {
            Some(data) if Digest::of(&data) == ledger.chunk(to).unwrap().hash => {
                self.landing.write(to, &pieces(ledger, to), &data)?;
                self.sink.written(self.now, to, false);
            }
            _ => self.sink.copy_failed(to),
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LandError> {
        let ranges = self.sink.begin_sync();
        if !ranges.is_empty() {
            self.landing.sync(&ranges)?;
            self.sink.synced(&ranges);
            (self.on_sync)();
        }
        Ok(())
    }
}

/// A tree to land in, and its catalogue, which outlives attempts.
pub(super) struct Ground {
    pub(super) dir: tempfile::TempDir,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) overwrite: Overwrite,
    pub(super) placement: Placement,
    pub(super) dest: String,
    pub(super) keep: Keep,
}

impl Ground {
    pub(super) fn new() -> Self {
        Self {
            dir: temp(),
            catalogue: Arc::new(Catalogue::open_in_memory().unwrap()),
            overwrite: Overwrite::Different,
            placement: Placement::Into,
            dest: String::new(),
            keep: Keep { mode: true, times: true },
        }
    }

    pub(super) fn target(&self) -> TreeTarget {
        TreeTarget {
            root: self.dir.path().to_owned(),
            dest: self.dest.clone(),
            placement: self.placement,
            overwrite: self.overwrite,
            keep: self.keep,
            user: "u".into(),
            key: JobKey(Digest::of(b"job")),
            guard: None,
        }
    }

    pub(super) fn open(&self) -> Result<TreeLanding, LandError> {
        TreeLanding::open(self.target(), self.catalogue.clone())
    }

    /// An attempt that ends after so many steps, if it does not finish before.
    pub(super) fn attempt(&self, source: &Source, seed: u64, steps: usize) -> (End, Told) {
        let landing = self.open().unwrap();
        Attempt::new(&landing, source).run(&mut Dice::new(seed), steps)
    }

    /// An attempt that makes everything durable and gives no names.
    pub(super) fn receive(&self, source: &Source) -> TreeLanding {
        let landing = self.open().unwrap();
        let mut attempt = Attempt::new(&landing, source);
        attempt.without_finish = true;
        assert!(matches!(attempt.run(&mut Dice::new(1), usize::MAX).0, End::Stopped));
        landing
    }

    /// The staging folder of the job.
    pub(super) fn staging(&self) -> std::path::PathBuf {
        let jobs = self.dir.path().join(".metra/jobs");
        std::fs::read_dir(jobs).unwrap().next().unwrap().unwrap().path()
    }

    /// An attempt that must finish.
    #[track_caller]
    pub(super) fn land(&self, source: &Source) -> (FinishReport, Told) {
        let (end, told) = self.attempt(source, 1, usize::MAX);
        (end.finished(), told)
    }

    pub(super) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(path)).unwrap()
    }

    pub(super) fn put(&self, path: &str, content: &[u8]) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.dir.path().join(path).symlink_metadata().is_ok()
    }
}

/// Each case is a few attempts at a whole tree: an eighth of what is usual, or of `PROPTEST_CASES`.
pub(super) fn cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: (usual.cases / 8).max(1), ..usual }
}

/// A temporary directory; in memory if possible, where syncs take no time.
pub(super) fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&dice.roll(u64::MAX).to_le_bytes());
    }
    out.truncate(len);
    out
}
