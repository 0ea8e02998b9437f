//! The manifest as it came, on disk, to be compared record by record with the one that comes in a later attempt.
//!
//! Nothing of it is kept in memory. An encoded record is never the beginning of another one, so that records are
//! compared as bytes.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use metra_core::manifest::Record;

/// The manifest of a job. New records are written behind those of an earlier attempt, as long as these are the same.
#[derive(Debug)]
pub(super) struct Spool {
    out: BufWriter<File>,
    buffer: Vec<u8>,
    /// What an earlier attempt wrote and this one has not come to yet.
    earlier: Option<Earlier>,
    /// Chunks in the manifest as it was found.
    chunks: u32,
}

#[derive(Debug)]
struct Earlier {
    reader: RecordReader,
    end: u64,
}

/// What an earlier attempt had in the place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// Nothing.
    New,
    /// The same.
    Same,
    /// Another one. This one is not written down yet: [`Spool::cut`] first.
    Other,
}

impl Spool {
    /// Opens the manifest of a job. A record cut short by a crash, and everything behind it, is dropped.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let options = || File::options().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options()?;
        let mut reader = RecordReader::new(options()?, 0)?;
        let mut chunks = 0;
        while let Some(record) = reader.next()? {
            chunks += u32::from(matches!(record, Record::Chunk { .. }));
        }
        let end = reader.position();
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let earlier = match end {
            0 => None,
            end => Some(Earlier { reader: RecordReader::new(options()?, 0)?, end }),
        };
        Ok(Self { out: BufWriter::new(file), buffer: Vec::new(), earlier, chunks })
    }

    /// Chunks in the manifest as it was found.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Takes the next record: compares it with what an earlier attempt wrote, or writes it down.
    pub(super) fn note(&mut self, record: &Record) -> io::Result<Noted> {
        self.buffer.clear();
        record.encode(&mut self.buffer);
        let Some(earlier) = &mut self.earlier else {
            self.out.write_all(&self.buffer)?;
            return Ok(Noted::New);
        };
        if !earlier.reader.take(&self.buffer)? {
            return Ok(Noted::Other);
        }
        if earlier.reader.position() == earlier.end {
            self.earlier = None;
        }
        Ok(Noted::Same)
    }

    /// Whether an earlier attempt wrote more than has been compared.
    pub(super) fn has_more(&self) -> bool {
        self.earlier.is_some()
    }

    /// Drops what an earlier attempt wrote and this one has not come to.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        if let Some(earlier) = self.earlier.take() {
            let end = earlier.reader.position();
            // Nothing waits in the buffer: nothing is written as long as there is something to compare.
            self.out.get_ref().set_len(end)?;
            self.out.seek(SeekFrom::Start(end))?;
        }
        Ok(())
    }

    /// Makes what was written survive a crash of the machine.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_data()
    }
}

/// Reads records from a file, one after the other.
#[derive(Debug)]
pub(super) struct RecordReader {
    file: File,
    buffer: Vec<u8>,
    start: usize,
    /// Where `start` is in the file.
    position: u64,
}

/// What is read at a time. Bytes.
const BLOCK: usize = 64 * 1024;

impl RecordReader {
    /// Reads from `position` on, where a record must begin.
    pub(super) fn new(mut file: File, position: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(position))?;
        Ok(Self { file, buffer: Vec::new(), start: 0, position })
    }

    /// Where the next record begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next record. `None` at the end, and where the bytes are no record.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        self.fill(Record::ENCODED_MAX)?;
        let mut rest = &self.buffer[self.start..];
        let Ok(record) = Record::decode(&mut rest) else { return Ok(None) };
        let used = self.buffer.len() - self.start - rest.len();
        self.skip(used);
        Ok(Some(record))
    }

    /// Passes over the next record if this is its encoding. Whether it is.
    fn take(&mut self, encoded: &[u8]) -> io::Result<bool> {
        self.fill(encoded.len())?;
        let same = self.buffer[self.start..].starts_with(encoded);
        if same {
            self.skip(encoded.len());
        }
        Ok(same)
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.position += bytes as u64;
    }

    /// At least so many bytes at hand, unless the file ends before.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        while self.buffer.len() - self.start < bytes {
            self.buffer.drain(..self.start);
            self.start = 0;
            if (&self.file).take(BLOCK as u64).read_to_end(&mut self.buffer)? == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use metra_core::id::{Digest, EntryIndex};

    use super::*;

    fn chunk(n: u32) -> Record {
        Record::Chunk { len: n, hash: Digest::of(&n.to_le_bytes()) }
    }

    #[test]
    fn compares_then_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let mut spool = Spool::open(&path).unwrap();
        for n in 1..=5000 {
            assert_eq!(spool.note(&chunk(n)).unwrap(), Noted::New);
        }
        spool.sync().unwrap();
        let mut spool = Spool::open(&path).unwrap();
        assert_eq!(spool.chunks(), 5000);
        for n in 1..=5000 {
            assert!(spool.has_more());
            assert_eq!(spool.note(&chunk(n)).unwrap(), Noted::Same);
        }
        assert!(!spool.has_more());
        assert_eq!(spool.note(&chunk(5001)).unwrap(), Noted::New);
        spool.sync().unwrap();
        assert_eq!(Spool::open(&path).unwrap().chunks(), 5001);
    }

    #[test]
    fn another_record_cuts_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let mut spool = Spool::open(&path).unwrap();
        for n in 1..=9 {
            spool.note(&chunk(n)).unwrap();
        }
        spool.sync().unwrap();
        let mut spool = Spool::open(&path).unwrap();
        spool.note(&chunk(1)).unwrap();
        assert_eq!(spool.note(&Record::Withdraw(EntryIndex(0))).unwrap(), Noted::Other);
        assert_eq!(spool.note(&chunk(7)).unwrap(), Noted::Other);
        spool.cut().unwrap();
        assert_eq!(spool.note(&chunk(7)).unwrap(), Noted::New);
        spool.sync().unwrap();
        let mut reader = RecordReader::new(File::open(&path).unwrap(), 0).unwrap();
        assert_eq!(reader.next().unwrap(), Some(chunk(1)));
        assert_eq!(reader.next().unwrap(), Some(chunk(7)));
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn a_torn_end_is_dropped_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let mut whole = Vec::new();
        let mut ends = vec![0];
        for n in 1..=3 {
            chunk(n).encode(&mut whole);
            ends.push(whole.len());
        }
        for cut in 0..=whole.len() {
            for tail in [&b""[..], &[0; 50]] {
                std::fs::write(&path, [&whole[..cut], tail].concat()).unwrap();
                let found = Spool::open(&path).unwrap().chunks() as usize;
                // Zeros behind a torn hash complete it; the record is then another one, which is found out later.
                let exact = ends.iter().rposition(|end| *end <= cut).unwrap();
                assert!(found == exact || (!tail.is_empty() && found == exact + 1), "{cut}");
                let length = path.metadata().unwrap().len() as usize;
                assert_eq!(length, ends[found], "{cut}");
            }
        }
    }
}
