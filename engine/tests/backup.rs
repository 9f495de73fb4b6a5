//! Backups of a real node to real files, and a node that is made of them.
#![cfg(all(feature = "backup", feature = "rocksdb"))]

#[path = "support/data.rs"]
mod data;

#[path = "../examples/inventory/projection.rs"]
#[allow(dead_code, reason = "the example has more than is needed here")]
mod inventory;
#[path = "rebuild/second.rs"]
mod second;
#[path = "support/sum.rs"]
mod sum;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data::Data;
use object_store::local::LocalFileSystem;
use palisade::audit::{Anchor, verify as verify_proof};
use palisade::backup::{BackupError, BackupId, BackupPlace, RestoreTo, restore, verify};
use palisade::{
    ClusterId, Direction, Engine, EngineBuilder, Error, FenceEpoch, Freshness, GroupId, Handle,
    Member, MemberChange, NodeId, Offset, OpenDisk, Options, ReadConsistency, ReplicatedLog,
    ResourceSpec, blocking,
};

use self::inventory::{Inventory, Op};
use self::second::{Second, stock_of_any};
use self::sum::Sum;

const DATA: GroupId = GroupId::new(1);
const OLD: ClusterId = ClusterId::new(7);
const NEW: ClusterId = ClusterId::new(8);
/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

fn id(id: &str) -> BackupId {
    BackupId::new(id).unwrap()
}

fn place(dir: &Path) -> BackupPlace {
    let store = LocalFileSystem::new_with_prefix(dir).unwrap().with_fsync(true);
    BackupPlace::new(Arc::new(store), "prod").unwrap()
}

fn spec(name: &str, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap().epoch(FenceEpoch::new(epoch))
}

async fn log(engine: &Engine, epoch: u64) -> Result<ReplicatedLog<String>, Error> {
    ReplicatedLog::open(engine, spec("log", epoch)).await
}

/// What a host adds up is restored by a host that knows how, and by no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_of_the_host_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("backups")).unwrap();
    let place = place(&dir.path().join("backups"));
    let old = Engine::builder(dir.path().join("old")).cluster(OLD).projection(Sum);
    let old = old.open().await.unwrap();
    let sum = Handle::<Sum>::open(&old, spec("sum", 1)).await.unwrap();
    sum.submit(&3).await.unwrap();
    old.backup(&place).full(&id("full")).await.unwrap();
    sum.submit(&4).await.unwrap();
    old.backup(&place).incremental(&id("last"), &id("full")).await.unwrap();
    old.close().await.unwrap();
    let new = dir.path().join("new");
    let end = RestoreTo::End;
    let unknown = restore(&place, &id("last"), &anew(&new), end).await.unwrap_err();
    assert!(matches!(unknown, BackupError::Engine(Error::Incompatible { .. })), "{unknown}");
    assert!(!new.exists());
    let builder = anew(&new).projection(Sum);
    restore(&place, &id("last"), &builder, end).await.unwrap();
    let engine = builder.open().await.unwrap();
    let sum = Handle::<Sum>::open(&engine, spec("sum", 2)).await.unwrap();
    assert_eq!(sum.submit(&5).await.unwrap().outcome, 12);
    engine.close().await.unwrap();
}

async fn logged(log: &ReplicatedLog<String>) -> Vec<(Offset, String)> {
    let page = log
        .scan(Offset::ZERO, Direction::Forward, 1000, ReadConsistency::Linearizable)
        .await
        .unwrap();
    page.value.entries.into_iter().map(|entry| (entry.position.offset, entry.value)).collect()
}

/// A chain of four, taken while a writer goes on. It ends with what was logged up to its end.
async fn chain(dir: &Path, place: &BackupPlace) -> Vec<(Offset, String)> {
    let options = Options { kept_entries: 100_000, ..Options::default() };
    let engine = Engine::builder(dir).cluster(OLD).options(options).open().await.unwrap();
    let log = log(&engine, 1).await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn({
        let log = log.clone();
        async move {
            let mut number = 0;
            while stopped.try_recv().is_err() {
                log.append(&format!("entry {number}")).await.unwrap();
                number += 1;
            }
        }
    });
    let mut last = engine.backup(place).full(&id("b0")).await.unwrap();
    for at in 1..4 {
        // Something comes in between.
        while engine.data().applied().unwrap() <= last.groups[&DATA].to {
            tokio::task::yield_now().await;
        }
        let (name, parent) = (id(&format!("b{at}")), last.id);
        last = engine.backup(place).incremental(&name, &parent).await.unwrap();
    }
    stop.send(()).unwrap();
    writer.join_all().await;
    let mut all = logged(&log).await;
    assert!(all.len() >= 4);
    all.retain(|(offset, _)| *offset <= last.groups[&DATA].to);
    engine.close().await.unwrap();
    all
}

