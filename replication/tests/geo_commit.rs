//! Commits across failure domains (`MemberChange::AcrossDomains`), in simulated clusters: odd nodes are
//! in one zone, even ones in the other. The majority is in the odd zone; alone it acknowledges nothing,
//! whoever leads, however often that changes, and whatever it has lost and got back.

mod journal;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use journal::Journal;
use palisade_replication::sim::{Completion, GROUP, SimCluster, SimOptions};
use palisade_replication::{
    ChangeRefusal, Disposition, MemberChange, NodeError, NodeId, Offset, Options,
};

const SECOND_US: u64 = 1_000_000;
const SEEDS: u64 = 20;

struct World {
    cluster: SimCluster<Journal>,
    next: u64,
    waiting: BTreeMap<u64, u64>,
    acked: BTreeMap<u64, Offset>,
}

impl World {
    fn new(seed: u64, nodes: u64) -> Self {
        // Small messages: what a simulated log takes in at once has a small bound.
        let defaults = SimOptions::default();
        let replica = Options { message_bytes_max: 2 << 10, ..defaults.replica.clone() };
        let options = SimOptions { nodes, replica, ..defaults };
        let cluster = SimCluster::new(seed, options, |_| Journal::default());
        let mut world = Self { cluster, next: 0, waiting: BTreeMap::new(), acked: BTreeMap::new() };
        world.until("a leader", |world| world.cluster.leader(GROUP).is_some());
        world
    }

