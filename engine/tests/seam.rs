//! One script, two backends: a service is told the same by the engine of this process and by that of a
//! simulated node, refusals, offsets and words included.
#![cfg(feature = "sim")]

#[path = "support/data.rs"]
mod data;

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use data::Data;
use palisade::sim::SimFabric;
use palisade::{
    BatchDone, Direction, Done, Engine, Error, FailureDomain, FenceEpoch, Fingerprint,
    KEY_BYTES_MAX, LogEntry, LogPosition, MapRange, MemberChange, NodeId, Offset, Placement, Read,
    ReadConsistency, ReadOptions, Receipt, ReplicaPolicy, ReplicatedIdempotencyStore,
    ReplicatedLog, ReplicatedMap, RequestStatus, ResourceSpec, Version,
};

type Log = ReplicatedLog<String>;
type Map = ReplicatedMap<String, String>;
type Requests = ReplicatedIdempotencyStore;

fn spec(name: &str, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap().epoch(FenceEpoch::new(epoch))
}

/// What was told, one line each. Log time and the name of the cluster differ, and are left out.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn note(&mut self, what: &str, told: impl Debug) {
        self.0.push(format!("{what}: {told:?}"));
    }

    fn receipt(&mut self, what: &str, told: Result<Receipt, Error>) {
        let place = |receipt: Receipt| (receipt.group, receipt.offset, receipt.duplicate);
        self.note(what, told.map(place));
    }

    fn read(&mut self, what: &str, told: Result<Read<impl Debug>, Error>) {
        self.note(what, told.map(|read| (read.value, read.freshness.offset)));
    }
}

fn receipt(told: Result<BatchDone, Error>) -> Result<Receipt, Error> {
    told.map(|done| done.receipt)
}

fn appended(told: Result<Done<LogPosition>, Error>) -> Result<Receipt, Error> {
    told.map(|done| done.receipt)
}

/// What logs have of their own. The times of entries are of each side's own clock.
async fn logs(told: &mut Told, log: &Log) -> Result<(), Error> {
    let (forth, back, now) = (Direction::Forward, Direction::Backward, ReadConsistency::Local);
    let text = |text: &str| text.to_owned();
    let many = log.append_all(&[text("b"), text("c")]).await?;
    told.note("many at once", many.outcome.clone());
    let place = many.outcome[0];
    told.receipt("a tail that was", appended(log.append_if(&text("d"), place).await));
    let trim = log.trim_before(place).await?;
    told.note("trim", trim.outcome);
    let linearizable = ReadConsistency::Linearizable;
    for (from, direction) in
        [(LogPosition::START, forth), (place, forth), (place, back), (LogPosition::END, back)]
    {
        let page = log.scan(from, direction, 10, linearizable).await.map(|read| {
            let entry = |entry: LogEntry<String>| (entry.position, entry.value);
            let page = read.value;
            (page.entries.into_iter().map(entry).collect::<Vec<_>>(), page.next, page.tail)
        });
        told.note("scan", page);
    }
    told.read("bounds", log.bounds(now).await);
    let mut tail = log.tail(place);
    told.note("tail", tail.next().await.map(|entry| entry.value));
    told.note("a tail of what is gone", log.tail(Offset::ZERO).next().await.map(|_| ()));
    let consumer = log.consumer("c")?;
    told.receipt("commit", consumer.commit(tail.position()).await);
    told.receipt("commit what was", consumer.commit(place).await);
    told.receipt("an older owner", consumer.owned_by(FenceEpoch::zero()).reset(place).await);
    Ok(())
}

