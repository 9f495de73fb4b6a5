//! What every store must do, to be run over each of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Direction, Families, FamilyId, StateRead, StateStore, Walk, WriteSet};

/// A row as tests see it.
pub(crate) type Row = (Vec<u8>, Bytes);
/// The rows that ought to be there.
pub(crate) type Model = BTreeMap<Vec<u8>, Bytes>;

/// A family that no store has by itself.
pub(crate) const OTHER: &str = "conformance";

/// The families of the stores that the suite runs over.
pub(crate) fn families() -> Families {
    Families::new(&[OTHER]).expect("a plain name")
}

/// A walk, and what it does after each row: what is not said is [`Walk::Next`].
#[derive(Clone, Debug)]
pub(crate) struct Script {
    from: Vec<u8>,
    end: Vec<u8>,
    direction: Direction,
    steps: Vec<Walk>,
}

/// Few keys, so that they meet; some are the beginning of others.
pub(crate) fn any_key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(0xff)], 0..4)
}

pub(crate) fn any_value() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..3).prop_map(Bytes::from)
}

pub(crate) fn any_script() -> impl Strategy<Value = Script> {
    let end = prop_oneof![2 => any_key(), 3 => Just(vec![0xff; 5])];
    let step = prop_oneof![
        6 => Just(Walk::Next),
        4 => any_key().prop_map(Walk::Seek),
        1 => Just(Walk::Stop),
    ];
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Backward)];
    (any_key(), end, direction, vec(step, 0..20)).prop_map(|(from, end, direction, steps)| Script {
        from,
        end,
        direction,
        steps,
    })
}

/// The rows that a walk meets when it does as the script says.
pub(crate) fn follow(
    script: &Script,
    walk: impl FnOnce(&[u8], &[u8], Direction, &mut dyn FnMut(&[u8], &[u8]) -> Walk),
) -> Vec<Row> {
    let mut found = Vec::new();
    let mut steps = script.steps.iter().cloned();
    walk(&script.from, &script.end, script.direction, &mut |key, value| {
        found.push((key.to_vec(), Bytes::copy_from_slice(value)));
        steps.next().unwrap_or(Walk::Next)
    });
    found
}

/// The rows that it ought to meet.
pub(crate) fn expected(script: &Script, model: &Model) -> Vec<Row> {
    let inside = |key: &Vec<u8>| script.from <= *key && *key < script.end;
    let mut rows: Vec<Row> = model.clone().into_iter().filter(|(key, _)| inside(key)).collect();
    if script.direction == Direction::Backward {
        rows.reverse();
    }
    let mut rows = rows.into_iter().peekable();
    let mut steps = script.steps.iter();
    let mut found = Vec::new();
    while let Some(row) = rows.next() {
        found.push(row);
        match steps.next() {
            None | Some(Walk::Next) => {}
            Some(Walk::Stop) => break,
            Some(Walk::Seek(to)) => {
                let between = |(key, _): &Row| match script.direction {
                    Direction::Forward => key < to,
                    Direction::Backward => to <= key,
                };
                while rows.next_if(between).is_some() {}
            }
        }
    }
    found
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn rows_of(
    read: &dyn StateRead,
    from: &str,
    end: &str,
    direction: Direction,
    limit: usize,
) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    read.walk(FamilyId::MAP, from.as_bytes(), end.as_bytes(), direction, &mut |key, value| {
        rows.push((
            String::from_utf8(key.to_vec()).expect("text"),
            String::from_utf8(value.to_vec()).expect("text"),
        ));
        if rows.len() < limit { Walk::Next } else { Walk::Stop }
    })
    .expect("a walk");
    rows
}

