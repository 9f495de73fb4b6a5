//! Scenarios for what the released consensus library lacks: its #557 and #530.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use palisade_wal::sim::SimDisk;
use palisade_wal::{GroupId, Wal, WalIdentity, WalOptions};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::leading::RECORD_BYTES;
use super::{Replica, ReplicaConfig};
use crate::effects::{Apply, Effects, Input, Role, Ticket, WallTime};
use crate::entry::AppliedPosition;
use crate::identity::{Incarnation, NodeId, Term};
use crate::membership::{Member, Membership};
use crate::options::Options;
use crate::wire::{Body, Envelope, FORWARDED_HEADER_BYTES, Forward};

const GROUP: GroupId = GroupId::new(1);

pub(super) struct Node {
    pub(super) disk: SimDisk,
    pub(super) wal: Wal,
    pub(super) replica: Replica,
    /// Where its state stands, if it applies at all.
    applied: Option<AppliedPosition>,
}

pub(super) fn life(node: NodeId) -> Incarnation {
    Incarnation::new(u128::from(node.get()))
}

/// Replicas whose disks are done at once, and whose messages all arrive. Those of odd numbers are in one failure
/// domain, the others in another.
pub(super) struct Replicas {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Who does not hear and is not heard.
    pub(super) cut_off: Option<NodeId>,
    /// What whoever leads has written, while that is not done at once.
    pub(super) writing: Option<Vec<Ticket>>,
}

impl Replicas {
    pub(super) fn new(count: u64, options: &Options) -> Self {
        let ids: Vec<NodeId> = (1..=count).map(NodeId::new).collect();
        let domain = |id: &NodeId| ["b", "a"][id.get() as usize % 2].to_owned();
        let member = |id| Member { domain: domain(id), ..Member::default() };
        let members = ids.iter().map(|id| (*id, member(id))).collect();
        let first = Membership::of_voters(members);
        let open = |id: &NodeId| {
            let identity = WalIdentity { cluster: 1, node: id.get(), incarnation: 1 };
            let disk = SimDisk::from_seed(id.get());
            let (wal, _) =
                Wal::open(Arc::new(disk.clone()), identity, WalOptions::default()).unwrap();
            let config = ReplicaConfig {
                group: GROUP,
                node: *id,
                incarnation: life(*id),
                first: Some(first.clone()),
                session: id.get(),
                seed: id.get(),
                options: options.clone(),
            };
            let applied = AppliedPosition::ZERO;
            let replica = Replica::open(config, None, wal.reader(), applied).unwrap();
            (*id, Node { disk, wal, replica, applied: Some(applied) })
        };
        let nodes = ids.iter().map(open).collect();
        let mut all = Self { nodes, cut_off: None, writing: None };
        for id in &ids {
            for by in ids.iter().filter(|by| *by != id) {
                all.input(*id, Input::Recognized { by: *by, same: true });
            }
        }
        all
    }

    pub(super) fn input(&mut self, id: NodeId, input: Input) {
        let mut inputs = vec![(id, input)];
        while let Some((id, input)) = inputs.pop() {
            let node = self.nodes.get_mut(&id).unwrap();
            let (effects, ended) = node.replica.step(WallTime::from_ms(1), [input]);
            ended.unwrap();
            inputs.extend(self.perform(id, effects));
        }
    }

    /// What comes of a step: nearest first, so what a disk says is heard before anything later.
    pub(super) fn perform(&mut self, id: NodeId, effects: Effects) -> Vec<(NodeId, Input)> {
        let cut_off = self.cut_off;
        let reaches = |envelope: &Envelope| {
            ![envelope.to, envelope.from].iter().any(|end| Some(*end) == cut_off)
        };
        let mut next = Vec::new();
        for envelope in effects.send.into_iter().filter(reaches) {
            let (to, life) = (envelope.to, life(envelope.from));
            match envelope.body {
                Body::Beats(beats) => next.extend(
                    beats
                        .into_iter()
                        .map(|beat| (to, Input::Beat { from: envelope.from, life, beat })),
                ),
                _ => next.push((to, Input::Peer { envelope, life })),
            }
        }
        let node = self.nodes.get_mut(&id).unwrap();
        for step in effects.apply {
            let Apply::Entry(entry) = step else { unreachable!("nobody needs a snapshot") };
            if node.applied.is_some() {
                node.applied = Some(entry.end());
                next.push((id, Input::Applied { position: entry.end() }));
            }
        }
        for write in effects.writes {
            node.wal.submit(&write.writes).unwrap();
            node.wal.write_queued().unwrap();
            node.wal.sync().unwrap();
            match self.writing.as_mut().filter(|_| node.replica.leads()) {
                Some(writing) => writing.push(write.ticket),
                None => next.push((id, Input::Durable { ticket: write.ticket })),
            }
        }
        next.reverse();
        next
    }

