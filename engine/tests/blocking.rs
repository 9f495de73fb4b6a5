//! The engine as a service without a runtime uses it: one node, real files, no future in sight.

#[path = "support/sum.rs"]
mod sum;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;

use palisade::blocking::{
    Engine, Handle, ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap,
};
use palisade::{
    ClusterId, Direction, EngineBuilder, Error, FenceEpoch, Fingerprint, GroupId, History,
    LogPosition, LogRetention, LogTime, LogicalResourceName, MapRange, MemberChange, NodeId,
    Offset, ReadConsistency, ReadOptions, RequestStatus, RequestWindow, ResourceSpec, Revision,
    Stored, TraceContext, Version, WatchEvent, WatchOptions,
};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::sum::Sum;

const LOCAL: ReadConsistency = ReadConsistency::Local;
const NOW: ReadConsistency = ReadConsistency::Linearizable;
const DATA: GroupId = GroupId::new(1);
const OWNER: FenceEpoch = FenceEpoch::new(1);

fn builder(dir: &TempDir) -> EngineBuilder {
    palisade::Engine::builder(dir.path()).projection(Sum)
}

fn spec(name: &str) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap()
}

struct Service {
    engine: Engine,
    log: ReplicatedLog<String>,
    map: ReplicatedMap<String, String>,
    requests: ReplicatedIdempotencyStore,
    sum: Handle<Sum>,
}

fn open(dir: &TempDir) -> Result<Service, Error> {
    let engine = builder(dir).open_blocking()?;
    Ok(Service {
        log: ReplicatedLog::open(&engine, spec("log"))?,
        map: ReplicatedMap::open(&engine, spec("map"))?,
        requests: ReplicatedIdempotencyStore::open(&engine, spec("requests"))?,
        sum: Handle::open(&engine, spec("sum"))?,
        engine,
    })
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[test]
fn every_handle_writes_reads_and_waits() {
    let dir = tempfile::tempdir().unwrap();
    let Service { engine, log, map, requests, sum } = open(&dir).unwrap();
    assert_eq!(engine.group(DATA).unwrap().status().unwrap().leader, Some(engine.node()));

    // A log, its tail, its consumer.
    let first = log.append(&text("a")).unwrap().outcome;
    let rest = log.append_all(&[text("b"), text("c")]).unwrap().outcome;
    assert_eq!(rest.len(), 2);
    let refused = log.append_if(&text("d"), first);
    assert!(matches!(refused, Err(Error::TailMismatch { .. })), "{refused:?}");
    let page = log.scan(first, Direction::Forward, 10, NOW).unwrap().value;
    assert_eq!(page.entries.len(), 3);
    let mut tail = log.tail(LogPosition::START);
    let told: Vec<String> = tail
        .by_ref()
        .take(2)
        .map(|entry| entry.map(|entry| entry.value))
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(told, ["a", "b"]);
    assert_eq!(tail.position(), rest[1]);
    let wait = Duration::from_millis(1);
    assert_eq!(tail.next().unwrap().unwrap().value, "c");
    assert!(tail.next_within(wait).unwrap().is_none(), "nothing more was appended");
    let consumer = log.consumer("c").unwrap();
    consumer.commit(tail.position()).unwrap();
    assert_eq!(consumer.position(NOW).unwrap().value, tail.position());
    consumer.owned_by(FenceEpoch::new(2)).forget().unwrap();
    assert_eq!(log.bounds(NOW).unwrap().value.entries, 3);

    // A map, its past, its watch.
    let (key, one, two) = (text("k"), text("1"), text("2"));
    let written = map.put(&key, &one).unwrap();
    map.put(&key, &two).unwrap();
    assert_eq!(map.get(&key, NOW).unwrap().value.unwrap().value, "2");
    assert_eq!(map.range(MapRange::all(), NOW).unwrap().value.rows.len(), 1);
    let past = map.at(written.offset).get(&key, LOCAL).unwrap().value.unwrap();
    assert_eq!(past.value, "1");
    let mut watch = map.watch(written.offset, WatchOptions::default());
    let told = watch.next().unwrap().unwrap();
    let WatchEvent::Changes { changes, offset, .. } = told else { panic!("{told:?}") };
    assert_eq!((&changes[0].key, watch.position()), (&key, offset));
    let guarded = engine.batch().require(map.version_is(&key, Version::ABSENT)).delete(&map, &key);
    let refused = engine.commit(guarded);
    assert!(matches!(refused, Err(Error::GuardFailed { .. })), "{refused:?}");

    // A batch over four kinds of resources, and what each has of it.
    let batch = engine
        .batch()
        .reserve(&requests, "r", Fingerprint::of(b"r"), OWNER)
        .append(&log, &text("d"))
        .delete(&map, &key)
        .with(&sum, &7)
        .complete(&requests, "r", OWNER, "done".into());
    let done = engine.commit(batch).unwrap();
    assert_eq!(done.outcomes.len(), 5);
    let fresh = ReadOptions::from(done.receipt.freshness());
    assert_eq!(map.get(&key, fresh).unwrap().value, None);
    assert_eq!(tail.next_within(Duration::from_secs(60)).unwrap().unwrap().value, "d");
    let status = requests.status("r", fresh).unwrap().value;
    assert!(matches!(status, RequestStatus::Completed(_)), "{status:?}");
    assert_eq!(sum.submit(&8).unwrap().outcome, 15);
    let held = sum.read(NOW, |rows| rows.get(b"sum")).unwrap().value.unwrap();
    assert_eq!(u64::from_bytes(&held).unwrap(), 15);

    // What is of no single resource.
    assert_eq!(
        engine.conditions().unwrap().len(),
        0,
        "nobody has declared what to do under a failure"
    );
    assert_eq!(engine.cluster_map().unwrap().groups.len(), engine.groups().len());
    let session = engine.session();
    let mine = ReplicatedMap::<String, String>::open(&session.engine(), spec("map")).unwrap();
    mine.put(&key, &one).unwrap();
    let resumed = engine.resume(&session.token()).unwrap();
    assert_eq!(resumed.freshness(), session.freshness());
    let listed = engine.directory().list("", None, 10, NOW).unwrap();
    assert_eq!(listed.resources.len(), 4);
    let both = engine.wait(async {
        let one = async_map(&mine).get(&key, NOW).await?;
        let two = async_map(&map).get(&key, NOW).await?;
        Ok::<_, Error>((one.value, two.value))
    });
    let (one, two) = both.unwrap();
    assert_eq!(one, two);
    engine.close().unwrap();
}

/// A read keeps a thread that the engine's end waits for: with the last handle in its hands, it is not kept.
/// Only an engine that stores contexts has any to tell of; it tells until it is closed.
#[test]
fn records_of_a_trace_are_told_until_the_end() {
    for stores in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let builder = if stores { builder(&dir).stores_traces() } else { builder(&dir) };
        let engine = builder.open_blocking().unwrap();
        let map = ReplicatedMap::<String, String>::open(&engine, spec("map")).unwrap();
        let mut records = engine.traced_records();
        let trace = TraceContext::new([1; 16], [2; 8], 1).unwrap();
        let put = map.traced(trace).put(&text("k"), &text("v")).unwrap();
        map.put(&text("k"), &text("w")).unwrap();
        engine.close().unwrap();
        let told: Vec<_> = records.by_ref().map(Result::unwrap).collect();
        let told: Vec<_> = told.iter().map(|record| (record.trace, record.offset)).collect();
        assert_eq!(told, [(trace, put.offset)][..usize::from(stores)]);
        assert!(records.next().is_none() && engine.traced_records().next().is_none());
    }
}

