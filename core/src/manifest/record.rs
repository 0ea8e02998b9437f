//! Records, the units of a manifest, and their one encoding.
//!
//! ```text
//! 1 file       tag, flags, path, size,   [mode], [mtime]
//! 2 stream     tag, flags, path,         [mode], [mtime]
//! 3 directory  tag, flags, path,         [mode], [mtime]
//! 4 symlink    tag, flags, path, target, [mode], [mtime]
//! 5 chunk      tag, length, 32 bytes of hash
//! 6 stream end tag, size
//! 7 withdraw   tag, entry
//! ```
//!
//! Tag and flags are one byte (flags: 1 = mode is there, 2 = mtime is there), texts are a varint and UTF-8, mode is 2
//! bytes and mtime 8 (seconds, two's complement) and 4 (nanoseconds), network byte order; the rest are varints in
//! their shortest form. The encoding is canonical, because the identity of a manifest is a hash over it: a record has
//! one encoding, and the decoder refuses everything else.

use super::{Entry, EntryKind, Timestamp};
use crate::id::{ChunkHash, Digest, EntryIndex};
use crate::limits::{CHUNK_MAX, PACK_BELOW, PATH_MAX};
use crate::wire::varint;

/// Longest path that a record may carry, in bytes. More than [`PATH_MAX`], so that a path that is too long for the
/// sink costs that entry and not the job.
pub const RECORD_PATH_MAX: usize = 16 * 1024;

/// One unit of a manifest; the grammar is in the [module's documentation](super).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// A file, directory or link.
    Entry(Entry),
    /// The next chunk.
    Chunk {
        /// Bytes, `1..=CHUNK_MAX`.
        len: u32,
        /// BLAKE3 of these bytes.
        hash: ChunkHash,
    },
    /// The stream that is open ends.
    StreamEnd {
        /// Bytes in all its chunks.
        size: u64,
    },
    /// An earlier entry is void.
    Withdraw(EntryIndex),
}

/// Why bytes are not a record, or a record cannot be encoded. Fault: the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end within the record, or a number is not in its shortest form.
    #[error("record: ends early, or a number is not in its shortest form")]
    Malformed,
    /// A type of record that version 1 does not have.
    #[error("record: unknown type {0}")]
    Tag(u8),
    /// Flags that version 1 does not have.
    #[error("record: unknown flags {0:#04x}")]
    Flags(u8),
    /// A path or target is not UTF-8.
    #[error("record: a path or target is not UTF-8")]
    Utf8,
    /// A path is longer than [`RECORD_PATH_MAX`].
    #[error("record: the path is longer than 16384 bytes")]
    PathTooLong,
    /// A target is empty, contains NUL or is longer than [`PATH_MAX`].
    #[error("record: the target of a link is empty, contains NUL or is longer than 4096 bytes")]
    Target,
    /// A chunk is empty or longer than [`CHUNK_MAX`].
    #[error("record: the length of a chunk is not within 1..=4194304")]
    ChunkLength,
    /// A size does not fit a varint (2^62 - 1).
    #[error("record: a size is larger than 2^62 - 1")]
    Size,
    /// A mode has bits outside of 0o7777.
    #[error("record: a mode has bits outside of 0o7777")]
    Mode,
    /// Nanoseconds are not below 10^9.
    #[error("record: nanoseconds are not below 1000000000")]
    Nanos,
    /// An entry's number does not fit 32 bits.
    #[error("record: the number of an entry is larger than 2^32 - 1")]
    Index,
}

