//! The engine as a service uses it: one node, real files, real syncs.

#[path = "support/data.rs"]
mod data;

use std::time::Duration;

use data::Data;
use palisade::degradation::DegradationContract;
use palisade::{
    ClusterId, Direction, Disposition, Engine, Error, FailureDomain, FenceEpoch, Fingerprint,
    LogTime, MapRange, NodeId, Offset, Placement, ReadConsistency, ReadOptions, ReplicaPolicy,
    ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap, RequestStatus, ResourceSpec, Version,
};
use tempfile::TempDir;

fn spec(name: &str, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap().epoch(FenceEpoch::new(epoch))
}

struct Service {
    engine: Engine,
    log: ReplicatedLog<String>,
    map: ReplicatedMap<String, String>,
    requests: ReplicatedIdempotencyStore,
}

async fn open(dir: &TempDir, epoch: u64) -> Result<Service, Error> {
    let engine = Engine::builder(dir.path()).open().await?;
    with(engine, epoch).await
}

async fn with(engine: Engine, epoch: u64) -> Result<Service, Error> {
    Ok(Service {
        log: ReplicatedLog::open(&engine, spec("log", epoch)).await?,
        map: ReplicatedMap::open(&engine, spec("map", epoch)).await?,
        requests: ReplicatedIdempotencyStore::open(&engine, spec("requests", epoch)).await?,
        engine,
    })
}

const OWNER: FenceEpoch = FenceEpoch::new(1);

impl Service {
    /// Reserve, append, put and complete: one batch, one offset.
    async fn submit(&self, id: &str, text: &str) -> Result<palisade::Receipt, Error> {
        self.engine
            .batch()
            .reserve(&self.requests, id, Fingerprint::of(text.as_bytes()), OWNER)
            .append(&self.log, &text.to_owned())
            .put(&self.map, &id.to_owned(), &text.to_owned())
            .complete(&self.requests, id, OWNER, "done".into())
            .commit()
            .await
            .map(|done| done.receipt)
    }

    async fn logged(&self) -> Vec<(Offset, String)> {
        let entries = self
            .log
            .scan(Offset::ZERO, Direction::Forward, 100, ReadConsistency::Linearizable)
            .await
            .unwrap()
            .value
            .entries;
        entries.into_iter().map(|entry| (entry.position.offset, entry.value)).collect()
    }
}

/// G6 and G7: one offset for all parts of a batch, the first receipt again for a repetition, and
/// another payload under the same id changes nothing.
#[tokio::test]
async fn a_submission_takes_effect_once_at_one_offset() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    let receipt = service.submit("r1", "hello").await.unwrap();
    assert!(!receipt.duplicate);
    let fresh = ReadConsistency::AtLeastOffset(receipt.offset);
    let row = service.map.get(&"r1".into(), fresh).await.unwrap().value.unwrap();
    assert_eq!((row.value.as_str(), row.version.offset()), ("hello", receipt.offset));
    assert_eq!(service.logged().await, [(receipt.offset, "hello".to_owned())]);

    let again = service.submit("r1", "hello").await.unwrap();
    assert!(again.duplicate);
    assert_eq!((again.offset, again.log_time), (receipt.offset, receipt.log_time));
    assert!(matches!(
        service.submit("r1", "other").await,
        Err(Error::IdempotencyConflict { op: Some(0) })
    ));
    assert_eq!(service.logged().await.len(), 1);
    let status = service.requests.status("r1", ReadConsistency::Local).await.unwrap().value;
    let RequestStatus::Completed(completion) = status else { panic!("{status:?}") };
    assert_eq!((completion.offset, &completion.result[..]), (receipt.offset, &b"done"[..]));
    service.engine.close().await.unwrap();
}

