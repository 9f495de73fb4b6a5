//! Resources over their lives: made, listed, altered, deleted, taken back, gone (`docs/directory.md`).

#[path = "support/data.rs"]
mod data;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use data::Data;
use palisade::sim::SimFabric;
use palisade::{
    Alteration, DecodeError, Described, Direction, Directory, Engine, Error, FailureDomain,
    FenceEpoch, LogPosition, LogicalResourceName, MapRange, Offset, Placement, ReadConsistency,
    ReplicatedLog, ReplicatedMap, ResourceKind, ResourceSpec, ResourceState, Revision, SchemaId,
    Stored, VALUE_BYTES_MAX, WatchEvent, WatchOptions,
};

type Map = ReplicatedMap<String, u64>;

const FRESH: ReadConsistency = ReadConsistency::Linearizable;

fn name(name: &str) -> LogicalResourceName {
    LogicalResourceName::new(name).unwrap()
}

fn schema(name: &str) -> SchemaId {
    SchemaId::new(name).unwrap()
}

fn spec(name: &str) -> ResourceSpec {
    ResourceSpec::new(name, "v1").unwrap()
}

async fn describe(directory: &Directory, named: &str) -> Result<Described, Error> {
    Ok(directory.describe(&name(named), FRESH).await?.value)
}

