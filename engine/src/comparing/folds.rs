//! What a state comes to, in few lines: sums of runs of spans, which are compared between replicas.
//!
//! ```text
//! sums    zeros 1, families: count, each its name, folds: count, each where it begins, sum, count of rows
//! ```
//! A fold is a run of spans. It begins where its family does, or where a span does whose beginning ends in
//! at least `zeros` zeros: as few as leave no more folds than there may be. Of a small state each span is a
//! fold. Two states that are folded differently are compared in the folds that both have.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::GroupId;

use super::spans::each_span;
use super::sum::{RowsSum, zeros};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::store::{FamilyId, StateRead, StoreError};

/// Most folds of a state, over all families.
const FOLDS_MAX: usize = 512;
/// Most bytes of them, about.
const FOLDS_BYTES_MAX: usize = 128 << 10;
/// Longest name of a family, and longest beginning of a fold, that is read.
const NAME_BYTES_MAX: usize = 32;
const START_BYTES_MAX: usize = 8 << 10;
/// What a fold takes beside its beginning.
const FOLD_BYTES: usize = 48;

/// What a state comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateSums {
    zeros: u8,
    /// By the names of families that have rows, in order.
    families: BTreeMap<String, Vec<Fold>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fold {
    /// A key of the family, without the group.
    start: Bytes,
    sum: RowsSum,
}

/// Where two states differ first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) family: String,
    /// Keys without their group: from, and up to before which one, or to the end of the family.
    pub(crate) from: Bytes,
    pub(crate) end: Option<Bytes>,
    /// Where the last span begins that lies in there, if every span is known.
    pub(crate) last: Option<Bytes>,
}

impl StateSums {
    /// What the rows of a group come to, by the sums that are kept of them.
    pub(crate) fn of(read: &dyn StateRead, group: GroupId) -> Result<Self, StoreError> {
        let mut sums = Self::default();
        let (mut family, mut bytes, mut count) = (None::<FamilyId>, 0, 0);
        each_span(read, group, &mut |of, start, sum| {
            let folds = sums.families.entry(read.families().name(of).to_owned()).or_default();
            match folds.last_mut() {
                Some(last) if family == Some(of) && zeros(start) < u32::from(sums.zeros) => {
                    last.sum.add(&sum);
                }
                _ => {
                    bytes += start.len() + FOLD_BYTES;
                    count += 1;
                    folds.push(Fold { start: Bytes::copy_from_slice(start), sum });
                }
            }
            family = Some(of);
            while (FOLDS_MAX < count || FOLDS_BYTES_MAX < bytes) && sums.zeros < 64 {
                sums.fold(sums.zeros + 1);
                let folds = || sums.families.values().flatten();
                count = folds().count();
                bytes = folds().map(|fold| fold.start.len() + FOLD_BYTES).sum();
            }
        })?;
        Ok(sums)
    }

    /// Puts folds together that do not begin with so many zeros.
    fn fold(&mut self, wanted: u8) {
        self.zeros = self.zeros.max(wanted);
        let least = u32::from(self.zeros);
        for folds in self.families.values_mut() {
            folds.dedup_by(|fold, before| {
                let joins = zeros(&fold.start) < least;
                if joins {
                    before.sum.add(&fold.sum);
                }
                joins
            });
        }
    }

    /// Where they differ first, if they do.
    pub(crate) fn difference(&self, other: &Self) -> Option<Difference> {
        let (mut own, mut other) = (self.clone(), other.clone());
        let zeros = own.zeros.max(other.zeros);
        own.fold(zeros);
        other.fold(zeros);
        let names = own.families.keys().chain(other.families.keys());
        let mut names: Vec<&String> = names.collect();
        names.sort_unstable();
        names.dedup();
        let none = Vec::new();
        names.into_iter().find_map(|name| {
            let [own, other] = [&own, &other].map(|sums| sums.families.get(name).unwrap_or(&none));
            let (from, end) = differing(own, other)?;
            let is_in = |fold: &&Fold| end.as_ref().is_none_or(|end| fold.start < *end);
            let last = own.iter().chain(other).filter(is_in).map(|fold| fold.start.clone()).max();
            let last = last.filter(|_| zeros == 0);
            Some(Difference { family: name.clone(), from, end, last })
        })
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.zeros);
        put_number(out, self.families.len() as u64);
        for (name, folds) in &self.families {
            put_bytes(out, name.as_bytes());
            put_number(out, folds.len() as u64);
            for Fold { start, sum } in folds {
                put_bytes(out, start);
                sum.put(out);
            }
        }
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let malformed = DecodeError { what: "sums of a state" };
        let zeros = reader.byte("zeros of folds")?;
        let (mut families, mut left) = (BTreeMap::new(), FOLDS_MAX as u64);
        for _ in 0..reader.number("count of families")? {
            let name = reader.text(NAME_BYTES_MAX, "name of a family")?;
            let count = reader.number("count of folds")?;
            left = left.checked_sub(count).filter(|_| count > 0).ok_or(malformed)?;
            let mut folds: Vec<Fold> = Vec::new();
            for _ in 0..count {
                let start = reader.bytes(START_BYTES_MAX, "beginning of a fold")?;
                let sum = RowsSum::read(reader)?;
                let is_behind = |last: &Fold| last.start < start;
                if !folds.last().is_none_or(is_behind) || sum.is_empty() {
                    return Err(malformed);
                }
                folds.push(Fold { start, sum });
            }
            // In order, each once: one form for each value.
            if families.last_key_value().is_some_and(|(last, _)| name <= *last) {
                return Err(malformed);
            }
            families.insert(name, folds);
        }
        Ok(Self { zeros, families })
    }
}

