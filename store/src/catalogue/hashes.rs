//! Hashes of files that a source has read. Writes are collected: a million small files are not a million transactions.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use metra_core::id::{ChunkHash, Digest};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{Catalogue, CatalogueError, millis, sqlite};
use crate::source::{CachedFile, FileIdentity, ManifestCache};

/// The hashes and what is not written yet.
#[derive(Debug)]
pub(super) struct Hashes(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    files: Vec<Addition>,
    packs: HashMap<Digest, ChunkHash>,
    /// Rows that were of use, and shall be kept for longer.
    used_files: Vec<i64>,
    used_packs: Vec<Digest>,
    /// Hashes in all of the above.
    waiting: usize,
    flushed: Instant,
}

/// Chunks to be added to a file.
#[derive(Debug)]
struct Addition {
    id: FileIdentity,
    first: u32,
    chunks: Vec<(u32, ChunkHash)>,
    complete: bool,
}

/// So many hashes wait at most...
const WAITING_MAX: usize = 4096;
/// ... and for so long, as long as there are new ones.
const WAITING_FOR: Duration = Duration::from_millis(200);
/// Use is noted to the day.
const DAY: i64 = 24 * 60 * 60;
/// Bytes of one chunk in a row: length and hash.
const RECORD: usize = 36;

