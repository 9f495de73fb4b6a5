//! Replicas whose states differ, and rows that rot, on simulated nodes: the one that is wrong halts and says
//! where, the others go on and can say it, too, and nobody halts who is right.
#![cfg(feature = "sim")]

use std::time::Duration;

use palisade::sim::{GROUP, SimFabric, SimRandom};
use palisade::{
    Divergence, Engine, Error, Group, History, LogicalResourceName, ReadConsistency, ReplicatedMap,
    ResourceSpec, SchemaId,
};

type Map = ReplicatedMap<String, u64>;

/// Enough for two marks, and for what follows from them.
const TWO_MARKS: Duration = Duration::from_secs(30);
/// Enough for a pass over all rows.
const A_PASS: Duration = Duration::from_secs(65);

async fn open(engine: &Engine) -> Map {
    let spec = ResourceSpec::new("counts", "count.v1").unwrap();
    Map::open(engine, spec).await.unwrap()
}

/// Nodes with a map of some keys, which go on being written.
fn written(seed: u64, nodes: u64) -> (SimFabric, Map) {
    let mut fabric = SimFabric::from_seed(seed, nodes);
    let engine = fabric.engine(fabric.leader().unwrap());
    let map = fabric.block_on(open(&engine));
    for n in 0..40 {
        fabric.block_on(map.put(&format!("key {n}"), &n)).unwrap();
    }
    // Everybody has it.
    fabric.run_for(Duration::from_secs(2));
    (fabric, map)
}

/// Somebody writes, who may be told that he cannot.
fn write(fabric: &mut SimFabric, number: u64, length: Duration) {
    let end = fabric.now() + length;
    while fabric.now() < end {
        let engine = fabric.engine(fabric.node(number));
        let spec = ResourceSpec::new("counts", "count.v1").unwrap();
        let write = async {
            let map = Map::open(&engine, spec).await?;
            map.put(&"more".to_owned(), &1).await
        };
        let _ = fabric.block_on(write);
        fabric.run_for(Duration::from_millis(500));
    }
}

fn group(fabric: &SimFabric, number: u64) -> Group {
    fabric.engine(fabric.node(number)).group(GROUP).unwrap()
}

fn halted(fabric: &mut SimFabric, number: u64) -> Option<String> {
    let group = group(fabric, number);
    match fabric.block_on(group.divergences()) {
        Err(Error::InternalError { what }) => Some(what),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    }
}

fn found(fabric: &mut SimFabric, number: u64) -> Vec<Divergence> {
    let group = group(fabric, number);
    fabric.block_on(group.divergences()).unwrap()
}

/// A replica that has applied something otherwise halts, alone, and everybody else can say where it differs.
#[test]
fn a_replica_that_applied_otherwise_halts_with_the_range() {
    for seed in 1..=8 {
        let (mut fabric, _) = written(seed, 3);
        let victim = 1 + seed % 3;
        let node = fabric.node(victim);
        let key = fabric.flip_bit(node, "map", 7 * seed as usize, true);
        let [other, third] = [1 + victim % 3, 1 + (victim + 1) % 3];
        write(&mut fabric, other, TWO_MARKS);
        let what = halted(&mut fabric, victim).expect("it halts");
        assert!(what.contains("not the majority's"), "{what}");
        assert!(what.contains("projection=map resource=counts keys from="), "{what}");
        for number in [other, third] {
            let [found] = &found(&mut fabric, number)[..] else { panic!("one differs") };
            assert_eq!(found.node, node);
            assert!(found.has_majority);
            let compared = group(&fabric, number).compared();
            assert!(2 < compared.digests && compared.differing == 1, "{compared:?}");
            assert_eq!(found.resource.as_ref().unwrap().as_str(), "counts");
            assert!(found.from <= key && found.end.as_ref().is_none_or(|end| key < *end));
            // The others go on.
            let engine = fabric.engine(fabric.node(number));
            let map = fabric.block_on(open(&engine));
            fabric.block_on(map.put(&"after".to_owned(), &number)).unwrap();
        }
        // It knows it for ever.
        fabric.crash(node);
        fabric.restart(node);
        fabric.run_for(Duration::from_secs(5));
        assert!(halted(&mut fabric, victim).unwrap().contains("projection=map"));
    }
}

