//! Where chunks land.
//!
//! A [`Landing`] is what a sink's driver speaks to: it plans (what of this is here already?), writes, reads back,
//! syncs and finishes. All calls block on the disk and are made off the executor; all are safe to call from several
//! threads.
//!
//! [`TreeLanding`] lands in a directory: chunks go to a staging folder, journaled in the
//! [`Catalogue`](crate::Catalogue), and get their final names together at the end. [`NullLanding`] verifies and
//! forgets, for measuring. [`StreamLanding`] writes one file in order, for standard output.

use metra_core::code::Code;
use metra_core::id::{ChunkIndex, EntryIndex};
use metra_core::manifest::{Ledger, Record, Segment, Timestamp};
use metra_core::ranges::IndexRange;
use metra_core::sink::{Abilities, Resolution};

mod abandoned;
mod finish;
mod gate;
mod hold;
mod journal;
mod judge;
mod meta;
mod place;
mod plan;
mod reuse;
mod spool;
mod staging;
mod stream;
mod tree;

pub use abandoned::remove_abandoned;
pub use gate::{Gate, Verdict, Whole};
pub use stream::{NullLanding, StreamLanding};
pub use tree::{TreeLanding, TreeTarget};

/// A part of a chunk that belongs to one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The entry.
    pub entry: EntryIndex,
    /// Its path in the manifest.
    pub path: String,
    /// Where in the entry. Bytes.
    pub offset: u64,
    /// Where in the chunk. Bytes.
    pub at: u32,
    /// How much. Bytes.
    pub len: u32,
    /// For a packed file, which is written whole by this piece: its metadata.
    pub meta: Option<Meta>,
}

/// The parts of a chunk, in order; together they are the chunk.
pub fn pieces(ledger: &Ledger, chunk: ChunkIndex) -> Vec<Piece> {
    let packed = ledger.chunk(chunk).is_some_and(|c| c.packed);
    let piece = |segment: Segment| {
        let entry = ledger.entry(segment.entry)?;
        let meta = packed.then_some(Meta { mode: entry.mode, mtime: entry.mtime });
        let Segment { entry: index, offset, len, at } = segment;
        Some(Piece { entry: index, path: entry.path, offset, at, len, meta })
    };
    ledger.segments(chunk).filter_map(piece).collect()
}

/// What is set on a file besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Time of last modification.
    pub mtime: Option<Timestamp>,
}

/// What the disk says to a batch of records.
#[derive(Debug, Default)]
pub struct Planned {
    /// For every chunk of the batch and for chunks of earlier batches that had to wait.
    pub resolutions: Vec<(ChunkIndex, Resolution)>,
    /// Entries that are not transferred, and why; `Ok` for those kept as they are.
    pub statuses: Vec<(EntryIndex, String, Code, String)>,
    /// What an earlier attempt left is not of this manifest and was set aside: plan all records again, from 0.
    pub restart: bool,
}

/// What became of the entries at the end.
#[derive(Debug, Default)]
pub struct FinishReport {
    /// Entries with their final names, kept ones included.
    pub entries: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Entries that did not get there, those refused in planning included.
    pub failed: u64,
    /// What is new since planning, at most some thousands.
    pub statuses: Vec<(EntryIndex, String, Code, String)>,
}

/// A failure of the disk that ends the job's attempt (not the job: what is durable stays).
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct LandError {
    /// The file concerned, as the user knows it.
    pub path: String,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

impl LandError {
    /// An error on `path`.
    pub fn new(path: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { path: path.into(), source: source.into() }
    }

    /// The code that tells the peer.
    pub fn code(&self) -> Code {
        match self.source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Code::NoSpace,
            std::io::ErrorKind::ResourceBusy => Code::Busy,
            _ => Code::WriteFailed,
        }
    }
}

/// Where the chunks of one job land. See the module's documentation.
pub trait Landing: Send + Sync {
    /// Plans the next records of the manifest; they come in order and without gaps.
    fn plan(&self, records: &[Record]) -> Result<Planned, LandError>;

    /// The manifest is complete. May ask for a restart, like [`plan`](Self::plan).
    fn plan_end(&self) -> Result<Planned, LandError>;

    /// Writes a verified chunk.
    fn write(&self, chunk: ChunkIndex, pieces: &[Piece], data: &[u8]) -> Result<(), LandError>;

    /// Reads a chunk that was written or kept. `None` if it cannot be had; the caller verifies what it gets.
    fn read_back(&self, chunk: ChunkIndex, pieces: &[Piece]) -> Option<Vec<u8>>;

    /// Makes these chunks survive a crash of the machine, and journals that.
    fn sync(&self, ranges: &[IndexRange]) -> Result<(), LandError>;

    /// Gives the entries their final names. `gone`: chunks that never came.
    fn finish(&self, ledger: &Ledger, gone: &[u32]) -> Result<FinishReport, LandError>;

    /// The job has failed or was cancelled, perhaps in [`finish`](Self::finish): as long as no names are given there, it ends
    /// with an error, and what is staged stays for the next attempt.
    fn cancel(&self) {}

    /// The job was refused before anything came of it: leaves no trace.
    fn discard(&self) {}

    /// What it can do.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }
}

#[cfg(test)]
mod tests;
