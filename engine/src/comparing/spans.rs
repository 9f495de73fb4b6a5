//! Sums of spans of rows, kept in the commit that changes the rows.
//!
//! A span is a run of rows of one resource, or of a family that is of no resource. One begins where the
//! resource does, and one at each row whose key ends in enough zeros (`sum::zeros`). So where spans begin
//! depends on the rows alone: equal rows have equal spans, whatever came before.
//!
//! ```text
//! family spans    group 8, length of the family's name 1, name, where it begins    sum and count of its rows
//!                 (the two families of a projection have two names here, and one in the sums)
//! ```
//! It begins at a row's key, or at what all keys of the resource begin with, each without the group. A span
//! without rows has no row here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use bytes::Bytes;
use palisade_replication::GroupId;

use super::sum::{RowsSum, zeros};
use crate::keys;
use crate::projection::rebuild::served;
use crate::store::{
    Direction, EachRow, FamilyId, StateRead, StateStore, StoreError, Walk, WriteSet,
};

/// A key with so many zeros begins a span, which is 4096 rows long on average; in tests of this crate 4, so
/// that few rows have many spans.
const SPAN_ZEROS: u32 = if cfg!(test) { 2 } else { 12 };
/// Which sums they are, in the row that says that a group has them: another is made anew when it is opened.
const SUMS_VERSION: u8 = 1;
/// Spans that are made anew in one commit.
const ANEW_SPANS: usize = 1024;
/// Length of a group in a key.
const GROUP_BYTES: usize = 8;

/// Commits changes of one group's rows, and with them the sums of their spans (C1).
pub(crate) fn commit(
    store: &dyn StateStore,
    group: GroupId,
    mut set: WriteSet,
) -> Result<(), StoreError> {
    let sums = changes(store, group, &set)?;
    set.cleared.extend(sums.cleared);
    set.writes.extend(sums.writes);
    store.commit(set)
}

/// What the changes of rows change of the sums of their spans. `base` is without them.
pub(crate) fn changes(
    base: &dyn StateRead,
    group: GroupId,
    set: &WriteSet,
) -> Result<WriteSet, StoreError> {
    let mut sums = WriteSet::default();
    for family in summed(base, group) {
        let writes = set.writes.iter().filter(|(of, _, _)| *of == family);
        let mut writes: Vec<_> = writes.map(|(_, key, value)| (&key[..], value.as_ref())).collect();
        let cleared = set.cleared.iter().filter(|(of, _, _)| *of == family);
        let cleared: Vec<_> = cleared.map(|(_, from, end)| (&from[..], &end[..])).collect();
        if writes.is_empty() && cleared.is_empty() {
            continue;
        }
        // Later ones over earlier ones: they come first in reverse order, and stay.
        writes.reverse();
        writes.sort_by_key(|(key, _)| *key);
        writes.dedup_by_key(|(key, _)| *key);
        Spans::new(base, group, family, cleared).change(&writes, &mut sums)?;
    }
    Ok(sums)
}

/// The families whose rows are summed: what is state of the group or is built to become it, and nothing else.
fn summed(read: &dyn StateRead, group: GroupId) -> impl Iterator<Item = FamilyId> + use<> {
    let is_summed = move |family: &FamilyId| {
        *family != FamilyId::REBUILD && keys::of_group(*family, group).is_some()
    };
    read.families().ids().filter(is_summed)
}

/// What the row of a span begins with.
fn head(read: &dyn StateRead, group: GroupId, family: FamilyId) -> Vec<u8> {
    let name = read.families().column(family);
    [&group.get().to_be_bytes()[..], &[name.len() as u8], name.as_bytes()].concat()
}

/// What the keys of a row's resource begin with, or of its group if it is of none.
fn prefix(family: FamilyId, key: &[u8]) -> &[u8] {
    let bytes = if family.is_of_resources() { keys::RESOURCE_PREFIX_BYTES } else { GROUP_BYTES };
    &key[..bytes.min(key.len())]
}

/// Whether a span begins with the row of this key, beside those that begin with a resource.
fn begins(family: FamilyId, key: &[u8]) -> bool {
    SPAN_ZEROS <= zeros(&key[GROUP_BYTES..]) && prefix(family, key) != key
}

/// The spans of a family while some of its rows change. Keys and beginnings have their group here.
struct Spans<'a> {
    base: &'a dyn StateRead,
    family: FamilyId,
    name: &'static str,
    head: Vec<u8>,
    /// Of the rows: nothing of the base is there any more.
    cleared: Vec<(&'a [u8], &'a [u8])>,
    /// By where they begin, those that are looked at; none for one that is no more.
    known: BTreeMap<Vec<u8>, Known>,
}

