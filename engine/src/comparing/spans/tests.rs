//! The sums that are kept are those of the rows, whatever came before: against all rows summed anew.

use proptest::collection::vec;
use proptest::prelude::*;

use super::check::assert_sums;
use super::*;
use crate::store::MemoryStore;

const GROUP: GroupId = GroupId::new(255);
const OTHER: GroupId = GroupId::new(256);

/// A change of one commit.
#[derive(Clone, Debug)]
enum Change {
    Put(FamilyId, Vec<u8>, u8),
    Remove(FamilyId, Vec<u8>),
    Clear(FamilyId, Vec<u8>, Vec<u8>),
}

/// Keys of a few resources, of which every fourth begins a span.
fn any_key() -> impl Strategy<Value = (FamilyId, Vec<u8>)> {
    let family = proptest::sample::select(vec![FamilyId::MAP, FamilyId::LOG, FamilyId::RESOURCES]);
    (family, 1_u32..4, 0_u8..25).prop_map(|(family, resource, row)| {
        let group = GROUP.get().to_be_bytes();
        (family, [&group[..], &resource.to_be_bytes(), &[row][..row.min(1).into()]].concat())
    })
}

/// Of a resource, of all of them, or of some rows of one or two.
fn any_range() -> impl Strategy<Value = (FamilyId, Vec<u8>, Vec<u8>)> {
    (any_key(), any_key(), 0_u8..4).prop_map(|((family, a), (_, b), sort)| {
        let of_group = keys::of_group(family, GROUP).unwrap();
        let (from, end) = (a.clone().min(b.clone()), a.clone().max(b));
        match sort {
            0 => (family, of_group.0, of_group.1),
            1 => (family, a[..12].to_vec(), keys::after(&a[..12])),
            _ => (family, from, end),
        }
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => (any_key(), 0_u8..2).prop_map(|((family, key), value)| Change::Put(family, key, value)),
        6 => any_key().prop_map(|(family, key)| Change::Remove(family, key)),
        1 => any_range().prop_map(|(family, from, end)| Change::Clear(family, from, end)),
    ]
}

fn set(changes: &[Change]) -> WriteSet {
    let mut set = WriteSet::default();
    for change in changes {
        match change.clone() {
            Change::Put(family, key, value) => {
                set.writes.push((family, key, Some(Bytes::from(vec![value]))));
            }
            Change::Remove(family, key) => set.writes.push((family, key, None)),
            Change::Clear(family, from, end) if from < end => set.cleared.push((family, from, end)),
            Change::Clear(..) => {}
        }
    }
    set
}

/// Rows of another group, which nothing here may touch.
fn neighbour(store: &MemoryStore) {
    let rows = (0..50_u8).map(|row| {
        let key = [&keys::of_resource(OTHER, crate::resource::ResourceId(2))[..], &[row]].concat();
        (FamilyId::MAP, key, Some(Bytes::from_static(b"x")))
    });
    commit(store, OTHER, WriteSet::rows(rows.collect())).unwrap();
}

fn all_rows(read: &dyn StateRead) -> Vec<(Vec<u8>, Bytes)> {
    let mut rows = Vec::new();
    for family in read.families().ids() {
        let mut note = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
            Walk::Next
        };
        read.walk(family, &[], &[0xff; 20], Direction::Forward, &mut note).unwrap();
    }
    rows
}

proptest! {
    /// C1: after every commit, whatever splits, joins, comes and goes; and equal rows have equal sums.
    #[test]
    fn sums_follow_the_rows(commits in vec(vec(any_change(), 1..12), 1..12)) {
        let store = MemoryStore::default();
        neighbour(&store);
        for changes in &commits {
            commit(&store, GROUP, set(changes)).unwrap();
            assert_sums(&store, GROUP);
        }
        assert_sums(&store, OTHER);
        // The same rows, put at once into another store.
        let copy = MemoryStore::default();
        neighbour(&copy);
        let mut rows = Vec::new();
        for family in summed(&store, GROUP) {
            let (from, end) = keys::of_group(family, GROUP).unwrap();
            store.walk(family, &from, &end, Direction::Forward, &mut |key, value| {
                rows.push((family, key.to_vec(), Some(Bytes::copy_from_slice(value))));
                Walk::Next
            }).unwrap();
        }
        commit(&copy, GROUP, WriteSet::rows(rows)).unwrap();
        prop_assert_eq!(all_rows(&copy), all_rows(&store));
    }

    /// A row that is changed, lost or added beneath the sums is found, in the range that has it, and nothing
    /// else is called damaged.
    #[test]
    fn what_is_damaged_is_found(changes in vec(any_change(), 1..60), at: Rot) {
        let store = MemoryStore::default();
        neighbour(&store);
        commit(&store, GROUP, set(&changes)).unwrap();
        prop_assert_eq!(damaged(&store), vec![]);
        let (family, key) = at.0;
        let before = store.get(family, &key).unwrap();
        let after = at.1.map(|value| Bytes::from(vec![value]));
        store.commit(WriteSet::rows(vec![(family, key.clone(), after.clone())])).unwrap();
        let found = damaged(&store);
        prop_assert_eq!(found.len(), usize::from(before != after));
        for (of, from, end) in found {
            let short = &key[GROUP_BYTES..];
            prop_assert_eq!(of, family);
            prop_assert!(from[..] <= *short);
            prop_assert!(end.is_none_or(|end| *short < end[..]));
        }
    }
}

#[derive(Clone, Debug)]
struct Rot((FamilyId, Vec<u8>), Option<u8>);

impl Arbitrary for Rot {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        (any_key(), proptest::option::of(0_u8..3)).prop_map(|(key, value)| Self(key, value)).boxed()
    }
}

type Range = (FamilyId, Vec<u8>, Option<Vec<u8>>);

/// Every range that is not what its sum says, in one pass.
fn damaged(read: &dyn StateRead) -> Vec<Range> {
    let mut found = Vec::new();
    for family in summed(read, GROUP) {
        let mut next = Some(Vec::new());
        while let Some(from) = next {
            let looked = look(read, GROUP, family, &from);
            if looked.fault.is_some() {
                found.push((family, from, looked.end.clone()));
            }
            next = looked.end;
        }
    }
    found
}

/// A group that has no sums gets them, in several commits; and one that has them is left as it is.
#[test]
fn sums_are_made_anew_where_there_are_none() {
    let store = MemoryStore::default();
    let rows = (0..20_000_u32).map(|row| {
        let key =
            [&keys::of_resource(GROUP, crate::resource::ResourceId(2))[..], &row.to_be_bytes()];
        (FamilyId::MAP, key.concat(), Some(Bytes::from_static(b"x")))
    });
    store.commit(WriteSet::rows(rows.collect())).unwrap();
    neighbour(&store);
    ensure(&store, GROUP).unwrap();
    assert_sums(&store, GROUP);
    assert_sums(&store, OTHER);
    let (from, _) = keys::spans(GROUP);
    let alien = [&from[..], b"\x03map", b"alien"].concat();
    let sum = RowsSum::default().to_bytes();
    store.commit(WriteSet::rows(vec![(FamilyId::SPANS, alien.clone(), Some(sum))])).unwrap();
    ensure(&store, GROUP).unwrap();
    assert!(store.get(FamilyId::SPANS, &alien).unwrap().is_some());
}
