//! A kind of resource of a service's own: as the built-in ones, in a simulated cluster and alone.

#[path = "../examples/inventory/projection.rs"]
mod inventory;
#[path = "support/ops.rs"]
mod ops;

use std::convert::Infallible;
use std::time::Duration;

use inventory::{AtLeast, Inventory, Op, Refusal, Stock, stock};
use ops::any_op;
use palisade::sim::{SimFabric, check_projection};
use palisade::{
    Applied, At, Branch, Engine, Error, FenceEpoch, Fingerprint, Handle, LogTime,
    OUTCOME_BYTES_MAX, Offset, Projection, ProjectionFault, ROW_KEY_BYTES_MAX, ReadConsistency,
    ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap, ResourceSpec, Rows, RowsRead,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn spec(name: &str) -> ResourceSpec {
    ResourceSpec::new(name, "shop.v1").unwrap()
}

fn receive(count: u64) -> Op {
    Op::Receive { item: "apple".to_owned(), count }
}

fn reserve(order: &str, count: u64) -> Op {
    Op::Reserve { order: order.to_owned(), item: "apple".to_owned(), count }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_inventory_keeps_the_laws(ops in vec(any_op(), 0..40)) {
        check_projection(|| Inventory, &ops).unwrap();
    }
}

/// Orders from two nodes, across a partition and a crash: no apple is sold twice, and each order is in
/// the log if and only if it has set something aside.
#[test]
fn orders_through_faults_sell_nothing_twice() {
    for seed in 0..10 {
        let fabric = SimFabric::builder(3).seed(seed).projection(Inventory);
        let mut fabric = fabric.build().unwrap();
        let nodes = [1, 2, 3].map(|number| fabric.node(number));
        let mut sold = 0;
        let engine = fabric.engine(nodes[0]);
        let shop = fabric.block_on(Handle::<Inventory>::open(&engine, spec("shop"))).unwrap();
        fabric.block_on(shop.submit(&receive(20))).unwrap();
        for order in 0..12_u64 {
            let engine = fabric.engine(nodes[order as usize % 2]);
            let name = order.to_string();
            let placed = fabric.block_on(async {
                let shop = Handle::<Inventory>::open(&engine, spec("shop")).await?;
                let orders = ReplicatedLog::<String>::open(&engine, spec("orders")).await?;
                let batch = engine.batch().with(&shop, &reserve(&name, 3));
                batch.append(&orders, &name).commit().await
            });
            match placed {
                Ok(done) => {
                    sold += 3;
                    let outcome = done.outcomes[0].of::<Inventory>().unwrap();
                    assert_eq!(outcome.free + outcome.reserved, 20);
                }
                Err(Error::Refused { .. }) => assert!(sold >= 18, "seed={seed} sold={sold}"),
                Err(Error::Disconnected { .. }) => {}
                Err(other) => panic!("seed={seed}: {other}"),
            }
            match order {
                2 => fabric.partition(&[nodes[0]]),
                5 => fabric.heal(),
                7 => {
                    let leader = fabric.leader().unwrap_or(nodes[2]);
                    fabric.crash(leader);
                    fabric.restart(leader);
                }
                _ => {}
            }
        }
        fabric.heal();
        let mut seen = Vec::new();
        for node in nodes {
            let engine = fabric.engine(node);
            seen.push(fabric.block_on(async {
                let shop = Handle::<Inventory>::open(&engine, spec("shop")).await.unwrap();
                let orders = ReplicatedLog::<String>::open(&engine, spec("orders")).await.unwrap();
                let fresh = ReadConsistency::Linearizable;
                let stock = shop.read(fresh, |rows| stock(rows, "apple")).await.unwrap().value;
                let entries = orders
                    .scan(palisade::LogPosition::START, palisade::Direction::Forward, 100, fresh)
                    .await
                    .unwrap();
                (stock, entries.value.entries.len() as u64)
            }));
        }
        let (stock, orders) = seen[0];
        assert!(seen.iter().all(|replica| *replica == seen[0]), "seed={seed}: {seen:?}");
        assert_eq!((stock.free + stock.reserved, stock.reserved), (20, 3 * orders), "seed={seed}");
        assert!(stock.reserved >= sold, "seed={seed}: what was acknowledged is there");
    }
}

async fn open_shop() -> (tempfile::TempDir, Engine, Handle<Inventory>) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).projection(Inventory).open().await.unwrap();
    let shop = Handle::<Inventory>::open(&engine, spec("shop")).await.unwrap();
    (dir, engine, shop)
}

