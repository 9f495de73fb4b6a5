//! What makes a replica be repaired, what it says meanwhile of the entries that it has just been given, and what
//! ends it.

use bytes::Bytes;
use palisade_wal::{Disk, GroupId, LogIndex, WalError, Write};

use super::Replica;
use super::scenarios::{Node, Replicas, life, options};
use crate::effects::{Effects, Input, WallTime};
use crate::options::Options;
use crate::repair::Repair;
use crate::wire::{Beat, Body, Envelope, NotGiven, Want};

const GROUP: GroupId = GroupId::new(1);

/// G2: an entry is its own once it is durable. Until then the log has what lay there before, which the group may
/// have replaced, so whoever asks for it is told that it is in doubt.
#[test]
fn what_it_was_given_is_its_own_once_it_is_durable() {
    let mut three = Replicas::new(3, &options());
    three.tick(40);
    let leader = three.leader();
    three.propose(leader, 1, 5);
    let ids: Vec<_> = three.ids().into_iter().filter(|id| *id != leader).collect();
    let [damaged, asks] = ids[..] else { unreachable!("two follow") };
    let node = three.nodes.remove(&damaged).unwrap();
    let mut wal = node.wal;
    let index = LogIndex::new(3);
    let term = node.replica.term_of(index).unwrap();
    let payload = wal.reader().read(GROUP, index, index.next(), usize::MAX).unwrap()[0].1.clone();

    let (mut repair, _) = Repair::of_entry(node.replica.into_parts(), index, term);
    let peer = |from, body| {
        let envelope = Envelope { group: GROUP, from, to: damaged, body };
        Input::Peer { envelope, life: life(from) }
    };
    let want = Want { first: index, anchor: index, term };
    let asked = || peer(asks, Body::Want(Want { anchor: index.next(), ..want }));
    let answer = |effects: &Effects| match &effects.send[..] {
        [Envelope { body: Body::Given { entries, .. }, .. }] => entries.clone(),
        other => panic!("{other:?}"),
    };
    let given = Body::Given { want, entries: Ok(vec![payload.clone()]) };
    let (effects, stepped) = repair.step([peer(leader, given), asked()]);
    assert!(stepped.unwrap().is_none());
    assert_eq!(answer(&effects), Err(NotGiven::Doubtful), "in the same step");
    let [write] = &effects.writes[..] else { panic!("{:?}", effects.writes) };
    assert!(matches!(write.writes[0], Write::Restore { .. }));
    let (later, stepped) = repair.step([asked()]);
    assert!(stepped.unwrap().is_none());
    assert_eq!(answer(&later), Err(NotGiven::Doubtful), "until it is durable");

    wal.submit(&write.writes).unwrap();
    wal.write_queued().unwrap();
    wal.sync().unwrap();
    let (effects, stepped) = repair.step([Input::Durable { ticket: write.ticket }, asked()]);
    assert!(stepped.unwrap().is_some(), "it is whole");
    assert_eq!(answer(&effects), Ok(vec![payload]));
}

/// What the leader has trimmed others may have yet: it ends nothing while one of them was not asked often enough
/// to have had the time, however many questions were lost.
#[test]
fn the_leaders_word_ends_nothing_before_the_others_had_time() {
    let mut three = Replicas::new(3, &options());
    three.tick(40);
    let leader = three.leader();
    three.propose(leader, 1, 5);
    let ids: Vec<_> = three.ids().into_iter().filter(|id| *id != leader).collect();
    let [damaged, other] = ids[..] else { unreachable!("two follow") };
    // It writes another that nobody tells it is committed, so a snapshot could take its place.
    let step = |three: &mut Replicas, id, input| {
        let (effects, ended) = three.replica(id).step(WallTime::from_ms(1), [input]);
        ended.unwrap();
        three.perform(id, effects)
    };
    let record = Input::Propose { seq: 6, payload: Bytes::from_static(b"record") };
    for (to, input) in step(&mut three, leader, record) {
        if to == damaged {
            step(&mut three, damaged, input);
        }
    }
    let node = three.nodes.remove(&damaged).unwrap();
    let (_, index) = node.wal.reader().range(GROUP).unwrap();
    assert!(node.replica.status(0).applied_index < index);
    let term = node.replica.term_of(index).unwrap();
    let stored = node.wal.reader().read(GROUP, index, index.next(), usize::MAX).unwrap();
    let want = Want { first: index, anchor: index, term };

    let peer = |from, entries| {
        let body = Body::Given { want, entries };
        let envelope = Envelope { group: GROUP, from, to: damaged, body };
        Input::Peer { envelope, life: life(from) }
    };
    let beat = Beat { group: GROUP, term, commit: index, answer: false };
    let beat = || Input::Beat { from: leader, life: life(leader), beat };
    let (mut repair, mut effects) = Repair::of_entry(node.replica.into_parts(), index, term);
    let mut lost = 0;
    let mut restored = Vec::new();
    for _ in 0..1000 {
        let mut inputs = vec![beat()];
        for envelope in std::mem::take(&mut effects.send) {
            assert!(matches!(envelope.body, Body::Want(_)), "{envelope:?}");
            if envelope.to == leader {
                inputs.push(peer(leader, Err(NotGiven::Trimmed)));
            } else if lost < 2 {
                assert_eq!(envelope.to, other);
                lost += 1;
            } else {
                inputs.push(peer(other, Ok(vec![stored[0].1.clone()])));
            }
        }
        inputs.push(Input::Tick);
        let stepped;
        (effects, stepped) = repair.step(inputs);
        assert!(stepped.unwrap().is_none());
        if let Some(write) = effects.writes.pop() {
            restored = write.writes;
            break;
        }
    }
    assert_eq!(lost, 2);
    assert!(matches!(restored[..], [Write::Restore { .. }, ..]), "{restored:?}");
}

/// A scrub may come upon what the replica has just trimmed, before its log has written that.
#[test]
fn what_was_trimmed_meanwhile_needs_no_repair() {
    let options = Options { trim_entries_min: 4, lag_entries_max: 4, ..options() };
    let mut three = Replicas::new(3, &options);
    three.tick(40);
    let leader = three.leader();
    three.propose(leader, 1, 20);
    three.tick(2);
    let node = three.nodes.get_mut(&leader).unwrap();
    let Node { disk, replica, wal, .. } = node;
    let applied = replica.status(0).applied_index;
    let step = |replica: &mut Replica, input| {
        let (effects, ended) = replica.step(WallTime::from_ms(1), [input]);
        ended.unwrap();
        effects
    };
    let effects = step(replica, Input::Flushed { index: applied });
    let trims = effects.writes.iter().flat_map(|write| &write.writes);
    let trimmed = trims.filter_map(|write| match write {
        Write::Trim { up_to, .. } => Some(*up_to),
        _ => None,
    });
    let base = trimmed.last().expect("it trims");
    for name in disk.list().unwrap() {
        let bytes = disk.contents(&name).len();
        disk.fail_reads(&name, 0..bytes);
    }
    let (first, _) = wal.reader().range(GROUP).unwrap();
    assert!(first < base);
    for index in (first.get()..=base.get()).map(LogIndex::new) {
        let read = wal.reader().read(GROUP, index, index.next(), usize::MAX);
        assert!(matches!(read, Err(WalError::Corrupt { .. })), "{read:?}");
        let effects = step(replica, Input::Unreadable { index });
        assert!(effects.writes.is_empty(), "{effects:?}");
    }
}
