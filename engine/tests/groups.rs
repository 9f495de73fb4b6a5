//! Resources over several groups: where names belong, whoever claims them and whatever goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use palisade::sim::SimFabric;
use palisade::*;

type Map = ReplicatedMap<String, u64>;

const A_WHILE: Duration = Duration::from_secs(5);
const LOCAL: ReadConsistency = ReadConsistency::Local;
const NOW: ReadConsistency = ReadConsistency::Linearizable;

fn spec(name: &str, affinity: &str) -> ResourceSpec {
    let spec = ResourceSpec::new(name, "test.v1").unwrap().replicas(ReplicaPolicy::majority(3));
    spec.affinity(Affinity::new(affinity).unwrap())
}

fn name(name: &str) -> LogicalResourceName {
    LogicalResourceName::new(name).unwrap()
}

fn four(seed: u64) -> SimFabric {
    SimFabric::builder(3).seed(seed).data_groups(4).build().unwrap()
}

fn key(number: u64) -> String {
    format!("k{number}")
}

/// Those of one affinity are together, others are spread, and the directory has all of them.
#[test]
fn resources_are_spread_and_those_that_are_used_together_are_not() {
    let mut builder = SimFabric::builder(3).data_groups(4);
    for number in 1..=3_u64 {
        let zone = FailureDomain::new("local", "r", format!("zone-{number}"));
        builder = builder.place(NodeId::new(number), zone);
    }
    let mut fabric = builder.build().unwrap();
    let [one, two] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
    let mut groups = BTreeMap::new();
    for number in 0..12_u64 {
        // Names that are in another order than what made them.
        let (named, affinity) = (format!("r{}", 11 - number), format!("a{}", number / 2));
        let map = fabric.block_on(Map::open(&one, spec(&named, &affinity))).unwrap();
        groups.insert(named, map.group().id().get());
    }
    let of: Vec<u64> = (0..12).rev().map(|number| groups[&format!("r{number}")]).collect();
    assert_eq!(of, [1, 1, 2, 2, 3, 3, 4, 4, 1, 1, 2, 2]);

    // Another node knows where they are, also for who does not say their affinity.
    let (r5, schema) = (name("r5"), SchemaId::new("test.v1").unwrap());
    let found = fabric.block_on(Map::open_reader(&two, &r5, &schema)).unwrap();
    assert_eq!(found.group().id().get(), groups["r5"]);
    let other = fabric.block_on(Map::open(&two, spec("r5", "a0"))).map(drop).unwrap_err();
    assert!(matches!(&other, Error::Incompatible { .. }), "{other}");
    assert!(other.to_string().contains("affinity"), "{other}");
    let none = fabric.block_on(two.directory().describe(&name("r99"), NOW)).unwrap_err();
    assert!(matches!(none, Error::NotFound { .. }), "{none}");

    // The directory has all of them, by name, in pages.
    let directory = two.directory();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = fabric.block_on(directory.list("r", after.as_ref(), 5, NOW)).unwrap();
        // A token of each group: on any replica, what a group has is then no older than what was listed.
        let data = two.groups().into_iter().filter(|group| group.id() != SYSTEM_GROUP);
        let data: Vec<GroupId> = data.map(|group| group.id()).collect();
        let tokens = page.freshness.iter().map(|token| token.group).collect::<Vec<_>>();
        assert_eq!(tokens, data);
        for token in page.freshness {
            let options = ReadOptions::from(token).wait(A_WHILE);
            let other = one.directory();
            let again = fabric.block_on(other.list("r", None, 5, options)).unwrap();
            let reached = again.freshness.iter().find(|again| again.group == token.group);
            assert!(reached.unwrap().offset >= token.offset);
        }
        let page = page.resources;
        assert!(page.len() <= 5, "no page has more than was asked for");
        after = page.last().map(|found| found.name.clone());
        let last = page.len() < 5;
        listed.extend(page.into_iter().map(|found| (found.name.to_string(), found.group.get())));
        if last {
            break;
        }
    }
    assert_eq!(listed, groups.clone().into_iter().collect::<Vec<_>>());
    let of_one = ReadConsistency::AtLeastOffset(Offset::new(1));
    let refused = fabric.block_on(directory.list("r", None, 5, of_one)).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    let found = fabric.block_on(directory.describe(&name("r9"), LOCAL)).unwrap();
    assert_eq!(found.value.affinity.as_str(), "a1");
    assert_eq!(found.freshness.group.get(), groups["r9"]);

    // It is altered and deleted where it lies.
    let deleted = fabric.block_on(directory.delete(&name("r9"), Revision::MADE, 60_000, "test"));
    assert_eq!(deleted.unwrap().group.get(), groups["r9"]);
    let gone = fabric.block_on(Map::open(&one, spec("r9", "a1"))).map(drop).unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");

    // The map of the cluster has every group, and drills judge each resource by its own.
    let map = fabric.block_on(one.cluster_map()).unwrap();
    let ids: Vec<u64> = map.groups.iter().map(|group| group.group.get()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
    assert_eq!(map.resources.len(), 11);
    let lost = degradation::FailureDrill::NodeLoss { node: two.node() };
    assert_eq!(lost.rehearse(&map, 1).unwrap(), lost.judge(&map).unwrap());
}