    pub(super) fn tick(&mut self, times: u32) {
        for _ in 0..times {
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.input(id, Input::Tick);
            }
        }
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn replica(&mut self, id: NodeId) -> &mut Replica {
        &mut self.nodes.get_mut(&id).unwrap().replica
    }

    pub(super) fn leader(&self) -> NodeId {
        let leads = |(id, node): (&NodeId, &Node)| node.replica.leads().then_some(*id);
        self.nodes.iter().find_map(leads).expect("a leader")
    }

    pub(super) fn propose(&mut self, id: NodeId, from: u64, count: u64) {
        for seq in from..from + count {
            self.input(id, Input::Propose { seq, payload: Bytes::from_static(b"record") });
        }
    }
}

pub(super) fn options() -> Options {
    Options { election_ticks: 10, heartbeat_ticks: 2, ..Options::default() }
}

/// raft#557: a late rejection takes a follower's next index below what it has confirmed, and the
/// leader sends it again, or a snapshot to one that needs none.
#[test]
fn a_late_rejection_does_not_undo_what_was_confirmed() {
    let mut three = Replicas::new(3, &options());
    three.tick(40);
    let leader = three.leader();
    three.propose(leader, 1, 5);
    let follower = *three.nodes.keys().find(|id| **id != leader).unwrap();
    let node = three.nodes.get_mut(&leader).unwrap();
    node.replica.raw.report_unreachable(follower.get());
    let progress = node.replica.raw.raft.prs().get(follower.get()).unwrap();
    let matched = progress.matched;
    assert!(matched >= 6, "the records are confirmed: {progress:?}");
    assert_eq!(progress.next_idx, matched + 1);

    let mut late = Message::default();
    late.set_msg_type(MessageType::MsgAppendResponse);
    late.from = follower.get();
    late.to = leader.get();
    late.term = node.replica.raw.raft.term;
    late.reject = true;
    late.index = matched;
    late.reject_hint = 1;
    let body = Body::Raft(late.write_to_bytes().unwrap().into());
    let envelope = Envelope { group: GROUP, from: follower, to: leader, body };
    let input = Input::Peer { envelope, life: life(follower) };
    // Only the leader's own step: the follower's answer would mend it.
    let (_, ended) = node.replica.step(WallTime::from_ms(1), [input]);
    ended.unwrap();
    let progress = node.replica.raw.raft.prs().get(follower.get()).unwrap();
    assert!(progress.matched < progress.next_idx, "{progress:?}");
}

/// raft#530: a campaign reads everything that is committed and not applied at once. A replica that
/// has much of it does not campaign before it has applied.
#[test]
fn who_has_much_to_apply_does_not_campaign() {
    let few = Options { unapplied_entries_max: 8, ..options() };
    let mut three = Replicas::new(3, &few);
    three.tick(40);
    let leader = three.leader();
    let slow = *three.nodes.keys().find(|id| **id != leader).unwrap();
    three.nodes.get_mut(&slow).unwrap().applied = None;
    let caught_up = three.nodes[&slow].replica.emitted;
    three.propose(leader, 1, 20);
    three.tick(2);
    assert!(three.nodes[&slow].replica.emitted.index > caught_up.index);

    three.cut_off = Some(slow);
    three.tick(60);
    assert_eq!(three.nodes[&slow].replica.status(0).role, Role::Follower);
    let position = three.nodes[&slow].replica.emitted;
    three.input(slow, Input::Applied { position });
    three.tick(60);
    assert_eq!(three.nodes[&slow].replica.status(0).role, Role::Candidate);
}