impl Hashes {
    pub(super) fn new(connection: Connection) -> Self {
        Self(Mutex::new(Inner {
            connection,
            files: Vec::new(),
            packs: HashMap::new(),
            used_files: Vec::new(),
            used_packs: Vec::new(),
            waiting: 0,
            flushed: Instant::now(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hashes {
    fn drop(&mut self) {
        self.inner().flush();
    }
}

impl Catalogue {
    /// Writes the hashes that wait to be written. Dropping the catalogue does so too.
    pub fn flush_hashes(&self) {
        self.hashes.inner().flush();
    }

    /// Forgets hashes that were of no use for `keep_days` before `now`. Returns how many files and packs.
    ///
    /// # Errors
    /// As of every method: [`CatalogueError::Sqlite`].
    pub fn prune(&self, keep_days: u32, now: SystemTime) -> Result<usize, CatalogueError> {
        let oldest = millis(now) / 1000 - i64::from(keep_days) * DAY;
        let mut inner = self.hashes.inner();
        inner.flush();
        let run = || {
            let files = inner.connection.execute("DELETE FROM files WHERE used < ?1", [oldest])?;
            let packs = inner.connection.execute("DELETE FROM packs WHERE used < ?1", [oldest])?;
            Ok(files + packs)
        };
        run().map_err(|e| sqlite(&self.path, e))
    }
}

impl ManifestCache for Catalogue {
    fn file(&self, id: &FileIdentity) -> Option<CachedFile> {
        let mut inner = self.hashes.inner();
        if inner.files.iter().any(|a| a.id.path == id.path) {
            inner.flush();
        }
        hint("looking up a file", inner.find_file(id)).flatten()
    }

    fn append(&self, id: &FileIdentity, first: u32, chunks: &[(u32, ChunkHash)], complete: bool) {
        let mut inner = self.hashes.inner();
        inner.waiting += chunks.len() + 1;
        inner.files.push(Addition { id: id.clone(), first, chunks: chunks.to_vec(), complete });
        inner.flush_if_due();
    }

    fn pack(&self, key: &Digest) -> Option<ChunkHash> {
        let mut inner = self.hashes.inner();
        match inner.packs.get(key) {
            Some(hash) => Some(*hash),
            None => hint("looking up a pack", inner.find_pack(key)).flatten(),
        }
    }

    fn put_pack(&self, key: &Digest, hash: &ChunkHash) {
        let mut inner = self.hashes.inner();
        inner.waiting += 1;
        inner.packs.insert(*key, *hash);
        inner.flush_if_due();
    }
}

/// A hint that cannot be had is no hint; that is worth a line in the log and nothing more.
fn hint<T>(what: &str, result: rusqlite::Result<T>) -> Option<T> {
    result.inspect_err(|e| tracing::warn!("hashes of files: {what} failed: {e}")).ok()
}

impl Inner {
    fn flush_if_due(&mut self) {
        if self.waiting >= WAITING_MAX || self.flushed.elapsed() >= WAITING_FOR {
            self.flush();
        }
    }

    /// Writes what waits, in one transaction. What cannot be written is dropped.
    fn flush(&mut self) {
        self.flushed = Instant::now();
        if self.waiting == 0 {
            return;
        }
        let result = self.write();
        hint("writing", result);
        self.files.clear();
        self.packs.clear();
        self.used_files.clear();
        self.used_packs.clear();
        self.waiting = 0;
    }

    fn write(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for addition in &self.files {
            add(&transaction, addition)?;
        }
        let mut insert = transaction.prepare_cached(
            "INSERT INTO packs (key, hash, used) VALUES (?1, ?2, unixepoch())
             ON CONFLICT (key) DO UPDATE SET hash = excluded.hash, used = excluded.used",
        )?;
        for (key, hash) in &self.packs {
            insert.execute((key.0, hash.0))?;
        }
        drop(insert);
        let mut touch = transaction.prepare_cached("UPDATE files SET used = unixepoch() WHERE id = ?1")?;
        for id in &self.used_files {
            touch.execute([id])?;
        }
        drop(touch);
        let mut touch = transaction.prepare_cached("UPDATE packs SET used = unixepoch() WHERE key = ?1")?;
        for key in &self.used_packs {
            touch.execute([key.0])?;
        }
        drop(touch);
        transaction.commit()
    }

    fn find_file(&mut self, id: &FileIdentity) -> rusqlite::Result<Option<CachedFile>> {
        let Some(row) = find(&self.connection, id)? else { return Ok(None) };
        let mut select = self
            .connection
            .prepare_cached("SELECT first, chunks FROM file_chunks WHERE file = ?1 ORDER BY first")?;
        let mut rows = select.query([row.id])?;
        let mut chunks = Vec::new();
        while let Some(row) = rows.next()? {
            // Without a gap, so that what is known is a beginning of the file.
            if usize::try_from(row.get::<_, i64>(0)?) != Ok(chunks.len()) {
                break;
            }
            decode(row.get_ref(1)?.as_blob()?, &mut chunks);
        }
        drop(rows);
        drop(select);
        if row.is_stale {
            self.used_files.push(row.id);
            self.waiting += 1;
            self.flush_if_due();
        }
        let complete = row.total.is_some_and(|total| usize::try_from(total) == Ok(chunks.len()));
        Ok(Some(CachedFile { chunks, complete }))
    }

    fn find_pack(&mut self, key: &Digest) -> rusqlite::Result<Option<ChunkHash>> {
        let sql = "SELECT hash, used < unixepoch() - ?2 FROM packs WHERE key = ?1";
        let row = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![key.0, DAY], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((hash, is_stale)) = row else { return Ok(None) };
        if is_stale {
            self.used_packs.push(*key);
            self.waiting += 1;
            self.flush_if_due();
        }
        Ok(Some(Digest(hash)))
    }
}

/// The row of a file in a certain state.
struct FileRow {
    id: i64,
    total: Option<i64>,
    /// Whether its last use is more than a day ago.
    is_stale: bool,
}

fn find(connection: &Connection, id: &FileIdentity) -> rusqlite::Result<Option<FileRow>> {
    let sql = "SELECT id, total, used < unixepoch() - ?9 FROM files
               WHERE path = ?1 AND size = ?2 AND mtime_secs = ?3 AND mtime_nanos = ?4
                 AND ctime_secs = ?5 AND ctime_nanos = ?6 AND dev = ?7 AND ino = ?8";
    let parameters = params![
        id.path.as_os_str().as_bytes(),
        // Numbers of 64 bits without a sign are kept bit by bit.
        id.size as i64,
        id.mtime.secs,
        id.mtime.nanos,
        id.ctime.secs,
        id.ctime.nanos,
        id.dev as i64,
        id.ino as i64,
        DAY,
    ];
    let row =
        |row: &rusqlite::Row<'_>| Ok(FileRow { id: row.get(0)?, total: row.get(1)?, is_stale: row.get(2)? });
    connection.prepare_cached(sql)?.query_row(parameters, row).optional()
}

fn add(connection: &Connection, addition: &Addition) -> rusqlite::Result<()> {
    let Addition { id, first, chunks, complete } = addition;
    let file = match find(connection, id)? {
        Some(row) => row.id,
        None => {
            let path = id.path.as_os_str().as_bytes();
            connection.prepare_cached("DELETE FROM files WHERE path = ?1")?.execute([path])?;
            let sql = "INSERT INTO files (path, size, mtime_secs, mtime_nanos, ctime_secs, ctime_nanos, dev, ino, used)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, unixepoch())";
            connection.prepare_cached(sql)?.insert(params![
                path,
                id.size as i64,
                id.mtime.secs,
                id.mtime.nanos,
                id.ctime.secs,
                id.ctime.nanos,
                id.dev as i64,
                id.ino as i64,
            ])?
        }
    };
    if !chunks.is_empty() {
        let sql = "INSERT OR REPLACE INTO file_chunks (file, first, chunks) VALUES (?1, ?2, ?3)";
        connection.prepare_cached(sql)?.execute(params![file, first, encode(chunks)])?;
    }
    if *complete {
        let total = i64::from(*first) + chunks.len() as i64;
        let sql = "UPDATE files SET total = ?2 WHERE id = ?1";
        connection.prepare_cached(sql)?.execute([file, total])?;
    }
    Ok(())
}

fn encode(chunks: &[(u32, ChunkHash)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunks.len() * RECORD);
    for (len, hash) in chunks {
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&hash.0);
    }
    bytes
}

fn decode(bytes: &[u8], chunks: &mut Vec<(u32, ChunkHash)>) {
    for record in bytes.chunks_exact(RECORD) {
        if let Some((len, hash)) = record.split_first_chunk::<4>()
            && let Ok(hash) = hash.try_into()
        {
            chunks.push((u32::from_le_bytes(*len), Digest(hash)));
        }
    }
}
