//! What a cache of manifests must be able to do. It gives hints: losing one costs time, nothing else.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metra_core::id::{ChunkHash, Digest};
use metra_core::manifest::Timestamp;

/// Says which state of which file the hashes in a cache belong to. Two equal identities mean equal content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Absolute.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of content or metadata; unlike `mtime` it cannot be set back by a program.
    pub ctime: Timestamp,
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// What is known of a file's chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// Lengths and hashes from the beginning of the file on, without a gap.
    pub chunks: Vec<(u32, ChunkHash)>,
    /// Whether these are all chunks of the file.
    pub complete: bool,
}

/// Keeps the hashes of files that have been read, so that unchanged files need not be read again.
pub trait ManifestCache: Send + Sync {
    /// What is known of a large file in exactly this state.
    fn file(&self, id: &FileIdentity) -> Option<CachedFile>;
    /// Adds chunks from number `first` on. `complete`: the file ends with them, and was seen unchanged after that.
    fn append(&self, id: &FileIdentity, first: u32, chunks: &[(u32, ChunkHash)], complete: bool);
    /// The hash of a pack of small files, by a digest over the state of its members.
    fn pack(&self, key: &Digest) -> Option<ChunkHash>;
    /// Adds a pack.
    fn put_pack(&self, key: &Digest, hash: &ChunkHash);
}

/// Whether a file is long enough unchanged at `now` for a later change to be sure to show in its times.
///
/// File systems stamp with a clock that ticks every few milliseconds. A file that is read and written to within one
/// tick looks the same before and after, so a hash taken that early must not be trusted for ever. Systems without
/// nanoseconds tick every second or two.
pub(super) fn is_settled(ctime: Timestamp, mtime: Timestamp, now: SystemTime) -> bool {
    let tick = if ctime.nanos == 0 && mtime.nanos == 0 {
        Duration::from_secs(3)
    } else {
        Duration::from_millis(100)
    };
    let Ok(secs) = u64::try_from(ctime.secs) else { return true };
    let stamp = UNIX_EPOCH + Duration::new(secs, ctime.nanos);
    now.duration_since(stamp).is_ok_and(|age| age > tick)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_file_is_not_settled() {
        let at = |secs, nanos| Timestamp { secs, nanos };
        let now = UNIX_EPOCH + Duration::from_millis(1_000_500);
        assert!(!is_settled(at(1000, 450_000_000), at(0, 0), now));
        assert!(is_settled(at(1000, 300_000_000), at(0, 0), now));
        assert!(!is_settled(at(1001, 1), at(0, 0), now), "a stamp from the future");
        assert!(!is_settled(at(999, 0), at(999, 0), now), "whole seconds: a coarse clock");
        assert!(is_settled(at(990, 0), at(990, 0), now));
        assert!(is_settled(at(-5, 1), at(0, 0), now));
    }
}
