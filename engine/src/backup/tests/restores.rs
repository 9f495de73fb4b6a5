//! What is restored is what was: at every offset.

use std::collections::BTreeMap;

use palisade_replication::{
    CommittedEntry, Founding, LogIndex, NodeId, ProposalId, Record, RecordRun, StateMachine, Term,
};

use super::*;
use crate::backup::rebuild::{Rebuild, Restored, refuse_unregistered};
use crate::clients::check::clients;
use crate::digest::{StateDigest, digest};
use crate::machine::{EngineMachine, read_position};
use crate::records::RecordReader;
use crate::resource_table::ResourceTable;
use crate::store::MemoryStore;

/// All records of a node.
async fn records(service: &Service) -> Vec<RecordRun> {
    let applied = service.engine.data().applied().unwrap();
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
) -> Result<(MemoryStore, Restored), BackupError> {
    let chain = place.chain(last).await?;
    let store = MemoryStore::default();
    let (_, restored) =
        Rebuild::run(place, &chain, at, Arc::new(store.clone()), registry()).await?;
    Ok((store, restored))
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
    let full = service.backup(&place).full(&id("b0")).await.unwrap();
    for at in 1..4_u64 {
        // Several at once, so that a run has several records.
        let submits = [3 * at, 3 * at + 1, 3 * at + 2].map(|n| service.submit(n));
        let [a, b, c] = submits;
        tokio::join!(a, b, c);
        let name = id(&format!("b{at}"));
        service.backup(&place).incremental(&name, &id(&format!("b{}", at - 1))).await.unwrap();
    }
    let runs = records(&service).await;
    let last = service.engine.data().applied().unwrap();
    assert!(runs.iter().any(|run| run.payloads.len() > 1), "records are committed together");
    let states = prefixes(&runs);
    assert_eq!(*states.last_key_value().unwrap().0, last);
    for (offset, (expected, _)) in &states {
        // In the middle of a run, too.
        assert_eq!(
            service.engine.data().head(*offset).await.unwrap(),
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
        restored(&place, &id("b0"), other.data().to.0).await.map(|_| ()).unwrap_err(),
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
    let error = restored(&place, &id("b0"), other.data().to.0).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "file=b0/manifest is damaged: the state has another digest");
    let error = verify(&place, &id("b0")).await.unwrap_err();
    assert_eq!(error.to_string(), "file=b0/manifest is damaged: the state has another digest");
}