/// G12: what is forwarded goes in messages of a bounded size, in order; what is longer goes alone.
#[test]
fn what_is_forwarded_is_cut_into_messages() {
    let three = Replicas::new(3, &options());
    let replica = &three.nodes[&NodeId::new(1)].replica;
    let max = options().message_bytes_max;
    let messages = |sizes: &[usize]| {
        let payload = |bytes: &usize| Bytes::from(vec![0; *bytes]);
        let records = (1..).zip(sizes.iter().map(payload)).collect();
        let mut effects = Effects::default();
        replica.forward(NodeId::new(2), Term::new(1), records, &mut effects);
        let numbers = effects.send.into_iter().map(|envelope| match envelope.body {
            Body::Forward(forward) => forward.records.iter().map(|(seq, _)| *seq).collect(),
            body => panic!("{body:?}"),
        });
        numbers.collect::<Vec<Vec<u64>>>()
    };
    assert_eq!(messages(&[]), [[0; 0]; 0]);
    let header = FORWARDED_HEADER_BYTES;
    let half = max / 2 - header;
    assert_eq!(messages(&[half, half, 1, 1]), [[1, 2], [3, 4]]);
    assert_eq!(messages(&[max + 1, max - header, 1]), [[1], [2], [3]]);
    assert_eq!(messages(&[1, 1, max - 2 * header - 1, 1]), [[1, 2], [3, 4]]);
}

/// G12: a leader takes in so much and no more, and what it left out counts when it comes again.
#[test]
fn a_leader_takes_in_what_it_has_room_for() {
    let mut three = Replicas::new(3, &options());
    three.tick(40);
    let leader = three.leader();
    let replica = &mut three.nodes.get_mut(&leader).unwrap().replica;
    replica.config.options.proposals_bytes_max = 100;
    replica.config.options.proposals_max = 2;
    let intake_bytes = 3 * (100 + 2 * RECORD_BYTES);
    let half_bytes = intake_bytes / 2 - RECORD_BYTES;
    assert!(replica.has_room(intake_bytes - RECORD_BYTES));
    assert!(!replica.has_room(intake_bytes - RECORD_BYTES + 1));
    let term = replica.leading.as_ref().unwrap().term;
    let half = Bytes::from(vec![0; half_bytes]);
    let records: Vec<(u64, Bytes)> = (1..=3).map(|seq| (seq, half.clone())).collect();
    let forward = |term| Forward { term, session: 9, resolved_up_to: 0, records: records.clone() };
    let taken = |replica: &Replica| {
        let leading = replica.leading.as_ref().unwrap();
        leading.batch.iter().map(|record| record.id.seq).collect::<Vec<_>>()
    };
    replica.on_forward(forward(Term::new(term.get() + 1)));
    assert_eq!(taken(replica), [0; 0], "it is meant for another term");
    replica.on_forward(forward(term));
    assert_eq!(taken(replica), [1, 2], "as much as fits");
    replica.on_forward(forward(term));
    assert_eq!(taken(replica), [1, 2], "a copy is known as one");
    let leading = replica.leading.as_mut().unwrap();
    leading.batch.clear();
    leading.batch_bytes = 0;
    replica.on_forward(forward(term));
    assert_eq!(taken(replica), [3], "what found no room was not remembered");
}

/// Nothing is repeated for want of an answer.
fn patient() -> Options {
    Options { resend_ticks: 1000, snapshot_patience_ticks: 2001, ..options() }
}

fn batch_count(replica: &Replica) -> usize {
    replica.leading.as_ref().unwrap().batch.len()
}

/// Two of its appends may be on their way to the disk; what comes meanwhile goes into one entry after them.
#[test]
fn a_leader_proposes_while_its_disk_keeps_up() {
    let mut three = Replicas::new(3, &options());
    three.tick(40);
    let leader = three.leader();
    let mut owed = Vec::new();
    for (seq, waiting) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
        let input = Input::Propose { seq, payload: Bytes::from_static(b"record") };
        let (effects, ended) = three.replica(leader).step(WallTime::from_ms(1), [input]);
        ended.unwrap();
        owed.push(three.perform(leader, effects));
        assert_eq!(batch_count(three.replica(leader)), waiting, "after {seq}");
    }
    let last = three.replica(leader).status(0).last_index;
    let is_durable = |input: &Input| matches!(input, Input::Durable { .. });
    let (_, durable) =
        owed.swap_remove(0).into_iter().find(|(_, input)| is_durable(input)).unwrap();
    three.input(leader, durable);
    assert_eq!(batch_count(three.replica(leader)), 0, "one append is done");
    assert_eq!(three.replica(leader).status(0).last_index, last.next(), "they share an entry");
}

