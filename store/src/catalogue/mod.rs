//! What must survive a crash, in one SQLite file that several processes may have open.
//!
//! Four tenants, which share nothing but the file:
//!
//! - the journal of sinks: which jobs there are, and which of their chunks are durable ([`JobRow`]),
//! - receipts of finished jobs ([`ReceiptRow`]),
//! - what has been used of quotas,
//! - hashes of files that a source has read ([`ManifestCache`](crate::source::ManifestCache)).
//!
//! The journal, the receipts and the quotas are on disk when a method returns. The hashes are hints: they are collected and
//! written now and then, and losing some costs time only. They have a connection of their own, so that nobody waits
//! for them.
//!
//! A file that SQLite finds damaged is moved aside and a new one is begun: transfers go on, and what the journal knew
//! is found again by hashing what is on disk.

mod hashes;
mod journal;
mod quotas;
mod receipts;
mod schema;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use hashes::Hashes;
pub use journal::{JobRow, Phase};
pub use receipts::ReceiptRow;

/// Why the catalogue cannot do what was asked. A statement that failed has changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// SQLite failed. Safe to retry if it is busy ([`CatalogueError::is_busy`]).
    #[error("catalogue {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file is from a newer version of Metra. Fault: whoever went back to an older one.
    #[error("catalogue {}: its version is {found}, this program knows versions up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Newest version that is known here.
        known: i64,
    },
    /// The folder cannot be made, or a damaged file cannot be moved aside.
    #[error("catalogue {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl CatalogueError {
    /// Whether another process held the file for too long; the same call may succeed later.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite { source, .. }
            if matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)))
    }

    /// Whether the content of the file is damaged. Opening the catalogue anew moves it aside.
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Sqlite { source, .. }
            if matches!(source.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)))
    }
}

/// An open catalogue. Its methods block for the disk, and for at most ten seconds for other processes.
#[derive(Debug)]
pub struct Catalogue {
    path: PathBuf,
    journal: Mutex<Connection>,
    hashes: Hashes,
    moved_aside: Option<PathBuf>,
}

/// How long to wait for other processes.
const BUSY: Duration = Duration::from_secs(10);
/// Files up to this size are checked from end to end when they are opened. Bytes.
const CHECKED_UP_TO: u64 = 64 * 1024 * 1024;

impl Catalogue {
    /// Opens the file, or makes it and its folder. A damaged file is moved to `PATH.corrupt-SECONDS` (of `now`), which
    /// [`Catalogue::moved_aside`] then names.
    ///
    /// # Errors
    /// The file cannot be made or read, or is from a newer version.
    pub fn open(path: &Path, now: SystemTime) -> Result<Self, CatalogueError> {
        if let Some(folder) = path.parent() {
            let failed = |source| CatalogueError::Io { path: folder.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut moved_aside = None;
        let journal = match connect(path) {
            Err(e) if e.is_damaged() => {
                let aside = move_aside(path, now)?;
                tracing::error!(file = %path.display(), moved_to = %aside.display(), "the catalogue is damaged: {e}");
                moved_aside = Some(aside);
                connect(path)?
            }
            result => result?,
        };
        let hashes = Hashes::new(hints(path)?);
        Ok(Self { path: path.to_owned(), journal: Mutex::new(journal), hashes, moved_aside })
    }

    /// A catalogue that is gone when it is dropped.
    ///
    /// # Errors
    /// None in practice.
    pub fn open_in_memory() -> Result<Self, CatalogueError> {
        let path = PathBuf::from(":memory:");
        let open = || -> Result<Connection, CatalogueError> {
            let mut connection = Connection::open_in_memory().map_err(|e| sqlite(&path, e))?;
            schema::migrate(&mut connection, &path)?;
            Ok(connection)
        };
        // The tables of the hashes and of the rest have nothing to do with each other: two databases serve as well.
        let hashes = Hashes::new(open()?);
        Ok(Self { journal: Mutex::new(open()?), hashes, moved_aside: None, path })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the former file is, if it was damaged.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.moved_aside.as_deref()
    }

    fn journal(&self) -> MutexGuard<'_, Connection> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the journal's connection; what it writes is on disk when this returns, or not written at all.
    fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogueError> {
        let mut journal = self.journal();
        let run = || {
            // Asks for the right to write at once: a transaction that reads first may not wait for it later.
            let transaction = journal.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|e| sqlite(&self.path, e))
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, CatalogueError> {
        work(&self.journal()).map_err(|e| sqlite(&self.path, e))
    }
}

fn sqlite(path: &Path, source: rusqlite::Error) -> CatalogueError {
    CatalogueError::Sqlite { path: path.to_owned(), source }
}

/// The connection for what must not be lost.
fn connect(path: &Path) -> Result<Connection, CatalogueError> {
    let failed = |e| sqlite(path, e);
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    write_ahead(&connection).map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    schema::migrate(&mut connection, path)?;
    if path.metadata().is_ok_and(|m| m.len() <= CHECKED_UP_TO) {
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if verdict != "ok" {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(failed(rusqlite::Error::SqliteFailure(code, Some(verdict))));
        }
    }
    Ok(connection)
}

/// The connection for the hashes: a crash of the machine may lose the latest, but damages nothing.
fn hints(path: &Path) -> Result<Connection, CatalogueError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    open().map_err(|e| sqlite(path, e))
}

/// Turns on the write-ahead log. SQLite does not wait for other processes here, so that this does.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && waited < BUSY => {
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            result => return result,
        }
    }
}

fn move_aside(path: &Path, now: SystemTime) -> Result<PathBuf, CatalogueError> {
    let with = |base: &Path, suffix: &str| {
        let mut name = OsString::from(base);
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = with(path, &format!(".corrupt-{}", millis(now) / 1000));
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(with(path, suffix), with(&aside, suffix)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(|source| CatalogueError::Io { path: path.to_owned(), source })?,
        }
    }
    Ok(aside)
}

/// Times are kept as milliseconds since the epoch.
fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
