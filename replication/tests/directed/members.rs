//! Changes of membership, and what comes in between.

use palisade_replication::sim::{Completion, GROUP, SimOptions};
use palisade_replication::{ChangeRefusal, MemberChange, MemberRole, NodeError, NodeId};

use crate::scene::{Scene, calm, each_seed};

/// A fourth node that has caught up as a learner.
fn with_learner(scene: &mut Scene) -> NodeId {
    let (node, member) = scene.add_node();
    scene.changed(MemberChange::AddLearner { node, member }).expect("a newcomer");
    scene.pass(5_000_000);
    node
}

fn assert_same_members(scene: &Scene) {
    let leader = scene.led();
    let members = |node| scene.status(node, GROUP).map(|status| status.members);
    for node in scene.members(GROUP) {
        assert_eq!(members(node), members(leader), "I4: node={node} knows other members");
    }
}

/// I4: the state of a change of membership is flushed, and power fails before the register that names
/// the members is durable. The members are known all the same, or there are majorities that do not meet.
#[test]
fn a_change_that_only_the_log_holds_is_not_forgotten() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, SimOptions { flush_per_mille: 1000, ..calm() });
        let learner = with_learner(&mut scene);
        for round in 0..4 {
            let leader = scene.led();
            let node = learner;
            let role = scene.status(leader, GROUP).and_then(|status| status.members.role(node));
            let change = match role {
                Some(MemberRole::Voter) => MemberChange::Demote { node },
                _ => MemberChange::Promote { node },
            };
            let others = scene.others(leader);
            let victim = *scene.random().pick(&others);
            let before = scene.status(victim, GROUP).expect("it is up").members;
            scene.change(leader, GROUP, change);
            let changes = |scene: &Scene| {
                scene.status(victim, GROUP).is_some_and(|status| status.members != before)
            };
            assert!(scene.wait(2_000_000, changes), "liveness: round={round}");
            scene.hold_syncs(victim);
            let us = scene.below(6_000);
            scene.pass(us);
            scene.power_off(victim);
            scene.start(victim);
            scene.pass(3_000_000);
            assert_same_members(&scene);
        }
        scene.finish();
        assert_same_members(&scene);
    });
}

/// Liveness: who is told that a dead voter was replaced may rely on it: the leader is lost as well in the
/// moment of the answer, and the other two of the new three go on.
#[test]
fn a_change_that_is_answered_needs_the_old_voters_no_more() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, SimOptions { loss_per_mille: 300, ..calm() });
        let new = with_learner(&mut scene);
        let leader = scene.led();
        let old = *scene.others(leader).iter().find(|node| **node != new).expect("another voter");
        scene.power_off(old);
        // Messages are lost: the newcomer may still be on its way.
        let changed = (0..20).any(|round| {
            scene.pass(round * 300_000);
            let op = scene.change(leader, GROUP, MemberChange::Replace { old, new });
            assert!(scene.wait(5_000_000, |scene| scene.answer(op).is_some()), "liveness");
            matches!(scene.answer(op), Some(Completion::Changed))
        });
        assert!(changed, "liveness: the change is made");
        scene.power_off(leader);
        scene.calm();
        scene.pass(10_000_000);
        let next = scene.led();
        assert_eq!(scene.record(next, 3), 3, "liveness: two of three go on");
    });
}

/// Liveness: a voter that has nothing cannot make a majority. A learner whose snapshot is on its way is
/// not promoted, and the group goes on while another voter is down.
#[test]
fn a_learner_with_nothing_is_not_promoted() {
    each_seed(20, |seed| {
        let mut options = SimOptions { flush_per_mille: 1000, ..calm() };
        options.replica.snapshot_bytes_per_second = 300;
        let mut scene = Scene::begun(seed, options);
        let leader = scene.led();
        assert_eq!(scene.record(leader, 40), 40);
        let (node, member) = scene.add_node();
        scene.changed(MemberChange::AddLearner { node, member }).expect("a newcomer");
        let others = scene.others(leader);
        let down = *others.iter().filter(|other| **other != node).max().expect("two others");
        scene.power_off(down);
        let refusal = scene.changed(MemberChange::Promote { node }).expect_err("it has nothing");
        assert!(
            matches!(refusal, NodeError::Change(ChangeRefusal::NotCaughtUp { .. })),
            "{refusal:?}"
        );
        assert_eq!(scene.record(leader, 3), 3, "liveness: two of three go on");
        scene.pass(60_000_000);
        scene.changed(MemberChange::Promote { node }).expect("it has caught up");
        assert_eq!(scene.record(leader, 3), 3, "liveness: three of four go on");
        scene.finish();
    });
}
