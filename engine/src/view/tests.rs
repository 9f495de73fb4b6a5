use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::store::conformance::{Model, Script, any_key, any_script, any_value, expected, follow};
use crate::store::{MemoryStore, StateStore};

/// What is done to a view.
#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>, Bytes),
    Remove(Vec<u8>),
    Clear(Vec<u8>, Vec<u8>),
    Keep,
    Drop,
    /// What stands goes to the store, and a new view begins.
    Commit,
    Walk(Script),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (any_key(), any_value()).prop_map(|(key, value)| Change::Put(key, value)),
        4 => any_key().prop_map(Change::Remove),
        2 => (any_key(), any_key()).prop_map(|(from, end)| Change::Clear(from, end)),
        2 => Just(Change::Keep),
        1 => Just(Change::Drop),
        1 => Just(Change::Commit),
        6 => any_script().prop_map(Change::Walk),
    ]
}

fn assert_shows(view: &View<'_>, model: &Model, script: &Script) {
    let found = follow(script, |from, end, direction, each| {
        view.walk(FamilyId::MAP, from, end, direction, each).unwrap();
    });
    assert_eq!(found, expected(script, model), "{script:?}");
    for (key, value) in model {
        assert_eq!(view.get(FamilyId::MAP, key).unwrap().as_ref(), Some(value));
    }
    for (key, _) in found {
        assert!(model.contains_key(&key));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Whatever lies in which layer, a view shows what one map would that all was done to.
    #[test]
    fn a_view_shows_what_a_map_would(
        changes in vec(change(), 0..60),
        script in any_script(),
    ) {
        let store = MemoryStore::default();
        let (mut stands, mut model) = (Model::new(), Model::new());
        let mut view = View::new(&store);
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    view.put(FamilyId::MAP, key.clone(), value.clone());
                    model.insert(key, value);
                }
                Change::Remove(key) => {
                    view.remove(FamilyId::MAP, key.clone());
                    prop_assert_eq!(view.get(FamilyId::MAP, &key).unwrap(), None);
                    model.remove(&key);
                }
                Change::Clear(from, end) => {
                    view.clear(FamilyId::MAP, &from, &end);
                    model.retain(|key, _| *key < from || end <= *key);
                }
                Change::Keep => {
                    view.keep_record();
                    stands.clone_from(&model);
                }
                Change::Drop => {
                    view.drop_record();
                    model.clone_from(&stands);
                }
                Change::Commit => {
                    view.keep_record();
                    stands.clone_from(&model);
                    store.commit(view.into_writes()).unwrap();
                    view = View::new(&store);
                }
                Change::Walk(script) => assert_shows(&view, &model, &script),
            }
        }
        assert_shows(&view, &model, &script);
    }
}

/// A family is cleared by itself, and only what was there before.
#[test]
fn a_cleared_range_takes_nothing_of_others() {
    let store = MemoryStore::default();
    let row = |family| (family, b"k".to_vec(), Some(Bytes::from("stored")));
    store.commit(WriteSet::rows(vec![row(FamilyId::MAP), row(FamilyId::LOG)])).unwrap();
    let mut view = View::new(&store);
    view.clear(FamilyId::MAP, b"a", b"z");
    view.put(FamilyId::MAP, b"later".to_vec(), Bytes::new());
    view.keep_record();
    let writes = view.into_writes();
    assert_eq!(writes.cleared.len(), 1);
    assert_eq!(writes.writes.len(), 1, "rows that are cleared are not removed one by one");
    store.commit(writes).unwrap();
    assert_eq!(store.get(FamilyId::MAP, b"k").unwrap(), None);
    assert!(store.get(FamilyId::MAP, b"later").unwrap().is_some());
    assert!(store.get(FamilyId::LOG, b"k").unwrap().is_some());
}

#[test]
#[should_panic(expected = "neither kept nor dropped")]
fn a_record_is_kept_or_dropped_before_the_commit() {
    let store = MemoryStore::default();
    let mut view = View::new(&store);
    view.put(FamilyId::MAP, b"a".to_vec(), Bytes::new());
    view.into_writes();
}
