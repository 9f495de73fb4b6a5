//! State in RocksDB. The only file that imports it.
//!
//! Its own log is off: after a crash it stands where it was last flushed, and the replicated log
//! replays the rest. Families are flushed together (`atomic_flush`), or a crash could leave them at
//! different commits.

use std::fs::{File, TryLockError};
use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    FlushOptions, IteratorMode, Options, ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use super::{EachRow, Family, StateRead, StateStore, StoreError, WriteSet};
use crate::error::Error;

/// Memory for rows that are not flushed yet, over all families.
const WRITE_BUFFER_BYTES: usize = 64 << 20;
/// Memory for blocks, indexes and filters that were read, over all families.
const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// Files that are kept open; others are opened again when they are read.
const OPEN_FILES_MAX: i32 = 512;
/// Filter bits for each key: one look-up in a hundred of a key that is not there reads a block.
const FILTER_BITS_PER_KEY: f64 = 10.0;

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
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = Family::ALL.map(|family| {
            let mut blocks = BlockBasedOptions::default();
            blocks.set_block_cache(&cache);
            // In the cache, and so within its bound.
            blocks.set_cache_index_and_filter_blocks(true);
            blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
            if family == Family::Idempotency {
                // Every new request looks up its key, which is not there.
                blocks.set_bloom_filter(FILTER_BITS_PER_KEY, false);
            }
            let mut options = Options::default();
            options.set_block_based_table_factory(&blocks);
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

    fn clear(&self, family: Family, from: &[u8], end: &[u8]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(family), from, end);
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
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn rocks_store_conforms_and_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let store = RocksStore::open(&dir).unwrap();
        super::super::conformance::run(&store);
        let second = RocksStore::open(&dir).map(|_| ());
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        drop(store);
        let reopened = RocksStore::open(&dir).unwrap();
        assert_eq!(reopened.get(Family::Map, b"a").unwrap().as_deref(), Some(&b"4"[..]));
    }

    /// Where the killed process of the next test keeps its store.
    const CRASH_DIR: &str = "PALISADE_TEST_CRASH_DIR";
    const CRASH_TEST: &str = "store::rocks::tests::a_killed_store_stands_at_one_commit";
    /// Seldom: the log's family is full, and so flushed, several times between two of these.
    const FLUSH_EVERY: u64 = 9_000;
    const FILLER_BYTES: usize = 16 << 10;

    fn number(store: &RocksStore, family: Family) -> u64 {
        let found = store.get(family, b"n").unwrap();
        found.map_or(0, |raw| u64::from_be_bytes(raw[..].try_into().unwrap()))
    }

    /// Commits one number after the other to all families, until it is killed.
    fn commit_until_killed(dir: &Path) {
        let store = RocksStore::open(dir).unwrap();
        for n in number(&store, Family::Meta) + 1.. {
            let row =
                |family| (family, b"n".to_vec(), Some(Bytes::copy_from_slice(&n.to_be_bytes())));
            let mut writes: Vec<_> = Family::ALL.map(row).into();
            let filler = Bytes::from(vec![n as u8; FILLER_BYTES]);
            writes.push((Family::Log, n.to_be_bytes().to_vec(), Some(filler)));
            store.commit(WriteSet { writes }).unwrap();
            if n % FLUSH_EVERY == 0 {
                store.flush().unwrap();
            }
            if n % 100 == 0 {
                let flushed = n / FLUSH_EVERY * FLUSH_EVERY;
                writeln!(std::io::stdout(), "flushed {flushed}").unwrap();
            }
        }
    }

    /// G8: a process that is killed while it commits leaves all families at one commit, not before
    /// the last flush. Without `atomic_flush` the log's family would be ahead of the others.
    #[test]
    fn a_killed_store_stands_at_one_commit() {
        if let Some(dir) = std::env::var_os(CRASH_DIR) {
            return commit_until_killed(Path::new(&dir));
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let mut before = 0;
        for round in 0..5 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", CRASH_TEST, "--nocapture"])
                .env(CRASH_DIR, &dir)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let flushed = lines
                .filter_map(|line| line.unwrap().strip_prefix("flushed ")?.parse::<u64>().ok())
                .nth(60 + 23 * round)
                .expect("it commits until it is killed");
            child.kill().unwrap();
            child.wait().unwrap();
            let store = RocksStore::open(&dir).unwrap();
            let numbers = Family::ALL.map(|family| number(&store, family));
            assert!(numbers.iter().all(|n| *n == numbers[0]), "{numbers:?}");
            assert!(flushed <= numbers[0], "flushed={flushed} found={numbers:?}");
            assert!(before <= numbers[0], "before={before} found={numbers:?}");
            before = numbers[0];
        }
        assert!(before > FLUSH_EVERY, "some of it was flushed: {before}");
    }
}
