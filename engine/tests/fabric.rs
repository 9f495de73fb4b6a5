//! The handles of production on simulated nodes: what a service is told when its node crashes, is cut off,
//! loses the leadership, or gets no answer in time, all in simulated time and from a seed.
#![cfg(feature = "sim")]

#[path = "support/data.rs"]
mod data;

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use data::Data;
use palisade::sim::SimFabric;
use palisade::{
    Direction, Disposition, Engine, Error, FailureDomain, FenceEpoch, Fingerprint, GroupId,
    MemberChange, MembersChanged, NodeId, Offset, ReadConsistency, ReadOptions, Receipt,
    ReplicaPolicy, ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap, RequestStatus,
    ResourceSpec, VALUE_BYTES_MAX,
};

/// How long a request waits, as `EngineBuilder::request_timeout_ms` says.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// More than a write takes in a cluster that behaves, and far less than a request waits.
const SOON: Duration = Duration::from_secs(1);
/// Enough for an election and what follows from it.
const A_WHILE: Duration = Duration::from_secs(5);
const OWNER: FenceEpoch = FenceEpoch::new(1);

fn spec(name: &str, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1")
        .unwrap()
        .epoch(FenceEpoch::new(epoch))
        .replicas(ReplicaPolicy::majority(3))
}

/// A service as it is written for production: nothing in it knows of a simulator.
#[derive(Clone)]
struct Service {
    engine: Engine,
    log: ReplicatedLog<String>,
    map: ReplicatedMap<String, String>,
    requests: ReplicatedIdempotencyStore,
}

impl Service {
    async fn open(engine: Engine, epoch: u64) -> Result<Self, Error> {
        Ok(Self {
            log: ReplicatedLog::open(&engine, spec("log", epoch)).await?,
            map: ReplicatedMap::open(&engine, spec("map", epoch)).await?,
            requests: ReplicatedIdempotencyStore::open(&engine, spec("requests", epoch)).await?,
            engine,
        })
    }

    async fn submit(&self, id: &str, text: &str) -> Result<Receipt, Error> {
        self.engine
            .batch()
            .reserve(&self.requests, id, Fingerprint::of(text.as_bytes()), OWNER)
            .append(&self.log, &text.to_owned())
            .put(&self.map, &id.to_owned(), &text.to_owned())
            .complete(&self.requests, id, OWNER, Bytes::from_static(b"done"))
            .commit()
            .await
            .map(|done| done.receipt)
    }

    async fn put(&self, key: &str, value: &str) -> Result<Receipt, Error> {
        self.map.put(&key.to_owned(), &value.to_owned()).await
    }

    async fn get(&self, key: &str, options: impl Into<ReadOptions>) -> Result<String, Error> {
        let row = self.map.get(&key.to_owned(), options).await?;
        Ok(row.value.map_or_else(|| "nothing".to_owned(), |row| row.value))
    }

    async fn logged(&self) -> Result<Vec<String>, Error> {
        let page = self
            .log
            .scan(Offset::ZERO, Direction::Forward, 100, ReadConsistency::Linearizable)
            .await?;
        Ok(page.value.entries.into_iter().map(|entry| entry.value).collect())
    }
}

fn services<const COUNT: usize>(fabric: &mut SimFabric) -> [Service; COUNT] {
    std::array::from_fn(|at| {
        let engine = fabric.engine(fabric.node(at as u64 + 1));
        fabric.block_on(Service::open(engine, 1)).unwrap()
    })
}

/// The node that leads, and the two others.
fn by_role(fabric: &SimFabric) -> (NodeId, [NodeId; 2]) {
    let leader = fabric.leader().expect("a cluster that behaves has a leader");
    let others = (1..=3).map(|number| fabric.node(number)).filter(|node| *node != leader);
    (leader, others.collect::<Vec<_>>().try_into().expect("three nodes"))
}

fn service_on(fabric: &mut SimFabric, node: NodeId) -> Service {
    let engine = fabric.engine(node);
    fabric.block_on(Service::open(engine, 1)).unwrap()
}

fn is_unknown<T>(result: &Result<T, Error>) -> bool {
    let unknown = matches!(result, Err(Error::Disconnected { outcome_unknown: true }));
    let disposed = |error: &Error| error.disposition() == Disposition::Indeterminate;
    unknown && result.as_ref().err().is_some_and(disposed)
}

fn has_stopped<T>(result: &Result<T, Error>) -> bool {
    let stopped = matches!(result, Err(Error::InternalError { .. }));
    let disposed = |error: &Error| error.disposition() == Disposition::Halt;
    stopped && result.as_ref().err().is_some_and(disposed)
}

