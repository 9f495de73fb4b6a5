//! State in RocksDB. The only file that imports it.
//!
//! Its own log is off: after a crash it stands where it was last flushed, and the replicated log
//! replays the rest. Families are flushed together (`atomic_flush`), or a crash could leave them at
//! different commits.
//!
//! RocksDB takes no write to any family any more once it has met a block that it cannot read while it put
//! files together, and meets it again whenever it is opened. So what is damaged leaves a [`MARK`]: from then
//! on no files are put together, and groups whose rows can be read go on until the node is replaced.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB,
    DBAccess, DBCompressionType, DBRawIteratorWithThreadMode, ErrorKind, FlushOptions, Options,
    ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use super::{
    Direction, EachRow, Families, FamilyId, Rest, StateMemory, StateRead, StateStore, StoreCause,
    StoreError, Walk, WriteSet,
};
use crate::error::Error;
use crate::inspect::InspectError;

/// Files that are kept open; others are opened again when they are read.
const OPEN_FILES_MAX: i32 = 512;
/// Filter bits for each key: one look-up in a hundred of a key that is not there reads a block.
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// Parts of a file's index and filter, as they are read and kept in the cache.
const METADATA_BLOCK_BYTES: usize = 4 << 10;

/// RocksDB's own family, which we leave empty.
const DEFAULT_FAMILY: &str = "default";
/// Our own, beside RocksDB's.
const LOCK: &str = "palisade.lock";
/// Our own: some block cannot be read.
const MARK: &str = "palisade.damaged";
/// Whether RocksDB leaves files as they are.
const FILES_STAY: &str = "disable_auto_compactions";

pub(crate) struct RocksStore {
    db: DB,
    families: Families,
    /// Where what is damaged leaves its mark; nowhere if it is opened to be read.
    mark: Option<PathBuf>,
    /// There is one.
    is_marked: AtomicBool,
    /// There was a block that cannot be read.
    is_damaged: AtomicBool,
    /// Held while the store is open. Its own, because RocksDB tells of a held lock by text only.
    _lock: File,
}

impl RocksStore {
    /// Opens the state in a folder, or makes it.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if there is a family that is none of these: its rows are part of the
    /// state, and would be left out of digests and snapshots.
    pub(crate) fn open(dir: &Path, families: Families, memory: StateMemory) -> Result<Self, Error> {
        let lock = lock(dir)?;
        refuse_unknown(dir, &families)?;
        let mark = dir.join(MARK);
        let files_stay = mark.exists();
        if files_stay {
            let dir = dir.display();
            tracing::error!(%dir, "a part of the state cannot be read: its files stay as they are and grow, replace the node");
        }
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_db_write_buffer_size(memory.write_buffer_bytes);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_keep_log_file_num(2);
        let cache = Cache::new_lru_cache(memory.cache_bytes);
        let described = families.ids().map(|family| {
            let mut blocks = BlockBasedOptions::default();
            blocks.set_block_cache(&cache);
            // In the cache, and so within its bound.
            blocks.set_cache_index_and_filter_blocks(true);
            blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
            // Every row that is written is looked up before, for its sum, and most of them are new.
            blocks.set_bloom_filter(FILTER_BITS_PER_KEY, false);
            // In parts: those of one file can be larger than the cache, and would be read for each look-up.
            blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            blocks.set_partition_filters(true);
            blocks.set_metadata_block_size(METADATA_BLOCK_BYTES);
            let mut options = Options::default();
            options.set_block_based_table_factory(&blocks);
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_disable_auto_compactions(files_stay);
            options.set_write_buffer_size(memory.write_buffer_bytes / 2);
            ColumnFamilyDescriptor::new(families.column(family), options)
        });
        let mut unused = Options::default();
        // After a full disk it goes on once there is space for the largest buffer of any family.
        unused.set_write_buffer_size(memory.write_buffer_bytes / 2);
        let default = ColumnFamilyDescriptor::new(DEFAULT_FAMILY, unused);
        let db = DB::open_cf_descriptors(&options, dir, described.chain([default]))
            .map_err(|error| unopened(dir, &error))?;
        Ok(Self {
            db,
            families,
            mark: Some(mark),
            is_marked: AtomicBool::new(files_stay),
            is_damaged: AtomicBool::new(files_stay),
            _lock: lock,
        })
    }

