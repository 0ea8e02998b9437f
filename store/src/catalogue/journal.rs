//! The journal of sinks: jobs, and which of their chunks survive a crash.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use metra_core::id::{ChunkIndex, Digest, JobKey};
use metra_core::ranges::{IndexRange, IndexSet};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{OptionalExtension, Row, ToSql, params};

use super::{Catalogue, CatalogueError, millis, time};

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Chunks arrive.
    Receiving,
    /// All chunks are verified; names are being made final. A crash here is continued, not begun anew.
    Finishing,
    /// The names are final.
    Done,
}

/// A job in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Chosen by the catalogue; never used for another job.
    pub id: i64,
    /// Whether this call made it.
    pub is_new: bool,
    /// Whose it is.
    pub user: String,
    /// What makes two attempts the same job, within the user.
    pub key: JobKey,
    /// Its staging folder, as given when it was made.
    pub dir: PathBuf,
    /// How far it is.
    pub phase: Phase,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last opened or changed its phase.
    pub used: SystemTime,
}

const COLUMNS: &str = "id, user, key, dir, phase, created, used";

impl Catalogue {
    /// Finds the job of `user` with this key, or makes it with `dir` as its folder.
    ///
    /// # Errors
    /// As of every method: [`CatalogueError::Sqlite`].
    pub fn job_open(
        &self,
        user: &str,
        key: &JobKey,
        dir: &Path,
        now: SystemTime,
    ) -> Result<JobRow, CatalogueError> {
        self.write(|t| {
            let made = t.execute(
                "INSERT INTO jobs (user, key, dir, phase, created, used) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
                 ON CONFLICT (user, key) DO NOTHING",
                params![user, key.0.0, dir.as_os_str().as_bytes(), Phase::Receiving, millis(now)],
            )?;
            t.execute(
                "UPDATE jobs SET used = ?3 WHERE user = ?1 AND key = ?2",
                params![user, key.0.0, millis(now)],
            )?;
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE user = ?1 AND key = ?2");
            let row = t.query_row(&sql, params![user, key.0.0], JobRow::of)?;
            Ok(JobRow { is_new: made > 0, ..row })
        })
    }

    /// Notes that chunks of one job are durable. See [`Catalogue::commit_durable`].
    pub fn job_durable(&self, id: i64, ranges: &[IndexRange]) -> Result<(), CatalogueError> {
        self.insert_durable(std::iter::once((id, ranges)))
    }

    /// Notes that chunks of several jobs are durable, in one transaction: when this returns, they are. A job that is
    /// not in the journal (any more) is passed over.
    pub fn commit_durable(&self, jobs: &[(i64, Vec<IndexRange>)]) -> Result<(), CatalogueError> {
        self.insert_durable(jobs.iter().map(|(id, ranges)| (*id, ranges.as_slice())))
    }

    fn insert_durable<'a>(
        &self,
        jobs: impl Iterator<Item = (i64, &'a [IndexRange])>,
    ) -> Result<(), CatalogueError> {
        self.write(|t| {
            let mut known = t.prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?;
            let mut insert = t.prepare_cached(
                "INSERT INTO durable (job, first, count) VALUES (?1, ?2, ?3)
                 ON CONFLICT (job, first) DO UPDATE SET count = max(count, excluded.count)",
            )?;
            for (id, ranges) in jobs {
                if !known.exists([id])? {
                    continue;
                }
                for range in ranges {
                    insert.execute((id, range.first.0, range.count))?;
                }
            }
            Ok(())
        })
    }

    /// The chunks of a job that are durable.
    pub fn job_durable_set(&self, id: i64) -> Result<IndexSet, CatalogueError> {
        self.read(|c| {
            let mut set = IndexSet::new();
            let mut select =
                c.prepare_cached("SELECT first, count FROM durable WHERE job = ?1 ORDER BY first")?;
            let mut rows = select.query([id])?;
            while let Some(row) = rows.next()? {
                set.insert_range(IndexRange { first: ChunkIndex(row.get(0)?), count: row.get(1)? });
            }
            Ok(set)
        })
    }

    /// Notes how far a job is.
    pub fn job_set_phase(&self, id: i64, phase: Phase, now: SystemTime) -> Result<(), CatalogueError> {
        self.write(|t| {
            t.execute("UPDATE jobs SET phase = ?2, used = ?3 WHERE id = ?1", params![id, phase, millis(now)])
        })?;
        Ok(())
    }

    /// Replaces what is noted of a job's durable chunks, in one transaction, because some turned out not to be there.
    pub fn job_set_durable(&self, id: i64, durable: &IndexSet) -> Result<(), CatalogueError> {
        self.write(|t| {
            t.execute("DELETE FROM durable WHERE job = ?1", [id])?;
            let mut insert =
                t.prepare_cached("INSERT INTO durable (job, first, count) VALUES (?1, ?2, ?3)")?;
            for range in durable.ranges() {
                insert.execute((id, range.first.0, range.count))?;
            }
            Ok(())
        })
    }

    /// Forgets that chunks of a job are durable, all of them, because its folder turned out to be gone or damaged.
    pub fn job_clear_durable(&self, id: i64) -> Result<(), CatalogueError> {
        self.write(|t| t.execute("DELETE FROM durable WHERE job = ?1", [id]))?;
        Ok(())
    }

    /// Forgets a job and its chunks. Whether there was one.
    pub fn job_forget(&self, id: i64) -> Result<bool, CatalogueError> {
        Ok(self.write(|t| t.execute("DELETE FROM jobs WHERE id = ?1", [id]))? > 0)
    }

    /// One job, if it is in the journal.
    pub fn job(&self, id: i64) -> Result<Option<JobRow>, CatalogueError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
        self.read(|c| c.query_row(&sql, [id], JobRow::of).optional())
    }

    /// All jobs, oldest first.
    pub fn jobs(&self) -> Result<Vec<JobRow>, CatalogueError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs ORDER BY id");
        self.read(|c| c.prepare_cached(&sql)?.query_map([], JobRow::of)?.collect())
    }
}

impl JobRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            is_new: false,
            user: row.get(1)?,
            key: JobKey(Digest(row.get(2)?)),
            dir: PathBuf::from(OsString::from_vec(row.get(3)?)),
            phase: row.get(4)?,
            created: time(row.get(5)?),
            used: time(row.get(6)?),
        })
    }
}

impl ToSql for Phase {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let number: i64 = match self {
            Phase::Receiving => 0,
            Phase::Finishing => 1,
            Phase::Done => 2,
        };
        Ok(number.into())
    }
}

impl FromSql for Phase {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_i64()? {
            0 => Ok(Phase::Receiving),
            1 => Ok(Phase::Finishing),
            2 => Ok(Phase::Done),
            other => Err(FromSqlError::OutOfRange(other)),
        }
    }
}
