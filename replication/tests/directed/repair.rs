//! Damaged logs: one, and two of three.

use palisade_replication::sim::{GROUP, SimOptions};
use palisade_replication::{MemberChange, NodeId};

use crate::scene::{Scene, calm, each_seed};

/// Until the mark is written: what the disk then loses, it is known to have had.
const REST_US: u64 = 300_000;

/// An entry a message, and so a frame: there are many places to damage.
fn entry_by_entry() -> SimOptions {
    let mut options = calm();
    options.replica.message_bytes_max = 1;
    options
}

fn assert_whole(scene: &Scene) {
    for node in scene.node_ids() {
        let halted = scene.halted(node);
        assert!(scene.is_whole(node), "liveness: node={node} is not whole: {halted:?}");
    }
}

/// G2: a replica whose log was replaced at a place, and that lost the replacement, must not give what
/// it has there to another that lost the same.
#[test]
fn damaged_replicas_do_not_give_what_was_replaced() {
    each_seed(30, |seed| {
        // Being given and being asked in the same step is among what goes wrong.
        let options = SimOptions { gather_per_mille: 450 * (seed % 3), ..entry_by_entry() };
        let mut scene = Scene::begun(seed, options);
        let stale = scene.led();
        scene.record(stale, 2);
        scene.cut(&[stale], true);
        for _ in 0..2 + scene.below(4) {
            scene.give(stale);
            scene.pass(20_000);
        }
        scene.pass(3_000_000);
        let leader = scene.led();
        assert_ne!(stale, leader);
        scene.record(leader, 6);
        scene.pass(REST_US);
        let (_, before) = scene.frames(stale);
        scene.cut(&[stale], false);
        scene.pass(2_000_000);
        scene.record(leader, 3);
        scene.pass(REST_US);

        let others = scene.others(stale);
        let others = scene.shuffled(others);
        let (victim, third) = (others[0], others[1]);
        scene.cut(&[third], true);
        scene.kill(stale);
        scene.kill(victim);
        // The replacements, as a rule, and something late in the other log.
        let (_, after) = scene.frames(stale);
        let replaced = before.len() + scene.below(4) as usize;
        assert!(replaced + 3 < after.len());
        scene.rot(stale, replaced..replaced + 1);
        let (_, frames) = scene.frames(victim);
        let late = frames.len() - 4 - scene.below(4) as usize;
        scene.rot(victim, late..late + 1);
        scene.start(stale);
        scene.start(victim);
        scene.pass(3_000_000);
        scene.cut(&[third], false);
        scene.finish();
        assert_whole(&scene);
    });
}

/// G1, G10: two of three logs are damaged, at different places or at the same; the third has all, and
/// comes sooner or later. Nothing is lost, and everyone is whole again.
#[test]
fn two_of_three_are_repaired_by_the_third() {
    each_seed(30, |seed| {
        let mut options = entry_by_entry();
        options.flush_per_mille = 100 * (seed % 2);
        let mut scene = Scene::begun(seed, options);
        let leader = scene.led();
        assert_eq!(scene.record(leader, 12), 12);
        scene.pass(REST_US);
        let nodes = scene.node_ids();
        let nodes = scene.shuffled(nodes);
        let (third, damaged) = (nodes[0], &nodes[1..]);
        let away = scene.below(2) == 0;
        scene.cut(&[third], away);
        for node in damaged {
            scene.kill(*node);
            let (_, frames) = scene.frames(*node);
            let late = frames.len() - 4 - scene.below(6) as usize;
            scene.rot(*node, late..late + 1);
        }
        damaged.iter().for_each(|node| scene.start(*node));
        scene.pass(3_000_000);
        scene.finish();
        assert_whole(&scene);
        let leader = scene.led();
        assert_eq!(scene.record(leader, 3), 3, "liveness: the group goes on");
    });
}

