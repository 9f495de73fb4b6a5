//! Taking chains while writes go on, and finding what is wrong with them.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;

use super::*;
use crate::failure::Failure;
use crate::handle::Handle;
use crate::projection::{Applied, At, Projection, ProjectionFault, Rows};
use crate::sim::SimFabric;

/// A full backup and three incremental ones, of three nodes, each beside writes that do not wait.
#[test]
fn a_chain_is_taken_beside_writes() {
    let mut fabric = SimFabric::new(3);
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let leader = fabric.leader().unwrap();
    let writer = fabric.engine(leader);
    let service = fabric.block_on(Service::of(writer));
    fabric.block_on(async {
        for number in 0..20 {
            service.submit(number).await;
        }
    });
    let (mut submitted, mut beside) = (20, 0);
    let mut parent = None;
    for (at, node) in [1, 2, 3, 1].into_iter().enumerate() {
        let engine = fabric.engine(fabric.node(node));
        let before = fabric.block_on(engine.group(GROUP).unwrap().chain_head()).unwrap().0;
        let name = id(&format!("b{at}"));
        // Slow, so that much is written meanwhile.
        let backup = engine.backup(&place).bytes_per_second(60_000);
        let backup = async {
            match &parent {
                None => backup.full(&name).await,
                Some(parent) => backup.incremental(&name, parent).await,
            }
        };
        let (summary, acknowledged) = fabric.block_on(async {
            let mut backup = pin!(backup);
            let mut acknowledged = 0;
            loop {
                let mut submit = pin!(service.submit(submitted));
                let done = poll_fn(|context| {
                    if let Poll::Ready(done) = backup.as_mut().poll(context) {
                        return Poll::Ready(Some(done));
                    }
                    submit.as_mut().poll(context).map(|()| None)
                })
                .await;
                submitted += 1;
                match done {
                    Some(done) => {
                        // It was on its way.
                        submit.await;
                        return (done.unwrap(), acknowledged);
                    }
                    None => acknowledged += 1,
                }
            }
        });
        assert!(before <= summary.groups[&GROUP].to, "it has what was there when it began");
        beside += acknowledged;
        assert_eq!(summary.parent, parent);
        parent = Some(name);
    }
    assert!(4 < beside, "writes do not wait for them: {beside}");
    let chain = fabric.block_on(verify(&place, &id("b3"))).unwrap();
    let ids: Vec<_> = chain.iter().map(|backup| backup.id.as_str()).collect();
    assert_eq!(ids, ["b0", "b1", "b2", "b3"]);
    assert_eq!(chain[0].groups[&GROUP].from, Offset::ZERO);
    for pair in chain.windows(2) {
        let [a, b] = [0, 1].map(|at| pair[at].groups[&GROUP].clone());
        assert_eq!(a.to, b.from);
        assert!(b.from <= b.to);
    }
    let ends = [0, 3].map(|at: usize| chain[at].groups[&GROUP].to);
    assert!(ends[0] < ends[1], "something was written in between");
    assert_eq!(fabric.block_on(verify(&place, &id("b1"))).unwrap(), chain[..2]);
    let listed = fabric.block_on(place.list()).unwrap();
    assert!(listed.iter().all(|backup| backup.complete));
    assert_eq!(listed.len(), 4);
}

/// Takes a chain of four on a node of this process.
async fn chain(service: &Service, place: &BackupPlace) {
    for at in 0..4_u64 {
        for number in 0..4 {
            service.submit(at * 4 + number).await;
        }
        let (name, backup) = (id(&format!("b{at}")), service.backup(place));
        match at.checked_sub(1) {
            None => backup.full(&name).await.unwrap(),
            Some(parent) => backup.incremental(&name, &id(&format!("b{parent}"))).await.unwrap(),
        };
    }
}