    /// Opens a state that is there, to be read: nothing is made or changed, and whatever kinds of rows there
    /// are can be read.
    pub(crate) fn open_read_only(dir: &Path) -> Result<Self, InspectError> {
        if !dir.join("CURRENT").exists() {
            let what = format!("{} holds no state of a node", dir.display());
            return Err(InspectError::NotThere { what });
        }
        let lock = share(dir)?;
        let damaged = |error: rocksdb::Error| InspectError::Damaged {
            what: format!("could not open the state in {}: {error}", dir.display()),
        };
        let found = DB::list_cf(&Options::default(), dir).map_err(damaged)?;
        let known = Families::new(&[]).expect("the built-in families are plain");
        let is_known = |name: &str| known.ids().any(|family| known.column(family) == name);
        let added = found
            .iter()
            .filter(|name| *name != DEFAULT_FAMILY && !name.contains('.') && !is_known(name));
        // A name lives as long as the program. There are few, and who looks does it once.
        let added: Vec<&'static str> = added.map(|name| &*name.clone().leak()).collect();
        let families = Families::new(&added)
            .map_err(|error| InspectError::Damaged { what: error.to_string() })?;
        let names: Vec<&str> = families.ids().map(|family| families.column(family)).collect();
        let missing = names.iter().find(|name| !found.iter().any(|found| found == *name));
        if let Some(missing) = missing {
            let what = format!("the state in {} has no family {missing}", dir.display());
            return Err(InspectError::Damaged { what });
        }
        let described = names.iter().chain([&DEFAULT_FAMILY]);
        let db = DB::open_cf_for_read_only(&Options::default(), dir, described, false)
            .map_err(damaged)?;
        let [is_marked, is_damaged] = [false, false].map(AtomicBool::new);
        Ok(Self { db, families, mark: None, is_marked, is_damaged, _lock: lock })
    }

    fn family(&self, family: FamilyId) -> &ColumnFamily {
        self.db.cf_handle(self.families.column(family)).expect("every family is opened with it")
    }

    /// All rows of a family go into one file.
    #[cfg(test)]
    pub(crate) fn compact(&self) {
        for family in self.families.ids() {
            self.db.compact_range_cf(self.family(family), None::<&[u8]>, None::<&[u8]>);
        }
    }

    fn failed(&self, error: rocksdb::Error) -> StoreError {
        self.look_after(&error);
        failed(error)
    }

    /// Of a read: the place is damaged for good where a checksum says so. What the system does not do now (too
    /// many open files, no memory) says nothing about the place.
    fn not_read(&self, error: rocksdb::Error) -> StoreError {
        self.look_after(&error);
        match error.kind() {
            ErrorKind::Corruption => StoreError::of(StoreCause::Unreadable, error.to_string()),
            _ => failed(error),
        }
    }

    /// Where something is damaged, files stay as they are, now and after the next start. What fails of it here is
    /// tried again when something damaged is met the next time.
    fn look_after(&self, error: &rocksdb::Error) {
        let Some(mark) = self.mark.as_ref().filter(|_| error.kind() == ErrorKind::Corruption)
        else {
            return;
        };
        self.is_damaged.store(true, Ordering::Relaxed);
        if self.is_marked.load(Ordering::Acquire) {
            return;
        }
        tracing::error!(%error, "a part of the state cannot be read: its files stay as they are and grow, replace the node");
        let stay = |family| self.db.set_options_cf(self.family(family), &[(FILES_STAY, "true")]);
        let all_stay = self.families.ids().all(|family| stay(family).is_ok());
        let is_kept = leave(mark).is_ok();
        self.is_marked.store(all_stay && is_kept, Ordering::Release);
    }
}

/// Makes an empty file that power does not take.
fn leave(mark: &Path) -> std::io::Result<()> {
    File::create(mark)?.sync_all()?;
    File::open(mark.parent().expect("it lies in a folder"))?.sync_all()
}

fn refuse_unknown(dir: &Path, families: &Families) -> Result<(), Error> {
    // RocksDB's pointer to what is current: without it there is no store yet.
    if !dir.join("CURRENT").exists() {
        // And it would be taken for one that is empty, whose files are left over.
        return if has_tables(dir)? {
            Err(damaged(dir, "its file CURRENT is missing"))
        } else {
            Ok(())
        };
    }
    let found = DB::list_cf(&Options::default(), dir).map_err(|error| unopened(dir, &error))?;
    for name in found {
        if name != DEFAULT_FAMILY && !families.ids().any(|family| families.column(family) == name) {
            let known: Vec<_> = families.ids().map(|family| families.column(family)).collect();
            return Err(Error::Incompatible {
                expected: format!("state of the projections {}", known.join(", ")),
                found: format!("state of projection={name}, which is not registered"),
            });
        }
    }
    Ok(())
}

