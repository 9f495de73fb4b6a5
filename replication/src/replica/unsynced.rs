//! A scenario of writes that wait for the disk while later ones replace what they write.

use std::sync::Arc;

use palisade_wal::sim::SimDisk;
use palisade_wal::{GroupId, LogIndex, Wal, WalIdentity, WalOptions};
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Replica, ReplicaConfig};
use crate::effects::{Apply, Effects, Input, Ticket, WallTime};
use crate::entry::AppliedPosition;
use crate::identity::{Incarnation, NodeId, Term};
use crate::membership::{Member, Membership};
use crate::options::Options;
use crate::wire::{Beat, Body, Envelope};

const GROUP: GroupId = GroupId::new(1);
const SELF: NodeId = NodeId::new(1);

fn follower() -> Replica {
    let disk = Arc::new(SimDisk::from_seed(1));
    let identity = WalIdentity { cluster: 1, node: 1, incarnation: 1 };
    let (wal, _) = Wal::open(disk, identity, WalOptions::default()).unwrap();
    let members = (1..=3).map(|id| (NodeId::new(id), Member::default())).collect();
    let config = ReplicaConfig {
        group: GROUP,
        node: SELF,
        incarnation: Incarnation::new(1),
        first: Some(Membership::of_voters(members)),
        session: 1,
        seed: 1,
        options: Options::default(),
    };
    Replica::open(config, None, wal.reader(), AppliedPosition::ZERO).unwrap()
}

fn step(replica: &mut Replica, input: Input) -> Effects {
    let (effects, ended) = replica.step(WallTime::from_ms(1), [input]);
    ended.unwrap();
    effects
}

/// Entries without records after the entry `prev`, each given as (index, term).
fn append(from: u64, term: u64, prev: (u64, u64), entries: &[(u64, u64)], commit: u64) -> Input {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term) = (from, SELF.get(), term);
    (message.index, message.log_term, message.commit) = (prev.0, prev.1, commit);
    let entry =
        |(index, term): &(u64, u64)| Entry { index: *index, term: *term, ..Entry::default() };
    message.set_entries(entries.iter().map(entry).collect::<Vec<_>>().into());
    let body = Body::Raft(message.write_to_bytes().unwrap().into());
    let envelope = Envelope { group: GROUP, from: NodeId::new(from), to: SELF, body };
    Input::Peer { envelope, life: Incarnation::new(u128::from(from)) }
}

fn last_ticket(effects: &Effects) -> Ticket {
    effects.writes.last().expect("something is written").ticket
}

fn applied_up_to(effects: &Effects) -> Option<LogIndex> {
    effects.apply.iter().rev().find_map(|step| match step {
        Apply::Entry(entry) => Some(entry.index),
        Apply::Install(_) | Apply::Flush => None,
    })
}

/// A voter that knows its members and has nothing to write.
fn born() -> Replica {
    let mut replica = follower();
    let mut born = Effects::default();
    for by in [2, 3] {
        let by = NodeId::new(by);
        born.extend(step(&mut replica, Input::Recognized { by, same: true }));
    }
    let ticket = last_ticket(&born);
    let _ = step(&mut replica, Input::Durable { ticket });
    replica
}

/// I1: node 2 leads, then node 3, and then node 2 again with the entries of its first time. While the
/// disk has not come back from any of it, the same entries are written, replaced and written again: that
/// they were written once does not make them durable, for what replaces them may be there without what
/// comes after.
#[test]
fn what_was_replaced_and_came_again_is_durable_with_the_second_write() {
    let mut replica = born();
    let first = step(&mut replica, append(2, 2, (1, 1), &[(2, 2), (3, 2), (4, 2)], 1));
    let replaced = step(&mut replica, append(3, 3, (2, 2), &[(3, 3)], 1));
    let again = step(&mut replica, append(2, 4, (2, 2), &[(3, 2), (4, 2), (5, 4)], 5));

    let early = step(&mut replica, Input::Durable { ticket: last_ticket(&first) });
    let second = LogIndex::new(2);
    assert!(applied_up_to(&early).is_none_or(|index| index <= second), "I1: {early:?}");
    let early = step(&mut replica, Input::Durable { ticket: last_ticket(&replaced) });
    assert!(applied_up_to(&early).is_none_or(|index| index <= second), "I1: {early:?}");
    let durable = step(&mut replica, Input::Durable { ticket: last_ticket(&again) });
    assert_eq!(applied_up_to(&durable), Some(LogIndex::new(5)));
}

/// The same, with a write that adds no entry in between: a register with the term of the next leader. Its
/// completion says nothing of the entries before it that are being replaced.
#[test]
fn a_register_between_them_does_not_make_what_was_replaced_durable() {
    let mut replica = born();
    let first = step(&mut replica, append(2, 2, (1, 1), &[(2, 2), (3, 2), (4, 2)], 1));
    let from = NodeId::new(3);
    let beat = Beat { group: GROUP, term: Term::new(3), commit: LogIndex::new(1), answer: false };
    let life = Incarnation::new(3);
    let register = step(&mut replica, Input::Beat { from, life, beat });
    let replaced = step(&mut replica, append(3, 3, (2, 2), &[(3, 3)], 1));
    let again = step(&mut replica, append(2, 4, (2, 2), &[(3, 2), (4, 2), (5, 4)], 5));
    for early in [&first, &register, &replaced] {
        let early = step(&mut replica, Input::Durable { ticket: last_ticket(early) });
        assert_eq!(applied_up_to(&early), None, "I1: {early:?}");
    }
    let durable = step(&mut replica, Input::Durable { ticket: last_ticket(&again) });
    assert_eq!(applied_up_to(&durable), Some(LogIndex::new(5)));
}
