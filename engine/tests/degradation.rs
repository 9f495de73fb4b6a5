//! Contracts on a simulated cluster: something fails, each kind of call is answered as the table of modes in
//! `docs/degradation.md` says, and once it is over all of them are answered as before.
#![cfg(feature = "sim")]

#[path = "support/data.rs"]
mod data;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};
use std::pin::pin;
use std::sync::Once;
use std::time::Duration;

use data::Data;
use palisade::degradation::{
    DegradationContract, DegradationMode, DegradationRule, EmitAction, HealthLimits, PolicyAction,
    RecoveryAction, ResourceCondition, RewritePlan,
};
use palisade::sim::SimFabric;
use palisade::{
    Alteration, Disposition, Engine, Error, Failure, FailureDomain, FenceEpoch, Freshness, NodeId,
    Read, ReadConsistency, ReadOptions, Receipt, ReplicaPolicy, ReplicatedMap, ResourceSpec,
    Revision,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

type Map = ReplicatedMap<String, String>;

/// Enough for an election and what follows from it, and for a failure to be one.
const A_WHILE: Duration = Duration::from_secs(5);
/// Longer than any answer takes that nothing is tried for.
const AT_ONCE: Duration = Duration::from_millis(5);
const LINEARIZABLE: ReadConsistency = ReadConsistency::Linearizable;
const LOCAL: ReadConsistency = ReadConsistency::Local;

fn spec(name: &str) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap().replicas(ReplicaPolicy::majority(3))
}

fn across(name: &str) -> ResourceSpec {
    spec(name).replicas(ReplicaPolicy::majority(3).across_domains(2))
}

fn contract(rules: impl IntoIterator<Item = DegradationRule>) -> DegradationContract {
    let builder = rules.into_iter().fold(DegradationContract::builder(), |b, rule| b.rule(rule));
    builder.build().unwrap()
}

fn under(failure: Failure, mode: DegradationMode) -> DegradationContract {
    contract([DegradationRule::new([failure], mode)])
}

async fn put(map: &Map, value: &str) -> Result<Receipt, Error> {
    map.put(&"k".to_owned(), &value.to_owned()).await
}

async fn get(map: &Map, how: impl Into<ReadOptions>) -> Result<Read<Option<String>>, Error> {
    let read = map.get(&"k".to_owned(), how).await?;
    let Read { freshness, log_time, stale, .. } = read;
    Ok(Read { value: read.value.map(|found| found.value), freshness, log_time, stale })
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Fresh,
    Stale,
    /// Nothing was tried.
    AtOnce(Failure),
    /// It was, for as long as it takes.
    Late(Failure),
}
use Told::{AtOnce, Fresh, Late, Stale};

/// What a mode makes of a call.
#[derive(Clone, Copy)]
enum Cell {
    Try,
    Refuse,
    ElseStale,
    ServeStale,
}
use Cell::{ElseStale, Refuse, ServeStale, Try};

/// The table of the page: write, linearizable read, read at an offset, local read.
const TABLE: [(DegradationMode, [Cell; 4]); 5] = [
    (DegradationMode::Normal, [Try, Try, Try, Try]),
    (DegradationMode::ReadOnly, [Refuse, Try, Try, Try]),
    (DegradationMode::StaleReadsOk, [Refuse, ElseStale, ElseStale, ServeStale]),
    (DegradationMode::DegradedOk, [Try, ElseStale, ElseStale, ServeStale]),
    (DegradationMode::FailClosed, [Refuse, Refuse, Refuse, Refuse]),
];

/// What a row comes to, if this is what the calls come to by themselves.
fn row(cells: [Cell; 4], tried: [Told; 4], failure: Failure) -> [Told; 4] {
    let mut told = tried;
    for (told, cell) in told.iter_mut().zip(cells) {
        *told = match cell {
            Refuse => AtOnce(failure),
            ServeStale => Stale,
            ElseStale if *told != Fresh => Stale,
            Try | ElseStale => *told,
        };
    }
    told
}

/// Three nodes, led by the first, with a map open on each, and one on the second that has no contract.
struct World {
    fabric: SimFabric,
    engines: Vec<Engine>,
    maps: Vec<Map>,
    plain: Map,
    writes: u64,
}