fn has_tables(dir: &Path) -> Result<bool, Error> {
    for entry in std::fs::read_dir(dir).map_err(|error| unreachable_state(dir, &error))? {
        let path = entry.map_err(|error| unreachable_state(dir, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How a missing file is told, in the text that is all RocksDB gives. The folder itself is there.
const MISSING: &str = "No such file or directory";

fn unopened(dir: &Path, error: &rocksdb::Error) -> Error {
    let is_missing = |error: &rocksdb::Error| error.to_string().contains(MISSING);
    match error.kind() {
        ErrorKind::Corruption => damaged(dir, error),
        ErrorKind::IOError if is_missing(error) => damaged(dir, error),
        _ => unreachable_state(dir, error),
    }
}

fn unreachable_state(dir: &Path, error: &dyn std::error::Error) -> Error {
    Error::InternalError { what: format!("could not open the state in {}: {error}", dir.display()) }
}

/// A log does not lead to a state from the beginning, and so the others have to.
fn damaged(dir: &Path, what: impl std::fmt::Display) -> Error {
    let what = format!(
        "the state in {} is damaged: {what}. Replace the node by one with an empty directory, or restore a \
         backup where it is the only one",
        dir.display()
    );
    Error::InternalError { what }
}

/// A lock that others who read may have too, and nobody who writes.
fn share(dir: &Path) -> Result<File, InspectError> {
    let path = dir.join(LOCK);
    let unreadable = |error: std::io::Error| InspectError::Unreadable {
        what: format!("could not lock {}: {error}", path.display()),
    };
    let lock = File::open(&path).map_err(unreadable)?;
    match lock.try_lock_shared() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(InspectError::InUse {
            what: format!("the state in {} is open in another process", dir.display()),
        }),
        Err(TryLockError::Error(error)) => Err(unreadable(error)),
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let failed = |error: std::io::Error| unreachable_state(dir, &error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    let lock = File::create(dir.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::AlreadyExists {
            what: format!("the state in {} is open already", dir.display()),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// How a full disk begins in the text that is all RocksDB gives. It asks every 5 s whether there is space
/// again, as much as the largest write buffer of a family, and then takes writes: its `SstFileManager` does
/// that unless told otherwise.
const NO_SPACE: &str = "IO error: No space left on device";

fn failed(error: rocksdb::Error) -> StoreError {
    let what = error.into_string();
    match what.starts_with(NO_SPACE) {
        true => StoreError::of(StoreCause::Full, what),
        false => StoreError::new(what),
    }
}

fn bounded(from: &[u8], end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(end);
    options
}

/// Takes a bounded iterator over the rows that are left, as `each` says.
fn walk<D: DBAccess>(
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    mut rest: Rest,
    each: &mut EachRow<'_>,
) -> Result<(), rocksdb::Error> {
    match rest.direction {
        Direction::Forward => rows.seek_to_first(),
        Direction::Backward => rows.seek_to_last(),
    }
    while let Some((key, value)) = rows.item() {
        match (each(key, value), rest.direction) {
            (Walk::Stop, _) => return Ok(()),
            (Walk::Next, Direction::Forward) => rows.next(),
            (Walk::Next, Direction::Backward) => rows.prev(),
            (Walk::Seek(to), direction) => {
                rest.pass(key);
                rest.seek(to);
                if rest.is_empty() {
                    return Ok(());
                }
                match direction {
                    Direction::Forward => rows.seek(&rest.from),
                    Direction::Backward => {
                        // It stops at the key itself if there is a row.
                        rows.seek_for_prev(&rest.end);
                        if rows.key().is_some_and(|key| key == rest.end) {
                            rows.prev();
                        }
                    }
                }
            }
        }
    }
    rows.status()
}

impl StateRead for RocksStore {
    fn families(&self) -> &Families {
        &self.families
    }

    fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get_pinned_cf(self.family(family), key);
        let value = value.map_err(|error| self.not_read(error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn walk(
        &self,
        family: FamilyId,
        from: &[u8],
        end: &[u8],
        direction: Direction,
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        let rest = Rest::new(from, end, direction);
        if rest.is_empty() {
            return Ok(());
        }
        let cf = self.family(family);
        let rows = self.db.raw_iterator_cf_opt(cf, bounded(from, end));
        walk(rows, rest, each).map_err(|error| self.not_read(error))
    }
}

struct RocksSnapshot<'a> {
    store: &'a RocksStore,
    snapshot: Snapshot<'a>,
}

impl StateRead for RocksSnapshot<'_> {
    fn families(&self) -> &Families {
        &self.store.families
    }

    fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.snapshot.get_pinned_cf(self.store.family(family), key);
        let value = value.map_err(|error| self.store.not_read(error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn walk(
        &self,
        family: FamilyId,
        from: &[u8],
        end: &[u8],
        direction: Direction,
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        let rest = Rest::new(from, end, direction);
        if rest.is_empty() {
            return Ok(());
        }
        let cf = self.store.family(family);
        let rows = self.snapshot.raw_iterator_cf_opt(cf, bounded(from, end));
        walk(rows, rest, each).map_err(|error| self.store.not_read(error))
    }
}

impl StateStore for RocksStore {
    fn snapshot(&self) -> Box<dyn StateRead + '_> {
        Box::new(RocksSnapshot { store: self, snapshot: self.db.snapshot() })
    }

    fn commit(&self, writes: WriteSet) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (family, from, end) in &writes.cleared {
            // RocksDB refuses a range that ends before it begins.
            if from < end {
                batch.delete_range_cf(self.family(*family), from, end);
            }
        }
        for (family, key, value) in &writes.writes {
            match value {
                Some(value) => batch.put_cf(self.family(*family), key, value),
                None => batch.delete_cf(self.family(*family), key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|error| self.failed(error))
    }

    fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let families: Vec<_> = self.families.ids().map(|family| self.family(family)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let flushed = self.db.flush_cfs_opt(&families, &options);
        flushed.map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::super::{conformance, rot};
    use super::*;

    fn open(dir: &Path) -> Result<RocksStore, Error> {
        RocksStore::open(dir, Families::new(&[]).unwrap(), StateMemory::default())
    }

    #[test]
    fn rocks_store_conforms_and_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let store =
            RocksStore::open(&dir, conformance::families(), StateMemory::default()).unwrap();
        conformance::run(&store);
        let second =
            RocksStore::open(&dir, conformance::families(), StateMemory::default()).map(|_| ());
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        drop(store);
        let reopened =
            RocksStore::open(&dir, conformance::families(), StateMemory::default()).unwrap();
        assert_eq!(reopened.get(FamilyId::MAP, b"bb").unwrap().as_deref(), Some(&b"5"[..]));
    }

    /// A projection that was registered once must be known ever after; a new one may come.
    #[test]
    fn state_of_a_projection_that_is_not_registered_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        drop(open(&dir).unwrap());
        drop(
            RocksStore::open(
                &dir,
                Families::new(&["stock", "inventory"]).unwrap(),
                StateMemory::default(),
            )
            .unwrap(),
        );
        let refused = |known: &[&'static str]| match RocksStore::open(
            &dir,
            Families::new(known).unwrap(),
            StateMemory::default(),
        )
        .map(|_| ())
        {
            Err(Error::Incompatible { expected, found }) => (expected, found),
            other => panic!("{other:?}"),
        };
        assert!(refused(&[]).1.contains("not registered"));
        let (expected, found) = refused(&["inventory"]);
        assert!(expected.ends_with(", inventory, inventory.second"), "{expected}");
        assert!(found.contains("projection=stock"), "{found}");
        drop(
            RocksStore::open(
                &dir,
                Families::new(&["inventory", "stock"]).unwrap(),
                StateMemory::default(),
            )
            .unwrap(),
        );
    }

    /// Not its tables but what says which of them count: the node does not start, says what to do, and leaves all as
    /// it is.
    #[test]
    fn a_store_whose_own_files_are_damaged_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let store = open(&dir).unwrap();
        for n in 0..3_u32 {
            store.commit(row(FamilyId::MAP, &n.to_be_bytes(), b"here")).unwrap();
            store.flush().unwrap();
        }
        drop(store);
        let kept = || {
            let entries = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
            let counts = |path: &std::path::PathBuf| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                name == "CURRENT" || name.starts_with("MANIFEST") || name.ends_with(".sst")
            };
            let files = entries.filter(counts).map(|path| (std::fs::read(&path).unwrap(), path));
            files.map(|(raw, path)| (path, raw)).collect::<std::collections::BTreeMap<_, _>>()
        };
        let whole = kept();
        let mut refused = 0;
        for (path, raw) in &whole {
            let name = path.file_name().unwrap().to_str().unwrap();
            let mut flipped = raw.clone();
            flipped[raw.len() / 2] ^= 1;
            // A table is looked into when a row of it is read.
            let harms = if name.ends_with(".sst") {
                vec![None, Some(Vec::new())]
            } else {
                vec![None, Some(flipped), Some(Vec::new())]
            };
            for harm in harms {
                match &harm {
                    None => std::fs::remove_file(path).unwrap(),
                    Some(raw) => std::fs::write(path, raw).unwrap(),
                }
                let before = kept();
                let told = open(&dir).map(drop).expect_err(name).to_string();
                assert!(told.contains("Replace the node"), "{name}: {told}");
                assert_eq!(kept(), before, "{name} {harm:?}");
                std::fs::write(path, raw).unwrap();
                refused += 1;
            }
        }
        assert!(8 < refused, "{refused}");
        let store = open(&dir).unwrap();
        assert_eq!(store.get(FamilyId::MAP, &[0, 0, 0, 2]).unwrap().as_deref(), Some(&b"here"[..]));
    }

    fn row(family: FamilyId, key: &[u8], value: &[u8]) -> WriteSet {
        WriteSet::rows(vec![(family, key.to_vec(), Some(Bytes::copy_from_slice(value)))])
    }

    /// Files that RocksDB would put together, and cannot because of one of them: once that is known, all rows
    /// but those in the block are read and written, and so they are after a restart.
    #[test]
    fn a_block_that_cannot_be_read_is_in_nobodys_way_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let store = open(&dir).unwrap();
        store.commit(row(FamilyId::MAP, b"rotten", b"a value that will rot")).unwrap();
        store.flush().unwrap();
        drop(store);
        assert_eq!(rot(&dir, b"will rot"), 1);
        let files = || {
            let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let before = files();
        let store = RocksStore::open_read_only(&dir).unwrap();
        store.get(FamilyId::MAP, b"rotten").unwrap_err();
        drop(store);
        assert_eq!(files(), before, "who looks leaves nothing");

        let store = open(&dir).unwrap();
        // Until there are so many files that they are put together, and it is known what came of it.
        let mut failed = None;
        for n in 0..100_u32 {
            let both_sides = [&n.to_be_bytes()[..], b"s"];
            let rows = both_sides.map(|key| row(FamilyId::MAP, key, b"fine").writes);
            let taken = store.commit(WriteSet::rows(rows.concat()));
            if let Err(error) = taken.and_then(|()| store.flush()) {
                failed = Some(error);
                break;
            }
        }
        let failed = failed.expect("files are put together");
        assert_eq!(failed.cause(), StoreCause::Failed, "{failed}");
        assert!(failed.to_string().contains("block checksum mismatch"), "{failed}");
        drop(store);

        for _ in 0..2 {
            let store = open(&dir).unwrap();
            for n in 0..40_u32 {
                store.commit(row(FamilyId::MAP, b"q", &n.to_be_bytes())).unwrap();
                store.commit(row(FamilyId::MAP, b"s", b"goes on")).unwrap();
                store.flush().unwrap();
            }
            let found = store.get(FamilyId::MAP, b"s").unwrap();
            assert_eq!(found.as_deref(), Some(&b"goes on"[..]));
            let error = store.get(FamilyId::MAP, b"rotten").unwrap_err();
            assert_eq!(error.cause(), StoreCause::Unreadable, "{error}");
        }
    }

    /// Where the killed process of the next test keeps its store.
    const CRASH_DIR: &str = "PALISADE_TEST_CRASH_DIR";
    const CRASH_TEST: &str = "store::rocks::tests::a_killed_store_stands_at_one_commit";
    /// Seldom: the log's family is full, and so flushed, several times between two of these.
    const FLUSH_EVERY: u64 = 9_000;
    const FILLER_BYTES: usize = 16 << 10;

    fn number(store: &RocksStore, family: FamilyId) -> u64 {
        let found = store.get(family, b"n").unwrap();
        found.map_or(0, |raw| u64::from_be_bytes(raw[..].try_into().unwrap()))
    }

    /// Commits one number after the other to all families, until it is killed.
    fn commit_until_killed(dir: &Path) {
        let store = open(dir).unwrap();
        for n in number(&store, FamilyId::META) + 1.. {
            let row =
                |family| (family, b"n".to_vec(), Some(Bytes::copy_from_slice(&n.to_be_bytes())));
            let mut writes: Vec<_> = store.families.ids().map(row).collect();
            let filler = Bytes::from(vec![n as u8; FILLER_BYTES]);
            writes.push((FamilyId::LOG, n.to_be_bytes().to_vec(), Some(filler)));
            store.commit(WriteSet::rows(writes)).unwrap();
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
            let store = open(&dir).unwrap();
            let numbers: Vec<_> =
                store.families.ids().map(|family| number(&store, family)).collect();
            assert!(numbers.iter().all(|n| *n == numbers[0]), "{numbers:?}");
            assert!(flushed <= numbers[0], "flushed={flushed} found={numbers:?}");
            assert!(before <= numbers[0], "before={before} found={numbers:?}");
            before = numbers[0];
        }
        assert!(before > FLUSH_EVERY, "some of it was flushed: {before}");
    }
}
