//! What a record sees while it is applied: the store, over it what earlier records of the same
//! commit wrote, and over that what the record itself has written so far.
//!
//! The record's own writes can be taken back, which is how a refused batch leaves no trace.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::store::{Family, StateRead, StoreError, WriteSet};

type Overlay = BTreeMap<(Family, Vec<u8>), Option<Bytes>>;

pub(crate) struct View<'a> {
    store: &'a dyn StateRead,
    committed: Overlay,
    record: Overlay,
}

impl<'a> View<'a> {
    pub(crate) fn new(store: &'a dyn StateRead) -> Self {
        Self { store, committed: Overlay::new(), record: Overlay::new() }
    }

    pub(crate) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let at = (family, key.to_vec());
        match self.record.get(&at).or_else(|| self.committed.get(&at)) {
            Some(written) => Ok(written.clone()),
            None => self.store.get(family, key),
        }
    }

    /// The first row from `from` up to before `end`.
    pub(crate) fn first(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        let range = (family, from.to_vec())..(family, end.to_vec());
        let live = |overlay: &Overlay, hidden_by: Option<&Overlay>| {
            overlay
                .range(range.clone())
                .filter(|(at, _)| hidden_by.is_none_or(|over| !over.contains_key(*at)))
                .find_map(|((_, key), value)| Some((key.clone(), value.clone()?)))
        };
        let written = [live(&self.record, None), live(&self.committed, Some(&self.record))];
        let mut stored = None;
        self.store.scan(family, from, end, &mut |key, value| {
            let at = (family, key.to_vec());
            if self.record.contains_key(&at) || self.committed.contains_key(&at) {
                return true;
            }
            stored = Some((at.1, Bytes::copy_from_slice(value)));
            false
        })?;
        let found = written.into_iter().chain([stored]).flatten();
        Ok(found.min_by(|(a, _), (b, _)| a.cmp(b)))
    }

    pub(crate) fn put(&mut self, family: Family, key: Vec<u8>, value: Bytes) {
        self.record.insert((family, key), Some(value));
    }

    pub(crate) fn remove(&mut self, family: Family, key: Vec<u8>) {
        self.record.insert((family, key), None);
    }

    /// The record stands.
    pub(crate) fn keep_record(&mut self) {
        // Not `append`, which builds the whole map anew.
        self.committed.extend(std::mem::take(&mut self.record));
    }

    /// The record has no effect.
    pub(crate) fn drop_record(&mut self) {
        self.record.clear();
    }

    /// Everything that stands.
    pub(crate) fn into_writes(self) -> WriteSet {
        assert!(self.record.is_empty(), "a record was neither kept nor dropped");
        let writes =
            self.committed.into_iter().map(|((family, key), value)| (family, key, value)).collect();
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
}
