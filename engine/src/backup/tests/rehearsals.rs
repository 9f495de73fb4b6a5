//! What only a restore can find.

use super::super::layout::{Contents, Hash};
use super::*;
use crate::failure::Failure;

/// A chain of three, and a scratch directory.
async fn chain() -> (Arc<InMemory>, BackupPlace, Vec<BackupId>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let service = Service::open(&dir).await;
    let ids: Vec<_> = (0..3).map(|at| id(&format!("b{at}"))).collect();
    for (at, name) in ids.iter().enumerate() {
        service.submit(at as u64).await;
        match at.checked_sub(1) {
            None => service.backup(&place).full(name).await.unwrap(),
            Some(parent) => service.backup(&place).incremental(name, &ids[parent]).await.unwrap(),
        };
    }
    service.engine.close().await.unwrap();
    (store, place, ids, tempfile::tempdir().unwrap())
}

/// Writes a chain anew after its manifests were changed: every hash is right again.
async fn forge(store: &InMemory, ids: &[BackupId], mut change: impl FnMut(usize, &mut Contents)) {
    let mut parent = None;
    for (at, name) in ids.iter().enumerate() {
        let file = format!("{name}/manifest");
        let raw = contents(store, &file).await;
        let mut manifest = Contents::decode(&file, name, &raw).unwrap();
        change(at, &mut manifest);
        manifest.parent = parent;
        let raw = manifest.encode();
        parent = Some((name.clone(), Hash::of(&raw)));
        store.put(&path(&file), raw.into()).await.unwrap();
    }
}

/// G10: the digest of every backup of the chain is computed, of those in the middle too, and nothing is left.
#[tokio::test]
async fn every_digest_of_a_chain_is_computed_again() {
    let (store, place, ids, scratch) = chain().await;
    let builder = Engine::builder(scratch.path());
    let is_empty = || std::fs::read_dir(scratch.path()).unwrap().next().is_none();
    let whole = rehearse(&place, &ids[2], &builder).await.unwrap();
    let ends = verify(&place, &ids[2]).await.unwrap()[2].groups.clone();
    for (group, found) in &whole.groups {
        assert_eq!((found.digest.offset, found.digest.head), (ends[group].to, ends[group].head));
    }
    assert!(is_empty());
    // A manifest that gives another digest than the state comes to, and hides it well.
    for forged in 0..3 {
        let (store, place, ids, _) = chain().await;
        forge(&store, &ids, |at, manifest| {
            if at == forged {
                let digest = &mut manifest.groups.get_mut(&GROUP).unwrap().digest;
                digest.insert("map".to_owned(), Hash([7; 32]));
            }
        })
        .await;
        if forged > 0 {
            verify(&place, &ids[2]).await.expect("no file of it says so");
        }
        let error = rehearse(&place, &ids[2], &builder).await.unwrap_err();
        assert!(matches!(error, BackupError::Damaged { .. }), "{error}");
        assert_eq!(error.failure(), Failure::Incompatible);
        assert!(error.to_string().contains(&format!("b{forged}/manifest")), "{error}");
        assert!(error.to_string().contains("another digest"), "{error}");
        assert!(is_empty(), "forged={forged}");
    }
    // What verify finds it finds as well.
    let file = files(&store).await.into_iter().find(|file| file.contains("b1/group-1")).unwrap();
    let mut raw = contents(&store, &file).await.to_vec();
    *raw.last_mut().unwrap() ^= 1;
    store.put(&path(&file), raw.into()).await.unwrap();
    assert_eq!(named(&rehearse(&place, &ids[2], &builder).await.unwrap_err()), file);
    assert!(is_empty());
}

/// Nothing of anybody else is thrown away.
#[tokio::test]
async fn a_directory_that_is_not_empty_is_left_alone() {
    let (_, place, ids, scratch) = chain().await;
    let kept = scratch.path().join("kept");
    std::fs::write(&kept, b"somebody's").unwrap();
    let refused = rehearse(&place, &ids[2], &Engine::builder(scratch.path())).await.unwrap_err();
    assert!(matches!(refused, BackupError::InvalidArgument { .. }), "{refused}");
    assert_eq!(std::fs::read(&kept).unwrap(), b"somebody's");
}
