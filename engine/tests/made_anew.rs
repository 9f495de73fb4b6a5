//! A replica whose state is wrong gets another by one call, on simulated nodes: under load, whatever crashes on
//! the way, and never a half of one.
#![cfg(feature = "sim")]

use std::pin::pin;
use std::time::Duration;

use palisade::sim::{GROUP, SimFabric, SimRandom};
use palisade::{Engine, Error, Group, ReplicatedMap, ResourceSpec};

type Map = ReplicatedMap<String, u64>;

/// Enough for a pass over all rows.
const A_PASS: Duration = Duration::from_secs(65);
/// Enough for a snapshot, and for what follows from it.
const A_WHILE: Duration = Duration::from_secs(10);

async fn open(engine: &Engine) -> Result<Map, Error> {
    Map::open(engine, ResourceSpec::new("counts", "count.v1").unwrap()).await
}

fn group(fabric: &SimFabric, number: u64) -> Group {
    fabric.engine(fabric.node(number)).group(GROUP).unwrap()
}

fn write(fabric: &mut SimFabric, number: u64, keys: std::ops::Range<u64>) {
    let engine = fabric.engine(fabric.node(number));
    let map = fabric.block_on(open(&engine)).unwrap();
    for n in keys {
        fabric.block_on(map.put(&format!("key {n}"), &n)).unwrap();
    }
}

/// Three nodes, of which one has halted because a bit of its state flipped.
fn damaged(seed: u64) -> (SimFabric, u64) {
    let mut fabric = SimFabric::from_seed(seed, 3);
    let leader = fabric.leader().unwrap();
    let number = (1..=3).find(|number| fabric.node(*number) == leader).unwrap();
    write(&mut fabric, number, 0..40);
    fabric.run_for(A_PASS);
    let victim = 1 + seed % 3;
    fabric.flip_bit(fabric.node(victim), "map", 5 * seed as usize, false);
    fabric.run_for(A_PASS);
    assert!(group(&fabric, victim).applied().is_err(), "it has halted");
    (fabric, victim)
}

fn whole(fabric: &mut SimFabric, victim: u64) {
    fabric.run_for(A_WHILE);
    let [other, third] = [1 + victim % 3, 1 + (victim + 1) % 3];
    write(fabric, other, 100..103);
    fabric.run_for(A_WHILE);
    fabric.assert_converged();
    let digests = [victim, other, third].map(|number| {
        let group = group(fabric, number);
        fabric.block_on(group.digest()).unwrap()
    });
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    // It counts as any other: with one of the others gone, it makes the majority.
    fabric.partition(&[fabric.node(third)]);
    write(fabric, victim, 103..105);
    fabric.heal();
    fabric.run_for(A_PASS + A_WHILE);
    fabric.assert_converged();
    assert!(group(fabric, victim).applied().is_ok());
}

#[test]
fn a_replica_is_made_anew_by_one_call() {
    for seed in 1..=8 {
        let (mut fabric, victim) = damaged(seed);
        let other = 1 + victim % 3;
        write(&mut fabric, other, 40..60);
        let group = group(&fabric, victim);
        let before = fabric.block_on(group.chain_head()).unwrap_err();
        assert!(before.to_string().contains("the state is damaged"), "{before}");
        fabric.block_on(group.rebuild_replica()).unwrap();
        // At once it has all that it had.
        let engine = fabric.engine(fabric.node(victim));
        let map = fabric.block_on(open(&engine)).unwrap();
        let read = fabric.block_on(map.get(&"key 39".to_owned(), palisade::ReadConsistency::Local));
        assert_eq!(read.unwrap().value.unwrap().value, 39);
        whole(&mut fabric, victim);
    }
}

/// Wherever it loses power, it comes back as one that has halted, or as one that is whole.
#[test]
fn a_crash_leaves_a_halted_replica_or_a_whole_one() {
    let (mut again, mut once) = (0, 0);
    for seed in 1..=24 {
        let (mut fabric, victim) = damaged(seed);
        let mut random = SimRandom::from_seed(seed);
        let node = fabric.node(victim);
        let group_before = group(&fabric, victim);
        {
            let mut rebuild = pin!(group_before.rebuild_replica());
            // Most of them before the leader is heard, which is when the log goes.
            let length = Duration::from_millis(random.below(20) * random.below(20));
            let _ = fabric.block_on_for(length, &mut rebuild);
        }
        fabric.crash(node);
        fabric.restart(node);
        fabric.run_for(Duration::from_millis(100));
        let group = group(&fabric, victim);
        match group.applied() {
            Err(error) => {
                again += 1;
                let what = error.to_string();
                assert!(what.contains("made anew") || what.contains("damaged"), "{what}");
                fabric.block_on(group.rebuild_replica()).unwrap();
            }
            Ok(_) => once += 1,
        }
        whole(&mut fabric, victim);
    }
    assert!(again > 0 && once > 0, "{again} {once}");
}

/// Nobody leads, so nobody has a state to give: the replica waits, and keeps its log.
#[test]
fn it_waits_for_a_leader() {
    let (mut fabric, victim) = damaged(2);
    let node = fabric.node(victim);
    fabric.partition(&[node]);
    let group = group(&fabric, victim);
    let mut rebuild = pin!(group.rebuild_replica());
    assert!(fabric.block_on_for(A_WHILE, &mut rebuild).is_none());
    let waits = group.applied().unwrap_err();
    assert!(waits.to_string().contains("being made anew"), "{waits}");
    fabric.heal();
    fabric.block_on(rebuild).unwrap();
    whole(&mut fabric, victim);
}

#[test]
fn what_cannot_be_made_anew_is_refused() {
    let mut fabric = SimFabric::new(1);
    let refused = |fabric: &mut SimFabric| {
        let group = group(fabric, 1);
        match fabric.block_on(group.rebuild_replica()).unwrap_err() {
            Error::PreconditionFailed { what } => what,
            error => panic!("{error}"),
        }
    };
    write(&mut fabric, 1, 0..5);
    assert!(refused(&mut fabric).contains("has not halted"));
    fabric.run_for(A_PASS);
    fabric.flip_bit(fabric.node(1), "map", 2, false);
    fabric.run_for(A_PASS);
    assert!(refused(&mut fabric).contains("restore it from a backup"));
    assert!(group(&fabric, 1).applied().unwrap_err().to_string().contains("the state is damaged"));
}
