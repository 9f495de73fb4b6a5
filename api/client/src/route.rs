//! Which node is asked: the leader of the group for what must go there, and any other for the rest.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use palisade_proto::cluster::v1::GetStatusResponse;

/// Where a call goes best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the leader of a group.
    Leader(u64),
    /// Anywhere.
    Any,
    /// To this endpoint alone.
    Endpoint(usize),
}

#[derive(Clone, Copy)]
struct Leader {
    endpoint: usize,
    term: u64,
}

#[derive(Default)]
struct Known {
    /// Of each group, who leads as far as it was told.
    leaders: BTreeMap<u64, Leader>,
    /// Of each node, its endpoint.
    nodes: BTreeMap<u64, usize>,
    /// The endpoint that served last.
    current: usize,
}

/// What a client knows of the nodes. It may be wrong: any node takes any call.
pub(crate) struct Routes {
    count: usize,
    known: Mutex<Known>,
}

impl Routes {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint that a call is sent to.
    pub(crate) fn pick(&self, target: Target) -> usize {
        let known = self.lock();
        match target {
            Target::Leader(group) => {
                known.leaders.get(&group).map_or(known.current, |leader| leader.endpoint)
            }
            Target::Any => known.current,
            Target::Endpoint(endpoint) => endpoint,
        }
    }

    /// An endpoint did not serve: the next is tried, and who leads is not known.
    pub(crate) fn failed(&self, endpoint: usize) {
        self.lock().leaders.retain(|_, leader| leader.endpoint != endpoint);
        self.elsewhere(endpoint);
    }

    /// An endpoint serves, and is behind: reads go to the next.
    pub(crate) fn elsewhere(&self, endpoint: usize) {
        let mut known = self.lock();
        if known.current == endpoint {
            known.current = (endpoint + 1) % self.count;
        }
    }

    /// Whether it is worth asking who leads.
    pub(crate) fn lacks(&self, target: Target) -> bool {
        match target {
            Target::Leader(group) => self.count > 1 && !self.lock().leaders.contains_key(&group),
            Target::Any | Target::Endpoint(_) => false,
        }
    }

    /// What a node says of itself and of its groups.
    pub(crate) fn learn(&self, endpoint: usize, status: &GetStatusResponse) {
        let mut known = self.lock();
        known.nodes.insert(status.node, endpoint);
        for group in &status.groups {
            let term = group.term;
            let newest = known.leaders.get(&group.group).is_none_or(|leader| leader.term <= term);
            if newest && let Some(endpoint) = known.nodes.get(&group.leader).copied() {
                known.leaders.insert(group.group, Leader { endpoint, term });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use palisade_proto::cluster::v1::Group;

    use super::*;

    fn says(node: u64, leader: u64) -> GetStatusResponse {
        let groups = vec![Group { group: 1, leader, ..Default::default() }];
        GetStatusResponse { node, groups, ..Default::default() }
    }

    #[test]
    fn writes_go_to_the_leader_once_it_is_known() {
        let routes = Routes::new(3);
        assert!(routes.lacks(Target::Leader(1)));
        routes.learn(0, &says(11, 13));
        assert!(routes.lacks(Target::Leader(1)), "nobody has said who is node 13");
        routes.learn(2, &says(13, 13));
        assert_eq!(routes.pick(Target::Leader(1)), 2);
        assert_eq!(routes.pick(Target::Any), 0);
        routes.failed(2);
        assert!(routes.lacks(Target::Leader(1)));
        assert_eq!(routes.pick(Target::Leader(1)), 0);
        routes.failed(0);
        routes.failed(1);
        assert_eq!(routes.pick(Target::Any), 2);
    }

    #[test]
    fn one_endpoint_needs_no_leader() {
        let routes = Routes::new(1);
        assert!(!routes.lacks(Target::Leader(1)));
        routes.failed(0);
        assert_eq!(routes.pick(Target::Any), 0);
    }
}
