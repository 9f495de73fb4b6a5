//! State in RocksDB. The only file that imports it.
//!
//! Its own log is off: after a crash it stands where it was last flushed, and the replicated log
//! replays the rest. Families are flushed together (`atomic_flush`), or a crash could leave them at
//! different commits.

use std::fs::{File, TryLockError};
use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions, IteratorMode,
    Options, ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use super::{EachRow, Family, StateRead, StateStore, StoreError, WriteSet};
use crate::error::Error;

/// Memory for rows that are not flushed yet, over all families.
const WRITE_BUFFER_BYTES: usize = 64 << 20;
/// Writers wait when so much waits to be compacted: a bound on what reads have to look through.
const OPEN_FILES_MAX: i32 = 256;

pub(crate) struct RocksStore {
    db: DB,
    /// Held while the store is open. Its own, because RocksDB tells of a held lock by text only.
    _lock: File,
}

impl RocksStore {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let lock = lock(dir)?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_db_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_keep_log_file_num(2);
        let families = Family::ALL.map(|family| {
            let mut options = Options::default();
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_write_buffer_size(WRITE_BUFFER_BYTES / 2);
            ColumnFamilyDescriptor::new(family.name(), options)
        });
        let default = ColumnFamilyDescriptor::new("default", Options::default());
        let families = families.into_iter().chain([default]);
        match DB::open_cf_descriptors(&options, dir, families) {
            Ok(db) => Ok(Self { db, _lock: lock }),
            Err(error) => Err(Error::InternalError {
                what: format!("could not open the state in {}: {error}", dir.display()),
            }),
        }
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the store")
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let failed = |error: std::io::Error| Error::InternalError {
        what: format!("could not open the state in {}: {error}", dir.display()),
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let lock = File::create(dir.join("palisade.lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::AlreadyExists {
            what: format!("the state in {} is open already", dir.display()),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn failed(error: rocksdb::Error) -> StoreError {
    StoreError { what: error.to_string() }
}

fn bounded(from: &[u8], end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(end);
    options
}

/// Feeds rows to `each` until it has enough.
fn feed<T: AsRef<[u8]>>(
    rows: impl Iterator<Item = Result<(T, T), rocksdb::Error>>,
    each: &mut EachRow<'_>,
) -> Result<(), StoreError> {
    for row in rows {
        let (key, value) = row.map_err(failed)?;
        if !each(key.as_ref(), value.as_ref()) {
            break;
        }
    }
    Ok(())
}

impl StateRead for RocksStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get_pinned_cf(self.family(family), key).map_err(failed)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        if end <= from {
            return Ok(());
        }
        let cf = self.family(family);
        feed(self.db.iterator_cf_opt(cf, bounded(from, end), IteratorMode::Start), each)
    }
}

struct RocksSnapshot<'a> {
    store: &'a RocksStore,
    snapshot: Snapshot<'a>,
}

impl StateRead for RocksSnapshot<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.snapshot.get_pinned_cf(self.store.family(family), key).map_err(failed)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        if end <= from {
            return Ok(());
        }
        let cf = self.store.family(family);
        feed(self.snapshot.iterator_cf_opt(cf, bounded(from, end), IteratorMode::Start), each)
    }
}

impl StateStore for RocksStore {
    fn snapshot(&self) -> Box<dyn StateRead + '_> {
        Box::new(RocksSnapshot { store: self, snapshot: self.db.snapshot() })
    }

    fn commit(&self, writes: WriteSet) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (family, key, value) in &writes.writes {
            match value {
                Some(value) => batch.put_cf(self.family(*family), key, value),
                None => batch.delete_cf(self.family(*family), key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(failed)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let families: Vec<_> = Family::ALL.iter().map(|family| self.family(*family)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocks_store_conforms_and_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        super::super::conformance::run(&store);
        let second = RocksStore::open(dir.path()).map(|_| ());
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        drop(store);
        let reopened = RocksStore::open(dir.path()).unwrap();
        assert_eq!(reopened.get(Family::Map, b"a").unwrap().as_deref(), Some(&b"4"[..]));
    }
}