/// G1: two of three logs are damaged at different places, and the third is far behind: each of the two
/// has what the other lost.
#[test]
fn two_of_three_damaged_at_different_places_repair_each_other() {
    each_seed(30, |seed| {
        let mut scene = Scene::begun(seed, entry_by_entry());
        let leader = scene.led();
        scene.record(leader, 3);
        let others = scene.others(leader);
        let others = scene.shuffled(others);
        let (other, third) = (others[0], others[1]);
        scene.cut(&[third], true);
        assert_eq!(scene.record(leader, 12), 12);
        scene.pass(REST_US);
        for (node, back) in [(leader, 5), (other, 12)] {
            scene.kill(node);
            let (_, frames) = scene.frames(node);
            let at = frames.len() - back - scene.below(4) as usize;
            scene.rot(node, at - 2..at);
        }
        // It may be there, and be of no help.
        let away = scene.below(2) == 0;
        scene.cut(&[third], away);
        scene.start(leader);
        scene.start(other);
        assert!(!scene.is_whole(leader) && !scene.is_whole(other), "the damage is noticed");
        scene.pass(5_000_000);
        assert!(scene.is_whole(leader), "liveness: {:?}", scene.halted(leader));
        assert!(scene.is_whole(other), "liveness: {:?}", scene.halted(other));
        assert_eq!(scene.record(other, 3), 3, "liveness: the two go on");
        scene.finish();
        assert_whole(&scene);
    });
}

/// G1: every log is damaged at once, each at another place: nobody is whole, nobody leads, and between them they
/// have everything.
#[test]
fn all_three_damaged_at_different_places_repair_each_other() {
    each_seed(30, |seed| {
        let mut scene = Scene::begun(seed, entry_by_entry());
        let leader = scene.led();
        assert_eq!(scene.record(leader, 45), 45);
        scene.pass(REST_US);
        let nodes = scene.node_ids();
        let nodes = scene.shuffled(nodes);
        for (node, back) in nodes.iter().zip([7, 21, 35]) {
            scene.kill(*node);
            let (_, frames) = scene.frames(*node);
            let at = frames.len() - back - scene.below(4) as usize;
            scene.rot(*node, at - 2..at);
        }
        nodes.iter().for_each(|node| scene.start(*node));
        assert!(nodes.iter().all(|node| !scene.is_whole(*node)), "the damage is noticed");
        scene.pass(10_000_000);
        for node in &nodes {
            assert!(scene.is_whole(*node), "liveness: {:?}", scene.halted(*node));
        }
        let leader = scene.led();
        assert_eq!(scene.record(leader, 3), 3, "liveness: they go on");
        scene.finish();
        assert_whole(&scene);
    });
}

/// G10: what two of three acknowledged is damaged at both, and the third never had it. Nobody can say
/// what it was: the group halts, and says so.
#[test]
fn what_is_damaged_at_all_who_had_it_halts_the_group() {
    each_seed(30, |seed| {
        let mut scene = Scene::begun(seed, entry_by_entry());
        let leader = scene.led();
        scene.record(leader, 3);
        let others = scene.others(leader);
        let others = scene.shuffled(others);
        let (other, third) = (others[0], others[1]);
        let damaged = [leader, other];
        scene.cut(&[third], true);
        assert_eq!(scene.record(leader, 10), 10);
        scene.pass(REST_US);
        let acked = scene.acked_count();
        damaged.iter().for_each(|node| scene.kill(*node));
        // With whole entries behind it, or without any.
        let back = 1 + scene.below(8) as usize;
        for node in damaged {
            let (_, frames) = scene.frames(node);
            let at = frames.len() - back;
            scene.rot(node, at - 2..at);
        }
        scene.cut(&[third], false);
        damaged.iter().for_each(|node| scene.start(*node));
        for _ in 0..10 {
            for node in scene.node_ids() {
                scene.give(node);
            }
            scene.pass(1_000_000);
        }
        // Each may hope for a while that the other is repaired.
        scene.pass(60_000_000);
        assert_eq!(scene.acked_count(), acked, "G10: it goes on without what it acknowledged");
        let halted = damaged.iter().filter(|node| scene.is_beyond_repair(**node)).count();
        let why: Vec<_> = damaged.iter().map(|node| scene.halted(*node)).collect();
        assert!(halted > 0, "G10: nobody says that entries are lost: {why:?}");
        assert!(scene.leader(GROUP).is_none());
    });
}

