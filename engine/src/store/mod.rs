//! Where state is kept: an ordered store with a few families of keys.

#[cfg(any(not(feature = "rocksdb"), feature = "sim", test))]
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;

use bytes::Bytes;

#[cfg(any(not(feature = "rocksdb"), feature = "sim", test))]
pub(crate) use memory::MemoryStore;
#[cfg(feature = "rocksdb")]
pub(crate) use rocks::RocksStore;

/// One projection's part of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Whose state this is, and how far it is applied.
    Meta,
    /// The table of resources.
    Resources,
    /// Payloads of logs.
    Log,
    /// Values of maps.
    Map,
    /// Requests of idempotency stores.
    Idempotency,
}

impl Family {
    /// Every family.
    pub(crate) const ALL: [Self; 5] =
        [Self::Meta, Self::Resources, Self::Log, Self::Map, Self::Idempotency];

    /// Persisted: a name may be retired, never reused.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Resources => "resources",
            Self::Log => "log",
            Self::Map => "map",
            Self::Idempotency => "idempotency",
        }
    }
}

/// Changes that are committed together, later ones over earlier ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteSet {
    /// Family, key, and the value or its removal.
    pub(crate) writes: Vec<(Family, Vec<u8>, Option<Bytes>)>,
}

/// Why the store cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("state store: {what}")]
pub(crate) struct StoreError {
    /// What failed, for people.
    pub(crate) what: String,
}

/// Takes a row of a scan and says whether to go on.
pub(crate) type EachRow<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// Reads of one moment's state.
pub(crate) trait StateRead {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Rows from `from` up to before `end`, in order, until `each` has enough.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError>;
}

/// An ordered store. One thread commits; any thread reads.
///
/// Nothing needs to be durable before [`StateStore::flush`] returns, but whatever a crash leaves
/// must be the state after some commit at or after the last flush, over all families.
pub(crate) trait StateStore: StateRead + Send + Sync + 'static {
    /// Reads that see no later commit.
    fn snapshot(&self) -> Box<dyn StateRead + '_>;

    /// Commits all the writes, or none.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn commit(&self, writes: WriteSet) -> Result<(), StoreError>;

    /// Removes every key of a family from `from` up to before `end`.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn clear(&self, family: Family, from: &[u8], end: &[u8]) -> Result<(), StoreError>;

    /// Returns once everything committed survives a loss of power.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn flush(&self) -> Result<(), StoreError>;
}

/// What every store must do, to be run over each of them.
#[cfg(test)]
pub(crate) mod conformance {
    use bytes::Bytes;

    use super::{Family, StateRead, StateStore, WriteSet};

    /// Runs the suite over an empty store.
    ///
    /// # Panics
    /// When the store does not conform.
    pub(crate) fn run(store: &dyn StateStore) {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let rows = |read: &dyn StateRead, from: &str, end: &str, limit: usize| {
            let mut rows = Vec::new();
            read.scan(Family::Map, from.as_bytes(), end.as_bytes(), &mut |key, value| {
                rows.push((
                    String::from_utf8(key.to_vec()).expect("text"),
                    String::from_utf8(value.to_vec()).expect("text"),
                ));
                rows.len() < limit
            })
            .expect("a scan");
            rows
        };
        let row = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(store.get(Family::Map, b"a").expect("a read"), None);

        let mut writes = WriteSet::default();
        for (key, value) in [("b", "1"), ("a", "2"), ("c", "3"), ("a", "4")] {
            writes.writes.push((Family::Map, key.into(), Some(bytes(value))));
        }
        writes.writes.push((Family::Log, b"a".to_vec(), Some(bytes("other"))));
        writes.writes.push((Family::Map, b"c".to_vec(), None));
        store.commit(writes).expect("a commit");
        assert_eq!(store.get(Family::Map, b"a").expect("a read"), Some(bytes("4")));
        assert_eq!(store.get(Family::Log, b"a").expect("a read"), Some(bytes("other")));
        assert_eq!(rows(store, "", "z", 9), [row("a", "4"), row("b", "1")]);
        assert_eq!(rows(store, "", "b", 9), [row("a", "4")], "the end is not part of it");
        assert_eq!(rows(store, "", "z", 1), [row("a", "4")], "it stops when told");
        assert_eq!(rows(store, "z", "a", 9), [], "a range that ends before it begins is empty");
        assert_eq!(rows(&*store.snapshot(), "", "z", 9), [row("a", "4"), row("b", "1")]);

        // A snapshot sees no later commit, whether or not the commit waits for it to end.
        let (committed, commits) = std::sync::mpsc::channel();
        let later = move || {
            let writes = vec![(Family::Map, b"b".to_vec(), Some(bytes("5")))];
            store.commit(WriteSet { writes }).expect("a commit");
            committed.send(()).expect("the suite listens");
        };
        std::thread::scope(|scope| {
            let snapshot = store.snapshot();
            scope.spawn(later);
            let waits = commits.recv_timeout(std::time::Duration::from_millis(50)).is_err();
            assert_eq!(snapshot.get(Family::Map, b"b").expect("a read"), Some(bytes("1")));
            assert_eq!(rows(&*snapshot, "", "z", 9), [row("a", "4"), row("b", "1")]);
            drop(snapshot);
            assert!(!waits || commits.recv().is_ok());
        });
        assert_eq!(rows(store, "", "z", 9), [row("a", "4"), row("b", "5")]);

        // Keys are bytes, in the order of bytes; values may be empty.
        let keys: [&[u8]; 4] = [b"", b"\x00", b"\x00\xff", b"\xff\xff"];
        let writes = keys.map(|key| (Family::Resources, key.to_vec(), Some(Bytes::new())));
        store.commit(WriteSet { writes: writes.into() }).expect("a commit");
        let mut found = Vec::new();
        let mut each = |key: &[u8], value: &[u8]| {
            assert!(value.is_empty());
            found.push(key.to_vec());
            true
        };
        store.scan(Family::Resources, b"", b"\xff\xff\xff", &mut each).expect("a scan");
        assert_eq!(found, keys);
        store.commit(WriteSet::default()).expect("an empty commit");
        store.clear(Family::Resources, b"\x00", b"\xff").expect("a removal of a range");
        let left = |key: &[u8]| store.get(Family::Resources, key).expect("a read").is_some();
        assert_eq!(keys.map(left), [true, false, false, true]);
        store.flush().expect("a flush");
        assert_eq!(store.get(Family::Map, b"b").expect("a read"), Some(bytes("5")));
    }
}