/// G4, G6, G7 through the handles: what one node acknowledged, another shows, and a repetition there is
/// told the first receipt.
#[test]
fn every_handle_works_on_every_node() {
    let mut fabric = SimFabric::new(3);
    let [one, two, three] = services(&mut fabric);
    let receipt = fabric.block_on(one.submit("r1", "hello")).unwrap();
    let fresh = ReadOptions::from(ReadConsistency::AtLeastOffset(receipt.offset)).wait(SOON);
    assert_eq!(fabric.block_on(two.get("r1", fresh)).unwrap(), "hello");
    assert_eq!(fabric.block_on(three.logged()).unwrap(), ["hello"]);
    let again = fabric.block_on(three.submit("r1", "hello")).unwrap();
    assert_eq!(again, Receipt { duplicate: true, ..receipt });
    let other = fabric.block_on(two.submit("r1", "other"));
    assert!(matches!(other, Err(Error::IdempotencyConflict { .. })), "{other:?}");
    let status = fabric.block_on(two.requests.status("r1", ReadConsistency::Linearizable));
    let RequestStatus::Completed(done) = status.unwrap().value else { panic!("it is completed") };
    assert_eq!((done.offset, &done.result[..]), (receipt.offset, &b"done"[..]));

    // Several at once: each has its own offset.
    let (a, b, c) = fabric.block_on(async {
        tokio::join!(one.submit("a", "a"), two.submit("b", "b"), three.submit("c", "c"))
    });
    let mut offsets = [a.unwrap(), b.unwrap(), c.unwrap()].map(|receipt| receipt.offset);
    offsets.sort_unstable();
    assert!(offsets.windows(2).all(|pair| pair[0].next() == pair[1]), "{offsets:?}");

    // Replicas agree on the chain of records and on the state.
    fabric.run_for(SOON);
    let heads = [&one, &two, &three].map(|service| {
        let (head, digest) = fabric.block_on(async {
            let engine = &service.engine;
            (engine.data().chain_head().await.unwrap(), engine.data().digest().await.unwrap())
        });
        (head, format!("{digest:?}"))
    });
    assert!(heads.windows(2).all(|pair| pair[0] == pair[1]), "{heads:?}");
    fabric.assert_converged();
}

/// What is allowed in production is allowed here: the largest value, and no more.
#[test]
fn bounds_are_those_of_production() {
    let mut fabric = SimFabric::new(3);
    let [service] = services(&mut fabric);
    let value = |bytes| "v".repeat(bytes);
    fabric.block_on(service.log.append(&value(VALUE_BYTES_MAX))).unwrap();
    let refused = fabric.block_on(service.log.append(&value(VALUE_BYTES_MAX + 1)));
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    let (largest, log) = (value(VALUE_BYTES_MAX), &service.log);
    let (a, b, c) = fabric.block_on(async {
        tokio::join!(log.append(&largest), log.append(&largest), log.append(&largest))
    });
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
}

/// A node that is cut off: writes are unknown after exactly the time a request has, confirmed reads know
/// that nothing happened, stale ones go on. What was unknown can be repeated under its request id.
#[test]
fn a_deadline_is_met_in_simulated_time() {
    let mut fabric = SimFabric::new(3);
    let [one, two, three] = services(&mut fabric);
    let receipt = fabric.block_on(one.put("k", "v")).unwrap();
    fabric.partition(&[one.engine.node()]);

    let asked = fabric.now();
    let lost = fabric.block_on(one.submit("r1", "lost"));
    assert!(is_unknown(&lost), "{lost:?}");
    assert_eq!(fabric.now() - asked, REQUEST_TIMEOUT);

    let asked = fabric.now();
    let read = fabric.block_on(one.get("k", ReadConsistency::Linearizable)).unwrap_err();
    assert!(matches!(read, Error::Disconnected { outcome_unknown: false }), "{read}");
    assert_eq!(read.disposition(), Disposition::Retry);
    assert!(fabric.now() - asked <= REQUEST_TIMEOUT);
    assert_eq!(fabric.block_on(one.get("k", ReadConsistency::Local)).unwrap(), "v");

    // The others go on, and this replica says how far behind it is: now, or after the wait.
    let ahead = fabric.block_on(two.put("k", "w")).unwrap();
    let fresh = ReadOptions::from(ReadConsistency::AtLeastOffset(ahead.offset));
    for wait in [Duration::ZERO, Duration::from_millis(1_234)] {
        let asked = fabric.now();
        let behind = fabric.block_on(one.get("k", fresh.wait(wait))).unwrap_err();
        let Error::NotYetApplied { required, applied } = behind else { panic!("{behind}") };
        assert_eq!((required, applied), (ahead.offset, receipt.offset));
        assert_eq!(fabric.now() - asked, wait);
    }

    fabric.heal();
    assert_eq!(fabric.block_on(one.get("k", fresh.wait(A_WHILE))).unwrap(), "w");
    let again = fabric.block_on(three.submit("r1", "lost")).unwrap();
    assert_eq!(fabric.block_on(two.submit("r1", "lost")).unwrap().offset, again.offset);
    assert_eq!(fabric.block_on(two.logged()).unwrap(), ["lost"], "it took effect once");
}

