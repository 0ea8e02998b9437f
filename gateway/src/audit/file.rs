//! A file of records: appended to, synced, rotated, and mended where a line was torn.
//!
//! Nothing is lost in a rotation: what is written is synced before its file is renamed, and what cannot be written because there
//! is no new file yet waits. A line that could not be written whole is cut off again, or ended when the file is next opened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metra_transport::Rt;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc;

use super::clock::{is_stamp, stamp};
use super::sink::{Batch, Health, Item, Line};
use crate::config::AuditFile;

/// How often what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a rotation that failed is tried again. Meanwhile the file grows: records matter more than its size.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

/// Writes what is queued, until the queue is closed.
pub(super) async fn run(rt: Rt, mut file: LogFile, mut queue: mpsc::Receiver<Item>, health: Arc<Health>) {
    let every = file.config.sync;
    let mut batch = Batch::default();
    let mut due: Option<Instant> = None;
    loop {
        if batch.lines.is_empty() {
            let until = async {
                match due {
                    Some(at) => rt.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                item = queue.recv() => match item {
                    Some(item) => batch.take(item, &mut queue),
                    None => return,
                },
                () = until => {}
            }
        }
        let was = batch.lines.len();
        let is_due = due.is_some_and(|at| at <= rt.now()) || !batch.flushes.is_empty() || every.is_zero();
        let lines = std::mem::take(&mut batch.lines);
        let work = move || {
            let mut lines = lines;
            let mut result = file.append(&mut lines, SystemTime::now());
            if is_due && result.is_ok() {
                result = file.sync();
            }
            (file, lines, result)
        };
        let result;
        (file, batch.lines, result) = rt.blocking(work).await;
        health.written(was - batch.lines.len());
        match result {
            Ok(()) => {
                health.works();
                batch.answer();
                due = if is_due { None } else { due.or_else(|| Some(rt.now() + every)) };
            }
            Err(error) => {
                health.failed(&error);
                due = Some(rt.now());
                rt.sleep(RETRY).await;
            }
        }
    }
}

/// The file, and what is known of it.
pub(super) struct LogFile {
    config: AuditFile,
    /// `None`: it could not be opened again.
    open: Option<Open>,
    rotate_after: Option<SystemTime>,
}

struct Open {
    file: File,
    /// Devices and pipes are neither renamed nor cut.
    is_regular: bool,
    len: u64,
    began: SystemTime,
}

impl LogFile {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// It cannot be, or another process writes it ([`io::ErrorKind::WouldBlock`]).
    pub(super) fn open(config: AuditFile, now: SystemTime) -> io::Result<Self> {
        let open = Open::at(&config.path, now)?;
        Ok(Self { config, open: Some(open), rotate_after: None })
    }

    /// Appends `lines`, each with its end, and takes those away that were written whole. A new file is begun before if it is time.
    ///
    /// # Errors
    /// What the system says. What is left in `lines` is not in the file.
    pub(super) fn append(&mut self, lines: &mut Vec<Line>, now: SystemTime) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = lines.iter().flat_map(|line| line.text.bytes().chain([b'\n'])).collect();
        self.rotate_if_due(bytes.len() as u64, now)?;
        let open = self.opened(now)?;
        let (written, result) = write_all(&mut open.file, &bytes);
        let whole = bytes[..written].iter().filter(|byte| **byte == b'\n').count();
        let kept: u64 = lines.drain(..whole).map(|line| line.text.len() as u64 + 1).sum();
        open.len += kept;
        if result.is_err() {
            if kept < written as u64 && open.is_regular {
                // Where this fails, too, opening it again ends the torn line.
                let _ = open.file.set_len(open.len);
            }
            // What is at the path by then may be another file, or the same one on a disk that works again.
            self.open = None;
        }
        result
    }

    /// Makes what was written survive a power cut.
    ///
    /// # Errors
    /// What the system says; what was written since the last time may be lost then.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match &self.open {
            Some(open) if open.is_regular => open.file.sync_data(),
            _ => Ok(()),
        }
    }

    fn opened(&mut self, now: SystemTime) -> io::Result<&mut Open> {
        let open = match self.open.take() {
            Some(open) => open,
            None => Open::at(&self.config.path, now)?,
        };
        Ok(self.open.insert(open))
    }

    fn rotate_if_due(&mut self, more: u64, now: SystemTime) -> io::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let age = now.duration_since(open.began).unwrap_or_default();
        let is_due =
            open.len + more > self.config.max_size || self.config.max_age.is_some_and(|max| age >= max);
        let is_early = self.rotate_after.is_some_and(|after| now < after);
        if !open.is_regular || open.len == 0 || !is_due || is_early {
            return Ok(());
        }
        if let Err(error) = self.rotate(now) {
            tracing::error!(%error, "the file of the audit trail could not be renamed, and grows");
            self.rotate_after = Some(now + ROTATE_AGAIN);
            return Ok(());
        }
        self.rotate_after = None;
        self.open = None;
        self.opened(now)?;
        if let Err(error) = self.prune() {
            tracing::warn!(%error, "old files of the audit trail could not be removed");
        }
        Ok(())
    }

    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        self.sync()?;
        let mut millis = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let mut to = renamed(&self.config.path, millis);
        while to.symlink_metadata().is_ok() {
            millis += 1;
            to = renamed(&self.config.path, millis);
        }
        fs::rename(&self.config.path, to)
    }

    /// Removes the oldest of the renamed files.
    fn prune(&self) -> io::Result<()> {
        let Some(name) = self.config.path.file_name() else { return Ok(()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let mut old = Vec::new();
        for entry in fs::read_dir(folder_of(&self.config.path))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().and_then(|name| name.strip_prefix(&prefix)).is_some_and(is_stamp) {
                old.push(entry.path());
            }
        }
        old.sort();
        let surplus = old.len().saturating_sub(self.config.keep);
        old[..surplus].iter().try_for_each(fs::remove_file)
    }
}

impl Open {
    fn at(path: &Path, now: SystemTime) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
        let meta = file.metadata()?;
        let is_regular = meta.is_file();
        let mut len = if is_regular { meta.len() } else { 0 };
        if is_regular {
            flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
                let error = io::Error::from(error);
                match error.kind() {
                    io::ErrorKind::WouldBlock => io::Error::new(error.kind(), "another process writes it"),
                    _ => error,
                }
            })?;
            // Its name, and that of the one before it.
            File::open(folder_of(path))?.sync_all()?;
        }
        if len > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(len - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                len += 1;
            }
        }
        let began = if len > 0 { meta.created().or_else(|_| meta.modified())? } else { now };
        Ok(Self { file, is_regular, len, began })
    }
}

/// How much was written, and how that ended.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn renamed(path: &Path, millis: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(stamp(millis));
    name.into()
}

/// Only the gateway's user reads it.
const MODE: u32 = 0o600;