/// Everything a single node can be asked, and every way in which it says no.
async fn script(engine: Engine) -> Result<Vec<String>, Error> {
    let mut told = Told::default();
    let text = |text: &str| text.to_owned();
    let log = Log::open(&engine, spec("log", 1)).await?;
    let map = Map::open(&engine, spec("map", 1)).await?;
    let requests = Requests::open(&engine, spec("requests", 1)).await?;
    let (one, two) = (FenceEpoch::new(1), FenceEpoch::new(2));

    told.receipt("append", appended(log.append(&text("a")).await));
    told.receipt("put", map.put(&text("k"), &text("v")).await);
    told.receipt("put if absent", map.put_if(&text("k"), &text("w"), Version::ABSENT).await);
    told.receipt("delete", map.delete(&text("nothing")).await);
    told.receipt("an empty batch", receipt(engine.batch().commit().await));
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    told.receipt("a long key", map.put(&long, &text("v")).await);
    let batch = engine.batch().caller(FailureDomain::new("aws", "us-east-1", "a"));
    told.receipt("from elsewhere", receipt(batch.append(&log, &text("b")).commit().await));
    let nobody = FailureDomain::new("", "r", "z");
    told.receipt("from nowhere", receipt(engine.batch().caller(nobody).commit().await));

    let (print, other) = (Fingerprint::of(b"x"), Fingerprint::of(b"y"));
    told.receipt("reserve", requests.reserve("r", print, two).await);
    // How long ago, in log time, is part of the words.
    let refused = requests.reserve("r", print, one).await.unwrap_err();
    told.note("reserve, lower owner", refused.code());
    told.receipt("complete, lower owner", requests.complete("r", one, Bytes::new()).await);
    told.receipt("complete", requests.complete("r", two, Bytes::from_static(b"done")).await);
    told.receipt("repeat", requests.reserve("r", print, two).await);
    told.receipt("conflict", requests.reserve("r", other, two).await);
    let status = requests.status("r", ReadConsistency::Linearizable).await?;
    let RequestStatus::Completed(done) = status.value else { panic!("{status:?}") };
    told.note("status", (done.offset, done.result));

    told.read("get", map.get(&text("k"), ReadConsistency::Linearizable).await);
    told.read("range", map.range(MapRange::all(), ReadConsistency::Local).await);
    logs(&mut told, &log).await?;
    let ahead = ReadConsistency::AtLeastOffset(engine.data().applied()?.next());
    told.read("ahead", map.get(&text("k"), ahead).await);
    let waiting = ReadOptions::from(ahead).wait(Duration::from_millis(5));
    told.read("ahead, after a wait", map.get(&text("k"), waiting).await);
    let patient = ReadOptions::from(ahead).wait(Duration::from_secs(60));
    let (key, value) = (text("k"), text("x"));
    let (read, written) = tokio::join!(map.get(&key, patient), map.put(&key, &value));
    told.read("ahead, and it comes", read);
    told.receipt("what was waited for", written);

    let newer = Log::open(&engine, spec("log", 2)).await?;
    told.receipt("fenced", appended(log.append(&text("late")).await));
    told.receipt("current", appended(newer.append(&text("c")).await));
    told.note("an older writer", Log::open(&engine, spec("log", 1)).await.map(|_| ()));
    told.note("another kind", Map::open(&engine, spec("log", 2)).await.map(|_| ()));
    let three = spec("three", 1).replicas(ReplicaPolicy::majority(3));
    told.note("more copies", Log::open(&engine, three).await.map(|_| ()));
    let across = ReplicaPolicy::majority(1).across_domains(2);
    let across = spec("across", 1).replicas(across);
    // Who the voters are is said in other words: the simulator gives its members zones.
    let refused = Log::open(&engine, across).await.map(|_| ()).unwrap_err();
    told.note("more domains", refused.code());
    let placed = spec("placed", 1).placement(Placement::providers(["aws"])?);
    told.note("placed elsewhere", Log::open(&engine, placed).await.map(|_| ()).is_err());

    let status = engine.data().status().await?;
    told.note("status", (status.role, status.leader, status.members.roles().collect::<Vec<_>>()));
    let gone = MemberChange::Remove { node: NodeId::new(9) };
    told.note("no such member", engine.change_members(gone).await);
    told.note("transfer", engine.data().transfer_leadership(NodeId::new(9)));
    told.note("node", (engine.node(), engine.domain(), engine.peer_faults()));

    told.note("close", engine.close().await);
    told.note("close again", engine.close().await);
    told.receipt("write to a closed one", map.put(&key, &value).await);
    told.read("read of a closed one", map.get(&key, ReadConsistency::Local).await);
    told.read("barrier of a closed one", map.get(&key, ReadConsistency::Linearizable).await);
    told.note("change of a closed one", engine.change_members(MemberChange::AcrossDomains).await);
    told.note("transfer of a closed one", engine.data().transfer_leadership(NodeId::new(1)));
    told.note("status of a closed one", engine.data().status().await.map(|_| ()));
    Ok(told.0)
}

#[tokio::test]
async fn both_backends_tell_a_service_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let real = script(Engine::builder(dir.path()).open().await.unwrap()).await.unwrap();

    let mut fabric = SimFabric::new(1);
    let node = fabric.node(1);
    fabric.place(node, FailureDomain::new("local", "local", "local"));
    let engine = fabric.engine(node);
    let simulated = fabric.block_on(script(engine)).unwrap();
    for (real, simulated) in real.iter().zip(&simulated) {
        assert_eq!(real, simulated);
    }
    assert_eq!(real.len(), simulated.len());
}
