//! How often replicas were compared, and were not the same: counts of one life of a node, and no part of its state.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_replication::GroupId;

/// What was compared of the replicas of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compared {
    /// Digests that replicas reported of their state at a mark, and that were put beside those of the others.
    pub digests: u64,
    /// Of these, those that were found to differ from what a majority agreed on, or where none was, from others.
    pub differing: u64,
}

impl AddAssign for Compared {
    fn add_assign(&mut self, more: Self) {
        self.digests += more.digests;
        self.differing += more.differing;
    }
}

/// Of all groups of a node, as far as they are applied; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Comparisons {
    counts: Arc<Mutex<BTreeMap<GroupId, Compared>>>,
}

impl Comparisons {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<GroupId, Compared>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn of(&self, group: GroupId) -> Compared {
        self.counts().get(&group).copied().unwrap_or_default()
    }

    /// So much more was compared.
    pub(crate) fn add(&self, group: GroupId, more: Compared) {
        if more != Compared::default() {
            *self.counts().entry(group).or_default() += more;
        }
    }
}