/// Two that are together, and one that is elsewhere.
async fn left_right_left(engine: &Engine) -> [Map; 3] {
    let a = Map::open(engine, spec("a", "left")).await.unwrap();
    let b = Map::open(engine, spec("b", "right")).await.unwrap();
    let c = Map::open(engine, spec("c", "left")).await.unwrap();
    [a, b, c]
}

/// A batch over two groups is refused, and says what to do about it.
#[test]
fn a_batch_is_of_one_group() {
    let mut fabric = four(2);
    let here = fabric.engine(fabric.node(1));
    let [a, b, c] = fabric.block_on(left_right_left(&here));
    assert_eq!(a.group().id(), c.group().id());
    assert_ne!(a.group().id(), b.group().id());
    let k = key(1);
    let both = here.batch().put(&a, &k, &1).put(&b, &k, &1);
    let refused = fabric.block_on(both.commit()).unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument { .. }), "{refused}");
    assert!(refused.to_string().contains("affinity"), "{refused}");
    let guarded = here.batch().require(b.version_is(&k, Version::ABSENT)).put(&a, &k, &1);
    assert!(matches!(fabric.block_on(guarded.commit()), Err(Error::InvalidArgument { .. })));
    let client = fabric.block_on(b.group().register_client(A_WHILE)).unwrap();
    let number = CommandNumber { client, seq: 1, acked_up_to: 0 };
    let foreign = here.batch().numbered(number).put(&a, &k, &1);
    assert!(matches!(fabric.block_on(foreign.commit()), Err(Error::InvalidArgument { .. })));
    fabric.block_on(here.batch().put(&a, &k, &1).put(&c, &k, &2).commit()).unwrap();
}

/// It is one client in each group, and reads what it wrote by the offset of that group.
#[test]
fn a_session_is_of_all_groups() {
    let mut fabric = four(2);
    let [here, there] = [1, 3].map(|number| fabric.engine(fabric.node(number)));
    let session = fabric.block_on(here.client_session(Duration::from_secs(3600))).unwrap();
    // Stored before anything is opened, and before both writes: each takes effect once.
    let token = session.token();
    let [a, b, _] = fabric.block_on(left_right_left(session.engine()));
    let k = key(1);
    let first = fabric.block_on(async { [a.put(&k, &7).await, b.put(&k, &8).await] });
    let first = first.map(Result::unwrap);
    fabric.crash(here.node());
    let again = there.resume(&token).unwrap();
    let [a, b, _] = fabric.block_on(left_right_left(again.engine()));
    let second = fabric.block_on(async { [a.put(&k, &7).await, b.put(&k, &8).await] });
    for (first, second) in first.iter().zip(second.map(Result::unwrap)) {
        assert!(second.duplicate, "group={}", second.group);
        assert_eq!((first.group, first.offset), (second.group, second.offset));
    }
    let [of_a, of_b] = [&a, &b].map(|map| again.client(map.group().id()).unwrap());
    assert_ne!(of_a.group, of_b.group);

    // What was written is read, in each group by its own offset.
    let read = fabric
        .block_on(async { [a.get(&k, LOCAL).await.unwrap(), b.get(&k, LOCAL).await.unwrap()] });
    assert_eq!(read.map(|read| read.value.unwrap().value), [7, 8]);
    let [one, other] = [&first[0], &first[1]].map(|receipt| receipt.freshness());
    let strange = fabric.block_on(a.get(&k, ReadConsistency::AtLeast(other))).unwrap_err();
    assert!(matches!(strange, Error::InvalidArgument { .. }), "{strange}");
    fabric.block_on(a.get(&k, ReadConsistency::AtLeast(one))).unwrap();
}

