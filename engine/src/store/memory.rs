//! State in memory, for simulators, tests, and engines that replay their log at each start.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::tree::Tree;
use super::{Direction, EachRow, Families, FamilyId, StateRead, StateStore, StoreError, WriteSet};

/// A store in memory. Clones share it.
#[derive(Clone)]
pub(crate) struct MemoryStore {
    families: Arc<Families>,
    inner: Arc<RwLock<Inner>>,
}

struct Inner {
    rows: Rows,
    /// The rows at the last flush.
    #[cfg(feature = "sim")]
    flushed: Rows,
}

/// The rows of one moment, by family. A copy shares what has not changed since.
#[derive(Clone)]
struct Rows(Arc<Vec<Tree>>);

impl Rows {
    fn of(&self, family: FamilyId) -> &Tree {
        &self.0[family.index()]
    }
}

impl MemoryStore {
    /// An empty store.
    pub(crate) fn new(families: Families) -> Self {
        let rows = Rows(Arc::new(families.ids().map(|_| Tree::default()).collect()));
        let inner = Inner {
            #[cfg(feature = "sim")]
            flushed: rows.clone(),
            rows,
        };
        Self { families: Arc::new(families), inner: Arc::new(RwLock::new(inner)) }
    }

    /// Loses what was not flushed.
    #[cfg(feature = "sim")]
    pub(crate) fn crash(&self) {
        let mut inner = self.write();
        inner.rows = inner.flushed.clone();
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("no code panics while it holds the store")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("no code panics while it holds the store")
    }

    fn moment(&self) -> Snapshot<'_> {
        Snapshot { families: &self.families, rows: self.read().rows.clone() }
    }
}

/// One moment's rows. Whoever commits meanwhile copies what changes.
struct Snapshot<'a> {
    families: &'a Families,
    rows: Rows,
}

impl StateRead for Snapshot<'_> {
    fn families(&self) -> &Families {
        self.families
    }

    fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.of(family).get(key).cloned())
    }

    fn walk(
        &self,
        family: FamilyId,
        from: &[u8],
        end: &[u8],
        direction: Direction,
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        self.rows.of(family).walk(from, end, direction, each);
        Ok(())
    }
}

impl StateRead for MemoryStore {
    fn families(&self) -> &Families {
        &self.families
    }

    fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.read().rows.of(family).get(key).cloned())
    }

    fn walk(
        &self,
        family: FamilyId,
        from: &[u8],
        end: &[u8],
        direction: Direction,
        each: &mut EachRow<'_>,
    ) -> Result<(), StoreError> {
        self.moment().walk(family, from, end, direction, each)
    }
}

impl StateStore for MemoryStore {
    fn snapshot(&self) -> Box<dyn StateRead + '_> {
        Box::new(self.moment())
    }

    fn commit(&self, writes: WriteSet) -> Result<(), StoreError> {
        let mut inner = self.write();
        let families = Arc::make_mut(&mut inner.rows.0);
        for (family, from, end) in writes.cleared {
            families[family.index()].clear(&from, &end);
        }
        for (family, key, value) in writes.writes {
            let rows = &mut families[family.index()];
            match value {
                // A copy: the value is a part of its whole entry, and would keep all of it alive.
                Some(value) => rows.insert(&key, Bytes::copy_from_slice(&value)),
                None => rows.remove(&key),
            }
        }
        Ok(())
    }

    fn is_damaged(&self) -> bool {
        false
    }

    #[cfg(feature = "sim")]
    fn flush(&self) -> Result<(), StoreError> {
        let mut inner = self.write();
        inner.flushed = inner.rows.clone();
        Ok(())
    }

    /// Nothing survives, and nobody is told that it does.
    #[cfg(not(feature = "sim"))]
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Families::new(&[]).expect("no name is wrong"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn memory_store_conforms() {
        conformance::run(&MemoryStore::new(conformance::families()));
    }

    #[cfg(feature = "sim")]
    #[test]
    fn a_crash_brings_back_what_was_flushed() {
        let store = MemoryStore::default();
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let write = |rows: &[(&str, Option<Bytes>)]| {
            let row = |(key, value): &(&str, Option<Bytes>)| {
                (FamilyId::MAP, key.as_bytes().to_vec(), value.clone())
            };
            store.commit(WriteSet::rows(rows.iter().map(row).collect())).unwrap();
        };
        let get = |key: &str| store.get(FamilyId::MAP, key.as_bytes()).unwrap();
        write(&[("changed", value("1")), ("removed", value("1")), ("cleared", value("1"))]);
        store.flush().unwrap();
        write(&[("changed", value("2")), ("removed", None), ("new", value("2"))]);
        write(&[("changed", value("3")), ("removed", value("3"))]);
        let cleared = vec![(FamilyId::MAP, b"cl".to_vec(), b"cm".to_vec())];
        store.commit(WriteSet { cleared, writes: Vec::new() }).unwrap();
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