#[derive(Default)]
struct Known {
    sum: Option<RowsSum>,
    is_changed: bool,
}

impl<'a> Spans<'a> {
    fn new(
        base: &'a dyn StateRead,
        group: GroupId,
        family: FamilyId,
        cleared: Vec<(&'a [u8], &'a [u8])>,
    ) -> Self {
        let (name, head) = (base.families().name(family), head(base, group, family));
        Self { base, family, name, head, cleared, known: BTreeMap::new() }
    }

    /// Takes in the writes, in the order of their keys: what lies behind one is as in the base.
    fn change(
        mut self,
        writes: &[(&[u8], Option<&Bytes>)],
        sums: &mut WriteSet,
    ) -> Result<(), StoreError> {
        for (from, end) in self.cleared.clone() {
            self.mend_around(from, end)?;
            sums.cleared.push((FamilyId::SPANS, self.row(from), self.row(end)));
        }
        self.locate(writes)?;
        for (key, new) in writes {
            let was_cleared = self.cleared_end(key).is_some();
            let old = if was_cleared { None } else { self.base.get(self.family, key)? };
            match (old, new) {
                (None, None) => {}
                (Some(old), Some(new)) if old == **new => {}
                (None, Some(new)) if begins(self.family, key) => self.split(key, new)?,
                (Some(old), None) if begins(self.family, key) => self.merge(key, &old)?,
                (old, new) => {
                    let (name, short) = (self.name, &key[GROUP_BYTES..]);
                    let sum = self.at(&self.floor(key));
                    old.iter().for_each(|old| sum.take_row(name, short, old));
                    new.iter().for_each(|new| sum.add_row(name, short, new));
                }
            }
        }
        for (start, known) in &self.known {
            if known.is_changed {
                let sum = known.sum.filter(|sum| !sum.is_empty());
                sums.writes.push((FamilyId::SPANS, self.row(start), sum.map(RowsSum::to_bytes)));
            }
        }
        Ok(())
    }

    /// The key of a span's row; behind all of them for what is behind the group.
    fn row(&self, start: &[u8]) -> Vec<u8> {
        match start.strip_prefix(&self.head[..GROUP_BYTES]) {
            Some(short) => [&self.head[..], short].concat(),
            None => keys::after(&self.head),
        }
    }

    /// Where a span begins that has this row.
    fn start(&self, row: &[u8]) -> Vec<u8> {
        [&self.head[..GROUP_BYTES], &row[self.head.len()..]].concat()
    }

    /// Up to where everything around the key was cleared, if it was.
    fn cleared_end(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.cleared_around(key).map(|(_, end)| end)
    }

    fn cleared_around(&self, key: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
        let around = |(from, end): &&(&'a [u8], &'a [u8])| *from <= key && key < *end;
        self.cleared.iter().find(around).copied()
    }

    fn note(&mut self, start: Vec<u8>, raw: &[u8]) -> Result<(), StoreError> {
        if let Entry::Vacant(vacant) = self.known.entry(start) {
            let sum = RowsSum::decode(Bytes::copy_from_slice(raw)).map_err(unreadable)?;
            vacant.insert(Known { sum: Some(sum), is_changed: false });
        }
        Ok(())
    }

    /// Reads the spans of all these keys, backward in one walk.
    fn locate(&mut self, writes: &[(&[u8], Option<&Bytes>)]) -> Result<(), StoreError> {
        let mut left = writes;
        let Some((last, _)) = left.last() else { return Ok(()) };
        let (base, head) = (self.base, self.head.clone());
        let behind = |key: &[u8]| [&head[..], &key[GROUP_BYTES..], &[0]].concat();
        let mut noted = Ok(());
        base.walk(FamilyId::SPANS, &head, &behind(last), Direction::Backward, &mut |row, raw| {
            let start = self.start(row);
            while left.last().is_some_and(|(key, _)| start[..] <= **key) {
                left = &left[..left.len() - 1];
            }
            if self.cleared_end(&start).is_none() {
                noted = self.note(start, raw);
            }
            match left.last() {
                Some((next, _)) if noted.is_ok() => Walk::Seek(behind(next)),
                _ => Walk::Stop,
            }
        })?;
        noted
    }