fn row(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Runs the suite over an empty store with [`families`].
///
/// # Panics
/// When the store does not conform.
pub(crate) fn run(store: &dyn StateStore) {
    rows_are_written_and_walked(store);
    keys_are_bytes(store);
    a_snapshot_stands_still_and_holds_nobody_up(store);
    any_commits_give_what_a_map_gives(store);
    store.flush().expect("a flush");
    assert_eq!(store.get(FamilyId::MAP, b"b").expect("a read"), Some(bytes("1")));
}

fn rows_are_written_and_walked(store: &dyn StateStore) {
    let (forward, backward) = (Direction::Forward, Direction::Backward);
    assert_eq!(store.get(FamilyId::MAP, b"a").expect("a read"), None);
    let put =
        |family, key: &str, value: &str| (family, key.as_bytes().to_vec(), Some(bytes(value)));
    let mut writes = Vec::new();
    for (key, value) in [("b", "1"), ("a", "2"), ("c", "3"), ("a", "4")] {
        writes.push(put(FamilyId::MAP, key, value));
    }
    let other = store.families().find(OTHER.as_bytes()).expect("the suite's family");
    writes.push(put(FamilyId::LOG, "a", "logged"));
    writes.push(put(other, "a", "other"));
    writes.push((FamilyId::MAP, b"c".to_vec(), None));
    store.commit(WriteSet::rows(writes)).expect("a commit");
    let get = |family| store.get(family, b"a").expect("a read");
    assert_eq!(get(FamilyId::MAP), Some(bytes("4")));
    assert_eq!(get(FamilyId::LOG), Some(bytes("logged")));
    assert_eq!(get(other), Some(bytes("other")));
    let both = [row("a", "4"), row("b", "1")];
    assert_eq!(rows_of(store, "", "z", forward, 9), both);
    assert_eq!(rows_of(&*store.snapshot(), "", "z", forward, 9), both);
    assert_eq!(rows_of(store, "a", "z", backward, 9), [row("b", "1"), row("a", "4")]);
    for direction in [forward, backward] {
        assert_eq!(rows_of(store, "a", "b", direction, 9), [row("a", "4")], "without its end");
        assert_eq!(rows_of(store, "b", "bb", direction, 9), [row("b", "1")], "with its start");
        assert_eq!(rows_of(store, "z", "a", direction, 9), [], "empty: it ends before it begins");
        assert_eq!(rows_of(store, "a", "a", direction, 9), []);
    }
    assert_eq!(rows_of(store, "", "z", forward, 1), [row("a", "4")], "it stops when told");
    assert_eq!(rows_of(store, "", "z", backward, 1), [row("b", "1")]);

    // A commit clears before it writes, wherever it is said.
    let clear = |from: &str, end: &str| (FamilyId::MAP, from.into(), end.into());
    let again = vec![put(FamilyId::MAP, "b", "1"), put(FamilyId::MAP, "bb", "5")];
    let cleared = vec![clear("a", "bb"), clear("z", "b")];
    store.commit(WriteSet { cleared, writes: again }).expect("a commit");
    assert_eq!(rows_of(store, "", "z", forward, 9), [row("b", "1"), row("bb", "5")]);
    assert_eq!(get(FamilyId::LOG), Some(bytes("logged")), "another family");
    store.commit(WriteSet::default()).expect("an empty commit");
}

/// Keys are bytes, in the order of bytes; values may be empty.
fn keys_are_bytes(store: &dyn StateStore) {
    let keys: [&[u8]; 4] = [b"", b"\x00", b"\x00\xff", b"\xff\xff"];
    let writes = keys.map(|key| (FamilyId::RESOURCES, key.to_vec(), Some(Bytes::new())));
    store.commit(WriteSet::rows(writes.into())).expect("a commit");
    let mut found = Vec::new();
    let mut each = |key: &[u8], value: &[u8]| {
        assert!(value.is_empty());
        found.push(key.to_vec());
        Walk::Next
    };
    let (family, end) = (FamilyId::RESOURCES, b"\xff\xff\xff");
    store.walk(family, b"", end, Direction::Forward, &mut each).expect("a walk");
    assert_eq!(found, keys);
    let cleared = vec![(family, b"\x00".to_vec(), b"\xff".to_vec())];
    store.commit(WriteSet { cleared, writes: Vec::new() }).expect("a commit");
    let left = |key: &[u8]| store.get(family, key).expect("a read").is_some();
    assert_eq!(keys.map(left), [true, false, false, true]);
}

/// It is held on the thread that commits: a commit that waited for it would wait for ever.
fn a_snapshot_stands_still_and_holds_nobody_up(store: &dyn StateStore) {
    let number = |n: u32| n.to_be_bytes().to_vec();
    let put = |n: u32, value: &str| (FamilyId::LOG, number(n), Some(bytes(value)));
    let before: Vec<_> = (0..500).map(|n| put(n, "before")).collect();
    store.commit(WriteSet::rows(before)).expect("a commit");
    let held = store.snapshot();
    for n in 0..1000 {
        let mut later = WriteSet::rows(vec![put(n, "later"), put(n + 1000, "later")]);
        if n % 100 == 99 {
            later.cleared.push((FamilyId::LOG, number(n / 2), number(n / 2 + 9)));
        }
        later.writes.push((FamilyId::LOG, number(n / 3), None));
        store.commit(later).expect("a commit");
        if n % 250 == 0 {
            store.flush().expect("a flush");
        }
    }
    for direction in [Direction::Forward, Direction::Backward] {
        let mut found = Vec::new();
        let mut each = |key: &[u8], value: &[u8]| {
            assert_eq!(value, b"before");
            found.push(key.to_vec());
            Walk::Next
        };
        held.walk(FamilyId::LOG, &number(0), &number(9999), direction, &mut each).expect("a walk");
        if direction == Direction::Backward {
            found.reverse();
        }
        assert_eq!(found, (0..500).map(number).collect::<Vec<_>>());
    }
    let get = |read: &dyn StateRead, n| read.get(FamilyId::LOG, &number(n)).expect("a read");
    assert_eq!(get(&*held, 420), Some(bytes("before")));
    assert_eq!(get(&*held, 1420), None);
    assert_eq!(get(store, 420), Some(bytes("later")));
    assert_eq!(get(store, 100), None);
}

fn any_commits_give_what_a_map_gives(store: &dyn StateStore) {
    let cleared = vec((any_key(), any_key()), 0..2);
    let writes = vec((any_key(), proptest::option::weighted(0.7, any_value())), 0..24);
    let strategy = (vec((cleared, writes), 1..5), vec(any_script(), 1..8));
    let mut runner = TestRunner::new(Config { cases: 128, ..Config::default() });
    let held = runner.run(&strategy, |(commits, scripts)| {
        let family = store.families().find(OTHER.as_bytes()).expect("the suite's family");
        let all = (family, Vec::new(), vec![0xff; 5]);
        store.commit(WriteSet { cleared: vec![all], writes: Vec::new() }).expect("a commit");
        let mut model = Model::new();
        for (cleared, writes) in commits {
            let earlier = (store.snapshot(), model.clone());
            for (from, end) in &cleared {
                model.retain(|key, _| key < from || end <= key);
            }
            for (key, value) in &writes {
                match value {
                    Some(value) => drop(model.insert(key.clone(), value.clone())),
                    None => drop(model.remove(key)),
                }
            }
            let cleared = cleared.into_iter().map(|(from, end)| (family, from, end)).collect();
            let writes = writes.into_iter().map(|(key, value)| (family, key, value)).collect();
            store.commit(WriteSet { cleared, writes }).expect("a commit");
            let reads: [(&dyn StateRead, &Model); 2] = [(store, &model), (&*earlier.0, &earlier.1)];
            for (read, model) in reads {
                for script in &scripts {
                    let found = follow(script, |from, end, direction, each| {
                        read.walk(family, from, end, direction, each).expect("a walk");
                    });
                    prop_assert_eq!(found, expected(script, model), "{:?}", script);
                }
            }
        }
        Ok(())
    });
    held.expect("a store does what a map does");
}