/// If, then, else over four kinds of resources, each operation with its own outcome.
#[tokio::test]
async fn a_batch_branches_on_what_any_resource_says() {
    let (_dir, engine, shop) = open_shop().await;
    let orders = ReplicatedLog::<String>::open(&engine, spec("orders")).await.unwrap();
    let states = ReplicatedMap::<String, String>::open(&engine, spec("states")).await.unwrap();
    let requests = ReplicatedIdempotencyStore::open(&engine, spec("requests")).await.unwrap();
    let (one, text) = (FenceEpoch::new(1), |text: &str| text.to_owned());
    let order = |name: &'static str, count: u64| {
        let guard = shop.guard(&AtLeast { item: "apple".to_owned(), free: count });
        engine
            .batch()
            .require(guard)
            .require(states.version_is(&text(name), palisade::Version::ABSENT))
            .reserve(&requests, name, Fingerprint::of(name.as_bytes()), one)
            .with(&shop, &reserve(name, count))
            .append(&orders, &text(name))
            .put(&states, &text(name), &text("accepted"))
            .complete(&requests, name, one, "yes".into())
            .otherwise()
            .reserve(&requests, name, Fingerprint::of(name.as_bytes()), one)
            .put(&states, &text(name), &text("sold out"))
            .complete(&requests, name, one, "no".into())
            .commit()
    };
    shop.submit(&receive(5)).await.unwrap();

    let first = order("first", 4).await.unwrap();
    assert_eq!(first.branch, Some(Branch::Then));
    let outcome = |at: usize| &first.outcomes[at];
    assert_eq!(outcome(1).of::<Inventory>().unwrap(), Stock { free: 1, reserved: 4 });
    let place = outcome(2).appended().unwrap();
    assert_eq!((place.offset, place.index), (first.receipt.offset, 0), "the first of that log");
    assert_eq!(outcome(3).replaced(), Some(palisade::Version::ABSENT));
    assert!(matches!(outcome(3).of::<Inventory>(), Err(Error::Incompatible { .. })));
    assert_eq!(outcome(3).appended(), None);

    let second = order("second", 4).await.unwrap();
    assert_eq!((second.branch, second.outcomes.len()), (Some(Branch::Otherwise), 3));
    // Once more, when there is enough: it was answered, and is answered the same.
    shop.submit(&receive(5)).await.unwrap();
    let again = order("second", 4).await.unwrap();
    assert!(again.receipt.duplicate && again.outcomes.is_empty());
    assert_eq!((again.branch, again.receipt.offset), (None, second.receipt.offset));

    let state = async |name| {
        let row = states.get(&text(name), ReadConsistency::Linearizable).await.unwrap();
        row.value.unwrap().value
    };
    assert_eq!(state("first").await, "accepted");
    assert_eq!(state("second").await, "sold out");
    let held = shop.read(ReadConsistency::Local, |rows| stock(rows, "apple")).await.unwrap();
    assert_eq!(held.value, Stock { free: 6, reserved: 4 });

    // Without anything to be done otherwise, it is refused, and says which demand it was.
    let demand = |free| shop.guard(&AtLeast { item: "apple".to_owned(), free });
    let batch = engine.batch().require(demand(1)).require(demand(7)).append(&orders, &text("x"));
    assert!(matches!(batch.commit().await, Err(Error::GuardFailed { guard: 1 })));
    let idle = engine.batch().append(&orders, &text("x")).otherwise().append(&orders, &text("y"));
    assert!(matches!(idle.commit().await, Err(Error::InvalidArgument { .. })));
}

