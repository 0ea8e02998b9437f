//! Sets of chunk indexes, as ranges.
use crate::id::ChunkIndex;

/// `count` chunks from `first` on; `count` is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexRange {
    /// The first.
    pub first: ChunkIndex,
    /// How many.
    pub count: u32,
}