impl World {
    fn new(spec: ResourceSpec) -> Self {
        Self::on(SimFabric::new(3), spec)
    }

    fn on(mut fabric: SimFabric, spec: ResourceSpec) -> Self {
        let engines: Vec<Engine> =
            (1..=3).map(|number| fabric.engine(fabric.node(number))).collect();
        let mut maps = Vec::new();
        for engine in &engines {
            maps.push(fabric.block_on(Map::open(engine, spec.clone())).unwrap());
        }
        let plain = fabric.block_on(Map::open(&engines[1], self::spec("plain"))).unwrap();
        let one = fabric.node(1);
        for engine in engines.iter().filter(|engine| fabric.leader() == Some(engine.node())) {
            engine.data().transfer_leadership(one).unwrap();
        }
        fabric.run_for(A_WHILE);
        assert_eq!(fabric.leader(), Some(one));
        let mut world = Self { fabric, engines, maps, plain, writes: 0 };
        world.assert_well();
        world
    }

    fn node(&self, at: usize) -> NodeId {
        self.engines[at].node()
    }

    fn put(&mut self, at: usize) -> Result<(), Error> {
        self.writes += 1;
        self.fabric.block_on(put(&self.maps[at], &self.writes.to_string())).map(drop)
    }

    fn get(&mut self, at: usize, how: impl Into<ReadOptions>) -> Result<bool, Error> {
        Ok(self.fabric.block_on(get(&self.maps[at], how))?.stale)
    }

    /// A record that the map's contract has no say in, and where it is.
    fn write_plain(&mut self) -> Freshness {
        self.fabric.block_on(put(&self.plain, "v")).unwrap().freshness()
    }

    fn told(&mut self, call: impl FnOnce(&mut Self) -> Result<bool, Error>) -> Told {
        let before = self.fabric.now();
        let result = call(self);
        let at_once = self.fabric.now() - before <= AT_ONCE;
        match result {
            Ok(false) => Fresh,
            Ok(true) => Stale,
            Err(error) if at_once => {
                assert_ne!(error.disposition(), Disposition::Indeterminate, "nothing was tried");
                AtOnce(error.failure())
            }
            Err(error) => Late(error.failure()),
        }
    }

    /// A linearizable read, one at this place, a local one, and a write.
    fn all(&mut self, at: usize, place: Freshness) -> [Told; 4] {
        let place = ReadOptions::from(place).wait(Duration::from_secs(1));
        let linearizable = self.told(|world| world.get(at, LINEARIZABLE));
        let at_least = self.told(|world| world.get(at, place));
        let local = self.told(|world| world.get(at, LOCAL));
        let write = self.told(|world| world.put(at).map(|()| false));
        [write, linearizable, at_least, local]
    }

    fn assert_well(&mut self) {
        let place = self.write_plain();
        for at in 0..3 {
            assert_eq!(self.all(at, place), [Fresh; 4], "on node {}", at + 1);
            assert!(self.conditions(at).is_empty());
        }
    }

    fn heal(&mut self) {
        self.fabric.heal();
        self.fabric.run_for(A_WHILE);
        self.assert_well();
    }

    fn conditions(&mut self, at: usize) -> Vec<ResourceCondition> {
        self.fabric.block_on(self.engines[at].conditions())
    }

    /// What the second node has of the last write that was begun.
    fn has_last_write(&mut self) -> bool {
        self.fabric.run_for(A_WHILE);
        let place = self.fabric.block_on(get(&self.plain, LINEARIZABLE)).unwrap().freshness;
        let read = self.fabric.block_on(get(&self.maps[1], place)).unwrap();
        read.value.unwrap() == self.writes.to_string()
    }
}

/// Degraded is the one failure under which every mode is allowed. A follower's disk hangs: it hears of
/// records, and can neither keep nor apply them.
#[test]
fn each_row_of_the_table_where_a_disk_hangs() {
    let off = Late(Failure::Disconnected);
    let tried = [off, off, Late(Failure::NotYetApplied), Fresh];
    for (mode, cells) in TABLE {
        let mut world = World::new(spec("orders").contract(under(Failure::Degraded, mode)));
        world.fabric.hold_disk(world.node(2));
        let place = world.write_plain();
        world.fabric.run_for(Duration::from_millis(600));
        let condition = world.conditions(2).pop().unwrap();
        assert_eq!((condition.observed.failure(), condition.mode), (Failure::Degraded, mode));
        assert_eq!(world.all(2, place), row(cells, tried, Failure::Degraded), "{mode}");
        // What was tried came into the log, though its node could not say so; what was refused did not.
        assert_eq!(world.has_last_write(), mode.takes_writes(), "{mode}");
        world.heal();
    }
}