fn anew(dir: &Path) -> EngineBuilder {
    Engine::builder(dir).cluster(NEW)
}

/// G10: what was acknowledged before the last backup is there, in a cluster that takes writes; its log goes
/// on where the state ends, and old writers are fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_node_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("backups")).unwrap();
    let place = place(&dir.path().join("backups"));
    let all = chain(&dir.path().join("old"), &place).await;
    let backups = verify(&place, &id("b3")).await.unwrap();
    assert_eq!(backups.len(), 4);
    let last = backups[3].groups[&DATA].clone();

    let new = dir.path().join("new");
    let restored = restore(&place, &id("b3"), &anew(&new), RestoreTo::End).await.unwrap();
    let restored = &restored.groups[&DATA];
    assert_eq!((restored.digest.offset, restored.digest.head), (last.to, last.head));
    assert_eq!(restored.log_time, last.log_time);
    let engine = anew(&new).open().await.unwrap();
    assert_eq!(engine.data().chain_head().await.unwrap(), (last.to, last.head));
    let fenced = log(&engine, 1).await.map(|_| ()).unwrap_err();
    assert!(matches!(fenced, Error::Fenced { current } if current.get() == 2), "{fenced}");
    let writer = log(&engine, 3).await.unwrap();
    assert_eq!(logged(&writer).await, all);
    let receipt = writer.append(&"new".to_owned()).await.unwrap().receipt;
    assert_eq!(receipt.offset.get(), last.to.get() + 3, "both openings have offsets, too");
    assert!(last.log_time <= receipt.log_time);

    // What was fresh in the old cluster says nothing here.
    let old = Freshness { cluster: OLD, ..receipt.freshness() };
    let stale = writer
        .scan(Offset::ZERO, Direction::Forward, 1, ReadConsistency::AtLeast(old))
        .await
        .unwrap_err();
    assert!(matches!(stale, Error::Incompatible { .. }), "{stale}");

    // The chain of heads goes on: what is new is proven from the old anchor on.
    let anchor = engine.data().chain_head().await.unwrap();
    assert_eq!(anchor.0, receipt.offset);
    let before_restore = engine.data().prove(last.to).await.unwrap_err();
    let trimmed =
        format!("not found: records before offset={}: the log begins there", last.to.next());
    assert_eq!(before_restore.to_string(), trimmed);
    engine.close().await.unwrap();
    let engine = anew(&new).open().await.unwrap();
    assert_eq!(engine.data().chain_head().await.unwrap(), anchor);
    let writer = log(&engine, 3).await.unwrap();
    assert_eq!(logged(&writer).await.len(), all.len() + 1);

    // It is another cluster: the old one's backups are not continued.
    let foreign = engine.backup(&place).incremental(&id("b4"), &id("b3")).await.unwrap_err();
    assert!(matches!(foreign, BackupError::Foreign { .. }), "{foreign}");
    engine.close().await.unwrap();
    // And the old one is as it was.
    let old = Engine::builder(dir.path().join("old")).cluster(OLD).open().await.unwrap();
    let proof = old.data().prove(last.to).await.unwrap();
    let offset = proof.anchor_offset().unwrap();
    let head = old.data().head(Offset::new(offset)).await.unwrap().to_bytes();
    verify_proof(&Anchor { offset, head }, &proof).unwrap();
    old.close().await.unwrap();
}

