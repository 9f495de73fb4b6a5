//! Writes that lie over what is stored.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::store::{Direction, Families, FamilyId, Rest, WriteSet};

/// Cleared ranges and, over them, written rows. One map a family, so that a look-up borrows its key.
#[derive(Clone)]
pub(super) struct Layer {
    families: Vec<Part>,
}

#[derive(Clone, Default)]
struct Part {
    /// From where, up to before which key. They neither meet nor touch.
    cleared: BTreeMap<Vec<u8>, Vec<u8>>,
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl Layer {
    pub(super) fn new(families: usize) -> Self {
        Self { families: vec![Part::default(); families] }
    }

    /// What was written to the key, if anything was: a value, or that there is none.
    pub(super) fn written(&self, family: FamilyId, key: &[u8]) -> Option<Option<&Bytes>> {
        let written = self.families[family.index()].writes.get(key).map(Option::as_ref);
        written.or_else(|| self.cleared(family, key).map(|_| None))
    }

    /// The cleared range that the key is in.
    pub(super) fn cleared(&self, family: FamilyId, key: &[u8]) -> Option<(&[u8], &[u8])> {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let before = self.families[family.index()].cleared.range::<[u8], _>(up_to).next_back();
        before.map(|(from, end)| (&from[..], &end[..])).filter(|(_, end)| key < *end)
    }

    /// The next key of what is left of a walk that was written, be it with a value or without.
    pub(super) fn next_written(&self, family: FamilyId, rest: &Rest) -> Option<&[u8]> {
        if rest.is_empty() {
            return None;
        }
        let bounds = (Bound::Included(&rest.from[..]), Bound::Excluded(&rest.end[..]));
        let mut keys = self.families[family.index()].writes.range::<[u8], _>(bounds);
        let next = match rest.direction {
            Direction::Forward => keys.next(),
            Direction::Backward => keys.next_back(),
        };
        next.map(|(key, _)| &key[..])
    }

    pub(super) fn write(&mut self, family: FamilyId, key: Vec<u8>, value: Option<Bytes>) {
        self.families[family.index()].writes.insert(key, value);
    }

    pub(super) fn clear(&mut self, family: FamilyId, from: &[u8], end: &[u8]) {
        if from < end {
            self.families[family.index()].clear(from.to_vec(), end.to_vec());
        }
    }

    /// Lays this over another layer, and leaves nothing.
    ///
    /// One insertion a write: `BTreeMap::append` would walk everything that stands already, for
    /// every record, and take most of the time of an apply.
    pub(super) fn sink_into(&mut self, under: &mut Self) {
        for (over, under) in self.families.iter_mut().zip(&mut under.families) {
            for (from, end) in std::mem::take(&mut over.cleared) {
                under.clear(from, end);
            }
            under.writes.extend(std::mem::take(&mut over.writes));
        }
    }

    pub(super) fn forget(&mut self) {
        self.families.fill_with(Part::default);
    }

    pub(super) fn forget_family(&mut self, family: FamilyId) {
        self.families[family.index()] = Part::default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.families.iter().all(|part| part.cleared.is_empty() && part.writes.is_empty())
    }

    pub(super) fn into_writes(self, families: &Families) -> WriteSet {
        let mut set = WriteSet::default();
        for (family, part) in families.ids().zip(self.families) {
            let cleared = part.cleared.into_iter().map(|(from, end)| (family, from, end));
            set.cleared.extend(cleared);
            set.writes.extend(part.writes.into_iter().map(|(key, value)| (family, key, value)));
        }
        set
    }
}

impl Part {
    fn clear(&mut self, mut from: Vec<u8>, mut end: Vec<u8>) {
        self.writes.extract_if(from.clone()..end.clone(), |_, _| true).for_each(drop);
        // One range takes up all that it meets or touches.
        while let Some((start, stop)) =
            self.cleared.range(..=end.clone()).next_back().filter(|(_, stop)| from <= **stop)
        {
            let start = start.clone();
            end = end.max(stop.clone());
            self.cleared.remove(&start);
            from = from.min(start);
        }
        self.cleared.insert(from, end);
    }
}
