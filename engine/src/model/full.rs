//! A state whose disk is full now and then, at any write: nothing halts, nothing is half there, and the same
//! comes of it in the end.

use std::sync::Arc;

use palisade_replication::HaltScope;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::store::{FaultyStore, StoreCause};

proptest! {
    /// G8, G10: whatever finds no space is as if it had not been tried, and what is told to be flushed is.
    #[test]
    fn a_store_that_is_full_now_and_then_comes_to_the_same(
        history in any_history(),
        joins in vec(any::<bool>(), 1..8),
        events in vec((1_usize..6, 0_u8..4), 1..12),
        full in vec(any::<bool>(), 1..40),
    ) {
        let (model, wanted) = Model::of(&history);
        let entries = entries(&history, &joins);
        let mut plain = Replica::open(Arc::new(MemoryStore::default()));
        plain.machine.apply(GROUP, &entries).unwrap();

        let store = FaultyStore::new(MemoryStore::default());
        let mut replica = Replica::open(Arc::new(store.clone()));
        // Not for ever: the disk is full at some of the first writes.
        let (mut planned, mut found_full) = (full.into_iter(), 0);
        store.fail(move || planned.next().unwrap_or(false).then_some(StoreCause::Full));
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut events = events.into_iter().cycle();
        loop {
            let stood = replica.machine.applied(GROUP);
            let applied = stood.index.get() as usize;
            if applied == entries.len() {
                break;
            }
            let (count, then) = events.next().unwrap();
            match replica.machine.apply(GROUP, &entries[applied..(applied + count).min(entries.len())]) {
                Ok(found) => outcomes.extend(found.into_iter().map(|outcome| outcome.0)),
                Err(error) => {
                    prop_assert_eq!(error.scope, HaltScope::Nothing, "{}", error);
                    prop_assert_eq!(replica.machine.applied(GROUP), stood);
                    found_full += 1;
                }
            }
            if then == 0 {
                let flushed = replica.machine.flushed(GROUP);
                match replica.machine.flush() {
                    Ok(()) => prop_assert_eq!(replica.machine.flushed(GROUP), replica.machine.applied(GROUP)),
                    Err(error) => {
                        prop_assert_eq!(error.scope, HaltScope::Nothing, "{}", error);
                        prop_assert_eq!(replica.machine.flushed(GROUP), flushed, "G1: the log is trimmed by it");
                    }
                }
            }
        }
        prop_assert_eq!(&outcomes, &wanted, "full={}", found_full);
        assert_state(&store, &model);
        assert_contracts(&replica.machine, &model);
        assert_sums(&store, GROUP);
        prop_assert_eq!(replica.digest(), plain.digest());
        // What it was told is flushed is there after a loss of power, to the record.
        let flushed = replica.machine.flushed(GROUP);
        store.fail(|| None);
        store.crash();
        prop_assert_eq!(Replica::open(Arc::new(store)).machine.applied(GROUP), flushed);
    }
}
