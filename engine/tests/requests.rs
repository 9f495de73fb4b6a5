//! Requests over time: known for as long as their store says, and never taken for new when they may be old.

use std::time::Duration;

use bytes::Bytes;
use palisade::sim::SimFabric;
use palisade::{
    Completion, Engine, Error, FenceEpoch, Fingerprint, History, KEY_BYTES_MAX, LogTime,
    ReadConsistency, Receipt, ReplicatedIdempotencyStore, ReplicatedMap, RequestOutcome,
    RequestStatus, RequestWindow, Reservation, ResourceSpec, Version,
};

const OWNER: FenceEpoch = FenceEpoch::new(1);

async fn open(engine: &Engine) -> Result<ReplicatedIdempotencyStore, Error> {
    let spec = ResourceSpec::new("requests", "request.v1")?;
    ReplicatedIdempotencyStore::open(engine, spec).await
}

fn print(text: &str) -> Fingerprint {
    Fingerprint::of(text.as_bytes())
}

#[test]
fn a_request_of_before_the_window_is_refused_and_never_taken_for_a_new_one() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let requests = fabric.block_on(open(&engine)).unwrap();
    let window = RequestWindow { retention_ms: 5_000, requests_max: 1_000 };
    let issued = fabric.block_on(requests.keep(window)).unwrap().log_time;
    fabric.run_for(Duration::from_secs(1));
    let reserve = || requests.reserve_issued("r", print("x"), OWNER, issued);
    let first = fabric.block_on(reserve()).unwrap();
    let done = requests.complete("r", OWNER, Bytes::from_static(b"done"));
    let done = fabric.block_on(done).unwrap();
    let again = fabric.block_on(reserve()).unwrap();
    assert!(!first.duplicate && again == Receipt { duplicate: true, ..done });

    // Nobody asks for anything: it is forgotten all the same.
    fabric.run_for(Duration::from_secs(8));
    let status = |fabric: &mut SimFabric| {
        fabric.block_on(requests.status("r", ReadConsistency::Linearizable)).unwrap().value
    };
    assert_eq!(status(&mut fabric), RequestStatus::Unknown { floor: first.log_time });
    let refused = fabric.block_on(reserve()).unwrap_err();
    assert!(
        matches!(refused, Error::WindowExpired { floor } if floor == first.log_time),
        "{refused}"
    );
    assert_eq!(status(&mut fabric), RequestStatus::Unknown { floor: first.log_time });

    // A request that was made later is new for sure; and so is, wrongly, one that does not say when.
    let ahead = LogTime::new(u64::MAX - 1);
    let refused = requests.reserve_issued("ahead", print("y"), OWNER, ahead);
    let refused = fabric.block_on(refused).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    let later = LogTime::new(first.log_time.get() + 1);
    let new = requests.reserve_issued("later", print("y"), OWNER, later);
    assert!(!fabric.block_on(new).unwrap().duplicate);
    assert!(!fabric.block_on(requests.reserve("r", print("x"), OWNER)).unwrap().duplicate);
}

/// Zero bytes take twice their room in a row's key. What a caller may write halts nobody.
#[test]
fn the_longest_id_may_be_of_zero_bytes_alone() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let requests = fabric.block_on(open(&engine)).unwrap();
    let id = "\0".repeat(KEY_BYTES_MAX);
    fabric.block_on(requests.reserve(&id, print("x"), OWNER)).unwrap();
    let done = fabric.block_on(requests.complete(&id, OWNER, Bytes::new())).unwrap();
    let again = fabric.block_on(requests.reserve(&id, print("x"), OWNER)).unwrap();
    assert_eq!(again, Receipt { duplicate: true, ..done });
}

/// G6: which of its branches a batch has done is said by the request of that branch.
#[test]
fn a_repetition_is_known_by_either_branch() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let requests = fabric.block_on(open(&engine)).unwrap();
    for (id, is_done) in [("then", true), ("otherwise", false)] {
        if is_done {
            fabric.block_on(requests.reserve("first", print("x"), OWNER)).unwrap();
            fabric.block_on(requests.complete("first", OWNER, Bytes::new())).unwrap();
        }
        let guard = if is_done { "first" } else { "never" };
        let batch = || {
            let batch = engine.batch().require(requests.completed(guard));
            let batch = batch.reserve(&requests, id, print("then"), OWNER);
            let batch = batch.complete(&requests, id, OWNER, Bytes::new()).otherwise();
            let batch = batch.reserve(&requests, id, print("otherwise"), OWNER);
            batch.complete(&requests, id, OWNER, Bytes::new()).commit()
        };
        let done = fabric.block_on(batch()).unwrap().receipt;
        let again = fabric.block_on(batch()).unwrap().receipt;
        assert_eq!(again, Receipt { duplicate: true, ..done }, "{id}");
    }
}

#[test]
fn a_request_in_progress_says_how_old_it_is() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let requests = fabric.block_on(open(&engine)).unwrap();
    let two = FenceEpoch::new(2);
    let held = fabric.block_on(requests.reserve("r", print("x"), two)).unwrap();
    fabric.run_for(Duration::from_secs(3));
    let refused = fabric.block_on(requests.reserve("r", print("x"), OWNER)).unwrap_err();
    let Error::InProgress { op: 0, owner, age_ms } = refused else { panic!("{refused}") };
    assert!(owner == two && (3_000..4_000).contains(&age_ms), "owner={owner} age_ms={age_ms}");
    let read = fabric.block_on(requests.status("r", ReadConsistency::Local)).unwrap();
    let RequestStatus::InProgress { owner, since, age_ms: read_age } = read.value else {
        panic!("{:?}", read.value)
    };
    assert_eq!((owner, since), (two, held.log_time));
    assert!(read_age >= age_ms);
}

