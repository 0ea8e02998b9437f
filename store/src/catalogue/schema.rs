//! The tables, and how an older file gets them.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{CatalogueError, sqlite};

/// What takes a file from version `n` to version `n + 1`, for each `n` from 0. Never edited, only added to.
const MIGRATIONS: [&str; 2] = [V1, V2];

const V1: &str = "
CREATE TABLE jobs (
    -- Never used again, even after the job is forgotten.
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    user     TEXT    NOT NULL,
    key      BLOB    NOT NULL,
    dir      BLOB    NOT NULL,
    phase    INTEGER NOT NULL,
    created  INTEGER NOT NULL, -- milliseconds since the epoch
    used     INTEGER NOT NULL, -- milliseconds since the epoch
    UNIQUE (user, key)
);
CREATE TABLE durable (
    job      INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    first    INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (job, first)
) WITHOUT ROWID;
CREATE TABLE receipts (
    id       INTEGER PRIMARY KEY,
    key      BLOB    NOT NULL,
    root     BLOB    NOT NULL,
    at       INTEGER NOT NULL, -- milliseconds since the epoch
    bytes    BLOB    NOT NULL
);
CREATE INDEX receipts_by_root ON receipts (root);
CREATE TABLE files (
    id          INTEGER PRIMARY KEY,
    path        BLOB    NOT NULL UNIQUE,
    size        INTEGER NOT NULL,
    mtime_secs  INTEGER NOT NULL,
    mtime_nanos INTEGER NOT NULL,
    ctime_secs  INTEGER NOT NULL,
    ctime_nanos INTEGER NOT NULL,
    dev         INTEGER NOT NULL,
    ino         INTEGER NOT NULL,
    total       INTEGER,          -- chunks of the file, once all are known
    used        INTEGER NOT NULL  -- seconds since the epoch
);
CREATE TABLE file_chunks (
    file     INTEGER NOT NULL REFERENCES files ON DELETE CASCADE,
    first    INTEGER NOT NULL,
    chunks   BLOB    NOT NULL, -- 36 bytes each: length (little endian), hash
    PRIMARY KEY (file, first)
);
CREATE TABLE packs (
    key      BLOB    NOT NULL PRIMARY KEY,
    hash     BLOB    NOT NULL,
    used     INTEGER NOT NULL  -- seconds since the epoch
) WITHOUT ROWID;
";

const V2: &str = "
CREATE TABLE quotas (
    name     TEXT    NOT NULL PRIMARY KEY,
    state    TEXT    NOT NULL
) WITHOUT ROWID;
";

/// Brings the tables up to date.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), CatalogueError> {
    let failed = |e| sqlite(path, e);
    let known = MIGRATIONS.len() as i64;
    if version(connection).map_err(failed)? == known {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // Another process may have been faster.
    let found = version(&transaction).map_err(failed)?;
    let missing = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..));
    let Some(missing) = missing else {
        return Err(CatalogueError::Newer { path: path.to_owned(), found, known });
    };
    for step in missing {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