/// A refused part takes the whole batch back (G7).
#[tokio::test]
async fn a_batch_with_a_failing_guard_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    let first = service.map.put(&"k".into(), &"1".into()).await.unwrap();
    let batch = |version| {
        service
            .engine
            .batch()
            .append(&service.log, &"entry".to_owned())
            .reserve(&service.requests, "r", Fingerprint::of(b"x"), OWNER)
            .put_if(&service.map, &"k".to_owned(), &"2".to_owned(), version)
            .commit()
    };
    let refused = batch(Version::ABSENT).await.unwrap_err();
    assert!(matches!(refused, Error::VersionMismatch { op: 2, .. }), "{refused}");
    assert!(service.logged().await.is_empty());
    assert_eq!(
        service.requests.status("r", ReadConsistency::Local).await.unwrap().value,
        RequestStatus::Unknown { floor: LogTime::new(0) }
    );
    let row = service.map.get(&"k".into(), ReadConsistency::Local).await.unwrap().value.unwrap();
    assert_eq!(row.version.offset(), first.offset);
    batch(row.version).await.unwrap();
    assert_eq!(service.logged().await.len(), 1);
}

/// G3: a newer writer fences the older at once, and an older one cannot be opened again.
#[tokio::test]
async fn a_newer_epoch_fences_the_older_writer() {
    let dir = tempfile::tempdir().unwrap();
    let old = open(&dir, 1).await.unwrap();
    old.submit("r1", "before").await.unwrap();
    let new = with(old.engine.clone(), 2).await.unwrap();
    let fenced = old.submit("r2", "stale").await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { current } if current == FenceEpoch::new(2)));
    assert_eq!(new.logged().await.len(), 1, "the stale submission has no effect");
    assert!(matches!(with(old.engine.clone(), 1).await, Err(Error::Fenced { .. })));
    new.submit("r2", "fresh").await.unwrap();
}

/// G4: never early. At once without a wait, at exactly the offset with one.
#[tokio::test]
async fn at_least_offset_fails_now_or_waits() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    let applied = service.engine.data().applied().unwrap();
    let ahead = ReadConsistency::AtLeastOffset(applied.next());
    let key = "k".to_owned();
    let error = service.map.get(&key, ahead).await.unwrap_err();
    assert!(matches!(
        error,
        Error::NotYetApplied { required, applied: found } if required == applied.next() && found == applied
    ));
    assert_eq!(error.disposition(), Disposition::Retry);
    let short = ReadOptions::from(ahead).wait(Duration::from_millis(5));
    assert!(matches!(service.map.get(&key, short).await, Err(Error::NotYetApplied { .. })));

    let patient = ReadOptions::from(ahead).wait(Duration::from_secs(30));
    let value = "v".to_owned();
    let (read, written) =
        tokio::join!(service.map.get(&key, patient), service.map.put(&key, &value));
    let row = read.unwrap().value.unwrap();
    assert_eq!(row.version.offset(), written.unwrap().offset);
}