impl Record {
    /// Appends the encoding. The record must be valid ([`Record::validate`]): a peer refuses it otherwise, and a size
    /// past 2^62 - 1 becomes that.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Entry(entry) => entry.encode(out),
            Record::Chunk { len, hash } => {
                out.push(TAG_CHUNK);
                varint::put(u64::from(*len), out);
                out.extend_from_slice(&hash.0);
            }
            Record::StreamEnd { size } => {
                out.push(TAG_STREAM_END);
                varint::put((*size).min(varint::MAX), out);
            }
            Record::Withdraw(entry) => {
                out.push(TAG_WITHDRAW);
                varint::put(u64::from(entry.0), out);
            }
        }
    }

    /// Bytes that [`Record::encode`] appends; at most [`Record::ENCODED_MAX`] for a valid record.
    pub fn encoded_len(&self) -> usize {
        match self {
            Record::Entry(entry) => entry.encoded_len(),
            Record::Chunk { len, .. } => 1 + varint::len(u64::from(*len)) + 32,
            Record::StreamEnd { size } => 1 + varint::len(*size),
            Record::Withdraw(entry) => 1 + varint::len(u64::from(entry.0)),
        }
    }

    /// Longest encoding of a valid record: a link with the longest path and target. Bytes.
    pub const ENCODED_MAX: usize = 2 + (4 + RECORD_PATH_MAX) + (2 + PATH_MAX) + 2 + 12;

    /// Takes one record off the front of `input`, which is left as it was on error.
    pub fn decode(input: &mut &[u8]) -> Result<Self, RecordError> {
        let mut rest = *input;
        let record = match *rest.first().ok_or(RecordError::Malformed)? {
            TAG_FILE..=TAG_SYMLINK => Record::Entry(Entry::decode(&mut rest)?),
            tag @ (TAG_CHUNK | TAG_STREAM_END | TAG_WITHDRAW) => {
                rest = &rest[1..];
                let number = varint::take_shortest(&mut rest).ok_or(RecordError::Malformed)?;
                match tag {
                    TAG_CHUNK => {
                        let len = u32::try_from(number).map_err(|_| RecordError::ChunkLength)?;
                        Record::Chunk { len, hash: Digest(take_array(&mut rest)?) }
                    }
                    TAG_STREAM_END => Record::StreamEnd { size: number },
                    _ => Record::Withdraw(EntryIndex(u32::try_from(number).map_err(|_| RecordError::Index)?)),
                }
            }
            tag => return Err(RecordError::Tag(tag)),
        };
        record.validate()?;
        *input = rest;
        Ok(record)
    }

    /// Whether every field is within its range, which the encoder does not look at.
    pub fn validate(&self) -> Result<(), RecordError> {
        match self {
            Record::Entry(entry) => entry.validate(),
            Record::Chunk { len, .. } if *len == 0 || *len as usize > CHUNK_MAX => {
                Err(RecordError::ChunkLength)
            }
            Record::StreamEnd { size } if *size > varint::MAX => Err(RecordError::Size),
            _ => Ok(()),
        }
    }
}

impl Entry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (tag, target) = match &self.kind {
            EntryKind::File { .. } => (TAG_FILE, None),
            EntryKind::Stream => (TAG_STREAM, None),
            EntryKind::Directory => (TAG_DIRECTORY, None),
            EntryKind::Symlink { target } => (TAG_SYMLINK, Some(target)),
        };
        out.push(tag);
        out.push(self.mode.map_or(0, |_| FLAG_MODE) | self.mtime.map_or(0, |_| FLAG_MTIME));
        put_text(&self.path, out);
        if let EntryKind::File { size } = self.kind {
            // Sparse files may claim more, and a listing must survive them; a manifest refuses them beforehand.
            varint::put(size.min(varint::MAX), out);
        }
        if let Some(target) = target {
            put_text(target, out);
        }
        if let Some(mode) = self.mode {
            // A valid mode has twelve bits.
            out.extend_from_slice(&(mode as u16).to_be_bytes());
        }
        if let Some(mtime) = self.mtime {
            out.extend_from_slice(&mtime.secs.to_be_bytes());
            out.extend_from_slice(&mtime.nanos.to_be_bytes());
        }
    }

    /// Bytes of the encoding as a record.
    pub fn encoded_len(&self) -> usize {
        let text = |text: &str| varint::len(text.len() as u64) + text.len();
        let content = match &self.kind {
            EntryKind::File { size } => varint::len(*size),
            EntryKind::Symlink { target } => text(target),
            EntryKind::Stream | EntryKind::Directory => 0,
        };
        2 + text(&self.path) + content + self.mode.map_or(0, |_| 2) + self.mtime.map_or(0, |_| 12)
    }

    pub(crate) fn decode(input: &mut &[u8]) -> Result<Self, RecordError> {
        let mut rest = *input;
        let [tag, flags] = take_array(&mut rest)?;
        if !(TAG_FILE..=TAG_SYMLINK).contains(&tag) {
            return Err(RecordError::Tag(tag));
        }
        if flags & !(FLAG_MODE | FLAG_MTIME) != 0 {
            return Err(RecordError::Flags(flags));
        }
        let path = take_text(&mut rest, RECORD_PATH_MAX, RecordError::PathTooLong)?;
        let kind = match tag {
            TAG_FILE => {
                EntryKind::File { size: varint::take_shortest(&mut rest).ok_or(RecordError::Malformed)? }
            }
            TAG_STREAM => EntryKind::Stream,
            TAG_DIRECTORY => EntryKind::Directory,
            _ => EntryKind::Symlink { target: take_text(&mut rest, PATH_MAX, RecordError::Target)? },
        };
        let mode = match flags & FLAG_MODE {
            0 => None,
            _ => Some(u32::from(u16::from_be_bytes(take_array(&mut rest)?))),
        };
        let mtime = match flags & FLAG_MTIME {
            0 => None,
            _ => Some(Timestamp {
                secs: i64::from_be_bytes(take_array(&mut rest)?),
                nanos: u32::from_be_bytes(take_array(&mut rest)?),
            }),
        };
        let entry = Entry { path, kind, mode, mtime };
        entry.validate()?;
        *input = rest;
        Ok(entry)
    }

    fn validate(&self) -> Result<(), RecordError> {
        if self.path.len() > RECORD_PATH_MAX {
            return Err(RecordError::PathTooLong);
        }
        match &self.kind {
            EntryKind::File { size } if *size > varint::MAX => return Err(RecordError::Size),
            EntryKind::Symlink { target }
                if target.is_empty() || target.len() > PATH_MAX || target.contains('\0') =>
            {
                return Err(RecordError::Target);
            }
            _ => {}
        }
        if self.mode.is_some_and(|mode| mode > 0o7777) {
            return Err(RecordError::Mode);
        }
        if self.mtime.is_some_and(|mtime| mtime.nanos >= 1_000_000_000) {
            return Err(RecordError::Nanos);
        }
        Ok(())
    }
}

