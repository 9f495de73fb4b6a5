//! What is restored is what was: at every offset.

use std::collections::BTreeMap;

use palisade_replication::{
    CommittedEntry, Founding, LogIndex, NodeId, ProposalId, Record, RecordRun, StateMachine, Term,
};

use super::*;
use crate::backup::rebuild::{Compares, Rebuild, RestoredGroup, refuse_unregistered};
use crate::clients::check::clients;
use crate::digest::{StateDigest, digest};
use crate::machine::{EngineMachine, read_position};
use crate::records::RecordReader;
use crate::resource_table::ResourceTable;
use crate::store::MemoryStore;

/// All records of a node.
async fn records(service: &Service) -> Vec<RecordRun> {
    let applied = service.engine.group(GROUP).unwrap().applied().unwrap();
    let mut reader = RecordReader::new(service.engine.backend(), GROUP, Offset::ZERO, applied);
    let mut all = Vec::new();
    loop {
        let runs = reader.next().await.unwrap().unwrap();
        if runs.is_empty() {
            return all;
        }
        all.extend(runs);
    }
}

/// Where the whole chain ends, but for the first data group.
fn ends(chain: &[Contents], at: Offset) -> BTreeMap<GroupId, Offset> {
    let last = chain.last().unwrap().groups.iter();
    let mut ends: BTreeMap<_, _> = last.map(|(group, part)| (*group, part.to.0)).collect();
    ends.insert(GROUP, at);
    ends
}

/// The states of a machine that applies one record after the other, by offset.
fn prefixes(runs: &[RecordRun]) -> BTreeMap<Offset, (StateDigest, MemoryStore)> {
    let store = MemoryStore::default();
    let shared = Arc::new(store.clone());
    let mut machine =
        EngineMachine::open(shared, registry(), true, CLUSTER, NodeId::new(1), &[GROUP]).unwrap();
    let mut states = BTreeMap::new();
    let mut offset = Offset::ZERO;
    for run in runs {
        for payload in &run.payloads {
            offset = offset.next();
            let entry = CommittedEntry {
                index: LogIndex::new(offset.get() + 10),
                term: Term::new(3),
                members_index: LogIndex::new(1),
                log_time: run.log_time,
                first_offset: offset,
                records: vec![Record {
                    id: ProposalId { session: 9, seq: offset.get() },
                    payload: payload.clone(),
                }],
            };
            machine.apply(GROUP, &[entry]).unwrap();
            let copy = MemoryStore::default();
            let mut chunks = Vec::new();
            machine.exporter()(GROUP)
                .run(&mut |_, chunk| {
                    chunks.push(Ok(chunk));
                    Ok(())
                })
                .unwrap();
            let position = machine.applied(GROUP);
            crate::snapshot::install(&copy, GROUP, position, &mut chunks.into_iter()).unwrap();
            states.insert(offset, (digest(&store, GROUP).unwrap(), copy));
        }
    }
    states
}

async fn restored(
    place: &BackupPlace,
    last: &BackupId,
    at: Offset,
) -> Result<(MemoryStore, RestoredGroup), BackupError> {
    let chain = place.chain(last).await?;
    let store = MemoryStore::default();
    let shared = Arc::new(store.clone());
    let mut restored =
        Rebuild::run(place, &chain, &ends(&chain, at), shared, registry(), Compares::End).await?;
    Ok((store, restored.groups.remove(&GROUP).unwrap()))
}

fn epochs(store: &MemoryStore) -> Vec<(String, u64)> {
    let table = ResourceTable::load(store, &registry(), GROUP).unwrap();
    table.iter().map(|(_, found)| (found.spec.name.to_string(), found.spec.epoch.get())).collect()
}

