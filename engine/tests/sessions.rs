//! Sessions and freshness tokens over replicas that lag: who reads sees what he has written and seen.

#[path = "support/data.rs"]
mod data;

use std::time::Duration;

use bytes::Bytes;
use data::Data;
use palisade::sim::{SimFabric, SimRandom};
use palisade::{
    ClusterId, Engine, Error, Freshness, GroupId, LogicalResourceName, Offset, ReadConsistency,
    ReadOptions, ReplicatedMap, ResourceSpec, SchemaId, Session, Stored,
};

type Map = ReplicatedMap<String, u64>;

async fn open(engine: &Engine) -> Result<Map, Error> {
    let spec = ResourceSpec::new("numbers", "number.v1")?;
    ReplicatedMap::open(engine, spec).await
}

fn key() -> String {
    "k".to_owned()
}

/// A client that goes from replica to replica with nothing but its token.
struct Client {
    token: Bytes,
    written: u64,
    seen: u64,
}

/// F1, F2 and F3, with replicas that are cut off and lag: two clients count up one key each, and hop. What
/// a read says is never older than what the same client has written or read before, whichever replica it
/// asks, and a replica that is behind says so.
#[test]
fn clients_that_hop_read_what_they_wrote_and_never_go_back() {
    let (mut behind, mut served) = (0, 0);
    for seed in 0..12 {
        let mut fabric = SimFabric::from_seed(seed, 3);
        let mut random = SimRandom::from_seed(seed);
        let nodes = [1, 2, 3].map(|number| fabric.node(number));
        // Handles of every node, so that no opening brings a replica up to date.
        let engines = nodes.map(|node| fabric.engine(node));
        for engine in &engines {
            fabric.block_on(open(engine)).unwrap();
        }
        let fresh = engines[0].session().token();
        let mut clients = [0, 1].map(|_| Client { token: fresh.clone(), written: 0, seen: 0 });
        for _ in 0..60 {
            match random.below(8) {
                0 => fabric.partition(&[nodes[random.below(3) as usize]]),
                1 => fabric.heal(),
                _ => {}
            }
            let number = random.below(2);
            let client = &mut clients[number as usize];
            let session = engines[random.below(3) as usize].resume(&client.token).unwrap();
            let key = number.to_string();
            if random.below(2) == 0 {
                let to = client.written + 1;
                let put =
                    fabric.block_on(async { open(session.engine()).await?.put(&key, &to).await });
                if put.is_ok() {
                    (client.written, client.seen) = (to, client.seen.max(to));
                } else {
                    // It may come true: what is seen later is at least what was known.
                    client.written = to;
                }
            } else {
                // A handle as another process has it, which has opened nothing here.
                let before = session.freshness();
                let read = fabric.block_on(read_only(&session, &key));
                match read {
                    Ok((value, freshness)) => {
                        served += 1;
                        let context = format!("seed={seed} {value} after {}", client.seen);
                        assert!(value >= client.seen, "F1, F2: {context}");
                        let known = before.first().map_or(Offset::ZERO, |token| token.offset);
                        assert!(freshness.offset >= known, "F1: {context}");
                        client.seen = value;
                    }
                    Err(Error::NotYetApplied { .. }) => behind += 1,
                    Err(other) => panic!("seed={seed}: {other}"),
                }
            }
            client.token = session.token();
        }
    }
    assert!(behind >= 10 && served >= 100, "behind={behind} served={served}");
}

/// Reads without opening for writing, which would ask the whole group.
async fn read_only(session: &Session, key: &str) -> Result<(u64, Freshness), Error> {
    let map: Map = ReplicatedMap::open_reader(session.engine(), &name(), &schema()).await?;
    let read = map.get(&key.to_owned(), ReadConsistency::Local).await?;
    Ok((read.value.map_or(0, |row| row.value), read.freshness))
}

fn schema() -> SchemaId {
    SchemaId::new("number.v1").unwrap()
}

fn name() -> LogicalResourceName {
    LogicalResourceName::new("numbers").unwrap()
}

