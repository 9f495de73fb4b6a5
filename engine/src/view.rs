//! What a record sees while it is applied: the store, over it what earlier records of the same
//! commit wrote, and over that what the record itself has written so far.
//!
//! The record's own writes can be taken back, which is how a refused batch leaves no trace.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::store::{Family, StateRead, StoreError, WriteSet};

/// A stored row: key and value.
type Row = (Vec<u8>, Bytes);

pub(crate) struct View<'a> {
    store: &'a dyn StateRead,
    committed: Layer,
    record: Layer,
}

/// Writes that lie over what is stored: one map a family, so that a look-up borrows its key.
#[derive(Default)]
struct Layer {
    families: [BTreeMap<Vec<u8>, Option<Bytes>>; Family::ALL.len()],
}

impl Layer {
    /// What was written to the key, if anything was: a value, or its removal.
    fn written(&self, family: Family, key: &[u8]) -> Option<&Option<Bytes>> {
        self.families[family as usize].get(key)
    }

    fn write(&mut self, family: Family, key: Vec<u8>, value: Option<Bytes>) {
        self.families[family as usize].insert(key, value);
    }

    /// The first value in the range whose key `above` has not written.
    fn first(&self, family: Family, from: &[u8], end: &[u8], above: Option<&Self>) -> Option<Row> {
        if end <= from {
            return None;
        }
        self.families[family as usize]
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(end)))
            .filter(|(key, _)| above.is_none_or(|layer| layer.written(family, key).is_none()))
            .find_map(|(key, value)| Some((key.clone(), value.clone()?)))
    }

    fn is_empty(&self) -> bool {
        self.families.iter().all(BTreeMap::is_empty)
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(store: &'a dyn StateRead) -> Self {
        Self { store, committed: Layer::default(), record: Layer::default() }
    }

    pub(crate) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.written(family, key) {
            Some(written) => Ok(written.clone()),
            None => self.store.get(family, key),
        }
    }

    fn written(&self, family: Family, key: &[u8]) -> Option<&Option<Bytes>> {
        self.record.written(family, key).or_else(|| self.committed.written(family, key))
    }

    /// The first row from `from` up to before `end`.
    pub(crate) fn first(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
    ) -> Result<Option<Row>, StoreError> {
        let mut stored = None;
        self.store.scan(family, from, end, &mut |key, value| {
            if self.written(family, key).is_some() {
                return true;
            }
            stored = Some((key.to_vec(), Bytes::copy_from_slice(value)));
            false
        })?;
        let record = self.record.first(family, from, end, None);
        let committed = self.committed.first(family, from, end, Some(&self.record));
        let found = [record, committed, stored].into_iter().flatten();
        Ok(found.min_by(|(a, _), (b, _)| a.cmp(b)))
    }

    pub(crate) fn put(&mut self, family: Family, key: Vec<u8>, value: Bytes) {
        self.record.write(family, key, Some(value));
    }

    pub(crate) fn remove(&mut self, family: Family, key: Vec<u8>) {
        self.record.write(family, key, None);
    }

    /// The record stands.
    ///
    /// One insertion a write: `BTreeMap::append` would walk everything that stands already, for
    /// every record, and take most of the time of an apply.
    pub(crate) fn keep_record(&mut self) {
        for (over, under) in self.record.families.iter_mut().zip(&mut self.committed.families) {
            under.extend(std::mem::take(over));
        }
    }

    /// The record has no effect.
    pub(crate) fn drop_record(&mut self) {
        self.record = Layer::default();
    }

    /// Everything that stands.
    pub(crate) fn into_writes(self) -> WriteSet {
        assert!(self.record.is_empty(), "a record was neither kept nor dropped");
        let rows = Family::ALL.into_iter().zip(self.committed.families);
        let writes = rows
            .flat_map(|(family, rows)| {
                rows.into_iter().map(move |(key, value)| (family, key, value))
            })
            .collect();
        WriteSet { writes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, StateStore};

    #[test]
    fn first_merges_the_layers_and_respects_removals() {
        let store = MemoryStore::default();
        let row = |key: &str, value: &'static str| {
            (Family::Map, key.as_bytes().to_vec(), Some(Bytes::from(value)))
        };
        store.commit(WriteSet { writes: vec![row("b", "stored"), row("d", "stored")] }).unwrap();
        let mut view = View::new(&store);
        let first = |view: &View<'_>| {
            let found = view.first(Family::Map, b"a", b"z").unwrap();
            found.map(|(key, _)| String::from_utf8(key).unwrap())
        };
        assert_eq!(first(&view).as_deref(), Some("b"));
        view.remove(Family::Map, b"b".to_vec());
        assert_eq!(first(&view).as_deref(), Some("d"));
        view.put(Family::Map, b"c".to_vec(), Bytes::new());
        assert_eq!(first(&view).as_deref(), Some("c"));
        view.keep_record();
        view.remove(Family::Map, b"c".to_vec());
        assert_eq!(first(&view).as_deref(), Some("d"));
        view.drop_record();
        assert_eq!(first(&view).as_deref(), Some("c"));
        assert_eq!(view.into_writes().writes.len(), 2);
    }

    #[test]
    #[should_panic(expected = "neither kept nor dropped")]
    fn a_record_is_kept_or_dropped_before_the_commit() {
        let store = MemoryStore::default();
        let mut view = View::new(&store);
        view.put(Family::Map, b"a".to_vec(), Bytes::new());
        view.into_writes();
    }
}