/// A leader and a follower that lose the majority. The others go on without them.
#[test]
fn each_row_of_the_table_without_a_quorum() {
    let off = Late(Failure::Disconnected);
    let tried = [off, off, Late(Failure::NotYetApplied), Fresh];
    let allowed = |mode: &DegradationMode| *mode != DegradationMode::DegradedOk;
    for (mode, cells) in TABLE.into_iter().filter(|(mode, _)| allowed(mode)) {
        for at in [0, 2] {
            let mut world = World::new(spec("orders").contract(under(Failure::Disconnected, mode)));
            world.fabric.partition(&[world.node(at)]);
            world.fabric.run_for(A_WHILE);
            let place = world.write_plain();
            let expected = row(cells, tried, Failure::Disconnected);
            assert_eq!(world.all(at, place), expected, "{mode} on node {}", at + 1);
            assert!(world.conditions(1).is_empty(), "the majority has lost nothing");
            world.heal();
        }
    }
}

/// The only voter of its zone is cut off: a majority is left, which confirms reads and commits nothing.
#[test]
fn each_row_of_the_table_without_a_demanded_domain() {
    let off = Late(Failure::Disconnected);
    for (mode, cells) in TABLE {
        let mut world = World::new(across("orders").contract(under(Failure::Degraded, mode)));
        let place = world.write_plain();
        world.fabric.partition(&[world.node(1)]);
        world.fabric.run_for(Duration::from_secs(1));
        let expected = row(cells, [off, Fresh, Fresh, Fresh], Failure::Degraded);
        assert_eq!(world.all(0, place), expected, "{mode}");
        world.heal();
    }
}

/// A follower's disk is full: it takes no write from anybody, says so at once, and falls behind.
#[test]
fn each_row_of_the_table_where_a_disk_is_full() {
    let off = Late(Failure::Disconnected);
    let tried = [AtOnce(Failure::RateLimited), off, Late(Failure::NotYetApplied), Fresh];
    for (mode, cells) in TABLE {
        let mut world = World::new(spec("orders").contract(under(Failure::RateLimited, mode)));
        world.fabric.fill_disk(world.node(2));
        // The file that is begun has room for some.
        let large = "x".repeat(palisade::VALUE_BYTES_MAX - 1);
        for _ in 0..200 {
            if world.conditions(2).is_empty() {
                world.fabric.block_on(put(&world.plain, &large)).unwrap();
            }
        }
        let place = world.write_plain();
        assert_eq!(world.all(2, place), row(cells, tried, Failure::RateLimited), "{mode}");
        assert!(world.conditions(1).is_empty(), "the others have room");
        world.heal();
    }
}

/// The domain is `Degraded` at once, and `Disconnected` while a write waits for it. When none waits any
/// more, the next one is tried.
#[test]
fn a_write_that_waits_is_what_disconnected_means() {
    let contract = under(Failure::Degraded, DegradationMode::Normal);
    let mut world = World::new(across("orders").contract(contract));
    world.fabric.partition(&[world.node(1)]);
    world.fabric.run_for(Duration::from_secs(1));
    let map = world.maps[0].clone();
    let mut waits = pin!(put(&map, "waits"));
    assert!(world.fabric.block_on_for(Duration::from_secs(4), waits.as_mut()).is_none());
    // No rule names it.
    assert_eq!(world.told(|world| world.put(0).map(|()| false)), AtOnce(Failure::Disconnected));
    assert_eq!(world.told(|world| world.get(0, LOCAL)), AtOnce(Failure::Disconnected));
    let given_up = world.fabric.block_on(waits).unwrap_err();
    assert_eq!(given_up.disposition(), Disposition::Indeterminate);
    world.fabric.run_for(Duration::from_millis(100));
    assert_eq!(world.told(|world| world.get(0, LOCAL)), Fresh);
    assert_eq!(world.told(|world| world.put(0).map(|()| false)), Late(Failure::Disconnected));
    world.heal();
}