/// G12: a leader proposes up to the bound of what its state has to apply, and no further.
#[test]
fn a_leader_proposes_while_its_state_keeps_up() {
    let mut three = Replicas::new(3, &options());
    three.tick(40);
    let leader = three.leader();
    three.nodes.get_mut(&leader).unwrap().applied = None;
    three.propose(leader, 1, 1);
    let replica = three.replica(leader);
    assert!(replica.backlog_bytes > 0);
    replica.config.options.apply_backlog_bytes_max = replica.backlog_bytes;
    three.propose(leader, 2, 1);
    assert_eq!(batch_count(three.replica(leader)), 0, "it is at the bound");
    three.propose(leader, 3, 1);
    assert_eq!(batch_count(three.replica(leader)), 1, "it is over the bound");
    let position = three.replica(leader).emitted;
    three.input(leader, Input::Applied { position });
    assert_eq!(batch_count(three.replica(leader)), 0);
}

/// A full disk alone holds records back, and they go as soon as there is space.
#[test]
fn a_leader_proposes_while_its_disk_has_space() {
    let mut three = Replicas::new(3, &options());
    three.tick(40);
    let leader = three.leader();
    three.replica(leader).note_disk(true);
    three.propose(leader, 1, 1);
    assert_eq!(batch_count(three.replica(leader)), 1);
    three.replica(leader).note_disk(false);
    three.tick(1);
    assert_eq!(batch_count(three.replica(leader)), 0);
}

/// A follower hands what is proposed to it on to the leader at once, and sees it committed.
#[test]
fn a_follower_forwards_what_it_is_asked() {
    let mut three = Replicas::new(3, &patient());
    three.tick(40);
    let leader = three.leader();
    let follower = three.ids().into_iter().find(|id| *id != leader).unwrap();
    three.propose(follower, 1, 3);
    three.tick(3);
    assert!(three.replica(follower).pending.is_empty());
}

/// Who leads next serves the reads that it had asked of a leader who is gone, without waiting until
/// they are asked for again.
#[test]
fn a_new_leader_serves_what_it_asked_of_the_last() {
    let mut three = Replicas::new(3, &patient());
    three.tick(40);
    let last = three.leader();
    three.cut_off = Some(last);
    for reader in three.ids().into_iter().filter(|id| *id != last) {
        three.input(reader, Input::Read { token: 1 });
        assert_eq!(three.replica(reader).reads.count(), 1);
    }
    three.tick(60);
    let leader = three.leader();
    assert_ne!(leader, last);
    assert_eq!(three.replica(leader).reads.count(), 0);
}

/// A leader that hears of nobody steps down within its term: what it took in and did not propose, it
/// holds no longer. Its own records wait for the next leader, those of others are theirs to repeat.
#[test]
fn who_steps_down_within_a_term_takes_its_records_back() {
    let mut three = Replicas::new(3, &patient());
    three.tick(40);
    let leader = three.leader();
    three.cut_off = Some(leader);
    let replica = three.replica(leader);
    replica.note_disk(true);
    let term = replica.term();
    let records = vec![(7, Bytes::from_static(b"record"))];
    replica.on_forward(Forward { term, session: 99, resolved_up_to: 0, records });
    three.propose(leader, 1, 2);
    assert_eq!(batch_count(three.replica(leader)), 3);
    three.tick(25);
    let replica = three.replica(leader);
    assert!(!replica.leads());
    assert_eq!(replica.term(), term);
    assert!(replica.leading.is_none(), "it holds nothing");
    let waits = replica.pending.send(Term::new(term.get() + 1), 100);
    assert_eq!(waits.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>(), [1, 2]);
}