/// D6: two who make one name at once make one resource.
#[test]
fn two_who_make_a_name_at_once_make_one_resource() {
    for seed in 1..=8 {
        let mut fabric = four(seed);
        let [one, two] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
        let make = async |engine: &Engine| {
            engine.directory().create(&ResourceKind::MAP, spec("only", "x")).await
        };
        let (a, b) = fabric.block_on(async { tokio::join!(make(&one), make(&two)) });
        let made: Vec<Described> = [&a, &b].into_iter().flatten().cloned().collect();
        let refused: Vec<Error> = [a, b].into_iter().filter_map(Result::err).collect();
        assert_eq!((made.len(), refused.len()), (1, 1), "seed={seed}");
        assert!(matches!(refused[0], Error::AlreadyExists { .. }), "seed={seed}: {}", refused[0]);
        let listed = fabric.block_on(two.directory().list("", None, 10, NOW)).unwrap();
        assert_eq!(listed.resources, made, "seed={seed}");
        // Two affinities at once: one of them is the name's.
        let open = async |engine: &Engine, affinity| {
            Map::open(engine, spec("other", affinity)).await.map(|map| map.group().id())
        };
        let (a, b) = fabric.block_on(async { tokio::join!(open(&one, "y"), open(&two, "z")) });
        assert!(a.is_ok() != b.is_ok(), "seed={seed}: {a:?} {b:?}");
    }
}

/// Whoever claims a name and dies leaves nothing that stands in anybody's way.
#[test]
fn a_claim_that_nothing_follows_is_harmless() {
    let mut seen = BTreeSet::new();
    for ms in 0..60 {
        let mut fabric = four(3);
        let [dies, other] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
        let names = async || {
            let digest = other.group(SYSTEM_GROUP).unwrap().digest().await.unwrap();
            digest.projections.into_iter().find(|(family, _)| *family == "resources")
        };
        let none = fabric.block_on(names());
        let opened = {
            let mut open = pin!(Map::open(&dies, spec("m", "x")));
            fabric.block_on_for(Duration::from_millis(ms), open.as_mut()).is_some()
        };
        fabric.crash(dies.node());
        fabric.run_for(A_WHILE);
        let claimed = fabric.block_on(names()) != none;
        let listed = fabric.block_on(other.directory().list("", None, 10, NOW)).unwrap().resources;
        seen.insert((claimed, listed.len(), opened));
        assert!(claimed || listed.is_empty(), "what is there has a name");
        let map = fabric.block_on(Map::open(&other, spec("m", "x"))).unwrap();
        assert_eq!(map.group().id(), GroupId::new(1));
        fabric.block_on(map.put(&key(1), &1)).unwrap();
        let listed = fabric.block_on(other.directory().list("", None, 10, NOW)).unwrap();
        assert_eq!(listed.resources.len(), 1);
        fabric.restart(dies.node());
        fabric.run_for(A_WHILE);
        fabric.assert_converged();
    }
    assert!(seen.contains(&(false, 0, false)), "{seen:?}");
    assert!(seen.contains(&(true, 0, false)), "it died between the two: {seen:?}");
    assert!(seen.iter().any(|(_, listed, _)| *listed == 1), "{seen:?}");
}