/// The first run, between beginnings that both have, in which two lists of folds differ.
fn differing(own: &[Fold], other: &[Fold]) -> Option<(Bytes, Option<Bytes>)> {
    let (mut own, mut other) = (own, other);
    let start = |folds: &[Fold]| folds.first().map(|fold| fold.start.clone());
    let mut from = start(own).into_iter().chain(start(other)).min()?;
    loop {
        let has = |folds: &[Fold], start: &Bytes| folds.iter().any(|fold| fold.start == *start);
        let common = |fold: &&Fold| from < fold.start && has(other, &fold.start);
        let end = own.iter().find(common).map(|fold| fold.start.clone());
        let take = |folds: &mut &[Fold]| {
            let is_in = |fold: &Fold| end.as_ref().is_none_or(|end| fold.start < *end);
            let count = folds.iter().take_while(|fold| is_in(fold)).count();
            let (run, rest) = folds.split_at(count);
            *folds = rest;
            run.to_vec()
        };
        if take(&mut own) != take(&mut other) {
            return Some((from, end));
        }
        from = end?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    /// A state of a few keys, whose spans are its rows.
    fn sums(rows: &BTreeMap<u16, u8>, zeros_min: u8) -> StateSums {
        let mut folds: Vec<Fold> = Vec::new();
        for (key, value) in rows {
            let mut sum = RowsSum::default();
            sum.add_row("map", &key.to_be_bytes(), &[*value]);
            folds.push(Fold { start: Bytes::copy_from_slice(&key.to_be_bytes()), sum });
        }
        let families = if folds.is_empty() { vec![] } else { vec![("map".to_owned(), folds)] };
        let mut sums = StateSums { zeros: 0, families: families.into_iter().collect() };
        sums.fold(zeros_min);
        sums
    }

    fn any_state() -> impl Strategy<Value = BTreeMap<u16, u8>> {
        btree_map(0_u16..60, 0_u8..2, 0..40)
    }

    proptest! {
        /// The first row that differs is in the range that is told, and nothing before it differs.
        #[test]
        fn the_first_difference_is_in_the_range(a in any_state(), b in any_state(), fine in 0_u8..4, coarse in 0_u8..4) {
            let difference = sums(&a, fine).difference(&sums(&b, coarse));
            let first = (0_u16..60).find(|key| a.get(key) != b.get(key));
            prop_assert_eq!(difference.is_some(), first.is_some());
            if let (Some(found), Some(first)) = (difference, first) {
                let first = first.to_be_bytes();
                prop_assert!(found.from[..] <= first[..]);
                prop_assert!(found.end.is_none_or(|end| first[..] < end[..]));
            }
        }

        #[test]
        fn sums_round_trip_in_one_form(a in any_state(), zeros_min in 0_u8..4, at: prop::sample::Index, byte: u8) {
            let sums = sums(&a, zeros_min);
            let mut raw = Vec::new();
            sums.put(&mut raw);
            let mut reader = Reader::new(raw.clone().into());
            prop_assert_eq!(StateSums::take(&mut reader), Ok(sums));
            prop_assert!(reader.end("sums").is_ok());
            let at = at.index(raw.len());
            raw[at] = byte;
            let mut reader = Reader::new(raw.clone().into());
            if let Ok(sums) = StateSums::take(&mut reader) && reader.end("sums").is_ok() {
                let mut again = Vec::new();
                sums.put(&mut again);
                prop_assert_eq!(again, raw);
            }
        }

        #[test]
        fn reading_never_panics(raw in vec(any::<u8>(), 0..80)) {
            let _ = StateSums::take(&mut Reader::new(raw.into()));
        }
    }
}
