//! Receipts of finished jobs, as they were signed.

use std::time::SystemTime;

use metra_core::id::{Digest, JobKey};
use rusqlite::{OptionalExtension, Row, params};

use super::{Catalogue, CatalogueError, millis, time};

/// A receipt that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// Of the job.
    pub key: JobKey,
    /// Of the manifest.
    pub root: Digest,
    /// When it was put here.
    pub at: SystemTime,
    /// As it is on the wire, signature and all.
    pub bytes: Vec<u8>,
}

impl Catalogue {
    /// Keeps a receipt. One manifest may have several, from several jobs.
    ///
    /// # Errors
    /// As of every method: [`CatalogueError::Sqlite`].
    pub fn put_receipt(
        &self,
        key: &JobKey,
        root: &Digest,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<(), CatalogueError> {
        let sql = "INSERT INTO receipts (key, root, at, bytes) VALUES (?1, ?2, ?3, ?4)";
        self.write(|t| t.execute(sql, params![key.0.0, root.0, millis(now), bytes]))?;
        Ok(())
    }

    /// The newest `limit` receipts, newest first.
    pub fn receipts(&self, limit: u32) -> Result<Vec<ReceiptRow>, CatalogueError> {
        let sql = "SELECT key, root, at, bytes FROM receipts ORDER BY id DESC LIMIT ?1";
        self.read(|c| c.prepare_cached(sql)?.query_map([limit], ReceiptRow::of)?.collect())
    }

    /// The newest receipt for a manifest.
    pub fn receipt(&self, root: &Digest) -> Result<Option<ReceiptRow>, CatalogueError> {
        let sql = "SELECT key, root, at, bytes FROM receipts WHERE root = ?1 ORDER BY id DESC LIMIT 1";
        self.read(|c| c.query_row(sql, [root.0], ReceiptRow::of).optional())
    }
}

impl ReceiptRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: JobKey(Digest(row.get(0)?)),
            root: Digest(row.get(1)?),
            at: time(row.get(2)?),
            bytes: row.get(3)?,
        })
    }
}
