use std::collections::BTreeSet;

use bytes::Bytes;
use palisade_wal::sim::SimDisk;
use palisade_wal::{Wal, WalIdentity, WalOptions};

use super::*;
use crate::membership::{Member, Membership};
use crate::options::Options;

const GROUP: GroupId = GroupId::new(1);
const NOW: WallTime = WallTime::from_ms(1);

/// A node of three that hosts these groups, and its log.
fn open(node: u64, groups: impl Iterator<Item = GroupId>) -> (Host, Wal) {
    let identity = WalIdentity { cluster: 1, node, incarnation: 1 };
    let disk = Arc::new(SimDisk::from_seed(node));
    let (wal, recovered) = Wal::open(disk, identity, WalOptions::default()).unwrap();
    let members = (1..=3).map(|id| (NodeId::new(id), Member::default())).collect();
    let first = Membership::of_voters(members);
    let hosted = groups.map(|group| {
        let config = ReplicaConfig {
            group,
            node: NodeId::new(node),
            incarnation: Incarnation::new(1),
            first: Some(first.clone()),
            session: node,
            seed: node + group.get(),
            options: Options::default(),
        };
        let applied = AppliedPosition::ZERO;
        (group, Hosted::open(config, &recovered, wal.reader(), applied, Term::ZERO).unwrap())
    });
    let hosted = hosted.collect();
    (Host::new(NodeId::new(node), hosted, Term::new(1), &WalOptions::default()), wal)
}

#[test]
fn a_group_at_rest_is_not_stepped_and_hears_of_every_tick_before_anything_else() {
    let (mut host, mut wal) = open(1, [GROUP].into_iter());
    let _ = host.step(NOW, |writes| wal.submit(writes), |_| Ok(())).unwrap();
    host.durable(wal.write_queued().unwrap().unwrap());
    let _ = host.step(NOW, |writes| wal.submit(writes), |_| Ok(())).unwrap();
    for _ in 0..5 {
        host.tick();
        assert!(host.busy.is_empty());
    }
    host.recognized(NodeId::new(2), true);
    host.tick();
    assert_eq!(host.busy, [GROUP]);
    let inputs = &host.groups[&GROUP].inputs;
    assert!(
        matches!(inputs[..], [Input::Rested { ticks: 5 }, Input::Recognized { .. }, Input::Tick]),
        "{inputs:?}"
    );
}

/// Three nodes, whose disks are done at once.
struct Three(BTreeMap<NodeId, (Host, Wal)>);

/// What one step of a node came to.
#[derive(Debug, Default)]
struct Step {
    batches: usize,
    syncs: u64,
    sent: Vec<Envelope>,
}

impl Three {
    fn open(groups: u64) -> Self {
        let ids = || (1..=groups).map(GroupId::new);
        let mut three = Self((1..=3).map(|id| (NodeId::new(id), open(id, ids()))).collect());
        for (host, _) in three.0.values_mut() {
            (1..=3).for_each(|by| host.recognized(NodeId::new(by), true));
        }
        three
    }

    fn step(&mut self, id: NodeId) -> Step {
        let (host, wal) = self.0.get_mut(&id).unwrap();
        let (mut step, before) = (Step::default(), wal.stats().syncs);
        let submit = |writes: &[Write]| {
            step.batches += 1;
            wal.submit(writes)
        };
        step.sent = host.step(NOW, submit, |_| Ok(())).unwrap().send;
        if wal.write_queued().unwrap().is_some() {
            host.durable(wal.sync().unwrap());
        }
        step.syncs = wal.stats().syncs - before;
        step
    }

    fn deliver(&mut self, sent: Vec<Envelope>) {
        for envelope in sent {
            let (host, _) = self.0.get_mut(&envelope.to).unwrap();
            host.deliver(envelope, Incarnation::new(1));
        }
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        while self.0.values().any(|(host, _)| !host.busy.is_empty()) {
            for id in (1..=3).map(NodeId::new) {
                let step = self.step(id);
                self.deliver(step.sent);
            }
        }
    }

    fn tick(&mut self) {
        self.0.values_mut().for_each(|(host, _)| host.tick());
    }
}

