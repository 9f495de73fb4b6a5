//! What a replica that is being repaired says of the entries that it has just been given.

use palisade_wal::{GroupId, LogIndex, Write};

use super::scenarios::{Three, life, options};
use crate::effects::{Effects, Input};
use crate::repair::Repair;
use crate::wire::{Body, Envelope, NotGiven, Want};

const GROUP: GroupId = GroupId::new(1);

/// G2: an entry is its own once it is durable. Until then the log has what lay there before, which the group may
/// have replaced, so whoever asks for it is told that it is in doubt.
#[test]
fn what_it_was_given_is_its_own_once_it_is_durable() {
    let mut three = Three::new(&options());
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