/// The process is gone, and its handles with it: what was asked is unknown, what is asked now is refused,
/// also by the old handles once the node runs again.
#[test]
fn a_crash_ends_the_handles_of_its_node() {
    let mut fabric = SimFabric::new(3);
    let (leader, [other, _]) = by_role(&fabric);
    let service = service_on(&mut fabric, leader);
    let first = fabric.block_on(service.submit("r1", "first")).unwrap();

    // Nobody hears of the write before the power fails.
    fabric.partition(&[leader]);
    let mut write = pin!(service.submit("r2", "second"));
    let mut read = pin!(service.get("r1", ReadConsistency::Linearizable));
    let ahead = ReadConsistency::AtLeastOffset(first.offset.next());
    let mut wait = pin!(service.get("r1", ReadOptions::from(ahead).wait(REQUEST_TIMEOUT)));
    assert!(fabric.block_on_for(SOON, write.as_mut()).is_none());
    let moment = Duration::from_millis(5);
    assert!(fabric.block_on_for(moment, wait.as_mut()).is_none());
    assert!(fabric.block_on_for(moment, read.as_mut()).is_none());
    let crashed = fabric.now();
    fabric.crash(leader);
    let lost = fabric.block_on(write);
    assert!(is_unknown(&lost), "{lost:?}");
    for unread in [fabric.block_on(read), fabric.block_on(wait)] {
        assert!(has_stopped(&unread), "{unread:?}");
    }
    assert_eq!(fabric.now(), crashed, "nobody waits for a node that is down");

    let check = |fabric: &mut SimFabric| {
        let write = fabric.block_on(service.put("k", "v"));
        assert!(has_stopped(&write), "{write:?}");
        for consistency in [ReadConsistency::Local, ReadConsistency::Linearizable] {
            let read = fabric.block_on(service.get("r1", consistency));
            assert!(has_stopped(&read), "{read:?}");
        }
        assert!(has_stopped(&service.engine.data().applied()));
        assert!(has_stopped(&fabric.block_on(service.engine.data().status())));
        assert!(has_stopped(&service.engine.data().transfer_leadership(other)));
        let closed = fabric.block_on(service.engine.close());
        assert!(closed.unwrap_err().to_string().contains("lost power"));
    };
    check(&mut fabric);
    assert!(has_stopped(&fabric.engine(leader).data().applied()), "a node that is down says so");
    fabric.heal();
    fabric.restart(leader);
    check(&mut fabric);

    fabric.run_for(A_WHILE);
    let reborn = service_on(&mut fabric, leader);
    let again = fabric.block_on(reborn.submit("r1", "first")).unwrap();
    assert_eq!(again, Receipt { duplicate: true, ..first });
    fabric.block_on(reborn.submit("r2", "second")).unwrap();
    assert_eq!(fabric.block_on(reborn.logged()).unwrap(), ["first", "second"]);

    // What a life has not got to, the next one does not do.
    let mut late = pin!(reborn.submit("r3", "third"));
    assert!(fabric.block_on_for(Duration::ZERO, late.as_mut()).is_none());
    fabric.crash(leader);
    fabric.restart(leader);
    let refused = fabric.block_on(late);
    assert!(has_stopped(&refused), "{refused:?}");
    fabric.run_for(A_WHILE);
    let third = service_on(&mut fabric, leader);
    assert_eq!(fabric.block_on(third.logged()).unwrap(), ["first", "second"]);
}