/// What is asked for wrongly is refused before anything is written, and what was cut short afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_refused_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("backups")).unwrap();
    let place = place(&dir.path().join("backups"));
    let all = chain(&dir.path().join("old"), &place).await;
    let backups = verify(&place, &id("b3")).await.unwrap();
    let [floor, end] = [0, 3].map(|at: usize| backups[at].groups[&DATA].to);
    let until = |offset| RestoreTo::Offset { group: DATA, offset };
    let new = dir.path().join("new");
    let b3 = id("b3");
    let refused = async |builder: EngineBuilder, to: RestoreTo| {
        restore(&place, &b3, &builder, to).await.unwrap_err()
    };
    let all_of_it = RestoreTo::End;

    let same = refused(anew(&new).cluster(OLD), all_of_it).await;
    assert!(matches!(same, BackupError::InvalidArgument { .. }), "{same}");
    let beyond = refused(anew(&new), until(end.next())).await;
    assert!(matches!(beyond, BackupError::InvalidArgument { .. }), "{beyond}");
    let before = refused(anew(&new), until(Offset::ZERO)).await;
    assert!(
        matches!(before, BackupError::Compacted { group: DATA, floor: found } if found == floor),
        "{before}"
    );
    let used = refused(anew(&dir.path().join("old")), all_of_it).await;
    assert!(matches!(used, BackupError::InvalidArgument { .. }), "{used}");
    let several = anew(&new).voter(NodeId::new(2), address());
    let several = refused(several, all_of_it).await;
    assert!(matches!(several, BackupError::InvalidArgument { .. }), "{several}");
    assert!(!new.exists());

    // The process ends when the log is to be made.
    let gone = OpenDisk::over(|_, _| panic!("the process is gone"));
    let cut = refused(anew(&new).disk(gone), all_of_it).await;
    assert!(matches!(cut, BackupError::Engine(Error::InternalError { .. })), "{cut}");
    let unfinished = anew(&new).open().await.map(|_| ()).unwrap_err();
    assert!(matches!(unfinished, Error::Incompatible { .. }), "{unfinished}");
    assert!(unfinished.to_string().contains("an unfinished restore"), "{unfinished}");
    let again = refused(anew(&new), all_of_it).await;
    assert!(matches!(again, BackupError::InvalidArgument { .. }), "{again}");

    // At an offset within the last of the chain.
    let (at, _) = all[all.len() - 1];
    std::fs::remove_dir_all(&new).unwrap();
    restore(&place, &b3, &anew(&new), until(at)).await.unwrap();
    let stranger = Engine::builder(&new).cluster(OLD).open().await.map(|_| ()).unwrap_err();
    assert!(matches!(stranger, Error::Incompatible { .. }), "{stranger}");
    let engine = anew(&new).open().await.unwrap();
    assert_eq!(engine.data().applied().unwrap(), at);
    let expected: Vec<_> = all.into_iter().filter(|(offset, _)| *offset <= at).collect();
    assert_eq!(logged(&log(&engine, 2).await.unwrap()).await, expected);
    engine.close().await.unwrap();
}

fn address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Others join a restored node, and get its state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_join_a_restored_node() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("backups")).unwrap();
    let place = place(&dir.path().join("backups"));
    let all = chain(&dir.path().join("old"), &place).await;
    let addresses = [address(), address()];
    let first = dir.path().join("first");
    let builder = anew(&first).listen(addresses[0]);
    restore(&place, &id("b3"), &builder, RestoreTo::End).await.unwrap();
    let one = builder.open().await.unwrap();
    let second = NodeId::new(2);
    let builder = anew(&dir.path().join("second")).node(second);
    let two = builder.listen(addresses[1]).joins().open().await.unwrap();
    let writer = log(&one, 2).await.unwrap();
    let member = Member {
        address: Some(addresses[1]),
        incarnation: Some(two.incarnation()),
        ..Member::default()
    };
    one.change_members(MemberChange::AddLearner { node: second, member }).await.unwrap();
    let receipt = writer.append(&"new".to_owned()).await.unwrap().receipt;
    assert_eq!(logged(&writer).await.len(), all.len() + 1);
    let caught_up = async {
        while two.data().applied().unwrap() < receipt.offset {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, caught_up).await.unwrap();
    let (a, b) = (one.data().digest().await.unwrap(), two.data().digest().await.unwrap());
    assert_eq!((a.offset, a.projections), (b.offset, b.projections));
    two.close().await.unwrap();
    one.close().await.unwrap();
}

