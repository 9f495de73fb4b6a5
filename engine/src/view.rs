//! What a record sees while it is applied: the store, over it what earlier records of the same
//! commit wrote, and over that what the record itself has written so far.
//!
//! The record's own writes can be taken back, which is how a refused batch leaves no trace.

mod layer;

use bytes::Bytes;

use self::layer::Layer;
use crate::store::{
    Direction, EachRow, Families, FamilyId, Rest, StateRead, StoreError, Walk, WriteSet,
};

pub(crate) struct View<'a> {
    store: &'a dyn StateRead,
    committed: Layer,
    record: Layer,
}

impl<'a> View<'a> {
    pub(crate) fn new(store: &'a dyn StateRead) -> Self {
        let layer = || Layer::new(store.families().count());
        Self { store, committed: layer(), record: layer() }
    }

    /// What lies over the store at the key, if anything does: a value, or that there is none.
    fn written(&self, family: FamilyId, key: &[u8]) -> Option<Option<&Bytes>> {
        self.record.written(family, key).or_else(|| self.committed.written(family, key))
    }

    /// The next key in the range, from where the walk stands, that a layer has written.
    fn next_written(&self, family: FamilyId, rest: &Rest) -> Option<&[u8]> {
        let record = self.record.next_written(family, rest);
        let committed = self.committed.next_written(family, rest);
        match (record, committed, rest.direction) {
            (Some(a), Some(b), Direction::Forward) => Some(a.min(b)),
            (Some(a), Some(b), Direction::Backward) => Some(a.max(b)),
            (a, b, _) => a.or(b),
        }
    }

    pub(crate) fn put(&mut self, family: FamilyId, key: Vec<u8>, value: Bytes) {
        self.record.write(family, key, Some(value));
    }

    pub(crate) fn remove(&mut self, family: FamilyId, key: Vec<u8>) {
        self.record.write(family, key, None);
    }

    /// Removes every row from `from` up to before `end`, however many there are.
    pub(crate) fn clear(&mut self, family: FamilyId, from: &[u8], end: &[u8]) {
        self.record.clear(family, from, end);
    }

    /// Forgets what was written to a family, by this record and those before it.
    pub(crate) fn forget(&mut self, family: FamilyId) {
        self.record.forget_family(family);
        self.committed.forget_family(family);
    }

    /// The record stands.
    pub(crate) fn keep_record(&mut self) {
        self.record.sink_into(&mut self.committed);
    }

    /// The record has no effect.
    pub(crate) fn drop_record(&mut self) {
        self.record.forget();
    }

    /// What lies under everything that was written.
    pub(crate) fn base(&self) -> &'a dyn StateRead {
        self.store
    }

    /// What stands so far, of the records before this one.
    pub(crate) fn pending(&self) -> WriteSet {
        self.committed.clone().into_writes(self.store.families())
    }

    /// Everything that stands.
    pub(crate) fn into_writes(self) -> WriteSet {
        assert!(self.record.is_empty(), "a record was neither kept nor dropped");
        self.committed.into_writes(self.store.families())
    }
}

impl StateRead for View<'_> {
    fn families(&self) -> &Families {
        self.store.families()
    }

    fn get(&self, family: FamilyId, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.written(family, key) {
            Some(written) => Ok(written.cloned()),
            None => self.store.get(family, key),
        }
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
        let mut merge = Merge { view: self, family, rest, each, is_over: false };
        self.store
            .walk(family, from, end, direction, &mut |key, value| merge.stored(key, value))?;
        merge.layers_up_to(None);
        Ok(())
    }
}

/// A walk over the store and what lies over it.
struct Merge<'v, 'e> {
    view: &'v View<'v>,
    family: FamilyId,
    /// What is left of the range. Rows of the store that were passed may still be in it, those of
    /// the layers are not.
    rest: Rest,
    each: &'e mut EachRow<'e>,
    is_over: bool,
}

impl Merge<'_, '_> {
    /// Takes a row of the store, and says where the store is to go on.
    fn stored(&mut self, key: &[u8], value: &[u8]) -> Walk {
        let was_sought = self.layers_up_to(Some(key));
        if self.is_over {
            return Walk::Stop;
        }
        let (view, family) = (self.view, self.family);
        if !self.rest.contains(key) {
            // A row of a layer took its place, or led beyond it.
            return if was_sought { Walk::Seek(self.rest.next_key()) } else { Walk::Next };
        }
        let cleared = view.record.cleared(family, key);
        if let Some((from, end)) = cleared.or_else(|| view.committed.cleared(family, key)) {
            return Walk::Seek(match self.rest.direction {
                Direction::Forward => end.to_vec(),
                Direction::Backward => from.to_vec(),
            });
        }
        match (self.each)(key, value) {
            Walk::Seek(to) => {
                self.rest.pass(key);
                self.rest.seek(to);
                Walk::Seek(self.rest.next_key())
            }
            Walk::Next => Walk::Next,
            Walk::Stop => {
                self.is_over = true;
                Walk::Stop
            }
        }
    }

    /// Hands out what the layers have on the way to a key of the store and at it, or to the end.
    /// Says whether it was told to leave something out.
    fn layers_up_to(&mut self, limit: Option<&[u8]>) -> bool {
        let (view, family) = (self.view, self.family);
        let mut was_sought = false;
        while !self.is_over {
            let Some(key) = view.next_written(family, &self.rest) else { break };
            let is_beyond = limit.is_some_and(|limit| match self.rest.direction {
                Direction::Forward => limit < key,
                Direction::Backward => key < limit,
            });
            if is_beyond {
                break;
            }
            self.rest.pass(key);
            let Some(Some(value)) = view.written(family, key) else { continue };
            match (self.each)(key, value) {
                Walk::Next => {}
                Walk::Seek(to) => {
                    self.rest.seek(to);
                    was_sought = true;
                }
                Walk::Stop => self.is_over = true,
            }
        }
        was_sought
    }
}

#[cfg(test)]
mod tests;