/// G8: a state that is restored at an offset is that of a machine that applied just that prefix; behind it
/// every epoch is one more.
#[tokio::test]
async fn every_offset_is_restored_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let service = Service::open(&dir).await;
    service.submit(0).await;
    let full = service.backup(&place).full(&id("b0")).await.unwrap().groups[&GROUP].clone();
    for at in 1..4_u64 {
        // Several at once, so that a run has several records.
        let submits = [3 * at, 3 * at + 1, 3 * at + 2].map(|n| service.submit(n));
        let [a, b, c] = submits;
        tokio::join!(a, b, c);
        let name = id(&format!("b{at}"));
        service.backup(&place).incremental(&name, &id(&format!("b{}", at - 1))).await.unwrap();
    }
    let runs = records(&service).await;
    let last = service.engine.group(GROUP).unwrap().applied().unwrap();
    assert!(runs.iter().any(|run| run.payloads.len() > 1), "records are committed together");
    let states = prefixes(&runs);
    assert_eq!(*states.last_key_value().unwrap().0, last);
    for (offset, (expected, _)) in &states {
        // In the middle of a run, too.
        assert_eq!(
            service.engine.group(GROUP).unwrap().head(*offset).await.unwrap(),
            expected.head,
            "offset={offset}"
        );
    }
    service.engine.close().await.unwrap();
    for (offset, (expected, state)) in states.range(full.to..) {
        let (store, restored) = restored(&place, &id("b3"), *offset).await.unwrap();
        assert_eq!(restored.digest, *expected, "offset={offset}");
        let (position, head) = read_position(&store, GROUP).unwrap();
        assert_eq!(position, Founding::position(*offset, restored.log_time));
        assert_eq!(head, expected.head);
        let (was, _) = read_position(state, GROUP).unwrap();
        assert_eq!(restored.log_time, was.log_time, "offset={offset}");

        let raised: Vec<_> =
            epochs(state).into_iter().map(|(name, epoch)| (name, epoch + 1)).collect();
        assert_eq!(epochs(&store), raised);
        let now = digest(&store, GROUP).unwrap();
        for (now, before) in now.projections.iter().zip(&restored.digest.projections) {
            assert_eq!(now == before, !matches!(now.0, "resources" | "sessions"), "{}", now.0);
        }
        assert_eq!(clients(state, &registry(), GROUP).len(), 1);
        assert!(clients(&store, &registry(), GROUP).is_empty(), "a restore forgets them");
    }
    let beyond = restored(&place, &id("b3"), last.next()).await.map(|_| ()).unwrap_err();
    assert_eq!(named(&beyond), "b3/manifest");
}

/// A chain that is damaged is not restored, and the file is named.
#[tokio::test]
async fn a_damaged_chain_is_not_restored() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let service = Service::open(&dir).await;
    service.submit(0).await;
    service.backup(&place).full(&id("b0")).await.unwrap();
    service.submit(1).await;
    let last = service.backup(&place).incremental(&id("b1"), &id("b0")).await.unwrap();
    let last = last.groups[&GROUP].clone();
    service.engine.close().await.unwrap();
    for file in files(&store).await {
        let whole = contents(&store, &file).await;
        let mut flipped = whole.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        store.put(&path(&file), bytes::Bytes::from(flipped).into()).await.unwrap();
        let error = restored(&place, &id("b1"), last.to).await.map(|_| ()).unwrap_err();
        assert_eq!(named(&error), file, "{error}");
        store.put(&path(&file), whole.into()).await.unwrap();
    }

    let mut chain = place.chain(&id("b1")).await.unwrap();
    refuse_unregistered(&chain, &registry()).unwrap();
    let part = chain[1].groups.get_mut(&GROUP).unwrap();
    part.digest.insert("stock".to_owned(), Hash([0; 32]));
    let refused = refuse_unregistered(&chain, &registry()).unwrap_err();
    assert!(matches!(&refused, Error::Incompatible { .. }), "{refused}");
    assert!(refused.to_string().contains("projection=stock"), "{refused}");

    // Whole files that are not those the manifest means.
    let (contents, _) = place.manifest(&id("b1")).await.unwrap();
    for what in ["head", "log time"] {
        let mut other = contents.clone();
        let part = other.groups.get_mut(&GROUP).unwrap();
        match what {
            "head" => part.to.1.0[0] ^= 1,
            _ => part.log_time = LogTime::new(part.log_time.get() + 1),
        }
        store.put(&path("b1/manifest"), other.encode().into()).await.unwrap();
        let error = verify(&place, &id("b1")).await.unwrap_err();
        assert_eq!(named(&error), "b1/manifest");
        assert!(error.to_string().ends_with(what), "{error}");
        let error = restored(&place, &id("b1"), last.to).await.map(|_| ()).unwrap_err();
        assert_eq!(named(&error), "b1/manifest");
        assert!(error.to_string().ends_with(what), "{error}");
    }
    let mut other = contents.clone();
    other.groups.get_mut(&GROUP).unwrap().from.0 = Offset::new(1);
    store.put(&path("b1/manifest"), other.encode().into()).await.unwrap();
    let error = verify(&place, &id("b1")).await.unwrap_err();
    assert!(matches!(error, BackupError::BrokenChain { .. }), "{error}");
    store.put(&path("b1/manifest"), contents.encode().into()).await.unwrap();
    let (contents, _) = place.manifest(&id("b0")).await.unwrap();
    let mut other = contents.clone();
    other.groups.get_mut(&GROUP).unwrap().to.1.0[0] ^= 1;
    store.put(&path("b0/manifest"), other.encode().into()).await.unwrap();
    for error in [
        verify(&place, &id("b0")).await.unwrap_err(),
        restored(&place, &id("b0"), other.groups[&GROUP].to.0).await.map(|_| ()).unwrap_err(),
    ] {
        let wanted = "file=b0/manifest is damaged: the state stands somewhere else";
        assert_eq!(error.to_string(), wanted);
    }
    let mut other = contents.clone();
    let digests = &mut other.groups.get_mut(&GROUP).unwrap().digest;
    digests.values_mut().for_each(|hash| hash.0[0] ^= 1);
    store.put(&path("b0/manifest"), other.encode().into()).await.unwrap();
    // It says the same of where it ends, but it is not the one that the next was made after.
    let error = verify(&place, &id("b1")).await.unwrap_err();
    let BackupError::BrokenChain { file, parent } = error else { panic!("{error}") };
    assert_eq!((file.as_str(), parent.as_str()), ("b1/manifest", "b0"));
    let error =
        restored(&place, &id("b0"), other.groups[&GROUP].to.0).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "file=b0/manifest is damaged: the state has another digest");
    let error = verify(&place, &id("b0")).await.unwrap_err();
    assert_eq!(error.to_string(), "file=b0/manifest is damaged: the state has another digest");
}

