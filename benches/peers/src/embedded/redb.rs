//! redb: a transaction for each entry, synced when it commits. It has one writer at a time and groups none.

use std::path::Path;

use redb::{Database, Durability, TableDefinition};

use super::Engine;
use crate::server::text;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");

pub(super) struct Redb {
    db: Database,
}

impl Redb {
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(dir).map_err(text)?;
        Ok(Self { db: Database::create(dir.join("entries.redb")).map_err(text)? })
    }
}

impl Engine for Redb {
    fn append(&self, number: u64, entry: &[u8]) -> Result<(), String> {
        let mut write = self.db.begin_write().map_err(text)?;
        write.set_durability(Durability::Immediate).map_err(text)?;
        let mut entries = write.open_table(ENTRIES).map_err(text)?;
        entries.insert(number, entry).map_err(text)?;
        drop(entries);
        write.commit().map_err(text)
    }
}