#[test]
fn a_lagging_replica_is_waited_for_and_then_says_that_it_is_behind() {
    let mut fabric = SimFabric::new(3);
    let nodes = [1, 2, 3].map(|number| fabric.node(number));
    let engines = nodes.map(|node| fabric.engine(node));
    let maps = engines.each_ref().map(|engine| fabric.block_on(open(engine)).unwrap());
    fabric.partition(&[nodes[2]]);
    let receipt = fabric.block_on(maps[0].put(&key(), &7)).unwrap();
    let fresh = ReadOptions::from(receipt.freshness());

    let behind = fabric.block_on(maps[2].get(&key(), fresh)).unwrap_err();
    assert!(matches!(behind, Error::NotYetApplied { .. }), "{behind}");
    let stale = fabric.block_on(maps[2].get(&key(), ReadConsistency::Local)).unwrap();
    assert_eq!(stale.value, None);
    assert!(stale.freshness.offset < receipt.offset, "F3: it says of when it is");

    fabric.heal();
    let waits = fresh.wait(Duration::from_secs(5));
    let read = fabric.block_on(maps[2].get(&key(), waits)).unwrap();
    assert_eq!(read.value.unwrap().value, 7);
    assert!(read.freshness.offset >= receipt.offset && read.log_time >= receipt.log_time);
}

#[test]
fn tokens_of_elsewhere_are_refused() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let map = fabric.block_on(open(&engine)).unwrap();
    let receipt = fabric.block_on(map.put(&key(), &7)).unwrap();
    let token = receipt.freshness();
    assert_eq!(Freshness::from_bytes(&token.to_bytes()), Ok(token));

    let other = Freshness { cluster: ClusterId::new(9), ..token };
    let refused = fabric.block_on(map.get(&key(), other)).unwrap_err();
    assert!(matches!(refused, Error::Incompatible { .. }), "{refused}");
    let other = Freshness { group: GroupId::new(9), ..token };
    let refused = fabric.block_on(map.get(&key(), other)).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");

    let session = engine.session();
    assert!(session.freshness().is_empty());
    let map = fabric.block_on(open(session.engine())).unwrap();
    fabric.block_on(map.put(&key(), &8)).unwrap();
    let mut token = session.token().to_vec();
    assert_eq!(engine.resume(&token.clone().into()).unwrap().freshness(), session.freshness());
    assert_eq!(session.freshness()[0].offset, engine.data().applied().unwrap());
    token[0] = 9;
    let refused = engine.resume(&token.into()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    let foreign = Bytes::from([&[3, 1, 19, 1][..], &[9; 16], &[1, 5, 0]].concat());
    let refused = engine.resume(&foreign).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Incompatible { .. }), "{refused}");
}

#[test]
fn a_reader_makes_nothing_fences_nobody_and_writes_nothing() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let reader = |schema: &str| {
        let schema = SchemaId::new(schema).unwrap();
        let engine = engine.clone();
        async move { Map::open_reader(&engine, &name(), &schema).await }
    };
    let missing = fabric.block_on(reader("number.v1")).map(|_| ()).unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    let map = fabric.block_on(open(&engine)).unwrap();
    fabric.block_on(map.put(&key(), &7)).unwrap();

    let other = fabric.block_on(reader("number.v2")).map(|_| ()).unwrap_err();
    assert!(matches!(other, Error::Incompatible { .. }), "{other}");
    let (name, schema) = (name(), schema());
    let log = palisade::ReplicatedLog::<u64>::open_reader(&engine, &name, &schema);
    let other = fabric.block_on(log).map(|_| ()).unwrap_err();
    assert!(matches!(other, Error::Incompatible { .. }), "{other}");

    let before = engine.data().applied().unwrap();
    let read = fabric.block_on(reader("number.v1")).unwrap();
    let row = fabric.block_on(read.get(&key(), ReadConsistency::Linearizable)).unwrap();
    assert_eq!(row.value.unwrap().value, 7);
    let refused = fabric.block_on(read.put(&key(), &8)).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    assert_eq!(engine.data().applied().unwrap(), before);
    fabric.block_on(map.put(&key(), &9)).unwrap();
}
