//! The clients of a session: one in each group that it writes to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_replication::GroupId;

use super::{ClientId, ClientNumbers};
use crate::error::Error;
use crate::group::Group;

/// Who numbers what a session writes; clones of the session share it.
pub(crate) struct Clients {
    ttl: Duration,
    of: Mutex<BTreeMap<GroupId, Arc<ClientNumbers>>>,
}

impl Clients {
    /// Goes on with clients, each of which has given so many numbers.
    pub(crate) fn new(ttl: Duration, counted: impl IntoIterator<Item = (ClientId, u64)>) -> Self {
        let begin = |(client, given): (ClientId, u64)| {
            (client.group, Arc::new(ClientNumbers::new(ttl, Some((client, given)))))
        };
        Self { ttl, of: Mutex::new(counted.into_iter().map(begin).collect()) }
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// That of a group, which may not be registered yet.
    pub(crate) fn of(&self, group: GroupId) -> Arc<ClientNumbers> {
        let begin = || Arc::new(ClientNumbers::new(self.ttl, None));
        Arc::clone(self.all().entry(group).or_insert_with(begin))
    }

    /// Registers one in a group where there is none.
    pub(crate) async fn register(&self, group: &Group) -> Result<(), Error> {
        self.of(group.id()).register(group).await
    }

    /// Those that are registered, in the order of their groups, and how many numbers each has given.
    pub(crate) fn counted(&self) -> Vec<(ClientId, u64)> {
        self.all().values().filter_map(|numbers| numbers.client()).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<ClientNumbers>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