/// What an entry's record says about its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// So many; 0 of what is no file.
    Sized(u64),
    /// Known when the stream ends.
    Stream,
}

impl Content {
    /// Reads it from an encoded entry, without its path.
    pub(super) fn of(mut encoded: &[u8]) -> Option<Self> {
        let [tag, _flags] = take_array(&mut encoded).ok()?;
        match tag {
            TAG_FILE => {
                let path = varint::take(&mut encoded)?;
                let mut rest = encoded.get(path as usize..)?;
                varint::take(&mut rest).map(Content::Sized)
            }
            TAG_STREAM => Some(Content::Stream),
            _ => Some(Content::Sized(0)),
        }
    }

    /// As [`Entry::is_large`].
    pub(super) fn is_large(self) -> bool {
        match self {
            Content::Sized(size) => size >= PACK_BELOW,
            Content::Stream => true,
        }
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    varint::put(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn take_text(input: &mut &[u8], max: usize, too_long: RecordError) -> Result<String, RecordError> {
    let len = varint::take_shortest(input).ok_or(RecordError::Malformed)?;
    if len > max as u64 {
        return Err(too_long);
    }
    let (bytes, rest) = input.split_at_checked(len as usize).ok_or(RecordError::Malformed)?;
    *input = rest;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| RecordError::Utf8)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (array, rest) = input.split_first_chunk().ok_or(RecordError::Malformed)?;
    *input = rest;
    Ok(*array)
}

const TAG_FILE: u8 = 1;
const TAG_STREAM: u8 = 2;
const TAG_DIRECTORY: u8 = 3;
const TAG_SYMLINK: u8 = 4;
const TAG_CHUNK: u8 = 5;
const TAG_STREAM_END: u8 = 6;
const TAG_WITHDRAW: u8 = 7;

const FLAG_MODE: u8 = 1;
const FLAG_MTIME: u8 = 2;

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![
            (0..=varint::MAX).prop_map(|size| EntryKind::File { size }),
            Just(EntryKind::Stream),
            Just(EntryKind::Directory),
            "[a-z/.é]{1,40}".prop_map(|target| EntryKind::Symlink { target }),
        ];
        let mtime = (any::<i64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Timestamp { secs, nanos });
        (".{0,80}", kind, prop::option::of(0u32..=0o7777), prop::option::of(mtime))
            .prop_map(|(path, kind, mode, mtime)| Entry { path, kind, mode, mtime })
    }

    pub(crate) fn any_record() -> impl Strategy<Value = Record> {
        prop_oneof![
            any_entry().prop_map(Record::Entry),
            (1..=CHUNK_MAX as u32, any::<[u8; 32]>())
                .prop_map(|(len, hash)| Record::Chunk { len, hash: Digest(hash) }),
            (0..=varint::MAX).prop_map(|size| Record::StreamEnd { size }),
            any::<u32>().prop_map(|i| Record::Withdraw(EntryIndex(i))),
        ]
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        record.encode(&mut out);
        out
    }

