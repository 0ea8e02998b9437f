//! A landing in memory that can be told to misbehave.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metra_core::code::Code;
use metra_core::id::{ChunkIndex, EntryIndex};
use metra_core::manifest::{Ledger, Record};
use metra_core::ranges::IndexRange;
use metra_core::sink::{Abilities, Resolution};
use metra_store::landing::{FinishReport, LandError, Landing, Piece, Planned};

/// How a [`MemoryLanding`] behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// Says nothing of any chunk before the end of the manifest.
    pub(crate) late: bool,
    /// Cannot write this chunk: no space.
    pub(crate) full_at: Option<u32>,
    /// Cannot sync.
    pub(crate) cannot_sync: bool,
    /// Finds, when it has seen this many records, that it must begin again.
    pub(crate) restart_at: Option<usize>,
    /// Refuses every entry whose path ends with this.
    pub(crate) refuse: Option<&'static str>,
    /// Takes so long for the final names.
    pub(crate) finish_takes: Duration,
    /// Holds what comes early, as a landing in order does.
    pub(crate) in_sequence: bool,
    /// Copies what it has already.
    pub(crate) reads_back: bool,
}

/// Keeps entries in memory.
#[derive(Default)]
pub(crate) struct MemoryLanding {
    manners: Manners,
    restarted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    entries: u32,
    chunks: u32,
    waiting: Vec<ChunkIndex>,
    refused: Vec<u32>,
    files: HashMap<EntryIndex, Vec<u8>>,
    writes: HashMap<u32, u32>,
    synced: u32,
    finished: bool,
}

impl MemoryLanding {
    pub(crate) fn new(manners: Manners) -> Self {
        Self { manners, ..Self::default() }
    }

    /// The bytes of an entry.
    pub(crate) fn file(&self, entry: u32) -> Vec<u8> {
        self.state.lock().unwrap().files.get(&EntryIndex(entry)).cloned().unwrap_or_default()
    }

    /// The records that it was asked to plan since it last began.
    pub(crate) fn planned(&self) -> Vec<Record> {
        self.state.lock().unwrap().records.clone()
    }

    /// How often each chunk was written.
    pub(crate) fn writes(&self) -> HashMap<u32, u32> {
        self.state.lock().unwrap().writes.clone()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state.lock().unwrap().finished
    }

    /// Chunks that were made durable.
    pub(crate) fn synced(&self) -> u32 {
        self.state.lock().unwrap().synced
    }

    fn decide(&self, state: &mut State) -> Vec<(ChunkIndex, Resolution)> {
        std::mem::take(&mut state.waiting).into_iter().map(|c| (c, Resolution::Missing)).collect()
    }
}

impl Landing for MemoryLanding {
    fn plan(&self, records: &[Record]) -> Result<Planned, LandError> {
        let mut state = self.state.lock().unwrap();
        let mut planned = Planned::default();
        if self.manners.restart_at.is_some_and(|at| state.records.len() + records.len() >= at)
            && !self.restarted.swap(true, Ordering::Relaxed)
        {
            *state = State::default();
            return Ok(Planned { restart: true, ..planned });
        }
        for record in records {
            match record {
                Record::Chunk { .. } => {
                    let chunk = ChunkIndex(state.chunks);
                    state.waiting.push(chunk);
                    state.chunks += 1;
                }
                Record::Entry(entry) => {
                    let index = state.entries;
                    if self.manners.refuse.is_some_and(|end| entry.path.ends_with(end)) {
                        let reason = "refused by the test".to_owned();
                        planned.statuses.push((EntryIndex(index), entry.path.clone(), Code::Exists, reason));
                        state.refused.push(index);
                    }
                    state.entries += 1;
                }
                Record::StreamEnd { .. } | Record::Withdraw(_) => {}
            }
            state.records.push(record.clone());
        }
        if !self.manners.late {
            planned.resolutions = self.decide(&mut state);
        }
        Ok(planned)
    }

    fn plan_end(&self) -> Result<Planned, LandError> {
        let mut state = self.state.lock().unwrap();
        Ok(Planned { resolutions: self.decide(&mut state), ..Planned::default() })
    }

    fn write(&self, chunk: ChunkIndex, pieces: &[Piece], data: &[u8]) -> Result<(), LandError> {
        if self.manners.full_at == Some(chunk.0) {
            return Err(LandError::new("disk", std::io::Error::from(std::io::ErrorKind::StorageFull)));
        }
        let mut state = self.state.lock().unwrap();
        *state.writes.entry(chunk.0).or_default() += 1;
        for piece in pieces {
            let file = state.files.entry(piece.entry).or_default();
            let end = piece.offset as usize + piece.len as usize;
            file.resize(file.len().max(end), 0);
            file[piece.offset as usize..end]
                .copy_from_slice(&data[piece.at as usize..][..piece.len as usize]);
        }
        Ok(())
    }

    fn read_back(&self, _: ChunkIndex, pieces: &[Piece]) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let mut data = Vec::new();
        for piece in pieces {
            let file = state.files.get(&piece.entry)?;
            data.extend_from_slice(file.get(piece.offset as usize..)?.get(..piece.len as usize)?);
        }
        Some(data)
    }

    fn sync(&self, ranges: &[IndexRange]) -> Result<(), LandError> {
        if self.manners.cannot_sync {
            return Err(LandError::new("disk", std::io::Error::other("broken by the test")));
        }
        self.state.lock().unwrap().synced += ranges.iter().map(|r| r.count).sum::<u32>();
        Ok(())
    }

    fn finish(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        std::thread::sleep(self.manners.finish_takes);
        let mut state = self.state.lock().unwrap();
        state.finished = true;
        let mut report = FinishReport::default();
        for index in (0..ledger.entries()).map(EntryIndex) {
            let lacks = ledger.chunks_of(index).any(|chunk| gone.contains(&chunk));
            if ledger.is_withdrawn(index) || state.refused.contains(&index.0) {
                report.failed += 1;
            } else if lacks {
                report.failed += 1;
                let path = ledger.entry(index).map(|e| e.path).unwrap_or_default();
                report.statuses.push((index, path, Code::Changed, "gone".to_owned()));
            } else {
                report.entries += 1;
                report.bytes += ledger.size_of(index).unwrap_or(0);
            }
        }
        Ok(report)
    }

    fn abilities(&self) -> Abilities {
        Abilities { reads_back: self.manners.reads_back, in_sequence: self.manners.in_sequence }
    }
}