#[test]
fn within_a_read_calls_are_refused_and_the_last_handle_may_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir).unwrap();
    let sum = palisade::Handle::clone(&service.sum);
    let engine = service.engine.clone();
    drop(service);
    let read = sum.read(LOCAL, move |_| {
        let told = engine.group(DATA).unwrap().status().map(drop);
        drop(engine);
        Ok(told)
    });
    let told = block_on(read).unwrap().value;
    assert!(matches!(told, Err(Error::InvalidArgument { .. })), "{told:?}");
}

/// Whatever a caller may name: an answer or a typed error, and the engine goes on.
#[test]
fn no_argument_makes_it_panic() {
    let dir = tempfile::tempdir().unwrap();
    let Service { engine, log, map, requests, .. } = open(&dir).unwrap();
    let (key, last, most) = (text("k"), Offset::new(u64::MAX), u64::MAX);
    let answered = |result: Result<(), Error>| {
        let broken = matches!(result, Err(Error::InternalError { .. }));
        assert!(!broken, "{result:?}");
    };
    log.append(&key).unwrap();
    for position in [LogPosition::START, LogPosition::END] {
        for direction in [Direction::Forward, Direction::Backward] {
            for limit in [0, 1, usize::MAX] {
                answered(log.scan(position, direction, limit, NOW).map(drop));
            }
        }
        answered(log.append_if(&key, position).map(drop));
        answered(log.tail(position.after()).next_within(Duration::ZERO).map(drop));
        let consumer = log.consumer("c").unwrap().owned_by(FenceEpoch::new(most));
        answered(consumer.commit(position).map(drop));
        answered(log.trim_before(position).map(drop));
    }
    let retention = LogRetention { keep_ms: Some(most), keep_bytes: Some(most) };
    answered(log.retain(retention).map(drop));
    answered(log.append(&key).map(drop));
    answered(map.keep(History { keep_ms: most, changes_max: most }).map(drop));
    answered(map.put_with_ttl_ms(&key, &key, most).map(drop));
    answered(map.put_with_ttl_ms(&key, &key, 0).map(drop));
    answered(map.at(last).get(&key, LOCAL).map(drop));
    answered(map.get_many(&vec![key.clone(); 100_000], LOCAL).map(drop));
    answered(map.range(MapRange::from(&key).before(&text("a")).limit(0), LOCAL).map(drop));
    let silent = WatchOptions { progress: Duration::ZERO, ..WatchOptions::default() };
    answered(map.watch(last, silent).next().unwrap().map(drop));
    answered(requests.keep(RequestWindow { retention_ms: most, requests_max: most }).map(drop));
    let (print, owner) = (Fingerprint::of(b"r"), FenceEpoch::new(most));
    answered(requests.reserve_issued("r", print, owner, LogTime::new(most)).map(drop));
    answered(requests.reserve("", print, owner).map(drop));
    answered(engine.group(DATA).unwrap().head(last).map(drop));
    answered(engine.group(DATA).unwrap().prove(last).map(drop));
    answered(engine.group(DATA).unwrap().prove(Offset::ZERO).map(drop));
    answered(engine.resume(&b"\xff\xff\xff".as_slice().into()).map(drop));
    answered(engine.commit(engine.batch()).map(drop));
    let ahead = ReadOptions::from(ReadConsistency::AtLeastOffset(last)).wait(Duration::ZERO);
    answered(map.get(&key, ahead).map(drop));
    answered(engine.directory().list("", None, usize::MAX, NOW).map(drop));
    let name = LogicalResourceName::new("map").unwrap();
    answered(engine.directory().delete(&name, Revision::new(most), most, "").map(drop));
    answered(engine.change_members(MemberChange::Promote { node: NodeId::new(most) }).map(drop));
    assert_eq!(map.get(&key, NOW).unwrap().value.unwrap().value, key);
    engine.close().unwrap();
}