#[test]
fn stale_is_for_those_who_can_use_it() {
    let contract = under(Failure::Disconnected, DegradationMode::StaleReadsOk);
    let mut world = World::new(spec("orders").contract(contract));
    let two = world.maps[1].clone();
    world.fabric.partition(&[world.node(2)]);
    world.fabric.run_for(A_WHILE);
    let place = world.fabric.block_on(put(&two, "newer")).unwrap().freshness();
    let (stale, old) = {
        let read = world.fabric.block_on(get(&world.maps[2], LOCAL)).unwrap();
        assert!(read.freshness.offset < place.offset, "it says how far it is");
        (read.stale, read.value.unwrap())
    };
    assert!(stale && old != "newer");
    let refuse = |how: ReadConsistency| ReadOptions::from(how).refuse_stale();
    // Tried for as long as it takes to call it a failure, and no longer.
    let before = world.fabric.now();
    assert!(world.get(2, LINEARIZABLE).unwrap());
    let tried_ms = (world.fabric.now() - before).as_millis() as u64;
    let patience_ms = HealthLimits::default().disconnected_after_ms;
    assert!((patience_ms..patience_ms + 10).contains(&tried_ms), "{tried_ms}");
    let told = [refuse(LINEARIZABLE), refuse(ReadConsistency::AtLeast(place)), refuse(LOCAL)]
        .map(|how| world.told(|world| world.get(2, how)));
    let off = Failure::Disconnected;
    assert_eq!(told, [Late(off), AtOnce(Failure::NotYetApplied), AtOnce(off)]);
    // Where nothing is stale, it is the same read.
    assert_eq!(world.told(|world| world.get(1, refuse(LOCAL))), Fresh);
    world.heal();
}

/// A writer that was replaced is told so by its own node, and where it may go on reading, it does.
#[test]
fn a_fenced_writer_writes_nothing_and_reads_as_declared() {
    for (mode, read) in
        [(DegradationMode::ReadOnly, Fresh), (DegradationMode::FailClosed, AtOnce(Failure::Fenced))]
    {
        let declared = || spec("orders").contract(under(Failure::Fenced, mode));
        let mut world = World::new(declared());
        let newer = Map::open(&world.engines[0], declared().epoch(FenceEpoch::new(2)));
        let newer = world.fabric.block_on(newer).unwrap();
        // Until nobody has anything more to say of what was written.
        world.fabric.run_for(Duration::from_secs(30));
        let before = world.engines[2].data().applied().unwrap();
        assert_eq!(world.told(|world| world.put(2).map(|()| false)), AtOnce(Failure::Fenced));
        assert_eq!(world.told(|world| world.get(2, LINEARIZABLE)), read);
        assert_eq!(world.told(|world| world.get(2, LOCAL)), read);
        let after = world.fabric.block_on(put(&newer, "newer")).unwrap();
        assert_eq!(after.offset, before.next(), "the old writer's record is nowhere");
        world.fabric.run_for(A_WHILE);
        let ResourceSpec { name, schema, .. } = declared();
        let reader = Map::open_reader(&world.engines[2], &name, &schema);
        let reader = world.fabric.block_on(reader).unwrap();
        let found = world.fabric.block_on(get(&reader, LOCAL)).unwrap();
        assert!(!found.stale, "who only reads was not replaced");
    }
}

#[test]
fn a_throttle_lets_through_what_it_says() {
    let rule = DegradationRule::new([Failure::Degraded], DegradationMode::Normal)
        .action(RecoveryAction::Throttle { per_second: 3 });
    let mut world = World::new(spec("orders").contract(contract([rule])));
    for _ in 0..9 {
        assert!(!world.get(2, LOCAL).unwrap(), "nothing has failed");
    }
    world.fabric.hold_disk(world.node(2));
    world.write_plain();
    world.fabric.run_for(Duration::from_millis(600));
    let before = world.fabric.now();
    let passed = (0..20).filter(|_| world.get(2, LOCAL).is_ok()).count();
    assert!(world.fabric.now() - before < Duration::from_millis(100));
    assert_eq!(passed, 3);
    let Error::RateLimited { retry_after_ms } = world.get(2, LOCAL).unwrap_err() else {
        panic!("it is throttled");
    };
    world.fabric.run_for(Duration::from_millis(retry_after_ms));
    assert!(world.get(2, LOCAL).is_ok(), "who comes back when told to is served");
    assert!(world.get(2, LOCAL).is_err());
    world.heal();
    assert!((0..20).all(|_| world.get(2, LOCAL).is_ok()));
}