/// Liveness: what was repaired is durable, so it is whole when it is started again, and needs nobody.
#[test]
fn a_repaired_replica_needs_nobody_afterwards() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, entry_by_entry());
        let leader = scene.led();
        assert_eq!(scene.record(leader, 2), 2);
        let next = scene.others(leader)[0];
        scene.transfer(leader, GROUP, next);
        scene.pass(1_000_000);
        assert_eq!(scene.record(next, 8), 8);
        scene.pass(REST_US);
        let nodes = scene.node_ids();
        let victim: NodeId = scene.shuffled(nodes)[0];
        scene.kill(victim);
        let (_, frames) = scene.frames(victim);
        // A frame with an entry, and the mark beside it; or all from there on.
        let late = frames.len() - 4 - scene.below(4) as usize;
        let end = *scene.random().pick(&[late + 2, frames.len() - 1]);
        scene.rot(victim, late..end);
        scene.start(victim);
        assert!(!scene.is_whole(victim), "the damage is noticed");
        scene.pass(5_000_000);
        assert!(scene.is_whole(victim), "liveness: it is repaired");
        if scene.below(2) == 0 {
            scene.record(victim, 1);
        }
        let last = |scene: &Scene| scene.status(victim, GROUP).map(|status| status.last_index);
        let before = last(&scene);
        scene.kill(victim);
        scene.cut(&[victim], true);
        scene.start(victim);
        scene.pass(1_000_000);
        assert!(scene.is_whole(victim), "liveness: a repaired log is found damaged again");
        assert!(before <= last(&scene), "G1: a repaired log is cut again");
        scene.finish();
    });
}

/// While it is down, all others but the leader are replaced, it is removed and added again, and then the
/// leader is gone too: nobody whom it knows answers any more.
fn add_again(scene: &mut Scene, victim: NodeId) -> NodeId {
    let leader = scene.led();
    let (_, member) = scene.describe(victim);
    let others: Vec<NodeId> = scene.others(leader).into_iter().filter(|n| *n != victim).collect();
    for old in others {
        let (new, joins) = scene.add_node();
        scene.changed(MemberChange::AddLearner { node: new, member: joins }).expect("a newcomer");
        scene.pass(5_000_000);
        scene.changed(MemberChange::Replace { old, new }).expect("it has caught up");
        scene.power_off(old);
    }
    let (new, joins) = scene.add_node();
    scene.changed(MemberChange::AddLearner { node: new, member: joins }).expect("a newcomer");
    scene.pass(5_000_000);
    scene.changed(MemberChange::Replace { old: victim, new }).expect("it has caught up");
    scene.changed(MemberChange::AddLearner { node: victim, member }).expect("it is added again");
    scene.power_off(leader);
    scene.pass(5_000_000);
    leader
}

/// Liveness: what a damaged replica lost is trimmed everywhere, and of those whom it knows most have been
/// replaced and never answer. The leader that writes to it does.
#[test]
fn who_is_added_again_asks_the_leader_for_what_is_trimmed() {
    let lost = each_seed(10, |seed| {
        let mut options = entry_by_entry();
        options.replica.lag_entries_max = 8;
        // Seldom enough that the state does not have everything.
        options.flush_per_mille = 100;
        let mut scene = Scene::begun(seed, options);
        let leader = scene.led();
        assert_eq!(scene.record(leader, 12), 12);
        scene.pass(REST_US);
        let victim = *scene.others(leader).first().expect("two others");
        scene.kill(victim);
        let (_, frames) = scene.frames(victim);
        scene.rot(victim, frames.len() - 6..frames.len() - 5);
        assert_eq!(scene.record(leader, 40), 40);
        let gone = add_again(&mut scene, victim);
        scene.start(victim);
        let repairs = !scene.is_whole(victim);
        scene.pass(20_000_000);
        assert!(scene.is_whole(victim), "liveness: {:?}", scene.halted(victim));
        scene.start(gone);
        scene.pass(5_000_000);
        scene.assert_converged();
        scene.assert_kept();
        repairs
    });
    assert!(lost.contains(&true) || lost.len() < 10, "whatever was lost was in the state");
}

/// Liveness: the same, of entries that were never committed, and that nobody else has had.
#[test]
fn who_is_added_again_asks_the_leader_for_what_was_never_committed() {
    each_seed(10, |seed| {
        let mut scene = Scene::begun(seed, entry_by_entry());
        let victim = scene.led();
        scene.record(victim, 12);
        scene.cut(&[victim], true);
        for _ in 0..6 {
            scene.give(victim);
            scene.pass(20_000);
        }
        scene.pass(3_000_000);
        scene.kill(victim);
        let (_, frames) = scene.frames(victim);
        scene.rot(victim, frames.len() - 4..frames.len() - 3);
        let leader = scene.led();
        assert_ne!(leader, victim);
        scene.record(leader, 3);
        scene.cut(&[victim], false);
        let gone = add_again(&mut scene, victim);
        scene.start(victim);
        scene.pass(20_000_000);
        assert!(scene.is_whole(victim), "liveness: {:?}", scene.halted(victim));
        scene.start(gone);
        scene.pass(5_000_000);
        scene.assert_converged();
        scene.assert_kept();
    });
}
