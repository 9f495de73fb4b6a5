//! RocksDB, whose own log is synced for each write and whose log files are recycled.

use std::path::Path;

use rocksdb::{DB, Options, WriteOptions};

use super::Engine;
use crate::server::text;

pub(super) struct RocksdbWal {
    db: DB,
}

impl RocksdbWal {
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_recycle_log_file_num(4);
        Ok(Self { db: DB::open(&options, dir).map_err(text)? })
    }
}

impl Engine for RocksdbWal {
    fn append(&self, number: u64, entry: &[u8]) -> Result<(), String> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.put_opt(number.to_be_bytes(), entry, &options).map_err(text)
    }
}