/// The leader's disk hangs. It would give up the leadership by itself, half a second later.
#[test]
fn a_leader_hands_over_where_that_was_declared_and_only_there() {
    let limits = HealthLimits { sync_ms_max: 100, ..HealthLimits::default() };
    let rule = || DegradationRule::new([Failure::Degraded], DegradationMode::DegradedOk);
    for (rule, moves) in [(rule(), false), (rule().action(RecoveryAction::Failover), true)] {
        let fabric = SimFabric::builder(3).health_limits(limits).build().unwrap();
        let mut world = World::on(fabric, spec("orders").contract(contract([rule])));
        let one = world.node(0);
        world.fabric.hold_disk(one);
        // The others have it: its own disk is not waited for.
        world.write_plain();
        world.fabric.run_for(Duration::from_millis(200));
        assert_eq!(world.fabric.leader(), Some(one));
        let condition = world.conditions(0).pop().unwrap();
        assert_eq!(matches!(condition.due, Some(PolicyAction::Failover { .. })), moves);
        world.fabric.run_for(Duration::from_millis(150));
        assert_eq!(world.fabric.leader() != Some(one), moves);
        if let Some(PolicyAction::Failover { to }) = condition.due {
            assert_eq!(world.fabric.leader(), Some(to));
        }
    }
}

/// A plan is not carried out: who asks is told what is to be done, and where.
#[test]
fn who_asks_is_told_what_is_to_be_done() {
    let rule = DegradationRule::new([Failure::Degraded], DegradationMode::ReadOnly)
        .action(RecoveryAction::ReplicaAdd);
    let mut world = World::new(across("orders").contract(contract([rule])));
    world.fabric.partition(&[world.node(1)]);
    world.fabric.run_for(Duration::from_secs(1));
    let [condition] = world.conditions(0).try_into().unwrap();
    assert_eq!(condition.resource, spec("orders").name);
    assert_eq!(condition.mode, DegradationMode::ReadOnly);
    let domains: BTreeSet<String> = ["zone-0".to_owned()].into();
    let plan = PolicyAction::Plan(RewritePlan::ReplicaAdd { domains });
    assert_eq!(condition.due, Some(plan));
    assert!(world.conditions(2).is_empty(), "who does not lead does not know who answers");
    world.heal();
}

/// A batch is made if all of its resources take it.
#[test]
fn a_batch_is_refused_by_any_of_its_resources() {
    let contract = under(Failure::Degraded, DegradationMode::ReadOnly);
    let mut world = World::new(across("orders").contract(contract));
    let engine = world.engines[0].clone();
    let plain = world.fabric.block_on(Map::open(&engine, spec("plain"))).unwrap();
    world.fabric.partition(&[world.node(1)]);
    world.fabric.run_for(Duration::from_secs(1));
    let (key, value) = ("k".to_owned(), "v".to_owned());
    let orders = world.maps[0].clone();
    let version = palisade::Version::ABSENT;
    let batches = [
        engine.batch().put(&plain, &key, &value).put(&orders, &key, &value),
        engine.batch().require(orders.version_is(&key, version)).put(&plain, &key, &value),
    ];
    for batch in batches {
        let refused = world.fabric.block_on(batch.commit()).unwrap_err();
        assert_eq!(refused.failure(), Failure::Degraded);
    }
    // By itself the other is tried.
    let batch = engine.batch().put(&plain, &key, &value);
    let tried = world.fabric.block_on(batch.commit()).unwrap_err();
    assert_eq!(tried.disposition(), Disposition::Indeterminate);
}

