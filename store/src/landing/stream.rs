//! Landings without a tree: nowhere, and in order to a stream.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

use metra_core::code::Code;
use metra_core::id::{ChunkIndex, EntryIndex};
use metra_core::manifest::{EntryKind, Ledger, Record};
use metra_core::ranges::IndexRange;
use metra_core::sink::{Abilities, Resolution};

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
pub struct StreamLanding<W> {
    state: Mutex<StreamState<W>>,
}

struct StreamState<W> {
    out: W,
    planned: u32,
    next: u32,
    early: BTreeMap<u32, Vec<u8>>,
    entries: u32,
}

impl<W: Write + Send> StreamLanding<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        let state = StreamState { out, planned: 0, next: 0, early: BTreeMap::new(), entries: 0 };
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
                    if !matches!(entry.kind, EntryKind::File { .. } | EntryKind::Stream) {
                        let reason = "only files can go to a stream".to_owned();
                        planned.statuses.push((index, entry.path.clone(), Code::Unsupported, reason));
                    }
                }
                Record::StreamEnd { .. } | Record::Withdraw(_) => {}
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
        let mut result = Ok(());
        if chunk.0 == state.next {
            result = state.out.write_all(data);
            state.next += 1;
            while let Some(early) = state.early.remove(&state.next) {
                result = result.and_then(|()| state.out.write_all(&early));
                state.next += 1;
            }
        } else {
            state.early.insert(chunk.0, data.to_vec());
        }
        result.map_err(|e| LandError::new("output", e))
    }

    fn read_back(&self, _: ChunkIndex, _: &[Piece]) -> Option<Vec<u8>> {
        None
    }

    fn sync(&self, _: &[IndexRange]) -> Result<(), LandError> {
        Ok(())
    }

    fn finish(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError> {
        let mut state = self.state.lock().expect("no panic while held");
        state.out.flush().map_err(|e| LandError::new("output", e))?;
        Ok(count(ledger, gone, |kind| matches!(kind, EntryKind::File { .. } | EntryKind::Stream)))
    }

    fn abilities(&self) -> Abilities {
        Abilities { reads_back: false, in_sequence: true }
    }
}

fn count(ledger: &Ledger, gone: &[u32], wanted: impl Fn(&EntryKind) -> bool) -> FinishReport {
    let mut report = FinishReport::default();
    for index in (0..ledger.entries()).map(EntryIndex) {
        let Some(entry) = ledger.entry(index) else { continue };
        if ledger.is_withdrawn(index)
            || !wanted(&entry.kind)
            || ledger.chunks_of(index).any(|c| gone.contains(&c))
        {
            report.failed += 1;
        } else {
            report.entries += 1;
            report.bytes += ledger.size_of(index).unwrap_or(0);
        }
    }
    report
}