/// Every group has its part, and every resource that is restored has its name.
#[test]
fn a_backup_has_every_group_and_every_name() {
    let mut fabric = crate::sim::SimFabric::builder(3).data_groups(3).build().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let engine = fabric.engine(fabric.node(1));
    let follower = (1..=3).map(|number| fabric.node(number));
    let follower = follower.into_iter().find(|node| Some(*node) != fabric.leader()).unwrap();
    let open = async |number: u64| {
        let affinity = crate::resource::Affinity::new(&format!("a{number}")).unwrap();
        let spec = spec(&format!("m{number}"), 1).affinity(affinity);
        let map = ReplicatedMap::<String, String>::open(&engine, spec).await.unwrap();
        map.put(&"k".to_owned(), &format!("v{number}")).await.unwrap();
        map.group().id()
    };
    let of: Vec<GroupId> = (0..2).map(|number| fabric.block_on(open(number))).collect();
    let taken = fabric.engine(follower);
    let full = fabric.block_on(taken.backup(&place).full(&id("full"))).unwrap();
    assert_eq!(full.groups.len(), 4);
    assert_eq!(full.groups[&GroupId::new(3)], GroupPart::empty().summary());
    let of: Vec<GroupId> =
        of.into_iter().chain((2..5).map(|number| fabric.block_on(open(number)))).collect();
    // While it is taken, slowly, somebody makes another resource in a group whose part comes later.
    fabric.block_on(async {
        let name = crate::resource::LogicalResourceName::new("m0").unwrap();
        let schema = crate::resource::SchemaId::new("test.v1").unwrap();
        let reader = ReplicatedMap::<String, String>::open_reader(&engine, &name, &schema);
        assert_eq!(reader.await.unwrap().group().id(), GroupId::new(1));
        let large = "v".repeat(200_000);
        let spec = spec("large", 1).affinity(crate::resource::Affinity::new("a0").unwrap());
        let map = ReplicatedMap::<String, String>::open(&engine, spec).await.unwrap();
        map.put(&"k".to_owned(), &large).await.unwrap();
    });
    let (last, late) = fabric.block_on(async {
        let backup = taken.backup(&place).bytes_per_second(100_000);
        let meanwhile = async {
            engine.backend().sleep(std::time::Duration::from_millis(500)).await;
            open(5).await
        };
        let (full, parent) = (id("last"), id("full"));
        tokio::join!(backup.incremental(&full, &parent), meanwhile)
    });
    let last = last.unwrap();
    let of: Vec<GroupId> = of.into_iter().chain([late]).collect();
    for (group, part) in &last.groups {
        assert_eq!(part.from, full.groups[group].to);
        assert!(part.from < part.to, "group={group}");
    }
    fabric.block_on(verify(&place, &id("last"))).unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let chain = runtime.block_on(place.chain(&id("last"))).unwrap();
    let ends = last.groups.iter().map(|(group, part)| (*group, part.to)).collect();
    let anew = MemoryStore::default();
    let shared = Arc::new(anew.clone());
    let run = Rebuild::run(&place, &chain, &ends, shared, registry(), Compares::End);
    let restored = runtime.block_on(run).unwrap();
    for (group, found) in restored.groups {
        assert_eq!(found.digest.offset, last.groups[&group].to);
        let handle = taken.group(group).unwrap();
        let now = fabric.block_on(handle.digest()).unwrap();
        if now.offset == found.digest.offset {
            assert_eq!(found.digest, now, "group={group}");
        }
    }
    for (number, group) in of.into_iter().enumerate() {
        let name = crate::resource::LogicalResourceName::new(&format!("m{number}")).unwrap();
        let claimed = crate::names::find(&anew, &name).unwrap().expect("its name is there");
        assert_eq!(claimed.group, group);
        assert!(crate::resource_row::find(&anew, group, &name).unwrap().is_some());
    }
}