/// What no contract softens is judged before it: the placement, and that the replica has halted.
#[test]
fn placement_comes_before_the_contract() {
    let closed = spec("orders").contract(DegradationContract::default());
    let mut world = World::new(closed);
    world.fabric.partition(&[world.node(2)]);
    world.fabric.run_for(A_WHILE);
    let elsewhere = FailureDomain::new("aws", "r1", "a");
    let map = world.maps[2].for_caller(elsewhere);
    let read = world.fabric.block_on(get(&map, LOCAL)).unwrap_err();
    assert_eq!(read.failure(), Failure::DomainUnavailable);
    let write = world.fabric.block_on(put(&map, "v")).unwrap_err();
    assert_eq!(write.failure(), Failure::DomainUnavailable);
    assert_eq!(world.told(|world| world.get(2, LOCAL)), AtOnce(Failure::Disconnected));
    world.fabric.crash(world.node(2));
    let halted = world.fabric.block_on(get(&map, LOCAL)).unwrap_err();
    assert_eq!(halted.failure(), Failure::InternalError);
}

/// No handle keeps a contract of its own: what is altered binds all of them, from its record on.
#[test]
fn an_altered_contract_binds_every_handle_at_once() {
    let mut world = World::new(spec("orders"));
    world.fabric.hold_disk(world.node(2));
    world.write_plain();
    world.fabric.run_for(Duration::from_millis(600));
    assert_eq!(world.told(|world| world.get(2, LOCAL)), Fresh, "nothing was declared");
    world.heal();

    let directory = world.engines[0].directory();
    let name = spec("orders").name;
    let mut revision = Revision::MADE;
    let modes = [Some(DegradationMode::FailClosed), Some(DegradationMode::DegradedOk), None];
    let told = [AtOnce(Failure::Degraded), Stale, Fresh];
    for (mode, told) in modes.into_iter().zip(told) {
        let declared = Alteration::Declare(mode.map(|mode| under(Failure::Degraded, mode)));
        let altered = directory.alter(&name, revision, declared, "as tried");
        world.fabric.block_on(altered).unwrap();
        revision = revision.next();
        world.fabric.run_for(Duration::from_secs(1));
        world.fabric.hold_disk(world.node(2));
        world.write_plain();
        world.fabric.run_for(Duration::from_millis(600));
        assert_eq!(world.told(|world| world.get(2, LOCAL)), told);
        world.heal();
    }
}

thread_local! {
    /// What engines on this thread told of modes.
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes what an engine tells of modes. There is one for all threads: one that comes and goes can miss what
/// other tests reach at that moment, too.
struct Listener;

impl Listener {
    fn listens() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(Self).unwrap());
        HEARD.take();
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if ["message", "resource", "failure", "mode"].contains(&field.name()) {
            write!(self.0, "{value:?} ").unwrap();
        }
    }
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "palisade::gatekeeper"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        HEARD.with_borrow_mut(|heard| heard.push(line.0.trim_end().to_owned()));
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Once when a mode is entered and once when it is left, however many calls there are; and not a word where
/// the rule says so.
#[test]
fn entering_and_leaving_a_mode_is_told() {
    let told = |rules: Vec<DegradationRule>| {
        Listener::listens();
        let mut world = World::new(spec("orders").contract(contract(rules)));
        world.fabric.hold_disk(world.node(2));
        let place = world.write_plain();
        world.fabric.run_for(Duration::from_millis(600));
        for _ in 0..3 {
            let _ = world.get(2, LOCAL);
        }
        let _ = world.all(2, place);
        world.fabric.partition(&[world.node(2)]);
        world.fabric.run_for(A_WHILE);
        for _ in 0..3 {
            let _ = world.get(2, LOCAL);
        }
        world.heal();
        HEARD.take()
    };
    let degraded = DegradationRule::new([Failure::Degraded], DegradationMode::ReadOnly);
    let full = [
        "entered a mode orders Degraded ReadOnly",
        "left a mode orders Degraded ReadOnly",
        "entered a mode orders Disconnected FailClosed",
        "left a mode orders Disconnected FailClosed",
    ];
    assert_eq!(told(vec![degraded]), full);
    let quiet = DegradationRule {
        emit: EmitAction::Nothing,
        ..DegradationRule::new([Failure::Degraded], DegradationMode::Normal)
    };
    assert_eq!(told(vec![quiet]), full[2..]);
}
