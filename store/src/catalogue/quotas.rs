//! What has been used of quotas. Whose they are, and what the text says, is the concern of whoever counts.

use rusqlite::params;

use super::{Catalogue, CatalogueError};

impl Catalogue {
    /// Keeps states by name, in place of what was there; all or nothing.
    ///
    /// # Errors
    /// As of every method: [`CatalogueError::Sqlite`].
    pub fn put_quotas(&self, states: &[(String, String)]) -> Result<(), CatalogueError> {
        let sql =
            "INSERT INTO quotas (name, state) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET state = ?2";
        self.write(|t| {
            let mut statement = t.prepare_cached(sql)?;
            states.iter().try_for_each(|(name, state)| statement.execute(params![name, state]).map(drop))
        })
    }

    /// All that are kept, by name.
    pub fn quotas(&self) -> Result<Vec<(String, String)>, CatalogueError> {
        let sql = "SELECT name, state FROM quotas ORDER BY name";
        self.read(|c| c.prepare_cached(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
    }
}