    fn link(path: usize, target: usize) -> Record {
        Record::Entry(Entry {
            path: "p".repeat(path),
            kind: EntryKind::Symlink { target: "t".repeat(target) },
            mode: Some(0o7777),
            mtime: Some(Timestamp { secs: -1, nanos: 999_999_999 }),
        })
    }

    #[test]
    fn a_size_past_the_largest_number_is_invalid_and_no_panic() {
        let file = |size| {
            Record::Entry(Entry { path: "f".into(), kind: EntryKind::File { size }, mode: None, mtime: None })
        };
        for record in [file(u64::MAX), Record::StreamEnd { size: varint::MAX + 1 }] {
            assert_eq!(record.validate(), Err(RecordError::Size));
            assert_eq!(encoded(&record).len(), record.encoded_len());
        }
        assert_eq!(encoded(&file(u64::MAX)), encoded(&file(varint::MAX)));
    }

    #[test]
    fn both_sides_of_every_limit() {
        let longest = encoded(&link(RECORD_PATH_MAX, PATH_MAX));
        assert!(Record::decode(&mut longest.as_slice()).is_ok());
        assert_eq!(longest.len(), Record::ENCODED_MAX);

        let file = |mode, nanos| {
            let mtime = Some(Timestamp { secs: 0, nanos });
            Record::Entry(Entry { path: "f".into(), kind: EntryKind::Directory, mode: Some(mode), mtime })
        };
        let chunk = |len: usize| Record::Chunk { len: len as u32, hash: Digest::default() };
        for (record, error) in [
            (link(RECORD_PATH_MAX + 1, 1), RecordError::PathTooLong),
            (link(1, PATH_MAX + 1), RecordError::Target),
            (link(1, 0), RecordError::Target),
            (file(0o10000, 0), RecordError::Mode),
            (file(0o7777, 1_000_000_000), RecordError::Nanos),
            (chunk(0), RecordError::ChunkLength),
            (chunk(CHUNK_MAX + 1), RecordError::ChunkLength),
        ] {
            assert_eq!(record.validate(), Err(error));
            assert_eq!(Record::decode(&mut encoded(&record).as_slice()), Err(error));
        }
        for record in [file(0o7777, 999_999_999), chunk(1), chunk(CHUNK_MAX)] {
            assert_eq!(Record::decode(&mut encoded(&record).as_slice()), Ok(record));
        }
    }

    #[test]
    fn refuses_what_is_not_canonical() {
        for (bytes, error) in [
            (&[][..], RecordError::Malformed),
            (&[0], RecordError::Tag(0)),
            (&[8], RecordError::Tag(8)),
            (&[3, 4, 1, b'a'], RecordError::Flags(4)),
            (&[3, 0, 2, 0xc3, 0x28], RecordError::Utf8),
            (&[3, 0, 0x40, 1, b'a'], RecordError::Malformed),
            (&[4, 0, 1, b'a', 1, 0], RecordError::Target),
            (&[7, 0xc0, 0, 0, 1, 0, 0, 0, 0], RecordError::Index),
            (&[6, 0x40, 1], RecordError::Malformed),
        ] {
            let mut input = bytes;
            assert_eq!(Record::decode(&mut input), Err(error), "{bytes:?}");
            assert_eq!(input, bytes);
        }
    }

    proptest! {
        #[test]
        fn round_trip(record in any_record(), tail in any::<[u8; 2]>()) {
            prop_assert_eq!(record.validate(), Ok(()));
            let mut bytes = encoded(&record);
            prop_assert_eq!(bytes.len(), record.encoded_len());
            for cut in 0..bytes.len() {
                prop_assert!(Record::decode(&mut &bytes[..cut]).is_err());
            }
            bytes.extend(tail);
            let mut input = bytes.as_slice();
            prop_assert_eq!(Record::decode(&mut input), Ok(record));
            prop_assert_eq!(input, &tail[..]);
        }

        #[test]
        fn one_encoding_each(bytes in prop::collection::vec(any::<u8>(), 0..60), tag in 1u8..=7) {
            let mut bytes = bytes;
            bytes.insert(0, tag);
            let mut input = bytes.as_slice();
            if let Ok(record) = Record::decode(&mut input) {
                let used = bytes.len() - input.len();
                prop_assert_eq!(encoded(&record), &bytes[..used]);
            }
        }
    }
}
