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
    flushed: Rows,
}

impl MemoryStore {
    /// Loses what was not flushed.
    #[cfg(feature = "sim")]
    pub(crate) fn crash(&self) {
        let mut inner = self.inner.write().expect("no code panics while it holds the store");
        inner.rows = inner.flushed.clone();
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
            match value {
                // A copy: the value is a part of its whole entry, and would keep all of it alive.
                Some(value) => inner.rows.insert((family, key), Bytes::copy_from_slice(&value)),
                None => inner.rows.remove(&(family, key)),
            };
        }
        Ok(())
    }

    fn clear(&self, family: Family, from: &[u8], end: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.inner.write().expect("no code panics while it holds the store");
        let inside = |key: &[u8]| from <= key && key < end;
        inner.rows.retain(|(of, key), _| *of != family || !inside(key));
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut inner = self.inner.write().expect("no code panics while it holds the store");
        inner.flushed = inner.rows.clone();
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
}
