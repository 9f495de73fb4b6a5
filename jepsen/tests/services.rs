//! A service over every kind of resource, through the handles that services use, while nodes crash, are cut off
//! and stand still: client sessions that go on elsewhere, batches over a log, maps and requests, a counter, keys
//! that end, a watch that moves from replica to replica, and the directory.
//!
//! Replay one seed with `PALISADE_SIM_SEED=<seed> cargo test -p palisade-jepsen --test services`; run more of
//! them with `PALISADE_SIM_SEEDS=<count>`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use palisade::sim::{SimFabric, SimRandom};
use palisade::{
    Alteration, Direction, Disposition, Engine, Error, FenceEpoch, Fingerprint, MapRange, NodeId,
    Offset, ReadConsistency, ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap,
    ResourceKind, ResourceSpec, Revision, SchemaId, Session, Version, WatchEvent, WatchOptions,
};

type Log = ReplicatedLog<u64>;
type Map = ReplicatedMap<u64, u64>;

const HOUR: Duration = Duration::from_secs(3600);
const CLIENTS: u64 = 3;
const NODES: u64 = 3;
/// How long things go wrong, in slices of up to a second.
const SLICES: u64 = 45;
/// The key that clients count up, each what it has read before.
const COUNTER: u64 = 0;
/// Keys from here on end after a second or two.
const ENDING: u64 = 1_000_000;
const TTL_MS: u64 = 1_500;

fn spec(name: &str) -> ResourceSpec {
    ResourceSpec::new(name, "number.v1").unwrap()
}

/// What the clients share with whoever breaks things: the engines of today, and whether it is over.
struct World {
    engines: RefCell<BTreeMap<NodeId, Engine>>,
    is_over: Cell<bool>,
}

impl World {
    fn engine(&self, random: &mut SimRandom) -> Engine {
        let engines: Vec<Engine> = self.engines.borrow().values().cloned().collect();
        random.pick(&engines).clone()
    }
}