/// Who asks once is told what there is: that the work is his, or what came of it; on any replica, whatever else
/// is completed.
#[test]
fn a_reservation_gives_the_result_if_there_is_one() {
    let mut fabric = SimFabric::new(3);
    let [one, two] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
    let requests = fabric.block_on(open(&one)).unwrap();
    let elsewhere = fabric.block_on(open(&two)).unwrap();
    fabric.block_on(async {
        let ask = || requests.reserve_or_result("r", print("x"), OWNER, None);
        let Reservation::Reserved(first) = ask().await.unwrap() else { panic!("it is new") };
        assert!(!first.duplicate);
        let Reservation::Reserved(again) = ask().await.unwrap() else { panic!("it is not done") };
        assert!(first.offset < again.offset);
        let done = requests.complete("r", OWNER, Bytes::from_static(b"done")).await.unwrap();
        requests.reserve("other", print("y"), OWNER).await.unwrap();
        let completed = Reservation::Completed {
            receipt: Receipt { duplicate: true, ..done },
            result: Bytes::from_static(b"done"),
        };
        assert_eq!(ask().await.unwrap(), completed);
        let there = elsewhere.reserve_or_result("r", print("x"), OWNER, Some(first.log_time));
        assert_eq!(there.await.unwrap(), completed);
        let other = requests.reserve_or_result("r", print("y"), OWNER, None).await;
        assert!(matches!(other, Err(Error::IdempotencyConflict { op: Some(0) })), "{other:?}");
    });
}

/// Whoever takes a request over is told so: the owner before may have left something half-way.
#[test]
fn a_batch_says_what_was_done_with_each_request() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let requests = fabric.block_on(open(&engine)).unwrap();
    let spec = ResourceSpec::new("numbers", "number.v1").unwrap();
    let map = fabric.block_on(ReplicatedMap::<u64, u64>::open(&engine, spec)).unwrap();
    let window = RequestWindow { retention_ms: 60_000, requests_max: 7 };
    let two = FenceEpoch::new(2);
    let said = fabric.block_on(async {
        let batch = engine
            .batch()
            .keep_requests(&requests, window)
            .reserve(&requests, "r", print("x"), OWNER)
            .reserve(&requests, "r", print("x"), OWNER)
            .reserve(&requests, "r", print("x"), two)
            .complete(&requests, "r", two, Bytes::new())
            .keep(&map, History::NEWEST_ONLY)
            .put_if_with_ttl_ms(&map, &1, &1, Version::ABSENT, 1_000);
        batch.commit().await.unwrap().outcomes
    });
    let of_requests: Vec<_> = said.iter().map_while(|said| said.request()).collect();
    let outcomes = [
        RequestOutcome::Kept,
        RequestOutcome::Reserved,
        RequestOutcome::ReservedAgain,
        RequestOutcome::TakenOver { from: OWNER },
        RequestOutcome::Completed,
    ];
    assert_eq!(of_requests, outcomes);
    assert_eq!(said[6].replaced(), Some(Version::ABSENT));
    fabric.block_on(async {
        let row = map.get(&1, ReadConsistency::Local).await.unwrap();
        let ends_at = row.value.unwrap().ends_at.unwrap();
        assert_eq!(ends_at.get(), row.log_time.get() + 1_000);
        let again = engine.batch().put_if_with_ttl_ms(&map, &1, &2, Version::ABSENT, 1_000);
        assert!(matches!(again.commit().await, Err(Error::VersionMismatch { .. })));
        let never = engine.batch().put_if_with_ttl_ms(&map, &2, &2, Version::ABSENT, 0);
        assert!(matches!(never.commit().await, Err(Error::InvalidArgument { .. })));
    });
}

/// G6: the first receipt and the first result, bit for bit, whoever leads, whatever was lost meanwhile.
#[test]
fn a_repetition_has_the_first_receipt_after_every_failover() {
    for seed in 0..6 {
        let mut fabric = SimFabric::from_seed(seed, 3);
        let nodes = [1, 2, 3].map(|number| fabric.node(number));
        let engine = fabric.engine(nodes[0]);
        let requests = fabric.block_on(open(&engine)).unwrap();
        fabric.block_on(requests.reserve("r", print("x"), OWNER)).unwrap();
        let result = Bytes::from_static(b"a result");
        let first = fabric.block_on(requests.complete("r", OWNER, result.clone())).unwrap();
        for round in 0..6 {
            let down = nodes[round % 3];
            fabric.crash(down);
            let up = nodes[(round + 1) % 3];
            let engine = fabric.engine(up);
            let (again, status) = fabric.block_on(async {
                let requests = loop {
                    // There may be no leader yet.
                    match open(&engine).await {
                        Ok(requests) => break requests,
                        Err(Error::Disconnected { .. } | Error::RateLimited { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                };
                let again = requests.reserve("r", print("x"), OWNER).await.unwrap();
                let fresh = ReadConsistency::AtLeast(again.freshness());
                (again, requests.status("r", fresh).await.unwrap().value)
            });
            assert_eq!(again, Receipt { duplicate: true, ..first }, "seed={seed} round={round}");
            let (offset, log_time) = (first.offset, first.log_time);
            let wanted = Completion { offset, log_time, result: result.clone() };
            assert_eq!(status, RequestStatus::Completed(wanted));
            fabric.restart(down);
            fabric.run_for(Duration::from_secs(2));
        }
    }
}
