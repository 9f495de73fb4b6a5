//! Keys of a simulated node: a ring that grows and shrinks, at starts and while the node runs.
//!
//! Nothing is drawn for it from the generator of the cluster: with keys and without, a seed gives the same
//! faults.

use palisade_wal::{KeyRing, KeyState, Keys, SeededRandomness};

use crate::identity::NodeId;

/// A node that runs takes a new epoch after so many ticks.
const TICKS: u64 = 150;

#[derive(Debug, Default)]
pub(super) struct Sealing {
    /// As its file would have it.
    ring: KeyRing,
    keys: Keys,
    ticks: u64,
}

impl Sealing {
    /// The ring as it is read at a start, and every second time a new epoch in it.
    pub(super) fn start(&mut self, id: NodeId, life: u64) -> Keys {
        let seed = id.get() << 32 | life;
        if self.ring.active().is_none() || life.is_multiple_of(2) {
            self.rotate(seed);
        }
        self.keys = Keys::with_randomness(self.ring.clone(), SeededRandomness::new(!seed));
        self.keys.clone()
    }

    /// Returns whether there is a new epoch. Keys that nothing needs are let go of.
    pub(super) fn tick(&mut self, id: NodeId) -> bool {
        self.ticks += 1;
        let is_due = self.keys.are_given() && self.ticks.is_multiple_of(TICKS);
        if is_due {
            self.rotate(id.get() << 48 | self.ticks);
            let held = self.keys.held();
            let unused = |(epoch, state)| state == KeyState::Readable && !held.contains_key(&epoch);
            let unused: Vec<_> = self.ring.epochs().filter(|it| unused(*it)).collect();
            for (epoch, _) in unused {
                self.ring.retire(epoch).expect("it is readable");
            }
            self.keys.replace(self.ring.clone()).expect("it opens all that is needed");
        }
        is_due
    }

    fn rotate(&mut self, seed: u64) {
        self.ring.rotate(&SeededRandomness::new(seed)).expect("a seed gives randomness");
    }
}