/// A write through a node that does not lead survives a change of leader without its caller's help.
#[test]
fn a_leader_change_loses_and_doubles_nothing() {
    for seed in 0..20 {
        let mut fabric = SimFabric::from_seed(seed, 3);
        let (leader, [follower, _]) = by_role(&fabric);
        let service = service_on(&mut fabric, follower);
        fabric.block_on(service.submit("r1", "before")).unwrap();
        let mut write = pin!(service.submit("r2", "during"));
        // As far as the old leader, or not even that.
        let head_start = Duration::from_millis(seed);
        let done = fabric.block_on_for(head_start, write.as_mut());
        fabric.crash(leader);
        let receipt = match done {
            Some(done) => done,
            None => fabric.block_on(write),
        };
        assert!(!receipt.unwrap().duplicate, "seed {seed}");
        assert_ne!(fabric.leader(), Some(leader));
        assert_eq!(fabric.block_on(service.logged()).unwrap(), ["before", "during"], "{seed}");
    }
}

/// Any voter is asked, and each group is led where it was before; who is cut off does not know the outcome.
#[test]
fn a_change_of_members_is_made_in_every_group_by_whichever_voter() {
    let mut fabric = SimFabric::builder(3).data_groups(2).build().unwrap();
    let (leader, [follower, third]) = by_role(&fabric);
    let [leading, following] = [leader, follower].map(|node| fabric.engine(node));
    let service = fabric.block_on(Service::open(leading.clone(), 1)).unwrap();
    fabric.block_on(service.put("k", "v")).unwrap();
    let change = || MemberChange::Remove { node: third };

    fabric.partition(&[leader]);
    let asked = fabric.now();
    let lost = fabric.block_on(leading.change_members(change()));
    assert!(is_unknown(&lost), "{lost:?}");
    assert!(fabric.now() - asked <= REQUEST_TIMEOUT);
    fabric.heal();
    fabric.run_for(A_WHILE);

    // Led by three, and asked of one.
    let groups = [0, 1, 2].map(GroupId::new);
    for (group, to) in groups.into_iter().zip([leader, follower, leader]) {
        fabric.engine(to).group(group).unwrap().transfer_leadership(to).unwrap();
    }
    fabric.run_for(A_WHILE);
    let led = groups.map(|group| fabric.leader_of(group));
    assert_eq!(led, [leader, follower, leader].map(Some), "who is to lead may ask for it");
    let itself = fabric.block_on(fabric.engine(third).change_members(change())).unwrap_err();
    assert!(matches!(itself, Error::PreconditionFailed { .. }), "{itself}");
    let made = fabric.block_on(following.change_members(change())).unwrap();
    assert!(made.keys().copied().eq(groups), "{made:?}");
    assert!(made.values().all(|made| *made == MembersChanged::Now), "{made:?}");
    let again = fabric.block_on(leading.change_members(change())).unwrap();
    assert!(again.values().all(|made| *made == MembersChanged::Before), "{again:?}");
    fabric.run_for(A_WHILE);
    for group in groups {
        let status = fabric.block_on(leading.group(group).unwrap().status()).unwrap();
        assert_eq!(status.members.roles().count(), 2, "group={group}");
    }
    assert_eq!(groups.map(|group| fabric.leader_of(group)), led, "they are handed back");
    fabric.block_on(service.put("k", "w")).unwrap();
}

/// A partition: the side with a majority goes on, the other says that it does not know.
#[test]
fn a_minority_acknowledges_nothing() {
    let mut fabric = SimFabric::new(5);
    let all: [Service; 5] = services(&mut fabric);
    let minority = [fabric.node(1), fabric.node(2)];
    fabric.partition(&minority);
    for (at, service) in all.iter().enumerate() {
        let written = fabric.block_on(service.put("k", &format!("by {at}")));
        if at < 2 {
            assert!(is_unknown(&written), "{written:?}");
        } else {
            written.unwrap();
        }
    }
    fabric.heal();
    fabric.run_for(A_WHILE);
    fabric.assert_converged();
}

