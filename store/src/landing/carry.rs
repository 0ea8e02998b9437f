//! What an earlier attempt left: its manifest, compared record by record with the one that comes now.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use metra_core::manifest::{Ledger, LedgerLimits, Record};

/// The manifest as it came, on disk.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    out: BufWriter<File>,
    buffer: Vec<u8>,
}

impl Spool {
    /// Opens the spool and reads what an earlier attempt wrote. A record cut short by a crash, and everything
    /// behind it, is dropped.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Ledger)> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut ledger = Ledger::new(LedgerLimits::default());
        let mut rest = &bytes[..];
        let mut good = 0;
        while !rest.is_empty() {
            let Ok(record) = Record::decode(&mut rest) else { break };
            if ledger.push(&record).is_err() {
                break;
            }
            good = bytes.len() - rest.len();
        }
        if good < bytes.len() {
            file.set_len(good as u64)?;
        }
        Ok((Self { path: path.to_path_buf(), out: BufWriter::new(file), buffer: Vec::new() }, ledger))
    }

    /// Appends a record.
    pub(super) fn append(&mut self, record: &Record) -> io::Result<()> {
        self.buffer.clear();
        record.encode(&mut self.buffer);
        self.out.write_all(&self.buffer)
    }

    /// Makes what was appended survive a crash.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_data()
    }

    /// Starts anew.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&self.path)?;
        // What the old writer still buffers belongs to the old manifest and must not follow.
        let (_, _) = std::mem::replace(&mut self.out, BufWriter::new(file)).into_parts();
        Ok(())
    }
}