#[tokio::test]
async fn a_refusal_of_a_projection_takes_the_batch_back_and_can_be_read() {
    let (_dir, engine, shop) = open_shop().await;
    let orders = ReplicatedLog::<String>::open(&engine, spec("orders")).await.unwrap();
    shop.submit(&receive(5)).await.unwrap();
    let batch = engine.batch().append(&orders, &"a".to_owned()).with(&shop, &reserve("a", 2));
    let refused = batch.with(&shop, &reserve("b", 4)).commit().await.unwrap_err();
    assert!(matches!(refused, Error::Refused { projection: "inventory", op: 2, .. }), "{refused}");
    assert_eq!(shop.refusal(&refused), Some(Refusal::NotEnough { free: 3 }), "b is after a");
    assert_eq!(shop.refusal(&Error::LeaseExpired), None);
    let page = orders
        .scan(palisade::LogPosition::START, palisade::Direction::Forward, 9, ReadConsistency::Local)
        .await
        .unwrap();
    assert!(page.value.entries.is_empty());
    let release = Op::Release { order: "a".to_owned() };
    let refused = shop.submit(&release).await.unwrap_err();
    assert_eq!(shop.refusal(&refused), Some(Refusal::UnknownOrder));
}

/// What is told of a stock is newer each time, on whichever replica; and where nothing changes, nothing is told.
#[test]
fn an_observation_goes_on_elsewhere_and_never_back() {
    let mut fabric = SimFabric::builder(3).projection(Inventory).build().unwrap();
    let leader = fabric.leader().unwrap();
    let other = (1..=3).map(|n| fabric.node(n)).find(|node| *node != leader).unwrap();
    let (engine, elsewhere) = (fabric.engine(leader), fabric.engine(other));
    let shop = fabric.block_on(Handle::<Inventory>::open(&engine, spec("shop"))).unwrap();
    let numbers = ReplicatedMap::<u64, u64>::open(&engine, spec("numbers"));
    let numbers = fabric.block_on(numbers).unwrap();
    let there = fabric.block_on(Handle::<Inventory>::open(&elsewhere, spec("shop"))).unwrap();
    let free = |rows: &RowsRead<'_>| Ok(stock(rows, "apple")?.free);
    let short = Duration::from_millis(200);

    let mut seen = shop.observe(Offset::ZERO, free);
    assert_eq!(fabric.block_on(seen.next()).unwrap().value, 0);
    // What happens elsewhere in the group is looked at and not told, also if the wait is given up.
    for n in 0..5 {
        fabric.block_on(numbers.put(&n, &n)).unwrap();
        assert!(fabric.block_on_for(short, seen.next()).is_none());
    }
    assert_eq!(seen.position(), shop.group().applied().unwrap());
    let first = fabric.block_on(shop.submit(&receive(20))).unwrap().receipt;
    let read = fabric.block_on(seen.next()).unwrap();
    assert_eq!((read.value, read.freshness.offset), (20, first.offset));
    // Two changes between two looks are one.
    fabric.block_on(shop.submit(&receive(1))).unwrap();
    fabric.block_on(shop.submit(&receive(1))).unwrap();
    assert_eq!(fabric.block_on(seen.next()).unwrap().value, 22);

    // It goes on at a replica that is behind: nothing is told there before that has caught up.
    fabric.partition(&[other]);
    fabric.block_on(shop.submit(&receive(1))).unwrap();
    assert_eq!(fabric.block_on(seen.next()).unwrap().value, 23);
    let mut seen = there.observe(seen.position(), free);
    assert!(fabric.block_on_for(short, seen.next()).is_none());
    fabric.heal();
    assert_eq!(fabric.block_on(seen.next()).unwrap().value, 23);
    fabric.block_on(there.submit(&receive(1))).unwrap();
    assert_eq!(fabric.block_on(seen.next()).unwrap().value, 24);
}