async fn names(
    directory: &Directory,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<String> {
    let after = after.map(name);
    let listed = directory.list(prefix, after.as_ref(), limit, FRESH).await.unwrap();
    listed.resources.into_iter().map(|found| found.name.to_string()).collect()
}

fn is_not_found<T>(result: Result<T, Error>, says: &str) {
    let error = result.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

fn is_precondition<T>(result: Result<T, Error>, says: &str) {
    let error = result.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::PreconditionFailed { .. }), "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

fn alone() -> (SimFabric, Engine, Directory) {
    let fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let directory = engine.directory();
    (fabric, engine, directory)
}

#[test]
fn what_is_made_is_listed_by_name_and_described() {
    let (mut fabric, engine, directory) = alone();
    fabric.block_on(async {
        for named in ["b/2", "a", "b/1", "c", "b"] {
            directory.create(&ResourceKind::MAP, spec(named)).await.unwrap();
        }
        let again = directory.create(&ResourceKind::LOG, spec("a")).await.unwrap_err();
        assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
        let unknown = describe(&directory, "d").await;
        is_not_found(unknown, "resource=d");

        assert_eq!(names(&directory, "", None, 1000).await, ["a", "b", "b/1", "b/2", "c"]);
        assert_eq!(names(&directory, "b/", None, 1000).await, ["b/1", "b/2"]);
        assert_eq!(names(&directory, "", Some("b"), 2).await, ["b/1", "b/2"]);
        assert_eq!(names(&directory, "b/", Some("b/1"), 9).await, ["b/2"]);
        assert_eq!(names(&directory, "b/", Some("c"), 9).await, [""; 0]);
        for limit in [0, 1001] {
            let refused = directory.list("", None, limit, FRESH).await.unwrap_err();
            assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
        }

        let map = Map::open(&engine, spec("a").epoch(FenceEpoch::new(4))).await.unwrap();
        map.put(&"k".to_owned(), &1).await.unwrap();
        let found = describe(&directory, "a").await.unwrap();
        assert_eq!((found.kind.as_str(), found.epoch.get()), ("map", 4));
        assert_eq!((found.revision, found.state), (Revision::MADE, ResourceState::Active));
        assert!(found.made > Offset::ZERO);
        assert_eq!(found.to_string(), "a kind=map group=1 revision=0 epoch=4 schemas=v1");
    });
}

/// Who is told that nothing happened makes it again, and is told that somebody else did.
#[test]
fn what_was_made_is_said_also_by_a_node_that_is_cut_off_by_then() {
    let mut fabric = SimFabric::new(3);
    let leader = fabric.leader().unwrap();
    let cut_off = [1, 2].map(|number| fabric.node(number)).into_iter().find(|id| *id != leader);
    let engine = fabric.engine(cut_off.unwrap());
    let (directory, before) = (engine.directory(), engine.data().applied().unwrap());
    let mut making = pin!(directory.create(&ResourceKind::MAP, spec("a")));
    let made = loop {
        if let Some(made) = fabric.block_on_for(Duration::from_millis(1), making.as_mut()) {
            break made.unwrap();
        }
        if engine.data().applied().unwrap() > before {
            fabric.partition(&[engine.node()]);
        }
    };
    assert_eq!((made.name, made.made), (name("a"), before.next()));
}

/// G3 of people: two who alter at once do not overwrite each other, and all of it is kept.
#[test]
fn an_alteration_needs_the_revision_that_was_seen() {
    let (mut fabric, _, directory) = alone();
    fabric.block_on(async {
        let made = directory.create(&ResourceKind::MAP, spec("a")).await.unwrap();
        let add = |at: Revision, schema_name: &str| {
            let (directory, change) =
                (directory.clone(), Alteration::AddSchema(schema(schema_name)));
            async move { directory.alter(&name("a"), at, change, "a test").await }
        };
        let receipt = add(made.revision, "v2").await.unwrap();
        is_precondition(add(made.revision, "v3").await, "revision=1 expected=0");
        is_precondition(add(made.revision.next(), "v1").await, "schema=v1 is there already");
        let retire = |at: u64, of: &str| {
            let change = Alteration::RetireSchema(schema(of));
            let directory = directory.clone();
            async move { directory.alter(&name("a"), Revision::new(at), change, "old").await }
        };
        retire(1, "v1").await.unwrap();
        is_precondition(retire(2, "v1").await, "retired already");
        is_precondition(retire(2, "v2").await, "the last that may be written");
        // Back to the first, which has its number still, and forth again.
        add(Revision::new(2), "v1").await.unwrap();
        retire(3, "v1").await.unwrap();
        let found = describe(&directory, "a").await.unwrap();
        assert_eq!(
            found.to_string(),
            "a kind=map group=1 revision=4 epoch=1 schemas=v1(retired),v2"
        );

        let trail = directory.alterations(&name("a"), FRESH).await.unwrap().value;
        let told: Vec<_> =
            trail.iter().map(|each| (each.revision.get(), each.reason.as_str())).collect();
        assert_eq!(told, [(1, "a test"), (2, "old"), (3, "a test"), (4, "old")]);
        assert_eq!(trail[0].alteration, Alteration::AddSchema(schema("v2")));
        assert_eq!((trail[0].offset, trail[0].log_time), (receipt.offset, receipt.log_time));
        assert_eq!(trail[0].node.get(), 1);

        let undelete = directory.undelete(&name("a"), Revision::new(4), "why").await;
        is_precondition(undelete, "it is not deleted");
        for reason in ["", &"a".repeat(257)] {
            let refused =
                directory.undelete(&name("a"), Revision::new(4), reason).await.unwrap_err();
            assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
        }
        let too_long = Alteration::RETAIN_MS_MAX + 1;
        let refused =
            directory.delete(&name("a"), Revision::new(4), too_long, "why").await.unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    });
}

/// D4: the last 64, and the number says how many there were.
#[test]
fn old_alterations_make_room() {
    let (mut fabric, _, directory) = alone();
    fabric.block_on(async {
        directory.create(&ResourceKind::MAP, spec("a")).await.unwrap();
        let wide = Placement::providers(["local", "aws"]).unwrap();
        for revision in 0..70 {
            let change = Alteration::Place(wide.clone());
            directory.alter(&name("a"), Revision::new(revision), change, "again").await.unwrap();
        }
        let trail = directory.alterations(&name("a"), FRESH).await.unwrap().value;
        let kept: Vec<u64> = trail.iter().map(|each| each.revision.get()).collect();
        assert_eq!(kept, (7..=70).collect::<Vec<u64>>());
    });
}

/// G3: who writes with the epoch that is there needs no record of his own, and is fenced as any other.
#[test]
fn a_resource_that_is_there_is_opened_without_a_record() {
    let (mut fabric, engine, directory) = alone();
    let key = "k".to_owned();
    let (at, of) = (name("a"), schema("v1"));
    let there = |epoch| Map::open_existing(&engine, &at, &of, FenceEpoch::new(epoch));
    fabric.block_on(async {
        is_not_found(there(1).await, "resource=a");
        Map::open(&engine, spec("a")).await.unwrap();
        let group = Map::open_reader(&engine, &name("a"), &schema("v1")).await.unwrap();
        let before = group.group().applied().unwrap();
        let map = there(1).await.unwrap();
        assert_eq!(map.group().applied().unwrap(), before);
        map.put(&key, &1).await.unwrap();
        let ahead = there(2).await.unwrap().put(&key, &2).await;
        assert!(matches!(ahead, Err(Error::PreconditionFailed { .. })), "{ahead:?}");
        Map::open(&engine, spec("a").epoch(FenceEpoch::new(2))).await.unwrap();
        let fenced = map.put(&key, &3).await;
        assert!(
            matches!(fenced, Err(Error::Fenced { current }) if current.get() == 2),
            "{fenced:?}"
        );
        there(2).await.unwrap().put(&key, &4).await.unwrap();
        let retire = Alteration::RetireSchema(schema("v1"));
        let add = Alteration::AddSchema(schema("v2"));
        directory.alter(&name("a"), Revision::MADE, add, "newer").await.unwrap();
        directory.alter(&name("a"), Revision::new(1), retire, "newer").await.unwrap();
        let retired = there(2).await.map(|_| ());
        assert!(matches!(retired, Err(Error::Incompatible { .. })), "{retired:?}");
    });
}

/// Every door is shut while it is deleted, nothing is lost if it is taken back, and once it is gone the
/// name is free and old handles find nothing.
#[test]
fn a_deleted_resource_can_be_taken_back_until_it_is_gone() {
    let (mut fabric, engine, directory) = alone();
    let key = "k".to_owned();
    let map = fabric.block_on(Map::open(&engine, spec("a"))).unwrap();
    let log = fabric.block_on(ReplicatedLog::<u64>::open(&engine, spec("log"))).unwrap();
    fabric.block_on(map.put(&key, &7)).unwrap();
    let state = |directory: &Directory| {
        let directory = directory.clone();
        async move { describe(&directory, "a").await.map(|found| found.state) }
    };
    fabric.block_on(async {
        directory.delete(&name("a"), Revision::MADE, 60_000, "unused").await.unwrap();
        let gone = "resource=a is deleted: it can be undeleted until";
        is_not_found(map.put(&key, &8).await, gone);
        is_not_found(map.get(&key, FRESH).await, gone);
        is_not_found(map.get(&key, ReadConsistency::Local).await, gone);
        is_not_found(Map::open(&engine, spec("a").epoch(FenceEpoch::new(9))).await, gone);
        is_not_found(Map::open_reader(&engine, &name("a"), &schema("v1")).await, gone);
        is_not_found(directory.create(&ResourceKind::LOG, spec("a")).await, gone);
        let both = engine.batch().append(&log, &1).put(&map, &key, &8).commit().await;
        is_not_found(both, gone);
        is_not_found(directory.delete(&name("a"), Revision::new(1), 0, "again").await, gone);
        assert!(matches!(state(&directory).await.unwrap(), ResourceState::Deleted { .. }));
        assert_eq!(names(&directory, "", None, 9).await, ["a", "log"]);
    });
    // The caretaker comes by, and leaves it alone.
    fabric.run_for(Duration::from_secs(30));
    fabric.block_on(async {
        directory.undelete(&name("a"), Revision::new(1), "it was used").await.unwrap();
        assert_eq!(map.get(&key, FRESH).await.unwrap().value.unwrap().value, 7);
        map.put(&key, &8).await.unwrap();
        directory.delete(&name("a"), Revision::new(2), 5_000, "unused").await.unwrap();
    });
    fabric.run_for(Duration::from_secs(10));
    fabric.block_on(async {
        is_not_found(state(&directory).await, "resource=a");
        is_not_found(directory.undelete(&name("a"), Revision::new(3), "no").await, "resource=a");
        assert_eq!(names(&directory, "", None, 9).await, ["log"]);
        // D1: another resource of that name is not what the old handle is for.
        let new = ReplicatedLog::<u64>::open(&engine, spec("a")).await.unwrap();
        is_not_found(map.put(&key, &9).await, "resource number 1");
        is_not_found(map.get(&key, FRESH).await, "resource number 1");
        let found = describe(&directory, "a").await.unwrap();
        assert_eq!((found.kind.as_str(), found.revision), ("log", Revision::MADE));
        let page = new.scan(Offset::ZERO, Direction::Forward, 9, FRESH).await.unwrap().value;
        assert!(page.entries.is_empty());
        assert!(directory.alterations(&name("a"), FRESH).await.unwrap().value.is_empty());
    });
}

/// It goes on over changes of leader, restarts and snapshots: it is state like any other.
#[test]
fn deletion_goes_on_whoever_leads() {
    for seed in 0..6 {
        let mut fabric = SimFabric::from_seed(seed, 3);
        let nodes = [1, 2, 3].map(|number| fabric.node(number));
        let engines = nodes.map(|node| fabric.engine(node));
        let key = "k".to_owned();
        let map = fabric.block_on(Map::open(&engines[0], spec("a"))).unwrap();
        fabric.block_on(map.put(&key, &1)).unwrap();
        let directory = engines[0].directory();
        fabric.block_on(directory.delete(&name("a"), Revision::MADE, 20_000, "unused")).unwrap();
        let leader = fabric.leader().expect("it has answered");
        fabric.crash(leader);
        fabric.run_for(Duration::from_secs(5));
        fabric.restart(leader);
        fabric.run_for(Duration::from_secs(40));
        for node in nodes {
            let directory = fabric.engine(node).directory();
            is_not_found(fabric.block_on(describe(&directory, "a")), "resource=a");
        }
        let engine = fabric.engine(nodes[1]);
        let anew = fabric.block_on(Map::open(&engine, spec("a"))).unwrap();
        assert_eq!(fabric.block_on(anew.get(&key, FRESH)).unwrap().value, None, "seed={seed}");
    }
}

/// G9: who is outside alters nothing, and a placement outside of which there is a replica is none.
#[test]
fn placement_is_altered_from_inside() {
    let mut fabric = SimFabric::new(2);
    let nodes = [1, 2].map(|number| fabric.node(number));
    fabric.place(nodes[0], FailureDomain::new("inside", "r", "z"));
    fabric.place(nodes[1], FailureDomain::new("outside", "r", "z"));
    let placed = |providers: &[&str]| Placement::providers(providers.iter().copied()).unwrap();
    let (inside, outside) = (fabric.engine(nodes[0]), fabric.engine(nodes[1]));
    let key = "k".to_owned();
    fabric.block_on(async {
        let map = Map::open(&inside, spec("a").placement(placed(&["inside"]))).await.unwrap();
        map.put(&key, &1).await.unwrap();
        let widen = || Alteration::Place(placed(&["inside", "outside"]));
        let refused =
            outside.directory().alter(&name("a"), Revision::MADE, widen(), "let me in").await;
        assert!(matches!(refused, Err(Error::DomainUnavailable { .. })), "{refused:?}");
        let directory = inside.directory();
        directory.alter(&name("a"), Revision::MADE, widen(), "they work for us").await.unwrap();
        let wide = spec("a").placement(placed(&["outside", "inside"]));
        let theirs = Map::open(&outside, wide).await.unwrap();
        assert_eq!(theirs.get(&key, FRESH).await.unwrap().value.unwrap().value, 1);
        let narrow = Alteration::Place(placed(&["inside"]));
        directory.alter(&name("a"), Revision::new(1), narrow, "no more").await.unwrap();
        // It binds at once, also a handle that is open.
        let refused = theirs.get(&key, FRESH).await.unwrap_err();
        assert!(matches!(refused, Error::DomainUnavailable { .. }), "{refused}");
        let refused = theirs.put(&key, &2).await.unwrap_err();
        assert!(matches!(refused, Error::DomainUnavailable { .. }), "{refused}");
    });
}

/// What an order was before it had a region: only its price.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    price: u64,
    region: String,
}

impl Stored for Order {
    fn to_bytes(&self) -> Bytes {
        [&self.price.to_be_bytes()[..], self.region.as_bytes()].concat().into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let malformed = DecodeError { what: "order" };
        let (price, region) = bytes.split_first_chunk().ok_or(malformed)?;
        let region = String::from_bytes(&Bytes::copy_from_slice(region))?;
        Ok(Self { price: u64::from_be_bytes(*price), region })
    }

    fn from_schema(schema: &SchemaId, bytes: &Bytes) -> Result<Self, DecodeError> {
        match schema.as_str() {
            "v1" => Ok(Self { price: u64::from_bytes(bytes)?, region: "before v2".to_owned() }),
            _ => Err(DecodeError { what: "order of a schema that this release does not know" }),
        }
    }
}

/// From v1 to v2 without a stop, each rule of `docs/directory.md` on the way.
#[test]
fn a_schema_is_changed_while_both_are_written() {
    type Orders = ReplicatedMap<String, Order>;
    let (mut fabric, engine, directory) = alone();
    let (old_key, new_key) = ("old".to_owned(), "new".to_owned());
    let order = Order { price: 9, region: "eu".to_owned() };
    let v2 = |epoch: u64| ResourceSpec::new("orders", "v2").unwrap().epoch(FenceEpoch::new(epoch));
    let is_incompatible = |error: Error, found_says: &str| {
        let Error::Incompatible { found, .. } = &error else { panic!("{error}") };
        assert!(found.contains(found_says), "{error}");
    };
    fabric.block_on(async {
        let v1 = Map::open(&engine, spec("orders")).await.unwrap();
        let log = ReplicatedLog::<u64>::open(&engine, spec("log")).await.unwrap();
        v1.put(&old_key, &7).await.unwrap();
        log.append(&7).await.unwrap();
        // Not in the list: neither for writing nor for reading.
        is_incompatible(Orders::open(&engine, v2(1)).await.map(|_| ()).unwrap_err(), "schema=v1");
        let unknown = Orders::open_reader(&engine, &name("orders"), &schema("v2")).await;
        is_incompatible(unknown.map(|_| ()).unwrap_err(), "schema=v1");

        let add = || Alteration::AddSchema(schema("v2"));
        directory.alter(&name("orders"), Revision::MADE, add(), "regions").await.unwrap();
        directory.alter(&name("log"), Revision::MADE, add(), "regions").await.unwrap();
        let new = Orders::open(&engine, v2(1)).await.unwrap();
        new.put(&new_key, &order).await.unwrap();
        v1.put(&"later".to_owned(), &8).await.unwrap();
        // Who reads v2 reads all of them, who was told of v1 alone says what he misses.
        let page = new.range(MapRange::all(), FRESH).await.unwrap().value;
        let read: Vec<_> =
            page.rows.iter().map(|(_, row)| (row.value.price, &*row.value.region)).collect();
        assert_eq!(read, [(8, "before v2"), (9, "eu"), (7, "before v2")]);
        is_incompatible(v1.get(&new_key, FRESH).await.unwrap_err(), "which was added since");
        let v1_again = Map::open(&engine, spec("orders")).await.unwrap();
        is_incompatible(v1_again.get(&new_key, FRESH).await.unwrap_err(), "schema=v2: malformed");
        assert_eq!(v1_again.get(&old_key, FRESH).await.unwrap().value.unwrap().value, 7);
        // A watch stops where it cannot read, and goes on with one who can.
        let mut blind = v1_again.watch(Offset::ZERO, WatchOptions::default());
        assert!(matches!(blind.next().await.unwrap(), WatchEvent::Changes { .. }));
        is_incompatible(blind.next().await.unwrap_err(), "schema=v2");
        let mut sees = new.watch(blind.position(), WatchOptions::default());
        let WatchEvent::Changes { changes, .. } = sees.next().await.unwrap() else { panic!() };
        assert_eq!(changes[0].now.as_ref().unwrap().value, order);
        // Logs alike.
        let orders = ReplicatedLog::<Order>::open(&engine, ResourceSpec::new("log", "v2").unwrap());
        let orders = orders.await.unwrap();
        orders.append(&order).await.unwrap();
        let page = orders.scan(Offset::ZERO, Direction::Forward, 9, FRESH).await.unwrap().value;
        let read: Vec<u64> = page.entries.iter().map(|entry| entry.value.price).collect();
        assert_eq!(read, [7, 9]);
        // Who reads v1 alone comes as far as it goes, either way, and is told there.
        let places: Vec<LogPosition> = page.entries.iter().map(|entry| entry.position).collect();
        log.append(&8).await.unwrap();
        let page = log.scan(Offset::ZERO, Direction::Forward, 9, FRESH).await.unwrap().value;
        assert_eq!((page.entries.len(), page.next), (1, Some(places[1])));
        let blind = log.scan(places[1], Direction::Forward, 9, FRESH).await;
        is_incompatible(blind.map(|_| ()).unwrap_err(), "which was added since");
        let page = log.scan(LogPosition::END, Direction::Backward, 9, FRESH).await.unwrap().value;
        assert_eq!(page.entries[0].value, 8);
        assert_eq!((page.entries.len(), page.next), (1, Some(page.entries[0].position)));
        let blind = log.scan(page.next.unwrap(), Direction::Backward, 9, FRESH).await;
        is_incompatible(blind.map(|_| ()).unwrap_err(), "which was added since");
        let mut tail = log.tail(Offset::ZERO);
        assert_eq!(tail.next().await.unwrap().value, 7);
        is_incompatible(tail.next().await.map(|_| ()).unwrap_err(), "which was added since");

        let retire = Alteration::RetireSchema(schema("v1"));
        directory.alter(&name("orders"), Revision::new(1), retire, "all moved").await.unwrap();
        is_incompatible(
            Map::open(&engine, spec("orders")).await.map(|_| ()).unwrap_err(),
            "schema=v1 (retired), v2",
        );
        Map::open_reader(&engine, &name("orders"), &schema("v1")).await.unwrap();
        // What is open goes on, until it is fenced.
        v1.put(&old_key, &70).await.unwrap();
        Orders::open(&engine, v2(2)).await.unwrap();
        let fenced = v1.put(&old_key, &71).await.unwrap_err();
        assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    });
}

/// The number of a schema takes no room from its value.
#[test]
fn the_longest_value_still_fits() {
    let (mut fabric, engine, _) = alone();
    fabric.block_on(async {
        let map = ReplicatedMap::<String, Vec<u8>>::open(&engine, spec("a")).await.unwrap();
        let log = ReplicatedLog::<Vec<u8>>::open(&engine, spec("b")).await.unwrap();
        let longest = vec![7; VALUE_BYTES_MAX];
        let (key, longer) = ("k".to_owned(), vec![7; VALUE_BYTES_MAX + 1]);
        map.put(&"".to_owned(), &longest).await.unwrap();
        log.append(&longest).await.unwrap();
        let refused = map.put(&key, &longer).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
        let refused = log.append(&longer).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
        assert_eq!(map.get(&"".to_owned(), FRESH).await.unwrap().value.unwrap().value, longest);
    });
}