/// Leaders on different nodes, which are cut off and crash: what was acknowledged is there, each name in one
/// group, and groups whose leader stays go on without those of others.
#[test]
fn groups_go_on_through_partitions_and_crashes() {
    for seed in 1..=6_u64 {
        let mut fabric = four(seed);
        let nodes = [1, 2, 3].map(|number| fabric.node(number));
        for group in 0..=4_u64 {
            let to = nodes[(group + seed) as usize % 3];
            let handle = fabric.engine(to).group(GroupId::new(group)).unwrap();
            handle.transfer_leadership(to).unwrap();
        }
        fabric.run_for(A_WHILE);
        let leads: BTreeSet<_> =
            (0..=4).map(|group| fabric.leader_of(GroupId::new(group)).unwrap()).collect();
        assert_eq!(leads.len(), 3, "seed={seed}: leaders are on different nodes");
        let mut written = BTreeMap::new();
        let mut places: BTreeMap<String, GroupId> = BTreeMap::new();
        for round in 0..6_u64 {
            let struck = nodes[((seed + round) % 3) as usize];
            match round % 3 {
                0 => {}
                1 => fabric.partition(&[struck]),
                _ => fabric.crash(struck),
            }
            let up = nodes.iter().filter(|node| **node != struck);
            for (at, node) in up.enumerate() {
                let engine = fabric.engine(*node);
                for resource in 0..4_u64 {
                    // Each round has a name of its own, too.
                    for named in [format!("r{resource}"), format!("r{resource}-{round}")] {
                        let spec = spec(&named, &format!("a{resource}"));
                        let put = async {
                            let map = Map::open(&engine, spec).await?;
                            let group = map.group().id();
                            map.put(&key(at as u64), &round).await.map(|_| group)
                        };
                        let Ok(group) = fabric.block_on(put) else { continue };
                        assert_eq!(*places.entry(named.clone()).or_insert(group), group);
                        written.insert((named, key(at as u64)), round);
                    }
                }
            }
            fabric.heal();
            if round % 3 == 2 {
                fabric.restart(struck);
            }
            fabric.run_for(A_WHILE);
        }
        assert_eq!(places.len(), 4 * 7, "seed={seed}: two of three can write everything");
        let engine = fabric.engine(nodes[0]);
        for ((named, key), value) in written {
            let schema = SchemaId::new("test.v1").unwrap();
            let read = async {
                let map = Map::open_reader(&engine, &name(&named), &schema).await.unwrap();
                map.get(&key, NOW).await.unwrap().value.unwrap().value
            };
            assert_eq!(fabric.block_on(read), value, "seed={seed} {named} {key}");
        }
        let listed = fabric.block_on(engine.directory().list("", None, 1_000, NOW)).unwrap();
        let listed: Vec<_> = listed
            .resources
            .into_iter()
            .map(|found| (found.name.to_string(), found.group))
            .collect();
        assert_eq!(listed, places.into_iter().collect::<Vec<_>>(), "seed={seed}");
        fabric.assert_converged();
    }
}

/// One node on real files: its groups are there again, and another number of them is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_stays_with_its_number_of_groups() {
    let dir = tempfile::tempdir().unwrap();
    let builder = |groups| Engine::builder(dir.path()).data_groups(groups);
    for wrong in [0, DATA_GROUPS_MAX + 1] {
        let refused = builder(wrong).open().await.map(drop).unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    }
    let alone =
        |name: &str, affinity: &str| spec(name, affinity).replicas(ReplicaPolicy::majority(1));
    let engine = builder(3).open().await.unwrap();
    let mut groups = Vec::new();
    for number in 0..6_u64 {
        let spec = alone(&format!("m{number}"), &format!("a{number}"));
        let map = Map::open(&engine, spec).await.unwrap();
        map.put(&key(number), &number).await.unwrap();
        groups.push(map.group().id().get());
    }
    assert_eq!(groups, [1, 2, 3, 1, 2, 3]);
    assert!(matches!(engine.group(GroupId::new(4)), Err(Error::NotFound { .. })));
    engine.close().await.unwrap();
    drop(engine);
    #[cfg(feature = "rocksdb")]
    for other in [1, 2, 4] {
        let refused = builder(other).open().await.map(drop).unwrap_err();
        assert!(matches!(refused, Error::Incompatible { .. }), "{other}: {refused}");
    }
    let engine = builder(3).open().await.unwrap();
    for number in 0..6_u64 {
        let spec = alone(&format!("m{number}"), &format!("a{number}"));
        let map = Map::open(&engine, spec).await.unwrap();
        assert_eq!(map.get(&key(number), NOW).await.unwrap().value.unwrap().value, number);
        assert_eq!(map.group().id().get(), number % 3 + 1);
    }
    engine.close().await.unwrap();
}
