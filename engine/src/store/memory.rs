//! State in memory, for simulators, tests, and engines that replay their log at each start.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::{EachRow, Family, StateRead, StateStore, StoreError, WriteSet};

type Rows = BTreeMap<(Family, Vec<u8>), Bytes>;

/// A store in memory. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Default)]
struct Inner {
    rows: Rows,
    /// What the rows that have changed since the last flush held then.
    flushed: BTreeMap<(Family, Vec<u8>), Option<Bytes>>,
}

impl Inner {
    fn set(&mut self, key: (Family, Vec<u8>), value: Option<Bytes>) {
        let before = match value {
            Some(value) => self.rows.insert(key.clone(), value),
            None => self.rows.remove(&key),
        };
        self.flushed.entry(key).or_insert(before);
    }
}

impl MemoryStore {
    /// Loses what was not flushed.
    #[cfg(feature = "sim")]
    pub(crate) fn crash(&self) {
        let mut inner = self.inner.write().expect("no code panics while it holds the store");
        for (key, value) in std::mem::take(&mut inner.flushed) {
            match value {
                Some(value) => inner.rows.insert(key, value),
                None => inner.rows.remove(&key),
            };
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("no code panics while it holds the store")
    }
}

impl StateRead for Rows {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(BTreeMap::get(self, &(family, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        if from < end {
            let from = Bound::Included((family, from.to_vec()));
            let end = Bound::Excluded((family, end.to_vec()));
            for ((_, key), value) in self.range((from, end)) {
                if !each(key, value) {
                    break;
                }
            }
        }
        Ok(())
    }
}

struct Snapshot<'a>(RwLockReadGuard<'a, Inner>);

impl StateRead for Snapshot<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        StateRead::get(&self.0.rows, family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        self.0.rows.scan(family, from, end, each)
    }
}

impl StateRead for MemoryStore {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.snapshot().get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        self.snapshot().scan(family, from, end, each)
    }
}

impl StateStore for MemoryStore {
    fn snapshot(&self) -> Box<dyn StateRead + '_> {
        Box::new(Snapshot(self.read()))
    }

    fn commit(&self, writes: WriteSet) -> Result<(), StoreError> {
        let mut inner = self.inner.write().expect("no code panics while it holds the store");
        for (family, key, value) in writes.writes {
            // A copy: the value is a part of its whole entry, and would keep all of it alive.
            let value = value.map(|value| Bytes::copy_from_slice(&value));
            inner.set((family, key), value);
        }
        Ok(())
    }

    fn clear(&self, family: Family, from: &[u8], end: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.inner.write().expect("no code panics while it holds the store");
        if from < end {
            let range = (family, from.to_vec())..(family, end.to_vec());
            let cleared: Vec<_> = inner.rows.range(range).map(|(key, _)| key.clone()).collect();
            cleared.into_iter().for_each(|key| inner.set(key, None));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut inner = self.inner.write().expect("no code panics while it holds the store");
        inner.flushed.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_store_conforms() {
        super::super::conformance::run(&MemoryStore::default());
    }

    #[cfg(feature = "sim")]
    #[test]
    fn a_crash_brings_back_what_was_flushed() {
        let store = MemoryStore::default();
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let write = |rows: &[(&str, Option<Bytes>)]| {
            let row = |(key, value): &(&str, Option<Bytes>)| {
                (Family::Map, key.as_bytes().to_vec(), value.clone())
            };
            store.commit(WriteSet { writes: rows.iter().map(row).collect() }).unwrap();
        };
        let get = |key: &str| store.get(Family::Map, key.as_bytes()).unwrap();
        write(&[("changed", value("1")), ("removed", value("1")), ("cleared", value("1"))]);
        store.flush().unwrap();
        write(&[("changed", value("2")), ("removed", None), ("new", value("2"))]);
        write(&[("changed", value("3")), ("removed", value("3"))]);
        store.clear(Family::Map, b"cl", b"cm").unwrap();
        assert_eq!((get("cleared"), get("changed")), (None, value("3")));
        for _ in 0..2 {
            store.crash();
            for key in ["changed", "removed", "cleared"] {
                assert_eq!(get(key), value("1"), "{key}");
            }
            assert_eq!(get("new"), None);
        }
    }
}