/// Many groups cost a node what one costs it: a message to each peer for all of their heartbeats, and a batch and a
/// sync for what is proposed to all of them.
#[test]
fn groups_share_heartbeats_batches_and_syncs() {
    const GROUPS: u64 = 50;
    let mut three = Three::open(GROUPS);
    let one = NodeId::new(1);
    let role = |three: &Three, group| three.0[&one].0.status(group).unwrap().role;
    let groups = || (1..=GROUPS).map(GroupId::new);
    // Only the first has a clock, so it comes to lead them all.
    while !groups().all(|group| role(&three, group) == Role::Leader) {
        three.0.get_mut(&one).unwrap().0.tick();
        three.settle();
    }

    // Each has a heartbeat of its own in each interval, and those of one moment go together.
    let mut beats = BTreeMap::from([(NodeId::new(2), 0), (NodeId::new(3), 0)]);
    for _ in 0..Options::default().heartbeat_ticks {
        three.tick();
        let step = three.step(one);
        assert_eq!(step.batches, 0, "nothing is to be written");
        let mut told = BTreeSet::new();
        for envelope in &step.sent {
            let Body::Beats(of_groups) = &envelope.body else { panic!("{envelope:?}") };
            assert!(told.insert(envelope.to), "one message for each");
            *beats.get_mut(&envelope.to).unwrap() += of_groups.len() as u64;
        }
        three.deliver(step.sent);
        three.settle();
    }
    assert!(beats.values().all(|count| *count == GROUPS), "{beats:?}");

    for group in groups() {
        let payload = Bytes::from_static(b"record");
        three.0.get_mut(&one).unwrap().0.input(group, Input::Propose { seq: 1, payload });
    }
    let step = three.step(one);
    assert_eq!((step.batches, step.syncs), (1, 1));
    three.deliver(step.sent);
    let step = three.step(NodeId::new(2));
    assert_eq!((step.batches, step.syncs), (1, 1), "who follows, too");
    three.deliver(step.sent);
    three.settle();
    for group in groups() {
        let status = three.0[&one].0.status(group).unwrap();
        assert_eq!(status.committed_index, status.last_index, "{group}");
    }
}

/// What each node is and in which term, tick by tick, where the leader falls silent after so many; and how often the
/// second node was stepped before.
fn led_and_left(silent_after: u32, answers_at_rest: bool) -> (Vec<Vec<(Role, Term)>>, u32) {
    let ids = || (1..=3).map(NodeId::new);
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    let mut three = Three::open(1);
    while three.0[&one].0.status(GROUP).unwrap().role != Role::Leader {
        three.0.get_mut(&one).unwrap().0.tick();
        three.settle();
    }
    let (mut trace, mut steps) = (Vec::new(), 0);
    for tick in 0..silent_after + 4 * Options::default().election_ticks {
        three.tick();
        // The second time what was answered arrives.
        for id in [ids(), ids()].into_iter().flatten() {
            let is_silent = silent_after <= tick && id == one;
            steps += u32::from(id == two && tick < silent_after && !three.0[&id].0.busy.is_empty());
            let mut sent = three.step(id).sent;
            sent.retain(|envelope| !is_silent && (tick < silent_after || envelope.to != one));
            if !answers_at_rest {
                for hosted in three.0.values_mut().flat_map(|(host, _)| host.groups.values_mut()) {
                    hosted.rest.follows = None;
                }
            }
            three.deliver(sent);
        }
        let status = |id| three.0[&id].0.status(GROUP).unwrap();
        trace.push(ids().map(status).map(|status| (status.role, status.term)).collect());
    }
    (trace, steps)
}

/// Heartbeats that are answered for a follower at rest make no difference, but that it seldom steps: it misses its
/// leader at the very same tick.
#[test]
fn a_follower_at_rest_is_answered_for_and_misses_its_leader_in_time() {
    let elections = Options::default().election_ticks;
    for silent_after in (0..elections).chain([10 * elections]) {
        let (answered, seldom) = led_and_left(silent_after, true);
        let (stepped, often) = led_and_left(silent_after, false);
        assert!(answered == stepped, "silent_after={silent_after}");
        let roles = |trace: &[Vec<(Role, Term)>]| trace.last().unwrap()[1..].to_vec();
        assert!(roles(&answered).iter().any(|(role, _)| *role == Role::Leader), "{silent_after}");
        if silent_after > elections {
            assert!(0 < seldom && 4 * seldom < often, "{seldom} {often}");
        }
    }
}
