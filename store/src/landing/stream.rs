//! Landings without a tree: nowhere, and in order to a stream.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Mutex;

use metra_core::code::Code;
use metra_core::id::{ChunkIndex, EntryIndex};
use metra_core::manifest::{EntryKind, Ledger, Record};
use metra_core::ranges::IndexRange;
use metra_core::sink::{Abilities, Resolution};

use super::finish::broken_entries;
use super::{FinishReport, LandError, Landing, Piece, Planned};

/// Verifies and forgets: for measuring what the path and the source can do.
#[derive(Debug, Default)]
pub struct NullLanding {
    chunks: Mutex<u32>,
}

impl Landing for NullLanding {
    fn plan(&self, records: &[Record]) -> Result<Planned, LandError> {
        let mut next = self.chunks.lock().expect("no panic while held");
        let mut planned = Planned::default();
        for record in records {
            if let Record::Chunk { .. } = record {
                planned.resolutions.push((ChunkIndex(*next), Resolution::Missing));
                *next += 1;
            }
        }
        Ok(planned)
    }

    fn plan_end(&self) -> Result<Planned, LandError> {
        Ok(Planned::default())
    }

    fn write(&self, _: ChunkIndex, _: &[Piece], _: &[u8]) -> Result<(), LandError> {
        Ok(())
    }

    fn read_back(&self, _: ChunkIndex, _: &[Piece]) -> Option<Vec<u8>> {
        None
    }

    fn sync(&self, _: &[IndexRange]) -> Result<(), LandError> {
        Ok(())
    }

    fn finish(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        Ok(count(ledger, gone, |_| true))
    }

    fn abilities(&self) -> Abilities {
        Abilities { reads_back: false, in_sequence: false }
    }
}

/// Writes the files of a manifest one after the other to a stream, in order. Chunks that arrive early are kept in
/// memory, bounded by the sink's credit.
///
/// What is written cannot be taken back: a file that the source withdraws ends the job.
pub struct StreamLanding<W> {
    state: Mutex<StreamState<W>>,
}

struct StreamState<W> {
    out: W,
    planned: u32,
    next: u32,
    early: BTreeMap<u32, Vec<u8>>,
    entries: u32,
    /// Path of the last entry, which is the one that may be withdrawn while its chunks come.
    last: String,
}

impl<W: Write + Send> StreamLanding<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        let early = BTreeMap::new();
        let state = StreamState { out, planned: 0, next: 0, early, entries: 0, last: String::new() };
        Self { state: Mutex::new(state) }
    }
}

impl<W: Write + Send> Landing for StreamLanding<W> {
    fn plan(&self, records: &[Record]) -> Result<Planned, LandError> {
        let mut state = self.state.lock().expect("no panic while held");
        let mut planned = Planned::default();
        for record in records {
            match record {
                Record::Chunk { .. } => {
                    planned.resolutions.push((ChunkIndex(state.planned), Resolution::Missing));
                    state.planned += 1;
                }
                Record::Entry(entry) => {
                    let index = EntryIndex(state.entries);
                    state.entries += 1;
                    state.last.clone_from(&entry.path);
                    if !is_file(&entry.kind) {
                        let reason = "only files can go to a stream".to_owned();
                        planned.statuses.push((index, entry.path.clone(), Code::Unsupported, reason));
                    }
                }
                Record::StreamEnd { .. } => {}
                Record::Withdraw(entry) => {
                    let path = match entry.0 + 1 == state.entries {
                        true => state.last.clone(),
                        false => format!("entry {}", entry.0),
                    };
                    let reason = "the source withdraws the file; what was written cannot be taken back";
                    return Err(LandError::new(path, io::Error::other(reason)));
                }
            }
        }
        Ok(planned)
    }

    fn plan_end(&self) -> Result<Planned, LandError> {
        Ok(Planned::default())
    }

    fn write(&self, chunk: ChunkIndex, _: &[Piece], data: &[u8]) -> Result<(), LandError> {
        let mut guard = self.state.lock().expect("no panic while held");
        let state = &mut *guard;
        if chunk.0 != state.next {
            state.early.insert(chunk.0, data.to_vec());
            return Ok(());
        }
        let named = |e| LandError::new("output", e);
        state.out.write_all(data).map_err(named)?;
        state.next += 1;
        while let Some(early) = state.early.remove(&state.next) {
            state.out.write_all(&early).map_err(named)?;
            state.next += 1;
        }
        Ok(())
    }

    fn read_back(&self, _: ChunkIndex, _: &[Piece]) -> Option<Vec<u8>> {
        None
    }

    fn sync(&self, _: &[IndexRange]) -> Result<(), LandError> {
        Ok(())
    }

    fn finish(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        let mut state = self.state.lock().expect("no panic while held");
        let named = |e| LandError::new("output", e);
        state.out.flush().map_err(named)?;
        if state.next < ledger.chunks() {
            let reason = format!("chunk {} never came, and nothing after it was written", state.next);
            return Err(named(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
        }
        Ok(count(ledger, gone, is_file))
    }

    fn abilities(&self) -> Abilities {
        Abilities { reads_back: false, in_sequence: true }
    }
}

fn is_file(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::File { .. } | EntryKind::Stream)
}

fn count(ledger: &Ledger, gone: &[u32], wanted: impl Fn(&EntryKind) -> bool) -> FinishReport {
    let broken = broken_entries(ledger, gone);
    let mut report = FinishReport::default();
    for index in (0..ledger.entries()).map(EntryIndex) {
        let Some(entry) = ledger.entry(index) else { continue };
        if ledger.is_withdrawn(index) || !wanted(&entry.kind) || broken.contains(&index.0) {
            report.failed += 1;
        } else {
            report.entries += 1;
            report.bytes += ledger.size_of(index).unwrap_or(0);
        }
    }
    report
}
