//! A process that is gone in the middle: of a backup at each file, of a restore at each write.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use palisade_replication::NodeId;

use super::store::FailingStore;
use super::*;
use crate::backup::rebuild::{Compares, Rebuild};
use crate::machine::EngineMachine;
use crate::store::{Direction, FaultyStore, MemoryStore, StateRead, StateStore, Walk};

/// Nothing that was cut short is taken for a backup, and nothing that is one is harmed.
#[tokio::test]
async fn a_backup_that_is_cut_short_has_no_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(&dir).await;
    for number in 0..5 {
        service.submit(number).await;
    }
    let name = id("cut");
    for is_full in [true, false] {
        let mut cuts = 0;
        loop {
            let inner = Arc::new(InMemory::new());
            let whole = place(&inner);
            if !is_full {
                service.backup(&whole).full(&id("base")).await.unwrap();
                service.submit(100 + cuts).await;
            }
            let failing = FailingStore { inner: Arc::clone(&inner), left: AtomicU64::new(cuts) };
            let cut = BackupPlace::new(Arc::new(failing), "backups/prod").unwrap();
            let backup = service.backup(&cut);
            let taken = if is_full {
                backup.full(&name).await
            } else {
                backup.incremental(&name, &id("base")).await
            };
            let Err(error) = taken else { break };
            assert!(matches!(error, BackupError::Store { .. }), "{error}");
            assert_eq!(error.disposition(), palisade_replication::Disposition::Retry);
            let missing = verify(&whole, &name).await.unwrap_err();
            assert_eq!(missing.to_string(), "file=cut/manifest is missing");
            let listed = whole.list().await.unwrap();
            let found = listed.iter().find(|listed| listed.id == name);
            assert!(found.is_none_or(|found| !found.complete));
            let is_found = found.is_some();
            let child = service.backup(&whole).incremental(&id("child"), &name).await.unwrap_err();
            assert!(matches!(child, BackupError::Missing { .. }), "{child}");
            let again = service.backup(&whole).full(&name).await;
            if is_found {
                let again = again.unwrap_err();
                assert!(matches!(again, BackupError::AlreadyExists { .. }), "{again}");
            } else {
                again.unwrap();
            }
            if !is_full {
                verify(&whole, &id("base")).await.unwrap();
            }
            cuts += 1;
        }
        // Whose prefix it is, a file of each group, and the manifest. For a child the first is there, and
        // nobody has claimed a name since its parent.
        assert_eq!(cuts, if is_full { 4 } else { 2 });
    }
    service.engine.close().await.unwrap();
}

fn row_count(store: &MemoryStore) -> usize {
    let mut count = 0;
    for family in store.families().ids() {
        let mut each = |_: &[u8], _: &[u8]| {
            count += 1;
            Walk::Next
        };
        store.walk(family, &[], &[0xff; 64], Direction::Forward, &mut each).unwrap();
    }
    count
}

/// A restore that is cut short, with or without what was not flushed, leaves a state that nobody opens, or
/// none at all.
#[tokio::test]
async fn a_restore_that_is_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let service = Service::open(&dir).await;
    service.submit(0).await;
    service.backup(&place).full(&id("full")).await.unwrap();
    for number in 1..6 {
        service.submit(number).await;
    }
    let last = service.backup(&place).incremental(&id("last"), &id("full")).await.unwrap();
    let ends = last.groups.iter().map(|(group, part)| (*group, part.to)).collect();
    service.engine.close().await.unwrap();
    let chain = place.chain(&id("last")).await.unwrap();
    let (cluster, node) = (ClusterId::new(8), NodeId::new(1));
    let open = |store: &MemoryStore| {
        let store = Arc::new(store.clone());
        EngineMachine::open(store, registry(), true, cluster, node, &[GROUP]).map(|_| ())
    };
    let mut owned_at = BTreeSet::new();
    let mut cuts = 0;
    loop {
        let inner = MemoryStore::default();
        let failing = FaultyStore::new(inner.clone());
        failing.lose_power_after(cuts);
        let failing: Arc<dyn StateStore> = Arc::new(failing);
        let shared = Arc::clone(&failing);
        let made =
            match Rebuild::run(&place, &chain, &ends, shared, registry(), Compares::End).await {
                Ok(_) => {
                    let refused = open(&inner).unwrap_err().to_string();
                    assert!(refused.contains("an unfinished restore"), "{refused}");
                    Rebuild::end(&*failing, cluster, node).map_err(BackupError::from)
                }
                Err(error) => Err(error),
            };
        if made.is_ok() {
            open(&inner).unwrap();
            inner.crash();
            open(&inner).unwrap();
            break;
        }
        let made = made.unwrap_err();
        let power = made.to_string().contains("planned");
        assert!(power && matches!(made, BackupError::Engine(_)), "{made}");
        // As the process left it, and as it is after a loss of power.
        for _ in 0..2 {
            if row_count(&inner) == 0 {
                assert!(cuts <= 1, "cut={cuts}: the mark is flushed before anything else");
            } else if let Err(refused) = open(&inner) {
                let refused = refused.to_string();
                assert!(refused.contains("an unfinished restore"), "cut={cuts}: {refused}");
            } else {
                owned_at.insert(cuts);
            }
            inner.crash();
        }
        cuts += 1;
    }
    assert!(cuts > 10, "marks, rows, records and epochs are written one after the other: {cuts}");
    // Whose it is is written last, and is there before it is flushed.
    assert_eq!(owned_at, [cuts - 1].into());
}