    /// Lets time pass until it holds; a simulated minute is far more than anything here needs.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = self.cluster.now_us() + 60 * SECOND_US;
        while !holds(self) {
            if self.cluster.now_us() >= end {
                self.cluster.tell_group(GROUP);
                panic!("{what} within a minute");
            }
            self.cluster.run_for(SECOND_US / 100);
        }
    }

    fn zone(&self, odd: bool) -> Vec<NodeId> {
        let nodes = self.cluster.node_ids().into_iter();
        nodes.filter(|node| (node.get() % 2 == 1) == odd).collect()
    }

    /// Asks until it is done, or refused for a reason that does not pass.
    fn change(
        &mut self,
        ask: impl Fn(&Self) -> NodeId,
        change: &MemberChange,
    ) -> Result<(), NodeError> {
        let mut asked = None;
        let mut done = None;
        self.until("a change", |world| {
            let op = *asked
                .get_or_insert_with(|| world.cluster.change(ask(world), GROUP, change.clone()));
            match world.take(op) {
                None => {}
                Some(Completion::Changed) => done = Some(Ok(())),
                Some(Completion::Refused(error)) if error.disposition() == Disposition::Reject => {
                    done = Some(Err(error));
                }
                Some(other) => {
                    world.cluster.tell(|| format!("{change:?}: {other:?}"));
                    asked = None;
                }
            }
            done.is_some()
        });
        done.unwrap()
    }

    /// Takes everything that is completed, and says what became of this.
    fn take(&mut self, of: u64) -> Option<Completion<usize>> {
        let mut found = None;
        while let Some((op, completion)) = self.cluster.completion() {
            if op == of {
                found = Some(completion);
            } else if let Some(number) = self.waiting.remove(&op)
                && let Completion::Committed(committed) = completion
            {
                self.acked.insert(number, committed.offset);
            }
        }
        found
    }

    fn propose(&mut self, node: NodeId) -> u64 {
        self.next += 1;
        let payload = Bytes::from(self.next.to_le_bytes().to_vec());
        let op = self.cluster.propose(node, GROUP, payload);
        self.waiting.insert(op, self.next);
        self.next
    }

    /// A record that is acknowledged.
    fn commit(&mut self) {
        self.until("a commit", |world| {
            let leader = world.cluster.leader(GROUP);
            leader.is_some_and(|leader| {
                let number = world.propose(leader);
                world.cluster.run_for(SECOND_US / 10);
                world.take(0);
                world.acked.contains_key(&number)
            })
        });
    }

    fn cut_zones(&mut self) {
        for odd in self.zone(true) {
            for even in self.zone(false) {
                self.cluster.set_blocked(odd, even, true);
                self.cluster.set_blocked(even, odd, true);
            }
        }
    }

    /// Every node proposes for so long. How many were acknowledged that were proposed in it.
    fn acked_within(&mut self, seconds: u64) -> usize {
        let before = self.next;
        for _ in 0..4 * seconds {
            for node in self.cluster.up() {
                self.propose(node);
            }
            self.cluster.run_for(SECOND_US / 4);
            self.take(0);
        }
        self.acked.range(before + 1..).count()
    }

    fn demand(&mut self, at: NodeId) {
        self.change(|_| at, &MemberChange::AcrossDomains).unwrap();
    }

    /// The whole odd zone loses power and comes back.
    fn restart_odd_zone(&mut self) {
        for node in self.zone(true) {
            self.cluster.power_off(node);
        }
        for node in self.zone(true) {
            self.cluster.start(node);
        }
    }

    /// The leader of the odd zone hands over to another node of it.
    fn change_leader(&mut self) {
        let odd = self.zone(true);
        let mut old = None;
        self.until("another leader of the odd zone", |world| {
            let leader = world.cluster.leader(GROUP).filter(|leader| odd.contains(leader));
            let Some(leader) = leader else { return false };
            let old = *old.get_or_insert(leader);
            if leader == old {
                let to = odd.iter().find(|node| **node != old).expect("it has several");
                world.cluster.transfer(old, GROUP, *to);
                world.cluster.run_for(SECOND_US);
            }
            leader != old
        });
    }

    /// Everything works again: what was acknowledged is there, and everyone agrees.
    fn settle(&mut self) {
        self.cluster.heal();
        self.cluster.calm();
        for node in self.cluster.node_ids() {
            self.cluster.start(node);
        }
        self.commit();
        self.until("the same state everywhere", |world| {
            let members = world.cluster.members(GROUP);
            world.take(0);
            let held = members.iter().map(|node| world.cluster.machine(*node).records(GROUP).len());
            held.collect::<BTreeSet<_>>().len() == 1
        });
        self.cluster.run_for(SECOND_US);
        self.cluster.assert_converged();
        let node = self.cluster.leader(GROUP).unwrap();
        let records = self.cluster.machine(node).records(GROUP);
        for (number, offset) in &self.acked {
            let record = &records[offset.get() as usize - 1];
            assert_eq!(record[..], number.to_le_bytes(), "G1: offset={offset}");
        }
    }
}

/// The control: what is tested below is not so by itself.
#[test]
fn without_the_demand_the_majority_goes_on_alone() {
    let mut world = World::new(1, 5);
    world.cut_zones();
    assert!(world.acked_within(10) > 0);
    world.settle();
}

/// G1 with the demand. Leaders change, and all of the zone restarts, while the other is away.
#[test]
fn the_majority_in_one_domain_acknowledges_nothing() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, [3, 5][seed as usize % 2]);
        // Of whatever node: it is passed on to the leader.
        let nodes = world.cluster.node_ids();
        world.demand(nodes[seed as usize % nodes.len()]);
        world.commit();
        world.cut_zones();
        assert_eq!(world.acked_within(5), 0, "seed={seed}: cut off");
        world.change_leader();
        assert_eq!(world.acked_within(5), 0, "seed={seed}: another leader");
        world.restart_odd_zone();
        world.until("a leader", |world| world.cluster.leader(GROUP).is_some());
        assert_eq!(world.acked_within(5), 0, "seed={seed}: restarted");
        world.settle();
    }
}