/// A thread that knows of no tokio, and waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// The engine's own handles need tokio when it is opened, and no executor of tokio's later: where it is not,
/// nothing panics for want of it.
#[test]
fn another_executor_is_no_reason_to_panic() {
    let dir = tempfile::tempdir().unwrap();
    let none = block_on(builder(&dir).open()).map(drop);
    assert!(matches!(none, Err(Error::InvalidArgument { .. })), "{none:?}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing was begun");
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let none = bare.block_on(builder(&dir).open()).map(drop);
    assert!(matches!(none, Err(Error::InvalidArgument { .. })), "no timers: {none:?}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing was begun");
    let service = open(&dir).unwrap();
    bare.block_on(async_map(&service.map).put(&text("bare"), &text("v"))).unwrap();
    let (engine, key) = (palisade::Engine::clone(&service.engine), text("k"));
    let map = async_map(&service.map);
    block_on(async {
        let receipt = map.put(&key, &text("v")).await.unwrap();
        let ahead = ReadConsistency::AtLeastOffset(receipt.offset.next());
        let ahead = ReadOptions::from(ahead).wait(Duration::from_millis(1));
        let late = map.get(&key, ahead).await.map(drop);
        assert!(matches!(late, Err(Error::NotYetApplied { .. })), "{late:?}");
        assert_eq!(
            engine.group(DATA).unwrap().prove(receipt.offset).await.unwrap().offset,
            receipt.offset.get()
        );
        engine.close().await.unwrap();
    });
}

/// A runtime may end before the engine that was opened on it: what needs a clock is over at once.
#[test]
fn an_engine_outlives_its_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = runtime.block_on(builder(&dir).open()).unwrap();
    let map = palisade::ReplicatedMap::<String, String>::open(&engine, spec("map"));
    let map = runtime.block_on(map).unwrap();
    let key = text("k");
    let ahead = ReadConsistency::AtLeastOffset(Offset::new(u64::MAX));
    let ahead = ReadOptions::from(ahead).wait(Duration::from_secs(3600));
    let wait = map.get(&key, ahead);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| block_on(wait).map(drop));
        drop(runtime);
        let late = waiting.join().expect("it does not panic");
        assert!(matches!(late, Err(Error::NotYetApplied { .. })), "{late:?}");
    });
    let again = tokio::runtime::Runtime::new().unwrap();
    again.block_on(map.put(&key, &key)).unwrap();
    assert_eq!(block_on(map.get(&key, LOCAL)).unwrap().value.unwrap().value, key);
    again.block_on(engine.close()).unwrap();
}