    /// Where the span begins that a key is in, of those that are known: all are that may be it.
    fn floor(&self, key: &[u8]) -> Vec<u8> {
        let prefix = prefix(self.family, key);
        let range = (Bound::Included(prefix), Bound::Included(key));
        let mut known = self.known.range::<[u8], _>(range);
        let found = known.rfind(|(_, known)| known.sum.is_some());
        found.map_or_else(|| prefix.to_vec(), |(start, _)| start.clone())
    }

    /// The sum of a span that is about to change.
    fn at(&mut self, start: &[u8]) -> &mut RowsSum {
        let known = self.known.entry(start.to_vec()).or_default();
        known.is_changed = true;
        known.sum.get_or_insert_default()
    }

    /// Reads the span that begins before the key, if one of the same resource does.
    fn note_before(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let prefix = self.row(prefix(self.family, key));
        let mut found = None;
        self.base.walk(
            FamilyId::SPANS,
            &prefix,
            &self.row(key),
            Direction::Backward,
            &mut |row, raw| {
                let start = self.start(row);
                if let Some((from, _)) = self.cleared_around(&start) {
                    return Walk::Seek(self.row(from));
                }
                match self.known.get(&start) {
                    Some(Known { sum: None, .. }) => Walk::Next,
                    _ => {
                        found = Some((start, raw.to_vec()));
                        Walk::Stop
                    }
                }
            },
        )?;
        found.map_or(Ok(()), |(start, raw)| self.note(start, &raw))
    }

    /// Where the next span of the resource begins behind a key, or the resource ends.
    fn next_start(&self, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        let end = keys::after(prefix(self.family, key));
        let mut next = None;
        let from = [&self.row(key)[..], &[0]].concat();
        self.base.walk(
            FamilyId::SPANS,
            &from,
            &self.row(&end),
            Direction::Forward,
            &mut |row, _| {
                let start = self.start(row);
                if let Some(end) = self.cleared_end(&start) {
                    return Walk::Seek(self.row(end));
                }
                if matches!(self.known.get(&start), Some(Known { sum: None, .. })) {
                    return Walk::Next;
                }
                next = Some(start);
                Walk::Stop
            },
        )?;
        let range = (Bound::Excluded(key), Bound::Excluded(&end[..]));
        let mut known = self.known.range::<[u8], _>(range);
        let known = known.find(|(_, known)| known.sum.is_some()).map(|(start, _)| start.clone());
        Ok(next.into_iter().chain(known).min().unwrap_or(end))
    }

    /// The rows of the base that are still there.
    fn sum_of(&self, from: &[u8], end: &[u8]) -> Result<RowsSum, StoreError> {
        let mut sum = RowsSum::default();
        self.base.walk(self.family, from, end, Direction::Forward, &mut |key, value| {
            if let Some(end) = self.cleared_end(key) {
                return Walk::Seek(end.to_vec());
            }
            sum.add_row(self.name, &key[GROUP_BYTES..], value);
            Walk::Next
        })?;
        Ok(sum)
    }

    /// A row begins a span: what lies behind it leaves the one before.
    fn split(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let (before, end) = (self.floor(key), self.next_start(key)?);
        let mut own = self.sum_of(&[key, &[0]].concat(), &end)?;
        self.at(&before).take(&own);
        own.add_row(self.name, &key[GROUP_BYTES..], value);
        *self.at(key) = own;
        Ok(())
    }

    /// The row that began a span goes: the others join the one before.
    fn merge(&mut self, key: &[u8], old: &[u8]) -> Result<(), StoreError> {
        let (name, short) = (self.name, &key[GROUP_BYTES..]);
        let own = self.at(key);
        own.take_row(name, short, old);
        let own = *own;
        self.known.insert(key.to_vec(), Known { sum: None, is_changed: true });
        self.note_before(key)?;
        self.at(&self.floor(key)).add(&own);
        Ok(())
    }

    /// What is left of the spans around a range that was cleared, made anew.
    fn mend_around(&mut self, from: &[u8], end: &[u8]) -> Result<(), StoreError> {
        self.note_before(from)?;
        let before = Some(self.floor(from)).filter(|start| self.known.contains_key(start));
        let behind = match self.first_row(end)? {
            Some(row) => {
                self.note_before(&[&row[..], &[0]].concat())?;
                Some(self.floor(&row))
            }
            None => None,
        };
        for start in before.into_iter().chain(behind) {
            let sum = self.sum_of(&start, &self.next_start(&start)?)?;
            *self.at(&start) = sum;
        }
        Ok(())
    }