/// The demand reaches a newcomer in the snapshot that it begins with, and holds when it leads.
#[test]
fn who_learned_of_the_demand_from_a_snapshot_enforces_it() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 3);
        world.demand(NodeId::new(1));
        for _ in 0..5 {
            world.commit();
        }
        // The fourth is even; the fifth, odd, takes the place of the third.
        world.cluster.add_node();
        let (node, member) = world.cluster.add_node();
        let leader = |world: &World| world.cluster.leader(GROUP).unwrap_or(NodeId::new(1));
        world.change(leader, &MemberChange::AddLearner { node, member }).unwrap();
        world.until("a leader that stays", |world| {
            let old = NodeId::new(3);
            match world.cluster.leader(GROUP) {
                Some(leads) if leads == old => {
                    world.cluster.transfer(old, GROUP, NodeId::new(1));
                    world.cluster.run_for(SECOND_US);
                    false
                }
                leads => leads.is_some(),
            }
        });
        world.change(leader, &MemberChange::Replace { old: NodeId::new(3), new: node }).unwrap();
        assert!(world.cluster.coverage()["snapshot installed"] > 0);
        world.until("the newcomer leads", |world| {
            let leads = world.cluster.leader(GROUP);
            if let Some(leads) = leads.filter(|leads| *leads != node) {
                world.cluster.transfer(leads, GROUP, node);
                world.cluster.run_for(SECOND_US);
            }
            leads == Some(node)
        });
        world.commit();
        world.cut_zones();
        assert_eq!(world.acked_within(5), 0, "seed={seed}");
        world.settle();
    }
}

/// A change of membership that would leave one domain is refused, and one that cannot be committed now
/// is not begun.
#[test]
fn changes_that_make_it_impossible_are_refused() {
    let mut world = World::new(3, 3);
    // The only voter of its zone must not lead, or it could not be asked to go.
    let two = NodeId::new(2);
    world.until("a leader of the odd zone", |world| match world.cluster.leader(GROUP) {
        Some(leads) if leads == two => {
            world.cluster.transfer(two, GROUP, NodeId::new(1));
            world.cluster.run_for(SECOND_US);
            false
        }
        leads => leads.is_some(),
    });
    let leader = |world: &World| world.cluster.leader(GROUP).unwrap_or(NodeId::new(1));
    world.change(leader, &MemberChange::AcrossDomains).unwrap();
    for change in [MemberChange::Remove { node: two }, MemberChange::Demote { node: two }] {
        let refused = world.change(leader, &change);
        assert!(
            matches!(refused, Err(NodeError::Change(ChangeRefusal::OneDomain { .. }))),
            "{refused:?}"
        );
    }
    world.settle();
}

/// Where nobody answers from the other domain, nothing can be committed: a change is not begun, and
/// neither is the demand, which would hold up everything else.
#[test]
fn what_could_not_be_committed_now_is_not_begun() {
    for demanded in [false, true] {
        let mut world = World::new(3, 5);
        if demanded {
            world.demand(NodeId::new(1));
        }
        world.cut_zones();
        world.until("a leader of the odd zone that misses the other", |world| {
            world.cluster.run_for(10 * SECOND_US);
            let odd = world.zone(true);
            world.cluster.leader(GROUP).is_some_and(|leader| odd.contains(&leader))
        });
        let leader = world.cluster.leader(GROUP).unwrap();
        let change = match demanded {
            true => MemberChange::Demote { node: NodeId::new(2) },
            false => MemberChange::AcrossDomains,
        };
        let op = world.cluster.change(leader, GROUP, change);
        let mut refused = None;
        world.until("an answer", |world| {
            refused = world.take(op);
            refused.is_some()
        });
        // A leader that came after the cut has committed nothing in its term, and says so.
        let Some(Completion::Refused(NodeError::Change(refusal))) = refused else {
            panic!("it must not wait in the log: {refused:?}")
        };
        let new = matches!(refusal, ChangeRefusal::NotReady);
        let at_risk = matches!(refusal, ChangeRefusal::DomainsAtRisk { .. });
        assert!(at_risk || (demanded && new), "{refusal:?}");
        if !demanded {
            assert!(world.acked_within(5) > 0, "nothing was held up");
        }
        world.settle();
    }
}
