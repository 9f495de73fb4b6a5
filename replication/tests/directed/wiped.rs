//! Nodes that lost their data directory, and with it what they had promised.

use palisade_replication::sim::{GROUP, SimOptions};
use palisade_replication::{ChangeRefusal, MemberChange, NodeError, NodeId};

use crate::scene::{Scene, calm, each_seed};

/// G1, G2: two of three who lost everything are a majority, and must not begin anew, neither beside
/// the third nor without it: only the third has what was acknowledged.
#[test]
fn two_of_three_do_not_begin_anew() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, calm());
        let leader = scene.led();
        let acked = scene.record(leader, 5);
        assert_eq!(acked, 5);
        let nodes = scene.node_ids();
        let nodes = scene.shuffled(nodes);
        let (third, lost) = (nodes[0], &nodes[1..]);
        // It is there, or it is away, or it comes while they try.
        let way = scene.below(3);
        scene.cut(&[third], way > 0);
        lost.iter().for_each(|node| scene.power_off(*node));
        lost.iter().for_each(|node| scene.wipe(*node));
        for round in 0..6 {
            for node in lost {
                scene.give(*node);
            }
            scene.pass(1_000_000);
            if way == 2 && round == 3 {
                scene.cut(&[third], false);
            }
        }
        assert_eq!(scene.acked_count(), acked, "G1: the group went on without what it held");
        scene.heal();
        scene.pass(5_000_000);
        for node in lost {
            assert!(!leads(&scene, *node), "I4: a node with nothing leads");
            scene.give(*node);
        }
        scene.pass(1_000_000);
        assert_eq!(scene.acked_count(), acked, "G1: the group went on without what it held");
        assert_eq!(scene.machine(third).records(GROUP).len(), acked);
    });
}

fn leads(scene: &Scene, node: NodeId) -> bool {
    scene.leader(GROUP) == Some(node)
}

/// G1, G2: a node of five that lost everything meets only those who have never met it. They are a
/// majority with it, of which one may have confirmed what was acknowledged: that one.
#[test]
fn one_of_five_is_not_taken_for_new_by_those_who_never_met_it() {
    each_seed(20, |seed| {
        let mut scene = Scene::new(seed, SimOptions { nodes: 5, ..calm() });
        let nodes = scene.node_ids();
        let nodes = scene.shuffled(nodes);
        let (lost, strangers) = (nodes[0], &nodes[3..]);
        for stranger in strangers {
            scene.set_blocked(lost, *stranger, true);
            scene.set_blocked(*stranger, lost, true);
        }
        scene.pass(3_000_000);
        // With two who know it, if that is enough for it to take part.
        scene.cut(strangers, true);
        scene.pass(3_000_000);
        for node in &nodes[1..3] {
            scene.record(*node, 3);
        }
        scene.power_off(lost);
        scene.cut(&nodes[1..3], true);
        for stranger in strangers {
            scene.set_blocked(lost, *stranger, false);
            scene.set_blocked(*stranger, lost, false);
        }
        scene.wipe(lost);
        for _ in 0..5 {
            for node in strangers {
                scene.give(*node);
            }
            scene.pass(1_000_000);
        }
        // Those who know it are a majority without it, and go on.
        scene.finish();
        let leader = scene.led();
        assert_eq!(scene.record(leader, 3), 3, "liveness: four of five go on");
    });
}

/// G1: one of the two who confirmed a record loses everything and comes back beside the third, which
/// never had it.
#[test]
fn what_one_of_three_forgot_is_not_voted_away() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, calm());
        let leader = scene.led();
        let others = scene.others(leader);
        let others = scene.shuffled(others);
        let (lost, third) = (others[0], others[1]);
        scene.record(leader, 2);
        scene.cut(&[third], true);
        assert_eq!(scene.record(leader, 5), 5);
        scene.cut(&[third], false);
        scene.cut(&[leader], true);
        scene.wipe(lost);
        for _ in 0..5 {
            scene.give(third);
            scene.give(lost);
            scene.pass(1_000_000);
        }
        scene.finish();
        let leader = scene.led();
        assert_eq!(scene.record(leader, 3), 3, "liveness: two of three go on");
    });
}

/// Liveness: a voter that lost everything cannot confirm anything, so it does not count as one who
/// answers when a change of membership is judged: the group would never get out of the change.
#[test]
fn a_change_does_not_rely_on_who_lost_everything() {
    each_seed(20, |seed| {
        let mut scene = Scene::begun(seed, calm());
        let leader = scene.led();
        let others = scene.others(leader);
        let others = scene.shuffled(others);
        let (lost, third) = (others[0], others[1]);
        scene.record(leader, 3);
        scene.wipe(lost);
        scene.pass(1_000_000);
        assert_eq!(scene.record(leader, 3), 3, "liveness: two of three go on");
        let change = match scene.below(2) {
            0 => MemberChange::Remove { node: third },
            _ => MemberChange::Demote { node: third },
        };
        let refusal = scene.changed(change).expect_err("it would take the majority away");
        let expected = ChangeRefusal::QuorumAtRisk { active: 1, voters: 2 };
        assert!(
            matches!(&refusal, NodeError::Change(refusal) if *refusal == expected),
            "{refusal:?}"
        );
        assert_eq!(scene.record(leader, 3), 3, "liveness: the group goes on");
        // What helps is allowed.
        scene.changed(MemberChange::Remove { node: lost }).expect("two are left who answer");
        let (node, member) = scene.describe(lost);
        scene.changed(MemberChange::AddLearner { node, member }).expect("a newcomer");
        scene.pass(5_000_000);
        scene.changed(MemberChange::Promote { node }).expect("it has caught up");
        scene.finish();
        scene.power_off(third);
        scene.pass(3_000_000);
        assert_eq!(scene.record(lost, 3), 3, "liveness: it takes part again");
    });
}
