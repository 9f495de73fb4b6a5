//! Heads and proofs of a real node's log, judged by the auditor's verifier.

#[path = "support/data.rs"]
mod data;

use std::time::Duration;

use data::Data;
use palisade::audit::{Anchor, verify};
use palisade::sim::SimFabric;
use palisade::{Engine, Error, Offset, ReplicatedLog, ResourceSpec};

async fn log(engine: &Engine) -> ReplicatedLog<String> {
    let spec = ResourceSpec::new("log", "test.v1").unwrap();
    ReplicatedLog::open(engine, spec).await.unwrap()
}

async fn anchor(engine: &Engine, offset: u64) -> Anchor {
    let head = engine.data().head(Offset::new(offset)).await.unwrap();
    Anchor { offset, head: head.to_bytes() }
}

/// Every record is proven up to the head that the state itself has, and to no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_proven() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).open().await.unwrap();
    let log = log(&engine).await;
    for n in 0..20 {
        log.append(&format!("entry {n}")).await.unwrap();
    }
    let (last, head) = engine.data().chain_head().await.unwrap();
    assert_eq!((last.get(), anchor(&engine, 0).await), (21, Anchor::ZERO));
    let kept = Anchor { offset: last.get(), head: head.to_bytes() };
    for offset in 1..=last.get() {
        let proof = engine.data().prove(Offset::new(offset)).await.unwrap();
        assert_eq!(proof.anchor_offset(), Some(last.get()));
        verify(&kept, &proof).unwrap();
        if 2 <= offset {
            let before = anchor(&engine, offset - 1).await;
            assert_eq!(proof.head_before, before.head);
            let said = String::from_utf8_lossy(&proof.payload).into_owned();
            assert!(said.contains(&format!("entry {}", offset - 2)), "{said}");
        }
    }
    log.append(&"one more".to_owned()).await.unwrap();
    let proof = engine.data().prove(Offset::new(3)).await.unwrap();
    assert!(verify(&kept, &proof).is_err(), "the proof is for a later anchor");
    verify(&anchor(&engine, last.get() + 1).await, &proof).unwrap();

    let ahead = engine.data().prove(Offset::new(23)).await.unwrap_err();
    assert!(matches!(ahead, Error::NotYetApplied { .. }), "{ahead}");
    let ahead = engine.data().head(Offset::new(23)).await.unwrap_err();
    assert!(matches!(ahead, Error::NotYetApplied { .. }), "{ahead}");
    let none = engine.data().prove(Offset::ZERO).await.unwrap_err();
    assert!(matches!(none, Error::InvalidArgument { .. }), "{none}");
    engine.close().await.unwrap();
}

/// A proof has less than 1024 links, however long the log is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_leads_to_the_next_anchor() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).open().await.unwrap();
    let log = log(&engine).await;
    for _ in 0..22 {
        let mut appends = tokio::task::JoinSet::new();
        for n in 0..50 {
            let log = log.clone();
            appends.spawn(async move { log.append(&format!("entry {n}")).await.unwrap() });
        }
        appends.join_all().await;
    }
    for (offset, ends) in [(1, 1024), (1023, 1024), (1024, 1024), (1025, 1101)] {
        let proof = engine.data().prove(Offset::new(offset)).await.unwrap();
        assert_eq!(proof.anchor_offset(), Some(ends), "offset={offset}");
        verify(&anchor(&engine, ends).await, &proof).unwrap();
    }
    engine.close().await.unwrap();
}

/// A log that was trimmed proves nothing, and says where it begins.
#[test]
fn a_trimmed_log_says_where_it_begins() {
    let mut fabric = SimFabric::new(3);
    let leader = fabric.leader().unwrap();
    let engine = fabric.engine(leader);
    let log = fabric.block_on(log(&engine));
    fabric.block_on(async {
        for n in 0..300 {
            log.append(&format!("entry {n}")).await.unwrap();
        }
    });
    let (last, _) = fabric.block_on(engine.data().chain_head()).unwrap();
    let head = fabric.block_on(engine.data().head(Offset::new(5)));
    let proof = fabric.block_on(engine.data().prove(last));
    for error in [head.map(|_| ()).unwrap_err(), proof.map(|_| ()).unwrap_err()] {
        let Error::NotFound { what } = error else { panic!("{error}") };
        let first = what.strip_prefix("records before offset=").unwrap();
        let first: u64 = first.strip_suffix(": the log begins there").unwrap().parse().unwrap();
        assert!(1 < first && first <= last.get() + 1, "{what}");
    }
    assert_eq!(
        fabric.block_on(engine.data().head(last)).unwrap(),
        fabric.block_on(engine.data().chain_head()).unwrap().1
    );
}

/// The heads at whole anchors outlive the records before them, and later records are proven from there.
#[test]
fn what_is_behind_a_kept_head_is_proven_without_what_is_before() {
    let mut fabric = SimFabric::new(3);
    let leader = fabric.leader().unwrap();
    let engine = fabric.engine(leader);
    let log = fabric.block_on(log(&engine));
    let early = fabric.block_on(async {
        for n in 0..1_030 {
            log.append(&format!("entry {n}")).await.unwrap();
        }
        anchor(&engine, 1_024).await
    });
    fabric.block_on(async {
        for n in 0..300 {
            log.append(&format!("later entry {n}")).await.unwrap();
        }
        let (last, head) = engine.data().chain_head().await.unwrap();
        let gone = engine.data().head(Offset::new(1_023)).await.unwrap_err();
        assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
        assert_eq!(anchor(&engine, 1_024).await, early);
        assert_eq!(engine.data().head(last).await.unwrap(), head);
    });
    // Every replica keeps the same, also one that has it from a snapshot.
    let follower = [1, 2, 3].map(|n| fabric.node(n)).into_iter().find(|node| *node != leader);
    let other = fabric.engine(follower.unwrap());
    fabric.run_for(Duration::from_secs(2));
    assert_eq!(fabric.block_on(anchor(&other, 1_024)), early);
}
