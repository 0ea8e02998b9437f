//! The manifest: what a job consists of, in an order, with an identity.
//!
//! A manifest is a sequence of [`Record`]s, streamed while the source is still reading:
//!
//! ```text
//! Entry(dir) Entry(big file) Chunk Chunk Chunk  Entry(small) Entry(small) Chunk  Withdraw(3) ... end(root)
//!            `--- its own chunks follow ---'    `- packed in one chunk -'
//! ```
//!
//! - A file of at least [`limits::PACK_BELOW`](crate::limits::PACK_BELOW) bytes ("large") is followed by its own
//!   chunks, which cover it from 0 to its size in order.
//! - A stream (standard input: size unknown) is followed by its own chunks and closed by `StreamEnd`.
//! - Smaller non-empty files are packed: a run of entries is followed by one chunk that holds exactly their bytes,
//!   one after the other. A chunk never holds part of a small file.
//! - Directories, symbolic links and empty files have no bytes in any chunk.
//! - `Withdraw` says that an earlier entry is void, because the file changed while it was read or could not be read to its end. Its
//!   chunks so far remain in the numbering; nobody needs them. It may be offered again as a later entry.
//!
//! Where a chunk's bytes go is therefore implied by the order and never said by offset.

mod arena;
mod entry;
mod ledger;
mod record;
mod tree;

pub use entry::{Entry, EntryKind, Timestamp};
pub use ledger::{ChunkInfo, Ledger, LedgerError, LedgerLimits, Pushed, Segment};
pub use record::{RECORD_PATH_MAX, Record, RecordError};
pub use tree::{TreeBuilder, root};

#[cfg(test)]
pub(crate) use record::tests::{any_entry, any_record};