/// Lets so many milliseconds pass.
async fn pause(ms: u64) {
    let mut left = ms;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// One thing that a client wants done, once.
#[derive(Clone, Debug)]
enum Work {
    /// An order: reserved, logged, put into the map, completed.
    Order { number: u64 },
    /// The counter from what it was read as, at that version.
    Count { found: u64, version: Version },
    /// A key that ends.
    Ends { key: u64 },
}

/// What clients were told.
#[derive(Default)]
struct Told {
    orders: BTreeMap<u64, Offset>,
    counted: u64,
    /// Lost a race for the counter.
    overtaken: u64,
    ending: u64,
    /// Answers that came again.
    repeated: u64,
    /// Attempts of which nobody knew what became.
    unknown: u64,
}

/// A client: does one thing after the other, each until it knows what became of it, at whichever node.
async fn client(world: &World, id: u64, seed: u64) -> Told {
    let mut random = SimRandom::from_seed(seed ^ id.rotate_left(20));
    let mut told = Told::default();
    let mut token = loop {
        match world.engine(&mut random).client_session(HOUR).await {
            Ok(session) => break session.token(),
            Err(_) => pause(50).await,
        }
    };
    let mut step = 0;
    while !world.is_over.get() {
        step += 1;
        let Some(work) = draw(world, &mut random, id * 100_000 + step).await else { continue };
        token = until_known(world, &mut random, token, &work, &mut told).await;
        pause(random.below(60)).await;
    }
    told
}

async fn draw(world: &World, random: &mut SimRandom, number: u64) -> Option<Work> {
    match random.below(4) {
        0 => {
            let map = Map::open(&world.engine(random), spec("map")).await.ok()?;
            let read = map.get(&COUNTER, ReadConsistency::Linearizable).await.ok()?;
            let found = read.value.map(|found| (found.value, found.version));
            let (found, version) = found.unwrap_or((0, Version::ABSENT));
            Some(Work::Count { found, version })
        }
        1 => Some(Work::Ends { key: ENDING + number }),
        _ => Some(Work::Order { number }),
    }
}

/// Asks with the same token, and so with the same number, until there is an answer. Gives the next token.
async fn until_known(
    world: &World,
    random: &mut SimRandom,
    token: Bytes,
    work: &Work,
    told: &mut Told,
) -> Bytes {
    loop {
        let session = world.engine(random).resume(&token).unwrap();
        match attempt(&session, work, told).await {
            Ok(()) => {
                let token = session.token();
                reads_own(&world.engine(random), &token, work).await;
                return token;
            }
            Err(Error::VersionMismatch { .. }) if matches!(work, Work::Count { .. }) => {
                told.overtaken += 1;
                return session.token();
            }
            Err(error) => match error.disposition() {
                Disposition::Reject => panic!("{work:?}: {error}"),
                Disposition::Retry => {}
                // A node that stopped says so for ever; what it was asked may have been done.
                Disposition::Indeterminate | Disposition::Halt => told.unknown += 1,
            },
        }
        pause(20 + random.below(200)).await;
    }
}

/// F2: who has written reads it wherever he goes on, without the others being asked, or is told to wait.
async fn reads_own(engine: &Engine, token: &Bytes, work: &Work) {
    let Work::Order { number } = work else { return };
    let session = engine.resume(token).unwrap();
    let (name, schema) = (spec("map").name, spec("map").schema);
    let Ok(map) = Map::open_reader(session.engine(), &name, &schema).await else { return };
    if let Ok(read) = map.get(number, ReadConsistency::Local).await {
        assert!(read.value.is_some(), "F2: order {number} is not there");
    }
}

async fn attempt(session: &Session, work: &Work, told: &mut Told) -> Result<(), Error> {
    let engine = session.engine();
    let map = Map::open(engine, spec("map")).await?;
    match work {
        Work::Order { number } => {
            let log = Log::open(engine, spec("log")).await?;
            let requests = ReplicatedIdempotencyStore::open(engine, spec("requests")).await?;
            let (key, owner) = (format!("order-{number}"), FenceEpoch::new(1));
            let batch = engine.batch();
            let batch = batch.reserve(&requests, &key, Fingerprint::of(b"order"), owner);
            let batch = batch.append(&log, number).put(&map, number, number);
            let done = batch.complete(&requests, &key, owner, Bytes::new()).commit().await?;
            told.repeated += u64::from(done.receipt.duplicate);
            told.orders.insert(*number, done.receipt.offset);
        }
        Work::Count { found, version } => {
            let batch = engine.batch().put_if(&map, &COUNTER, &(found + 1), *version);
            let done = batch.commit().await?;
            told.repeated += u64::from(done.receipt.duplicate);
            told.counted += 1;
        }
        Work::Ends { key } => {
            engine.batch().put_with_ttl_ms(&map, key, key, TTL_MS).commit().await?;
            told.ending += 1;
        }
    }
    Ok(())
}

/// What a watch told, at whichever replica it was then.
struct Watched {
    state: BTreeMap<u64, (u64, Offset)>,
    /// Each change, once: offset and key.
    seen: BTreeSet<(Offset, u64)>,
    position: Offset,
    moved: u64,
}

async fn watch(world: &World, seed: u64) -> Watched {
    let mut random = SimRandom::from_seed(seed ^ 0x3a7c);
    let mut watched =
        Watched { state: BTreeMap::new(), seen: BTreeSet::new(), position: Offset::ZERO, moved: 0 };
    while !world.is_over.get() {
        let engine = world.engine(&mut random);
        watched.moved += 1;
        if let Ok(map) = Map::open_reader(&engine, &spec("map").name, &spec("map").schema).await {
            let until = 20 + random.below(200);
            follow(world, &map, &mut watched, until).await;
        }
        pause(10).await;
    }
    watched
}

/// Takes so many events, or as many as there are before something is wrong.
async fn follow(world: &World, map: &Map, watched: &mut Watched, events: u64) {
    let options = WatchOptions { progress: Duration::from_millis(300), ..WatchOptions::default() };
    let mut watch = map.watch(watched.position, options);
    for _ in 0..events {
        if world.is_over.get() {
            return;
        }
        let Ok(event) = watch.next().await else { return };
        take(watched, event);
        watched.position = watched.position.max(watch.position());
    }
}

fn take(watched: &mut Watched, event: WatchEvent<u64, u64>) {
    let WatchEvent::Changes { offset, changes, .. } = event else { return };
    assert!(offset > watched.position, "{offset} was told before");
    for change in changes {
        assert!(watched.seen.insert((offset, change.key)), "{} twice at {offset}", change.key);
        let before = change.before.map(|found| (found.value, found.version.offset()));
        assert_eq!(before, watched.state.get(&change.key).copied(), "key={}", change.key);
        match change.now {
            Some(now) => {
                watched.state.insert(change.key, (now.value, now.version.offset()));
            }
            None => {
                assert!(!change.ended || change.key >= ENDING, "key={} never ends", change.key);
                watched.state.remove(&change.key);
            }
        }
    }
}

/// Makes a resource, alters it and deletes it, in turn. How many alterations took effect, of each that is there
/// at the end.
async fn direct(world: &World, seed: u64) -> BTreeMap<String, u64> {
    let mut random = SimRandom::from_seed(seed ^ 0xd17);
    let (mut kept, mut number) = (BTreeMap::new(), 0);
    while !world.is_over.get() {
        number += 1;
        let name = format!("extra-{number}");
        let directory = world.engine(&mut random).directory();
        // Whether it was made by an attempt that nobody answered is seen by what is there.
        let _ = directory.create(&ResourceKind::MAP, spec(&name)).await;
        let schemas = random.below(3);
        let mut altered = 0;
        while altered < schemas && !world.is_over.get() {
            altered = alter(world, &mut random, &name, altered).await.unwrap_or(altered);
            pause(20).await;
        }
        kept.insert(name, altered);
        pause(random.below(400)).await;
    }
    kept
}

/// One more schema at the revision that is there. Which revision there is then.
async fn alter(world: &World, random: &mut SimRandom, name: &str, seen: u64) -> Result<u64, Error> {
    let directory = world.engine(random).directory();
    let name = &spec(name).name;
    let found = match directory.describe(name, ReadConsistency::Linearizable).await {
        Err(Error::NotFound { .. }) => {
            directory.create(&ResourceKind::MAP, spec(name.as_str())).await?
        }
        found => found?.value,
    };
    let revision = found.revision.get();
    assert!(revision == seen || revision == seen + 1, "{name}: {revision} after {seen}");
    if revision > seen {
        return Ok(revision);
    }
    let schema = SchemaId::new(&format!("number.v{}", seen + 2))?;
    let asked =
        directory.alter(name, Revision::new(seen), Alteration::AddSchema(schema), "one more");
    asked.await?;
    Ok(seen + 1)
}

/// Something goes wrong, or is mended.
fn break_something(fabric: &mut SimFabric, random: &mut SimRandom, down: &mut Option<NodeId>) {
    let node = fabric.node(1 + random.below(NODES));
    match random.below(12) {
        0 => fabric.partition(&[node]),
        1..=4 => fabric.heal(),
        5 => fabric.pause(node, Duration::from_millis(100 + random.below(3_000))),
        6 => fabric.slow_disk(node, 1 + random.below(50)),
        7 => fabric.jump_clock(node, random.below(4_000) as i64 - 2_000),
        8 | 9 => match down.take() {
            Some(node) => fabric.restart(node),
            None => {
                fabric.crash(node);
                *down = Some(node);
            }
        },
        _ => {}
    }
}

struct Ended {
    told: Vec<Told>,
    watched: Watched,
    kept: BTreeMap<String, u64>,
}

fn run(seed: u64) -> (u64, [u64; 6]) {
    let mut fabric = SimFabric::from_seed(seed, NODES);
    let mut random = SimRandom::from_seed(seed ^ 0x5e7);
    let nodes: Vec<NodeId> = (1..=NODES).map(|number| fabric.node(number)).collect();
    let engines = |fabric: &SimFabric| {
        nodes.iter().map(|node| (*node, fabric.engine(*node))).collect::<BTreeMap<_, _>>()
    };
    let world = World { engines: RefCell::new(engines(&fabric)), is_over: Cell::new(false) };
    let ended = {
        let mut all = Box::pin(everybody(&world, seed));
        let mut down = None;
        for _ in 0..SLICES {
            break_something(&mut fabric, &mut random, &mut down);
            *world.engines.borrow_mut() = engines(&fabric);
            let length = Duration::from_millis(random.below(1_000));
            assert!(fabric.block_on_for(length, &mut all).is_none(), "nobody ends by himself");
        }
        fabric.heal();
        if let Some(node) = down {
            fabric.restart(node);
        }
        *world.engines.borrow_mut() = engines(&fabric);
        world.is_over.set(true);
        let within = Duration::from_secs(120);
        fabric.block_on_for(within, &mut all).expect("liveness: everybody is answered in the end")
    };
    let engine = fabric.engine(nodes[0]);
    let counts = fabric.block_on(check(&engine, ended));
    // What is ending has ended by then, everywhere.
    fabric.run_for(Duration::from_secs(20));
    let map = fabric.block_on(Map::open(&engine, spec("map"))).unwrap();
    let left = map.range(MapRange::from(&ENDING), ReadConsistency::Linearizable);
    let left = fabric.block_on(left);
    assert!(left.unwrap().value.rows.is_empty(), "a key outlives its time");
    fabric.run_for(Duration::from_secs(5));
    fabric.assert_converged();
    (fabric.trace(), counts)
}

async fn everybody(world: &World, seed: u64) -> Ended {
    let (mut told, mut watched, mut kept) = (Vec::new(), None, None);
    {
        let mut clients: Vec<Pin<Box<dyn Future<Output = Told> + '_>>> =
            (1..=CLIENTS).map(|id| Box::pin(client(world, id, seed)) as _).collect();
        let mut watching = Box::pin(watch(world, seed));
        let mut directing = Box::pin(direct(world, seed));
        poll_fn(|context| {
            clients.retain_mut(|client| match client.as_mut().poll(context) {
                Poll::Ready(done) => {
                    told.push(done);
                    false
                }
                Poll::Pending => true,
            });
            if watched.is_none()
                && let Poll::Ready(done) = watching.as_mut().poll(context)
            {
                watched = Some(done);
            }
            if kept.is_none()
                && let Poll::Ready(done) = directing.as_mut().poll(context)
            {
                kept = Some(done);
            }
            let is_done = clients.is_empty() && watched.is_some() && kept.is_some();
            if is_done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    Ended { told, watched: watched.unwrap(), kept: kept.unwrap() }
}

/// G1, G6, G7, and that a watch leaves nothing out.
async fn check(engine: &Engine, ended: Ended) -> [u64; 6] {
    let Ended { told, mut watched, kept } = ended;
    let strong = ReadConsistency::Linearizable;
    let log = Log::open(engine, spec("log")).await.unwrap();
    let map = Map::open(engine, spec("map")).await.unwrap();
    let mut logged = BTreeMap::new();
    let mut from = Offset::ZERO.into();
    loop {
        let page = log.scan(from, Direction::Forward, 1000, strong).await.unwrap().value;
        for entry in page.entries {
            let before = logged.insert(entry.value, entry.position.offset);
            assert_eq!(before, None, "G6: order {} was logged twice", entry.value);
        }
        let Some(next) = page.next else { break };
        from = next;
    }
    let orders: BTreeMap<u64, Offset> =
        told.iter().flat_map(|told| told.orders.iter().map(|(n, at)| (*n, *at))).collect();
    // Each client ended knowing what became of all that it wanted.
    assert_eq!(orders, logged, "G1, G6: what was told is what is there");
    for (number, offset) in &orders {
        let found = map.get(number, strong).await.unwrap().value.expect("G7: beside its log entry");
        assert_eq!((found.value, found.version.offset()), (*number, *offset), "G7");
    }
    let counted: u64 = told.iter().map(|told| told.counted).sum();
    let counter = map.get(&COUNTER, strong).await.unwrap();
    let found = counter.value.map_or(0, |found| found.value);
    assert_eq!(found, counted, "G6, G7: each count took effect once");
    // The watch goes on to the end, and its copy is the map, as of one moment.
    let end = map.bounds(strong).await.unwrap().freshness.offset;
    let world = World { engines: RefCell::default(), is_over: Cell::new(false) };
    while watched.position < end {
        follow(&world, &map, &mut watched, 1).await;
    }
    let offset = watched.position;
    for (key, (value, version)) in &watched.state {
        let found =
            map.at(offset).get(key, strong).await.unwrap().value.expect("a key of the watch");
        assert_eq!((found.value, found.version.offset()), (*value, *version), "key={key}");
    }
    let rows = map.at(offset).range(MapRange::all(), strong).await.unwrap().value;
    assert_eq!(rows.rows.len(), watched.state.len(), "the watch left something out");
    for (name, altered) in kept {
        let name = spec(&name).name;
        match engine.directory().alterations(&name, strong).await {
            Ok(trail) => assert_eq!(trail.value.len() as u64, altered, "{name}"),
            Err(Error::NotFound { .. }) => assert_eq!(altered, 0, "{name}"),
            Err(error) => panic!("{error}"),
        }
    }
    let sum = |of: fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    [
        orders.len() as u64,
        counted,
        sum(|told| told.overtaken),
        sum(|told| told.repeated),
        sum(|told| told.unknown),
        watched.moved,
    ]
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| {
        std::env::var(name).ok().map(|raw| raw.parse::<u64>().expect("a number of the environment"))
    };
    match number("PALISADE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("PALISADE_SIM_SEEDS").unwrap_or(30)).collect(),
    }
}

#[test]
fn what_a_service_was_told_is_what_is_there() {
    let mut sums = [0; 6];
    for seed in seeds() {
        let ran = std::panic::catch_unwind(|| run(seed));
        let Ok((_, counts)) = ran else {
            panic!("seed {seed} failed: PALISADE_SIM_SEED={seed} runs it again");
        };
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    println!("orders, counted, overtaken, repeated, unknown, moves of the watch: {sums:?}");
    if std::env::var("PALISADE_SIM_SEED").is_err() {
        assert!(sums.iter().all(|sum| *sum > 0), "{sums:?}");
    }
}

#[test]
fn a_seed_gives_one_run() {
    assert_eq!(run(7), run(7));
}