/// G10: each file that is gone, and each in which any byte is another, is named.
#[tokio::test]
async fn every_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let service = Service::open(&dir).await;
    chain(&service, &place).await;
    service.engine.close().await.unwrap();
    let last = id("b3");
    verify(&place, &last).await.unwrap();
    let files = files(&store).await;
    assert_eq!(files.len(), 1 + 4 * 2 + 1, "{files:?}");
    for file in &files {
        let whole = contents(&store, file).await;
        store.delete(&path(file)).await.unwrap();
        let error = verify(&place, &last).await.unwrap_err();
        assert!(matches!(&error, BackupError::Missing { file: found } if found == file), "{error}");
        assert_eq!(error.failure(), Failure::NotFound);
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << (at % 8);
            store.put(&path(file), Bytes::from(flipped).into()).await.unwrap();
            let error = verify(&place, &last).await.unwrap_err();
            assert_eq!(named(&error), file, "byte={at}: {error}");
            assert_eq!(error.failure(), Failure::Incompatible, "byte={at}: {error}");
        }
        for length in [0, 1, whole.len() - 1] {
            store.put(&path(file), whole.slice(..length).into()).await.unwrap();
            let error = verify(&place, &last).await.unwrap_err();
            assert_eq!(named(&error), file, "length={length}: {error}");
        }
        let longer = [&whole[..], b"\n"].concat();
        store.put(&path(file), Bytes::from(longer).into()).await.unwrap();
        assert_eq!(named(&verify(&place, &last).await.unwrap_err()), file);
        store.put(&path(file), whole.into()).await.unwrap();
    }
    verify(&place, &last).await.unwrap();
}

/// A state and a run of records that do not fit into one file each.
#[tokio::test]
async fn a_large_backup_lies_in_several_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let service = Service::open(&dir).await;
    let before = service.backup(&place).full(&id("empty")).await.unwrap();
    assert_eq!(before.groups[&GROUP].files, 1);
    let value = "v".repeat(500_000);
    for number in 0..40 {
        service.map.put(&format!("k{number}"), &value).await.unwrap();
    }
    let full = service.backup(&place).full(&id("full")).await.unwrap();
    let records = service.backup(&place).incremental(&id("records"), &id("empty")).await.unwrap();
    let [full, records] = [full, records].map(|backup| backup.groups[&GROUP].clone());
    assert_eq!((full.files, full.to), (3, records.to));
    assert_eq!(records.files, 3);
    assert!(20_000_000 < full.bytes && 20_000_000 < records.bytes);
    verify(&place, &id("full")).await.unwrap();
    verify(&place, &id("records")).await.unwrap();
    service.engine.close().await.unwrap();
}

/// Two who choose one id at the same time do not write over each other.
#[tokio::test]
async fn nothing_is_written_over() {
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let put = async |text: &'static str| place.put("a/x".to_owned(), vec![text.into()]).await;
    put("first").await.unwrap();
    let second = put("second").await.unwrap_err();
    assert!(matches!(&second, BackupError::AlreadyExists { file } if file == "a/x"), "{second}");
    assert_eq!(contents(&store, "a/x").await, "first");
}

/// A kind of resource that finds its own rows wrong.
struct Faulty;

impl Projection for Faulty {
    const NAME: &'static str = "faulty";
    const VERSION: u32 = 1;
    type Op = u64;
    type Outcome = ();
    type Refusal = ();
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        _: u64,
        _: &mut Rows<'_, '_>,
    ) -> Result<Applied<(), ()>, ProjectionFault> {
        Err(ProjectionFault::new("a row is not what it was"))
    }
}

