//! G9: placement is authorization, for whoever writes, reads, works or keeps a copy, and nothing is tried
//! elsewhere.

#[path = "support/data.rs"]
mod data;

use data::Data;
use palisade::sim::SimFabric;
use palisade::{
    Engine, Error, FailureDomain, Member, MemberChange, NodeId, Placement, ReadConsistency,
    ReplicatedMap, ResourceSpec,
};

type Map = ReplicatedMap<String, String>;

fn spec(name: &str, provider: &str) -> ResourceSpec {
    ResourceSpec::new(name, "placed.v1")
        .unwrap()
        .placement(Placement::providers([provider]).unwrap())
}

fn at(provider: &str) -> FailureDomain {
    FailureDomain::new(provider, "r", "z")
}

fn is_refused<T>(result: Result<T, Error>) {
    let refused = result.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::DomainUnavailable { .. }), "{refused}");
}

/// Each door, from inside and from outside.
#[test]
fn who_is_outside_neither_writes_nor_reads_nor_works() {
    let mut fabric = SimFabric::new(3);
    let nodes = [1, 2, 3].map(|number| fabric.node(number));
    fabric.place(nodes[0], at("inside"));
    fabric.place(nodes[1], at("outside"));
    let inside = fabric.engine(nodes[0]);
    let outside = fabric.engine(nodes[1]);
    let map = fabric.block_on(Map::open(&inside, spec("map", "inside"))).unwrap();
    let key = "k".to_owned();
    fabric.block_on(map.put(&key, &key)).unwrap();

    // A node outside.
    is_refused(fabric.block_on(Map::open(&outside, spec("map", "inside"))));
    let (name, schema) = (spec("map", "inside").name, spec("map", "inside").schema);
    is_refused(fabric.block_on(Map::open_reader(&outside, &name, &schema)));
    // A caller outside, at a node inside.
    let caller = map.for_caller(at("outside"));
    let fresh = ReadConsistency::Linearizable;
    is_refused(fabric.block_on(caller.get(&key, fresh)));
    is_refused(fabric.block_on(caller.get_many(std::slice::from_ref(&key), fresh)));
    is_refused(fabric.block_on(caller.range(palisade::MapRange::all(), fresh)));
    is_refused(fabric.block_on(caller.at(inside.data().applied().unwrap()).get(&key, fresh)));
    let mut watch = caller.watch(palisade::Offset::ZERO, palisade::WatchOptions::default());
    is_refused(fabric.block_on(watch.next()));
    is_refused(fabric.block_on(caller.put(&key, &key)));
    is_refused(fabric.block_on(caller.delete(&key)));
    is_refused(fabric.block_on(inside.batch().caller(at("outside")).delete(&map, &key).commit()));
    // A worker.
    is_refused(fabric.block_on(map.admit(&at("outside"))));
    fabric.block_on(map.admit(&at("inside"))).unwrap();
    // And from inside all of it is done.
    let caller = map.for_caller(at("inside"));
    assert!(fabric.block_on(caller.get(&key, fresh)).unwrap().value.is_some());
    fabric.block_on(caller.put(&key, &key)).unwrap();
    fabric.block_on(caller.delete(&key)).unwrap();
}

#[tokio::test]
async fn a_replica_is_where_every_resource_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let engine = Engine::builder(dir.path())
        .domain(at("inside"))
        .listen(address)
        .voter_in(NodeId::new(1), address, &at("inside"))
        .open()
        .await
        .unwrap();
    let map = Map::open(&engine, spec("map", "inside")).await.unwrap();
    map.put(&"k".to_owned(), &"v".to_owned()).await.unwrap();
    let member = |provider: &str| Member { domain: at(provider).to_string(), ..Member::default() };
    let add =
        |provider| MemberChange::AddLearner { node: NodeId::new(2), member: member(provider) };
    is_refused(engine.change_members(add("outside")).await);
    let other = engine.change_members(add("inside")).await.unwrap_err();
    assert!(matches!(other, Error::PreconditionFailed { .. }), "its life is not known: {other}");
    // A group that has a voter outside is none for it.
    is_refused(Map::open(&engine, spec("other", "outside")).await);
    engine.close().await.unwrap();
}