/// G9: placement is judged for the node and for the caller.
#[tokio::test]
async fn a_domain_outside_the_placement_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    let elsewhere = FailureDomain::new("gcp", "europe-west1", "b");
    let refused = service
        .engine
        .batch()
        .caller(elsewhere)
        .append(&service.log, &"x".to_owned())
        .commit()
        .await;
    assert!(matches!(refused, Err(Error::DomainUnavailable { .. })), "{refused:?}");
    let placed = spec("other", 1).placement(Placement::providers(["gcp"]).unwrap());
    let refused = ReplicatedLog::<String>::open(&service.engine, placed).await.map(|_| ());
    assert!(matches!(refused, Err(Error::DomainUnavailable { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_restart_and_the_digest_is_equal() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    for number in 0..50 {
        service.submit(&format!("r{number}"), &format!("text {number}")).await.unwrap();
    }
    let before = service.engine.data().digest().await.unwrap();
    let held = Engine::builder(dir.path()).open().await.map(|_| ());
    assert!(matches!(held, Err(Error::AlreadyExists { .. })), "{held:?}");
    service.engine.close().await.unwrap();
    assert!(service.submit("late", "x").await.is_err(), "a closed engine takes nothing");
    let read = service.map.get(&"r1".to_owned(), ReadConsistency::Local).await;
    assert!(read.is_err(), "a closed engine serves nothing, however stale");
    drop(service);

    let foreign = Engine::builder(dir.path()).node(NodeId::new(2)).open().await.map(|_| ());
    assert!(matches!(foreign, Err(Error::Incompatible { .. })), "{foreign:?}");
    let engine = Engine::builder(dir.path()).open().await.unwrap();
    let service = with(engine, 1).await.unwrap();
    let after = service.engine.data().digest().await.unwrap();
    assert_eq!(before.projections, after.projections);
    assert!(service.submit("r7", "text 7").await.unwrap().duplicate);
    assert_eq!(service.logged().await.len(), 50);
}

#[tokio::test]
async fn another_schema_or_kind_is_incompatible_and_bad_arguments_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    let other = ResourceSpec::new("log", "test.v2").unwrap();
    let refused = ReplicatedLog::<String>::open(&service.engine, other).await.map(|_| ());
    assert!(matches!(refused, Err(Error::Incompatible { .. })), "{refused:?}");
    let refused =
        ReplicatedMap::<String, String>::open(&service.engine, spec("log", 1)).await.map(|_| ());
    assert!(matches!(refused, Err(Error::Incompatible { .. })), "{refused:?}");

    let three = spec("three", 1).replicas(ReplicaPolicy::majority(3));
    let refused = ReplicatedLog::<String>::open(&service.engine, three).await.map(|_| ());
    assert!(matches!(refused, Err(Error::Incompatible { .. })), "one voter is not three copies");

    let long = "k".repeat(palisade::KEY_BYTES_MAX + 1);
    let refused = service.map.put(&long, &String::new()).await;
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    let large = "v".repeat(palisade::VALUE_BYTES_MAX + 1);
    assert!(matches!(service.log.append(&large).await, Err(Error::InvalidArgument { .. })));
    assert!(matches!(service.engine.batch().commit().await, Err(Error::InvalidArgument { .. })));
    let page = service.map.range(MapRange::all(), ReadConsistency::Linearizable).await;
    assert!(page.unwrap().value.rows.is_empty());
}

#[tokio::test]
async fn ranges_come_in_key_order_with_one_row_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    for key in ["b", "a", "c", "a", "a/1"] {
        service.map.put(&key.to_owned(), &format!("value of {key}")).await.unwrap();
    }
    service.map.delete(&"c".to_owned()).await.unwrap();
    let keys = |range: MapRange<String>| {
        let map = service.map.clone();
        async move {
            let page = map.range(range, ReadConsistency::Local).await.unwrap();
            page.value.rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        }
    };
    let key = |key: &str| key.to_owned();
    assert_eq!(keys(MapRange::all()).await, ["a", "a/1", "b"]);
    assert_eq!(keys(MapRange::from(&key("a/")).before(&key("b"))).await, ["a/1"]);
    assert_eq!(keys(MapRange::all().limit(2)).await, ["a", "a/1"]);
    assert_eq!(keys(MapRange::all().backward()).await, ["b", "a/1", "a"]);
    assert_eq!(keys(MapRange::all().backward().limit(1)).await, ["b"]);
    assert_eq!(keys(MapRange::prefix(b"a").backward()).await, ["a/1", "a"]);
}

/// G12: what is at its bound passes, one more is refused before it is proposed.
#[tokio::test]
async fn a_batch_is_refused_beyond_its_bounds_and_not_at_them() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    fn refused<T: std::fmt::Debug>(result: Result<T, Error>) {
        assert!(matches!(result, Err(Error::InvalidArgument { .. })), "{result:?}");
    }
    let ops = |count: usize| {
        let batch = service.engine.batch();
        (0..count).fold(batch, |batch, n| batch.delete(&service.map, &n.to_string())).commit()
    };
    ops(palisade::BATCH_OPS_MAX).await.unwrap();
    refused(ops(palisade::BATCH_OPS_MAX + 1).await);

    let key = |bytes: usize| "k".repeat(bytes);
    service.map.put(&key(palisade::KEY_BYTES_MAX), &String::new()).await.unwrap();
    refused(service.map.put(&key(palisade::KEY_BYTES_MAX + 1), &String::new()).await);
    // Each of its bytes takes two where it is stored.
    let zeros = "\0".repeat(palisade::KEY_BYTES_MAX);
    service.map.put_with_ttl_ms(&zeros, &String::new(), 60_000).await.unwrap();
    service.requests.reserve(&zeros, Fingerprint::of(b"x"), OWNER).await.unwrap();

    // Values alone have room for all of it; then one by one, together with their keys.
    let value = |bytes: usize| "v".repeat(bytes);
    service.log.append(&value(palisade::VALUE_BYTES_MAX)).await.unwrap();
    refused(service.log.append(&value(palisade::VALUE_BYTES_MAX + 1)).await);
    let two = |bytes: usize| {
        let batch = service.engine.batch().append(&service.log, &value(bytes));
        batch.put(&service.map, &"k".to_owned(), &value(palisade::VALUE_BYTES_MAX / 2)).commit()
    };
    two(palisade::VALUE_BYTES_MAX / 2 - 1).await.unwrap();
    refused(two(palisade::VALUE_BYTES_MAX / 2).await);
}