/// G10: of a replica that may be damaged nothing is kept.
#[tokio::test]
async fn a_halted_group_is_not_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let engine = Engine::builder(dir.path()).projection(Faulty).open().await.unwrap();
    let faulty = Handle::<Faulty>::open(&engine, spec("faulty", 1)).await.unwrap();
    engine.backup(&place).full(&id("whole")).await.unwrap();
    faulty.submit(&1).await.unwrap_err();
    let halted = engine.backup(&place).full(&id("halted")).await.unwrap_err();
    let BackupError::Engine(Error::InternalError { what }) = &halted else { panic!("{halted}") };
    assert!(what.contains("a row is not what it was"), "{what}");
    assert_eq!(place.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_does_not_belong_together_is_refused() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let service = Service::open(&dirs[0]).await;
    chain(&service, &place).await;

    let used = service.backup(&place).full(&id("b1")).await.unwrap_err();
    assert!(
        matches!(&used, BackupError::AlreadyExists { file } if file.starts_with("b1/")),
        "{used}"
    );
    let none = service.backup(&place).incremental(&id("b9"), &id("b8")).await.unwrap_err();
    assert_eq!(named(&none), "b8/manifest");

    // The same name for another backup.
    for file in files(&store).await.into_iter().filter(|file| file.starts_with("b1/")) {
        store.delete(&path(&file)).await.unwrap();
    }
    service.backup(&place).full(&id("b1")).await.unwrap();
    let broken = verify(&place, &id("b3")).await.unwrap_err();
    let BackupError::BrokenChain { file, parent } = broken else { panic!("{broken}") };
    assert_eq!((file.as_str(), parent.as_str()), ("b2/manifest", "b1"));

    let builder = Engine::builder(dirs[1].path()).cluster(ClusterId::new(8));
    let stranger = builder.open().await.unwrap();
    let foreign = stranger.backup(&place).full(&id("theirs")).await.unwrap_err();
    let BackupError::Foreign { file, expected, found } = foreign else { panic!("{foreign}") };
    assert_eq!((file.as_str(), expected, found), ("format", ClusterId::new(8), CLUSTER));
    stranger.close().await.unwrap();

    // Another history under the same name.
    let other = tempfile::tempdir().unwrap();
    let twin = Service::open(&other).await;
    for number in 0..20 {
        twin.submit(number + 1).await;
    }
    let error = twin.backup(&place).incremental(&id("twin"), &id("b0")).await.unwrap_err();
    assert!(matches!(error, BackupError::BrokenChain { .. }), "{error}");
    assert!(place.list().await.unwrap().iter().any(|b| b.id == id("twin") && !b.complete));
    twin.engine.close().await.unwrap();

    service.engine.close().await.unwrap();
    let closed = service.backup(&place).full(&id("closed")).await.unwrap_err();
    assert!(matches!(closed, BackupError::Engine(Error::InternalError { .. })), "{closed}");
}

/// A log that was trimmed says from where on it has records, a node that is behind says so, too.
#[test]
fn a_gap_is_told() {
    let mut fabric = SimFabric::new(3);
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let leader = fabric.leader().unwrap();
    let engine = fabric.engine(leader);
    let service = fabric.block_on(Service::of(engine.clone()));
    fabric.block_on(service.backup(&place).full(&id("first"))).unwrap();
    let follower = (1..=3).map(|n| fabric.node(n)).find(|node| *node != leader).unwrap();
    fabric.partition(&[follower]);
    fabric.block_on(async {
        for number in 0..150 {
            service.submit(number).await;
        }
        service.backup(&place).full(&id("second")).await.unwrap();
        service.submit(1000).await;
    });
    let behind = fabric.engine(follower);
    let incremental = async |engine: &Engine, name: &str, parent: &str| {
        engine.backup(&place).incremental(&id(name), &id(parent)).await
    };
    let behind = fabric.block_on(incremental(&behind, "behind", "second")).unwrap_err();
    assert!(matches!(behind, BackupError::Behind { .. }), "{behind}");
    assert_eq!(behind.failure(), Failure::NotYetApplied);
    fabric.heal();
    fabric.block_on(async {
        for number in 2000..2150 {
            service.submit(number).await;
        }
    });
    let applied = engine.group(GROUP).unwrap().applied().unwrap();
    let trimmed = fabric.block_on(incremental(&engine, "late", "first")).unwrap_err();
    let BackupError::Trimmed { group: GROUP, first } = trimmed else { panic!("{trimmed}") };
    assert!(Offset::new(3) < first && first <= applied.next(), "{first}");
    // Nothing written since is nothing to write.
    fabric.block_on(service.backup(&place).full(&id("third"))).unwrap();
    let none = fabric.block_on(incremental(&engine, "none", "third")).unwrap();
    for none in none.groups.values() {
        assert_eq!((none.from, none.files), (none.to, 0));
    }
    fabric.block_on(verify(&place, &id("none"))).unwrap();
}