/// Does what it is told, for the tests of what it must not do.
struct Unruly<const VERSION: u32>;

impl<const V: u32> Projection for Unruly<V> {
    const NAME: &'static str = "unruly";
    const VERSION: u32 = V;
    type Op = String;
    type Outcome = String;
    type Refusal = Infallible;
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        op: String,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<String, Infallible>, ProjectionFault> {
        match op.as_str() {
            "panic" => panic!("as it was told"),
            "fault" => Err(ProjectionFault::new("its rows are not its own")),
            "long key" => {
                rows.put(&[b'k'; ROW_KEY_BYTES_MAX + 1], "")?;
                Ok(Applied::Done(op))
            }
            "long outcome" => {
                rows.put(b"k", "v")?;
                Ok(Applied::Done("o".repeat(OUTCOME_BYTES_MAX + 1)))
            }
            _ => Ok(Applied::Done(op)),
        }
    }
}

/// A fault halts the group, and says whose it is; the host goes on, and so does what it reads of others.
#[tokio::test]
async fn a_fault_or_a_panic_halts_the_group_and_no_more() {
    for (told, cause) in
        [("panic", "as it was told"), ("fault", "not its own"), ("long key", "3073 bytes")]
    {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::builder(dir.path()).projection(Unruly::<1>).open().await.unwrap();
        let unruly = Handle::<Unruly<1>>::open(&engine, spec("unruly")).await.unwrap();
        assert_eq!(unruly.submit(&"calm".to_owned()).await.unwrap().outcome, "calm");
        let halted = unruly.submit(&told.to_owned()).await.unwrap_err();
        let halted = match halted {
            // It may have been answered before the cause was known.
            Error::Disconnected { .. } => unruly.submit(&"calm".to_owned()).await.unwrap_err(),
            other => other,
        };
        assert!(matches!(halted, Error::InternalError { .. }), "{halted}");
        let said = halted.to_string();
        assert!(said.contains("projection=unruly") && said.contains(cause), "{said}");
        let read = unruly.read(ReadConsistency::Local, |rows| rows.get(b"k")).await;
        assert!(read.unwrap_err().to_string().contains(cause), "G10: every later call says so");
    }
}

/// What a caller's own read does wrong is his: nothing halts, and the next read is served.
#[tokio::test]
async fn a_read_that_fails_by_itself_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).projection(Unruly::<1>).open().await.unwrap();
    let unruly = Handle::<Unruly<1>>::open(&engine, spec("unruly")).await.unwrap();
    for panics in [true, false] {
        let read = unruly.read(ReadConsistency::Local, move |_| -> Result<(), ProjectionFault> {
            assert!(!panics, "a bug of mine");
            Err(ProjectionFault::new("a bug of mine"))
        });
        let failed = read.await.unwrap_err();
        assert!(matches!(failed, Error::InvalidArgument { .. }), "{failed}");
        let said = failed.to_string();
        assert!(said.contains("a bug of mine") && !said.contains("stopped"), "{said}");
        assert_eq!(unruly.submit(&"calm".to_owned()).await.unwrap().outcome, "calm");
        let read = unruly.read(ReadConsistency::Linearizable, |rows| rows.get(b"k")).await;
        assert_eq!(read.unwrap().value, None);
    }
    engine.close().await.unwrap();
}

#[tokio::test]
async fn an_outcome_that_is_too_long_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).projection(Unruly::<1>).open().await.unwrap();
    let unruly = Handle::<Unruly<1>>::open(&engine, spec("unruly")).await.unwrap();
    let refused = unruly.submit(&"long outcome".to_owned()).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    let row = unruly.read(ReadConsistency::Linearizable, |rows| rows.get(b"k")).await.unwrap();
    assert_eq!(row.value, None);
}

