//! One entry of a manifest.

/// A point in time as file systems keep it: seconds since 1970-01-01 UTC (may be negative) and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds since the epoch.
    pub secs: i64,
    /// 0..=999_999_999.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file of `size` bytes.
    File {
        /// Bytes.
        size: u64,
    },
    /// A regular file whose size is known only when it ends (standard input). Its chunks follow, closed by
    /// [`Record::StreamEnd`](super::Record::StreamEnd).
    Stream,
    /// A directory.
    Directory,
    /// A symbolic link and the text that it holds.
    Symlink {
        /// The target, as the link holds it (UTF-8, no NUL, not empty, at most `PATH_MAX` bytes).
        target: String,
    },
}

/// One file, directory or symbolic link of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where it goes, relative to the destination, `/` between components. Whether it may be used is for the sink
    /// to say ([`crate::path::check`]), so that one bad name does not end a job.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits (`0o7777`), where kept.
    pub mode: Option<u32>,
    /// Time of last modification, where kept.
    pub mtime: Option<Timestamp>,
}

impl Entry {
    /// Bytes of content: the size of a file, 0 of anything else and of a stream, whose size is not known yet.
    pub fn size(&self) -> u64 {
        match self.kind {
            EntryKind::File { size } => size,
            _ => 0,
        }
    }

    /// Whether the entry is a file or stream with chunks of its own (see the module's documentation).
    pub fn is_large(&self) -> bool {
        matches!(self.kind, EntryKind::Stream) || self.size() >= crate::limits::PACK_BELOW
    }
}