    /// The key of the first row of the group from there on that is still there.
    fn first_row(&self, from: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let end = keys::after(&self.head[..GROUP_BYTES]);
        let mut found = None;
        self.base.walk(self.family, from, &end, Direction::Forward, &mut |key, _| {
            if let Some(end) = self.cleared_end(key) {
                return Walk::Seek(end.to_vec());
            }
            found = Some(key.to_vec());
            Walk::Stop
        })?;
        Ok(found)
    }
}

/// The spans of a group's state in order: family, where each begins without the group, and its sum.
pub(crate) fn each_span(
    read: &dyn StateRead,
    group: GroupId,
    each: &mut dyn FnMut(FamilyId, &[u8], RowsSum),
) -> Result<(), StoreError> {
    for (_, family) in served(read, group)? {
        spans_of(read, group, family, each)?;
    }
    Ok(())
}

/// The same of one family.
fn spans_of(
    read: &dyn StateRead,
    group: GroupId,
    family: FamilyId,
    each: &mut dyn FnMut(FamilyId, &[u8], RowsSum),
) -> Result<(), StoreError> {
    let head = head(read, group, family);
    let mut noted = Ok(());
    read.walk(FamilyId::SPANS, &head, &keys::after(&head), Direction::Forward, &mut |row, raw| {
        match RowsSum::decode(Bytes::copy_from_slice(raw)) {
            Ok(sum) => {
                each(family, &row[head.len()..], sum);
                Walk::Next
            }
            Err(error) => {
                noted = Err(unreadable(error));
                Walk::Stop
            }
        }
    })?;
    noted
}

/// What the rows of a family come to, span by span: where each begins, with its group, and its sum.
fn each_anew(
    read: &dyn StateRead,
    group: GroupId,
    family: FamilyId,
    each: &mut dyn FnMut(Vec<u8>, RowsSum) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let Some((from, end)) = keys::of_group(family, group) else { return Ok(()) };
    let name = read.families().name(family);
    let mut span: Option<(Vec<u8>, RowsSum)> = None;
    let mut done = Ok(());
    let each_row: &mut EachRow<'_> = &mut |key, value| {
        let prefix = prefix(family, key);
        let is_same = span.as_ref().is_some_and(|(start, _)| start.starts_with(prefix));
        if begins(family, key) || !is_same {
            let start = if begins(family, key) { key } else { prefix };
            if let Some((start, sum)) = span.replace((start.to_vec(), RowsSum::default())) {
                done = each(start, sum);
            }
        }
        if let Some((_, sum)) = &mut span {
            sum.add_row(name, &key[GROUP_BYTES..], value);
        }
        if done.is_ok() { Walk::Next } else { Walk::Stop }
    };
    read.walk(family, &from, &end, Direction::Forward, each_row)?;
    done?;
    span.map_or(Ok(()), |(start, sum)| each(start, sum))
}

/// Makes the sums of a group that has none, or others than these.
pub(crate) fn ensure(store: &dyn StateStore, group: GroupId) -> Result<(), StoreError> {
    let mark = keys::sums_version(group);
    if store.get(FamilyId::META, &mark)?.as_deref() == Some(&[SUMS_VERSION]) {
        return Ok(());
    }
    let (from, end) = keys::spans(group);
    let cleared = vec![(FamilyId::SPANS, from, end)];
    store.commit(WriteSet { cleared, writes: vec![(FamilyId::META, mark.clone(), None)] })?;
    for family in summed(store, group) {
        let head = head(store, group, family);
        let mut writes = Vec::new();
        each_anew(store, group, family, &mut |start, sum| {
            let row = [&head[..], &start[GROUP_BYTES..]].concat();
            writes.push((FamilyId::SPANS, row, Some(sum.to_bytes())));
            if ANEW_SPANS <= writes.len() {
                store.commit(WriteSet::rows(std::mem::take(&mut writes)))?;
            }
            Ok(())
        })?;
        store.commit(WriteSet::rows(writes))?;
    }
    let version = Bytes::from_static(&[SUMS_VERSION]);
    store.commit(WriteSet::rows(vec![(FamilyId::META, mark, Some(version))]))
}

/// Whether a group has sums that this release can compare with.
#[cfg(feature = "rocksdb")]
pub(crate) fn are_known(read: &dyn StateRead, group: GroupId) -> Result<bool, StoreError> {
    let found = read.get(FamilyId::META, &keys::sums_version(group))?;
    Ok(found.as_deref() == Some(&[SUMS_VERSION]))
}

