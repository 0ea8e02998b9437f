//! What the file system says about a name.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use metra_core::manifest::Timestamp;
use rustix::fs::FileType;

use super::cache::FileIdentity;
use super::generate::mix;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    /// What Metra does not carry, in words.
    Other(&'static str),
}

/// The part of a `stat` that matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Permission bits only.
    pub(super) mode: u32,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// Whether fewer bytes are allocated than the size asks for: there may be holes.
    pub(super) sparse: bool,
}

impl Stat {
    /// Of an open file.
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&rustix::fs::fstat(fd)?))
    }

    /// Whether `other` is the same file with the same content, as far as the file system tells.
    pub(super) fn same_state(&self, other: &Stat) -> bool {
        self.kind == other.kind
            && self.size == other.size
            && self.mtime == other.mtime
            && self.ctime == other.ctime
            && self.dev == other.dev
            && self.ino == other.ino
    }

    /// The identity for the cache.
    pub(super) fn identity(&self, path: PathBuf) -> FileIdentity {
        let Stat { size, mtime, ctime, dev, ino, .. } = *self;
        FileIdentity { path, size, mtime, ctime, dev, ino }
    }

    /// A short stand-in for size, time and inode, to notice later that a file is no longer what it was.
    pub(super) fn tag(&self) -> u32 {
        let time = (self.mtime.secs as u64) ^ (u64::from(self.mtime.nanos) << 34);
        mix(self.size ^ mix(time ^ mix(self.ino))) as u32
    }
}

impl From<&rustix::fs::Stat> for Stat {
    // The types of the fields differ between systems.
    #[allow(clippy::unnecessary_cast)]
    fn from(s: &rustix::fs::Stat) -> Self {
        let size = s.st_size as u64;
        Self {
            kind: match FileType::from_raw_mode(s.st_mode) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink,
                FileType::Fifo => Kind::Other("a FIFO"),
                FileType::Socket => Kind::Other("a socket"),
                FileType::CharacterDevice => Kind::Other("a character device"),
                FileType::BlockDevice => Kind::Other("a block device"),
                _ => Kind::Other("of an unknown type"),
            },
            size,
            mode: (s.st_mode as u32) & 0o7777,
            mtime: Timestamp { secs: s.st_mtime as i64, nanos: s.st_mtime_nsec as u32 },
            ctime: Timestamp { secs: s.st_ctime as i64, nanos: s.st_ctime_nsec as u32 },
            dev: s.st_dev as u64,
            ino: s.st_ino as u64,
            sparse: (s.st_blocks as u64).saturating_mul(512) < size,
        }
    }
}