/// G10: a row that a read can make nothing of is not served to the next one either, nor after a restart, before
/// anybody has compared or scrubbed it.
#[test]
fn a_read_that_meets_a_damaged_row_halts_its_replica_for_good() {
    let (mut fabric, map) = written(1, 3);
    // A number of two bytes, of which the second goes: not what the map writes.
    let history = History { keep_ms: 1_000_000, changes_max: 128 };
    fabric.block_on(map.keep(history)).unwrap();
    fabric.run_for(Duration::from_secs(1));
    let victim = (1..=3).find(|number| Some(fabric.node(*number)) != fabric.leader()).unwrap();
    let (node, engine) = (fabric.node(victim), fabric.engine(fabric.node(victim)));
    let there = fabric.block_on(open(&engine));
    let key = fabric.flip_bit(node, "map", 40, true);
    assert!(key.ends_with(b"h"), "it is the header: {key:?}");
    let local = ReadConsistency::Local;
    let met = fabric.block_on(there.bounds(local)).unwrap_err();
    assert!(matches!(met, Error::InternalError { .. }), "{met}");
    assert!(met.to_string().contains("a read met a damaged state"), "{met}");
    // What lies beside it is as good as ever, but nobody knows that.
    let latched = |fabric: &mut SimFabric| {
        let engine = fabric.engine(node);
        let name = LogicalResourceName::new("counts").unwrap();
        let schema = SchemaId::new("count.v1").unwrap();
        let opened = fabric.block_on(Map::open_reader(&engine, &name, &schema));
        opened.map(|_| ()).unwrap_err().to_string()
    };
    let later = fabric.block_on(there.get(&"key 7".to_owned(), local)).unwrap_err();
    assert!(later.to_string().contains("a read met a damaged state"), "{later}");
    fabric.crash(node);
    fabric.restart(node);
    fabric.run_for(Duration::from_secs(2));
    assert!(latched(&mut fabric).contains("a read met a damaged state"));
    // The others go on, and one call makes it whole.
    fabric.block_on(map.put(&"after".to_owned(), &1)).unwrap();
    let group = group(&fabric, victim);
    fabric.block_on(group.rebuild_replica()).unwrap();
    let engine = fabric.engine(node);
    let there = fabric.block_on(open(&engine));
    assert_eq!(fabric.block_on(there.bounds(local)).unwrap().value.keys, 41);
    fabric.run_for(Duration::from_secs(2));
    fabric.assert_converged();
}

/// A bit that flips where nobody looks: the replica finds it by itself, with nobody to compare itself with.
#[test]
fn a_bit_that_flips_is_found_by_the_replica_alone() {
    for (seed, nodes) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5)] {
        let (mut fabric, _) = written(seed, nodes);
        let victim = 1 + seed % nodes;
        let node = fabric.node(victim);
        fabric.run_for(A_PASS);
        let projection = ["map", "resources", "heads"][seed as usize % 2];
        fabric.flip_bit(node, projection, 3 * seed as usize, false);
        assert_eq!(halted(&mut fabric, victim), None, "nobody has looked");
        fabric.run_for(A_PASS);
        let what = halted(&mut fabric, victim).expect("it halts");
        assert!(what.contains("the state is damaged"), "{what}");
        assert!(what.contains(&format!("projection={projection}")), "{what}");
        for number in (1..=nodes).filter(|number| *number != victim) {
            assert_eq!(halted(&mut fabric, number), None);
        }
        fabric.crash(node);
        fabric.restart(node);
        fabric.run_for(Duration::from_secs(5));
        assert!(halted(&mut fabric, victim).unwrap().contains("the state is damaged"));
    }
}

/// Two that differ cannot tell who is right.
#[test]
fn two_that_differ_halt_both() {
    let (mut fabric, _) = written(3, 2);
    fabric.flip_bit(fabric.node(2), "map", 5, true);
    write(&mut fabric, 1, TWO_MARKS);
    let told: Vec<String> = (1..=2).filter_map(|number| halted(&mut fabric, number)).collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|what| what.contains("none is agreed on")), "{told:?}");
}

/// Replicas that are slow, cut off or lose power are not wrong: nobody halts, and all are compared.
#[test]
fn nobody_halts_who_is_right() {
    for seed in 1..=10 {
        let (mut fabric, _) = written(seed, 3);
        let mut random = SimRandom::from_seed(seed);
        for _ in 0..12 {
            let number = 1 + random.below(3);
            let node = fabric.node(number);
            match random.below(3) {
                0 => fabric.partition(&[node]),
                1 => {
                    fabric.crash(node);
                    fabric.restart(node);
                }
                _ => fabric.pause(node, Duration::from_secs(3)),
            }
            let writer = 1 + random.below(3);
            write(&mut fabric, writer, Duration::from_secs(1 + random.below(12)));
            fabric.heal();
        }
        write(&mut fabric, 1, TWO_MARKS);
        fabric.run_for(Duration::from_secs(15));
        fabric.assert_converged();
        for number in 1..=3 {
            assert_eq!(halted(&mut fabric, number), None, "seed={seed}");
            assert_eq!(found(&mut fabric, number), []);
            let compared = group(&fabric, number).compared();
            assert!(3 <= compared.digests && compared.differing == 0, "{compared:?}");
        }
    }
}

/// Who has nothing to do says nothing: not about marks, either.
#[test]
fn an_idle_group_is_silent() {
    let (mut fabric, map) = written(1, 3);
    fabric.run_for(TWO_MARKS);
    let engine = group(&fabric, 1);
    let idle = engine.applied().unwrap();
    fabric.run_for(Duration::from_secs(120));
    assert_eq!(engine.applied().unwrap(), idle);
    // One write, one mark, and what three nodes say of it.
    let read = fabric.block_on(map.get(&"key 1".to_owned(), ReadConsistency::Local)).unwrap();
    assert_eq!(read.value.unwrap().value, 1);
    fabric.block_on(map.put(&"key 1".to_owned(), &2)).unwrap();
    fabric.run_for(TWO_MARKS);
    assert_eq!(engine.applied().unwrap().get(), idle.get() + 5);
    fabric.run_for(Duration::from_secs(120));
    assert_eq!(engine.applied().unwrap().get(), idle.get() + 5);
}

/// What is found, and when, follows from the seed.
#[test]
fn a_seed_gives_one_run() {
    let run = || {
        let (mut fabric, _) = written(7, 3);
        fabric.flip_bit(fabric.node(2), "map", 9, true);
        write(&mut fabric, 1, TWO_MARKS);
        (fabric.trace(), found(&mut fabric, 1))
    };
    assert_eq!(run(), run());
}