/// G9 and the demand for two domains, as far as they are judged at the handle.
#[test]
fn placement_and_domains_are_judged() {
    let mut fabric = SimFabric::new(3);
    let open = async |engine: &Engine, spec| ReplicatedLog::<String>::open(engine, spec).await;
    let two = fabric.node(2);
    fabric.place(two, FailureDomain::new("aws", "us-east-1", "a"));
    let elsewhere = fabric.engine(two);
    assert_eq!(elsewhere.domain().provider, "aws");
    let refused = fabric.block_on(open(&elsewhere, spec("log", 1))).map(|_| ());
    assert!(matches!(refused, Err(Error::DomainUnavailable { .. })), "{refused:?}");

    // Nodes 1 and 3 are in one zone, 2 is in the other.
    let across = ReplicaPolicy::majority(3).across_domains(2);
    let across = || spec("across", 1).replicas(across);
    let leader = fabric.leader().unwrap();
    let service = fabric.engine(leader);
    if leader == two {
        service.data().transfer_leadership(fabric.node(1)).unwrap();
        fabric.run_for(SOON);
    }
    let leader = fabric.engine(fabric.leader().unwrap());
    fabric.partition(&[two]);
    fabric.run_for(A_WHILE);
    let risky = fabric.block_on(open(&leader, across())).map(|_| ());
    assert!(matches!(risky, Err(Error::Degraded { .. })), "{risky:?}");
    fabric.heal();
    fabric.run_for(A_WHILE);
    let log = fabric.block_on(open(&leader, across())).unwrap();
    fabric.partition(&[two]);
    let lost = fabric.block_on(log.append(&"in one zone".to_owned()));
    assert!(is_unknown(&lost), "{lost:?}");

    let mut alone = SimFabric::new(1);
    let engine = alone.engine(alone.node(1));
    let one = ReplicaPolicy::majority(1).across_domains(2);
    let refused = alone.block_on(open(&engine, spec("log", 1).replicas(one)));
    let refused = refused.map(|_| ());
    assert!(matches!(refused, Err(Error::Incompatible { .. })), "{refused:?}");
}

#[test]
fn a_closed_engine_takes_nothing_and_its_node_can_be_started_again() {
    let mut fabric = SimFabric::new(3);
    let [one, two, _] = services(&mut fabric);
    fabric.block_on(one.put("k", "v")).unwrap();
    let (close, late) =
        fabric.block_on(async { tokio::join!(one.engine.close(), one.put("k", "late")) });
    close.unwrap();
    assert!(has_stopped(&late), "it was asked after the node had closed: {late:?}");
    fabric.block_on(one.engine.clone().close()).unwrap();
    assert!(has_stopped(&fabric.block_on(one.get("k", ReadConsistency::Local))));
    fabric.block_on(two.put("k", "w")).unwrap();

    let node = one.engine.node();
    fabric.restart(node);
    let reborn = service_on(&mut fabric, node);
    assert_eq!(fabric.block_on(reborn.get("k", ReadConsistency::Linearizable)).unwrap(), "w");
    assert!(has_stopped(&fabric.block_on(one.put("k", "still closed"))));
}

/// A run with everything in it: what is told, and when, and the number of all that happened.
fn run(seed: u64) -> (u64, Vec<String>) {
    let mut fabric = SimFabric::from_seed(seed, 3);
    let all: [Service; 3] = services(&mut fabric);
    let (leader, [follower, _]) = by_role(&fabric);
    let service = |node: NodeId| &all[node.get() as usize - 1];
    let mut told = Vec::new();
    for round in 0..5 {
        let text = format!("round {round}");
        let [one, two, three] = &all;
        let done = fabric.block_on(async {
            tokio::join!(one.submit(&text, &text), two.submit(&text, &text), three.put("k", &text))
        });
        told.push(format!("{:?} {done:?}", fabric.now()));
    }
    let mut put = |fabric: &mut SimFabric, service: &Service| {
        let done = fabric.block_on(service.put("k", "value"));
        told.push(format!("{:?} {done:?}", fabric.now()));
    };
    fabric.partition(&[leader]);
    put(&mut fabric, service(leader));
    fabric.heal();
    put(&mut fabric, service(leader));
    fabric.crash(follower);
    put(&mut fabric, service(follower));
    fabric.restart(follower);
    let reborn = service_on(&mut fabric, follower);
    put(&mut fabric, &reborn);
    fabric.run_for(A_WHILE);
    fabric.assert_converged();
    (fabric.trace(), told)
}

/// A run is a function of its seed, handles and waits included.
#[test]
fn a_seed_gives_one_run() {
    for seed in 0..5 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(run(0).0, run(1).0);
}

#[test]
fn a_future_that_wakes_itself_goes_on() {
    let mut fabric = SimFabric::new(1);
    let mut polls = 0;
    fabric.block_on(poll_fn(|context| {
        polls += 1;
        context.waker().wake_by_ref();
        if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
    }));
    assert_eq!(polls, 3);
    let before = fabric.now();
    assert!(fabric.block_on_for(SOON, pending::<()>()).is_none());
    assert_eq!(fabric.now() - before, SOON);
}

#[test]
#[should_panic(expected = "never comes about")]
fn a_future_that_nothing_can_wake_is_an_error_of_the_test() {
    let mut fabric = SimFabric::new(3);
    let [service] = services(&mut fabric);
    // What is not answered, but was given up, is no reason to go on.
    fabric.partition(&[service.engine.node()]);
    assert!(fabric.block_on_for(SOON, service.put("k", "v")).is_none());
    fabric.block_on(pending::<()>());
}