#[tokio::test]
async fn a_kind_is_opened_by_who_has_it_registered() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).open().await.unwrap();
    let refused = Handle::<Inventory>::open(&engine, spec("shop")).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Incompatible { .. }), "{refused}");
    assert!(refused.to_string().contains("projection=inventory"), "{refused}");
    engine.close().await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let twice = Engine::builder(dir.path()).projection(Inventory).projection(Inventory);
    let refused = twice.open().await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
}

/// Resources are of one version of their projection: in the state that is opened, and in the log.
#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn a_state_of_another_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).projection(Unruly::<1>).open().await.unwrap();
    Handle::<Unruly<1>>::open(&engine, spec("unruly")).await.unwrap();
    engine.close().await.unwrap();
    drop(engine);
    let refused = Engine::builder(dir.path()).projection(Unruly::<2>).open().await.map(|_| ());
    let Err(Error::Incompatible { expected, found }) = refused else { panic!("{refused:?}") };
    assert_eq!(expected, "projection=unruly version=1");
    assert!(found.starts_with("the engine was opened with version=2 alone: "), "{found}");
    assert!(found.contains("superseding of version=1"), "{found}");
    Engine::builder(dir.path()).projection(Unruly::<1>).open().await.unwrap();
}

/// Counts nothing, under the name of another projection and in its own version.
struct Impostor<const VERSION: u32>;

impl<const VERSION: u32> Projection for Impostor<VERSION> {
    const NAME: &'static str = if VERSION == 1 { "map" } else { "impostor" };
    const VERSION: u32 = VERSION;
    type Op = u64;
    type Outcome = u64;
    type Refusal = u64;
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        op: u64,
        _: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, u64>, ProjectionFault> {
        Ok(Applied::Done(op))
    }
}

/// What it would write no replica could read, and all would halt.
#[test]
fn a_handle_is_of_the_very_projection_that_is_registered() {
    let mut fabric = SimFabric::builder(1).projection(Impostor::<2>).build().unwrap();
    let engine = fabric.engine(fabric.node(1));
    let refused = [
        fabric.block_on(Handle::<Impostor<1>>::open(&engine, spec("a"))).err(),
        fabric.block_on(Handle::<Impostor<3>>::open(&engine, spec("b"))).err(),
    ];
    for refused in refused {
        assert!(matches!(refused, Some(Error::Incompatible { .. })), "{refused:?}");
    }
    let real = fabric.block_on(Handle::<Impostor<2>>::open(&engine, spec("c"))).unwrap();
    assert_eq!(fabric.block_on(real.submit(&7)).unwrap().outcome, 7);
}

/// Can never tell what is due.
struct Clueless;

impl Projection for Clueless {
    const NAME: &'static str = "clueless";
    const VERSION: u32 = 1;
    type Op = u64;
    type Outcome = u64;
    type Refusal = u64;
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        op: u64,
        _: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, u64>, ProjectionFault> {
        Ok(Applied::Done(op))
    }

    fn due(&self, _: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        panic!("no clue")
    }
}

#[test]
fn who_cannot_tell_what_is_due_keeps_no_others_waiting() {
    let mut fabric = SimFabric::builder(1).projection(Clueless).build().unwrap();
    let engine = fabric.engine(fabric.node(1));
    fabric.block_on(Handle::<Clueless>::open(&engine, spec("clueless"))).unwrap();
    let map = ReplicatedMap::<String, u64>::open(&engine, spec("map"));
    let map = fabric.block_on(map).unwrap();
    let key = "k".to_owned();
    fabric.block_on(map.put_with_ttl_ms(&key, &1, 1_000)).unwrap();
    fabric.run_for(Duration::from_secs(3));
    let read = fabric.block_on(map.get(&key, ReadConsistency::Linearizable)).unwrap();
    assert_eq!(read.value, None);
}