/// A span as it is stored, beside what its rows come to now.
pub(crate) struct Looked {
    /// Before which key it ends, without the group; none for the last of the family.
    pub(crate) end: Option<Vec<u8>>,
    /// Bytes of its rows.
    pub(crate) bytes: u64,
    /// What is wrong, if anything is.
    pub(crate) fault: Option<Fault>,
}

/// What is wrong with the rows of a span.
#[derive(Debug)]
pub(crate) enum Fault {
    /// They are others than what was written.
    Others,
    /// They cannot be read.
    Unreadable(StoreError),
}

/// Looks at the rows of the span that begins at this key, without the group. All rows up to the next span are
/// taken for its own, and those before the first for one without rows: so a row that is in none is found, too.
pub(crate) fn look(read: &dyn StateRead, group: GroupId, family: FamilyId, from: &[u8]) -> Looked {
    let (mut end, mut bytes) = (None, 0);
    let fault = match compare(read, group, family, from, &mut end, &mut bytes) {
        Err(error) => Some(Fault::Unreadable(error)),
        Ok(false) => Some(Fault::Others),
        Ok(true) => None,
    };
    Looked { end, bytes, fault }
}

/// Whether the rows are what their sum says. Says how far they go, and how long they are.
fn compare(
    read: &dyn StateRead,
    group: GroupId,
    family: FamilyId,
    from: &[u8],
    end: &mut Option<Vec<u8>>,
    bytes: &mut u64,
) -> Result<bool, StoreError> {
    let head = head(read, group, family);
    let mut spans: Vec<(Vec<u8>, Bytes)> = Vec::new();
    let mut note = |row: &[u8], raw: &[u8]| {
        spans.push((row[head.len()..].to_vec(), Bytes::copy_from_slice(raw)));
        if spans.len() < 2 { Walk::Next } else { Walk::Stop }
    };
    let first = [&head[..], from].concat();
    read.walk(FamilyId::SPANS, &first, &keys::after(&head), Direction::Forward, &mut note)?;
    let own = spans.first().filter(|(start, _)| *start == from).map(|(_, raw)| raw.clone());
    *end = spans.into_iter().map(|(start, _)| start).find(|start| from < &start[..]);
    let group = group.get().to_be_bytes();
    let bound = end.as_ref().map_or_else(|| keys::after(&group), |end| [&group[..], end].concat());
    let (name, from) = (read.families().name(family), [&group[..], from].concat());
    let mut sum = RowsSum::default();
    read.walk(family, &from, &bound, Direction::Forward, &mut |key, value| {
        *bytes += (key.len() + value.len()) as u64;
        sum.add_row(name, &key[GROUP_BYTES..], value);
        Walk::Next
    })?;
    Ok(sum == own.map_or(Ok(RowsSum::default()), RowsSum::decode).map_err(unreadable)?)
}

/// The family that is looked at after another, or first.
pub(crate) fn next_summed(
    read: &dyn StateRead,
    group: GroupId,
    after: Option<FamilyId>,
) -> Option<FamilyId> {
    // What is being built is not the state, and changes while nobody holds it still.
    summed(read, group)
        .filter(|family| {
            served(read, group).is_ok_and(|all| all.iter().any(|(_, it)| it == family))
        })
        .find(|family| after.is_none_or(|after| after < *family))
}

fn unreadable(error: crate::codec::DecodeError) -> StoreError {
    StoreError::new(error.to_string())
}

#[cfg(test)]
pub(crate) mod check {
    use super::*;

    /// C1: the sums are those of the rows, and there are no others.
    pub(crate) fn assert_sums(read: &dyn StateRead, group: GroupId) {
        let mut wanted = Vec::new();
        for family in summed(read, group) {
            each_anew(read, group, family, &mut |start, sum| {
                wanted.push((family, start[GROUP_BYTES..].to_vec(), sum));
                Ok(())
            })
            .unwrap();
        }
        let mut found = Vec::new();
        for family in summed(read, group) {
            spans_of(read, group, family, &mut |family, start, sum| {
                found.push((family, start.to_vec(), sum));
            })
            .unwrap();
        }
        assert_eq!(found, wanted);
        let mut rows = 0;
        let (from, end) = keys::spans(group);
        let mut count = |_: &[u8], _: &[u8]| {
            rows += 1;
            Walk::Next
        };
        read.walk(FamilyId::SPANS, &from, &end, Direction::Forward, &mut count).unwrap();
        assert_eq!(rows, found.len(), "spans of families that are not there");
    }
}

#[cfg(test)]
mod tests;