/// The same without a runtime.
#[test]
fn a_service_without_a_runtime_backs_up_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("backups")).unwrap();
    let place = place(&dir.path().join("backups"));
    let old = Engine::builder(dir.path().join("old")).cluster(OLD).open_blocking().unwrap();
    let log = blocking::ReplicatedLog::<String>::open(&old, spec("log", 1)).unwrap();
    log.append(&"one".to_owned()).unwrap();
    let full = old.backup(&place).bytes_per_second(1 << 30).full(&id("full")).unwrap();
    log.append(&"two".to_owned()).unwrap();
    let last = old.backup(&place).incremental(&id("last"), &id("full")).unwrap();
    assert_eq!(blocking::backup::verify(&place, &id("last")).unwrap(), [full, last]);
    assert_eq!(blocking::backup::list(&place).unwrap().len(), 2);
    old.close().unwrap();
    let builder = anew(&dir.path().join("new"));
    blocking::backup::restore(&place, &id("last"), &builder, RestoreTo::End).unwrap();
    let new = builder.open_blocking().unwrap();
    let log = blocking::ReplicatedLog::<String>::open(&new, spec("log", 2)).unwrap();
    assert_eq!(log.bounds(ReadConsistency::Linearizable).unwrap().value.entries, 2);
    new.close().unwrap();
}

/// A backup of before is restored by who has both, and one of after by who has the newer alone; also one
/// whose records lead from the one to the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_of_before_and_after_are_restored() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("backups")).unwrap();
    let place = place(&dir.path().join("backups"));
    let old = || Engine::builder(dir.path().join("old")).cluster(OLD);
    let shop = || ResourceSpec::new("shop", "shop.v1").unwrap();
    let receive = |count| Op::Receive { item: "apple".to_owned(), count };
    let stock = async |engine: &Engine| {
        let reader = Handle::<Second>::open_reader(engine, &shop().name, &shop().schema).await;
        let fresh = ReadConsistency::Linearizable;
        let read = reader.unwrap().read(fresh, |rows| stock_of_any(rows, "apple")).await;
        read.unwrap().value.free
    };
    let active = async |engine: &Engine| {
        let group = engine.group(GroupId::new(1)).unwrap();
        group.rebuilds().await.unwrap().value[0].active
    };

    let engine = old().projection(Inventory).open().await.unwrap();
    let first = Handle::<Inventory>::open(&engine, shop()).await.unwrap();
    first.submit(&receive(5)).await.unwrap();
    engine.backup(&place).full(&id("before")).await.unwrap();
    engine.close().await.unwrap();
    drop((engine, first));
    let engine = old().projection(Second).superseding(Inventory).open().await.unwrap();
    let second = Handle::<Second>::open(&engine, shop()).await.unwrap();
    let mut free = 5;
    while active(&engine).await == 1 {
        free += 1;
        assert_eq!(second.submit(&receive(1)).await.unwrap().outcome.free, free);
    }
    engine.backup(&place).incremental(&id("over"), &id("before")).await.unwrap();
    engine.backup(&place).full(&id("after")).await.unwrap();
    engine.close().await.unwrap();

    let anew = |name: &str| Engine::builder(dir.path().join(name)).cluster(NEW);
    for name in ["before", "over"] {
        let alone = anew("alone").projection(Second);
        let refused = restore(&place, &id(name), &alone, RestoreTo::End).await.unwrap_err();
        let BackupError::Engine(Error::Incompatible { expected, found }) = refused else {
            panic!("{refused}")
        };
        assert_eq!(expected, "projection=inventory version=1");
        assert!(found.contains("superseding of version=1"), "{found}");
        std::fs::remove_dir_all(dir.path().join("alone")).unwrap();
    }
    for (name, wanted) in [("before", 5), ("over", free), ("after", free)] {
        let builder = anew(name).projection(Second);
        let builder = if name == "after" { builder } else { builder.superseding(Inventory) };
        restore(&place, &id(name), &builder, RestoreTo::End).await.unwrap();
        let engine = builder.open().await.unwrap();
        assert_eq!(stock(&engine).await, wanted, "{name}");
        while active(&engine).await == 1 {
            assert_eq!(stock(&engine).await, wanted, "{name}");
        }
        assert_eq!(stock(&engine).await, wanted, "{name}");
        engine.close().await.unwrap();
    }
}