/// What a blocking handle waits for.
fn async_map<K, V>(map: &ReplicatedMap<K, V>) -> &palisade::ReplicatedMap<K, V> {
    map
}

/// A second close has nothing to do; whatever else is asked is told, and a tail ends.
#[test]
fn what_comes_after_a_close_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir).unwrap();
    let mut tail = service.log.tail(LogPosition::START);
    service.engine.close().unwrap();
    service.engine.close().unwrap();
    let told = [
        service.log.append(&text("late")).map(drop),
        service.map.get(&text("k"), LOCAL).map(drop),
        service.sum.submit(&1).map(drop),
        service.engine.commit(service.engine.batch().append(&service.log, &text("late"))).map(drop),
        service.engine.group(DATA).unwrap().applied().map(drop),
        ReplicatedLog::<String>::open(&service.engine, spec("other")).map(drop),
        tail.next().unwrap().map(drop),
    ];
    for (call, told) in told.into_iter().enumerate() {
        assert!(
            matches!(&told, Err(Error::InternalError { what }) if what.contains("closed")),
            "call={call}: {told:?}"
        );
    }
    assert!(tail.next().is_none(), "it has said why");
}

#[test]
fn a_directory_belongs_to_one_engine_and_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir).unwrap();
    let second = builder(&dir).open_blocking().map(drop);
    assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
    service.log.append(&text("a")).unwrap();
    // The last handle closes the engine, and waits until it is closed.
    let log = service.log.clone();
    drop(service);
    assert_eq!(log.bounds(NOW).unwrap().value.entries, 1);
    drop(log);

    let foreign = builder(&dir).cluster(ClusterId::new(9)).open_blocking().map(drop);
    assert!(matches!(foreign, Err(Error::Incompatible { .. })), "{foreign:?}");
    assert_eq!(open(&dir).unwrap().log.bounds(NOW).unwrap().value.entries, 1);
}

/// Whatever kind of thread of a runtime it is: a typed error, and the engine is as it was.
#[test]
fn within_a_runtime_every_call_is_refused() {
    fn refused<T>(result: Result<T, Error>) {
        let result = result.map(drop);
        let Err(Error::InvalidArgument { what }) = &result else { panic!("{result:?}") };
        assert!(what.contains("palisade::Engine"), "it says what to use: {what}");
    }
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir).unwrap();
    let mut tail = service.log.tail(LogPosition::START);
    service.log.append(&text("a")).unwrap();
    let mut calls = || {
        refused(builder(&dir).open_blocking());
        refused(service.log.append(&text("late")));
        refused(service.map.get(&text("k"), LOCAL));
        refused(tail.next_within(Duration::ZERO));
        refused(service.engine.close());
        refused(service.engine.wait(async { Ok::<_, Error>(()) }));
    };
    let one = tokio::runtime::Builder::new_current_thread().build().unwrap();
    one.block_on(async { calls() });
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    many.block_on(async { calls() });
    refused(service.engine.wait(async { service.log.append(&text("late")).map(drop) }));
    let log = service.log.clone();
    let spawned = many.block_on(many.spawn(async move { log.append(&text("late")).map(drop) }));
    refused(spawned.unwrap());
    let log = service.log.clone();
    let spawned = many.block_on(many.spawn_blocking(move || log.append(&text("late")).map(drop)));
    refused(spawned.unwrap());
    assert_eq!(tail.next().unwrap().unwrap().value, "a");
    assert_eq!(service.log.bounds(NOW).unwrap().value.entries, 1);
}

/// A read is under way, and the engine cannot close before it has ended; who drops it does not wait.
#[test]
fn dropped_within_a_runtime_it_is_closed_by_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir).unwrap();
    let (reading, begun) = oneshot::channel();
    let (release, released) = mpsc::channel::<()>();
    let sum = palisade::Handle::clone(&service.sum);
    let mut tail = palisade::ReplicatedLog::clone(&service.log).tail(LogPosition::START);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut reads = JoinSet::new();
        reads.spawn(async move {
            let read = sum.read(LOCAL, move |_| {
                reading.send(()).unwrap();
                released.recv().unwrap();
                Ok(())
            });
            read.await.map(drop)
        });
        begun.await.unwrap();
        drop(service);
        release.send(()).unwrap();
        reads.join_next().await.unwrap().unwrap().unwrap();
        let told = tail.next().await;
        assert!(
            matches!(&told, Err(Error::InternalError { what }) if what.contains("closed")),
            "{told:?}"
        );
    });
}