#[tokio::test]
async fn an_operation_counts_with_its_key_and_its_value() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    let half = || "v".repeat(palisade::VALUE_BYTES_MAX / 2);
    let batch = || {
        let batch = service.engine.batch().append(&service.log, &half());
        batch.reserve(&service.requests, "r", Fingerprint::of(b"x"), OWNER)
    };
    let result = |bytes| bytes::Bytes::from(vec![1; bytes]);
    let complete = |bytes| batch().complete(&service.requests, "r", OWNER, result(bytes)).commit();
    let beyond = complete(palisade::VALUE_BYTES_MAX / 2 - 1).await;
    assert!(matches!(beyond, Err(Error::InvalidArgument { .. })), "{beyond:?}");
    complete(palisade::VALUE_BYTES_MAX / 2 - 2).await.unwrap();
}

/// What was made otherwise is not opened as something else.
#[tokio::test]
async fn replicas_and_placement_are_part_of_what_a_resource_is() {
    let dir = tempfile::tempdir().unwrap();
    let service = open(&dir, 1).await.unwrap();
    let opened =
        async |spec| ReplicatedLog::<String>::open(&service.engine, spec).await.map(|_| ());
    let none = spec("log", 1).replicas(ReplicaPolicy::majority(0));
    let wider = Placement::providers(["local", "aws"]).unwrap();
    let contracted = spec("log", 1).contract(DegradationContract::default());
    for other in [none, spec("log", 1).placement(wider), contracted] {
        let refused = opened(other).await;
        assert!(matches!(refused, Err(Error::Incompatible { .. })), "{refused:?}");
    }
    opened(spec("log", 1)).await.unwrap();
}

/// In the other cluster the same number is another resource, of another kind: its operation would halt it.
#[tokio::test]
async fn a_batch_takes_nothing_from_a_handle_of_another_cluster() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [one, two] = [(&dirs[0], 1), (&dirs[1], 2)]
        .map(|(dir, number)| Engine::builder(dir.path()).cluster(ClusterId::new(number)).open());
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    let log = ReplicatedLog::<String>::open(&one, spec("log", 1)).await.unwrap();
    let map = ReplicatedMap::<String, String>::open(&two, spec("map", 1)).await.unwrap();
    let text = "x".to_owned();
    let batches = [
        one.batch().put(&map, &text, &text),
        one.batch().require(map.version_is(&text, Version::ABSENT)).append(&log, &text),
    ];
    for batch in batches {
        let refused = batch.commit().await.unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    }
    log.append(&text).await.unwrap();
}
