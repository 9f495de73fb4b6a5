//! fjall: each entry is inserted, and its journal synced before that is answered.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::Engine;
use crate::server::text;

pub(super) struct Fjall {
    db: Database,
    entries: Keyspace,
}

impl Fjall {
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        let db = Database::builder(dir).open().map_err(text)?;
        let entries = db.keyspace("entries", KeyspaceCreateOptions::default).map_err(text)?;
        Ok(Self { db, entries })
    }
}

impl Engine for Fjall {
    fn append(&self, number: u64, entry: &[u8]) -> Result<(), String> {
        self.entries.insert(number.to_be_bytes(), entry).map_err(text)?;
        self.db.persist(PersistMode::SyncData).map_err(text)
    }
}
