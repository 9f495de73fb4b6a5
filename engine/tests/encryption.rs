//! A real node with keys: what lies on the disk, a rotation while it runs and over restarts, keys that are let
//! go of, and backups.
#![cfg(all(feature = "backup", feature = "rocksdb"))]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use palisade::backup::{BackupError, BackupId, BackupPlace, RestoreTo, restore, verify};
use palisade::encryption::{KeyEpoch, KeyError, KeyRing, Keys, SystemRandomness};
use palisade::inspect::WalFiles;
use palisade::{
    ClusterId, Engine, EngineBuilder, Error, FenceEpoch, Options, ReadConsistency, ReplicatedMap,
    ResourceSpec,
};

const MARK: &str = "a secret that nobody may find";
const OLD: ClusterId = ClusterId::new(7);
const NEW: ClusterId = ClusterId::new(8);

fn epoch(number: u32) -> KeyEpoch {
    KeyEpoch::new(number).unwrap()
}

fn ring() -> KeyRing {
    let mut ring = KeyRing::default();
    ring.rotate(&SystemRandomness).unwrap();
    ring
}

fn id(id: &str) -> BackupId {
    BackupId::new(id).unwrap()
}

fn place(dir: &Path) -> BackupPlace {
    std::fs::create_dir_all(dir).unwrap();
    let store = LocalFileSystem::new_with_prefix(dir).unwrap().with_fsync(true);
    BackupPlace::new(Arc::new(store), "").unwrap()
}

fn builder(dir: &Path, cluster: ClusterId, keys: &Keys) -> EngineBuilder {
    // Flushed and trimmed often.
    let options =
        Options { trim_entries_min: 4, flush_bytes_target: 64 << 10, ..Options::default() };
    let builder = Engine::builder(dir).cluster(cluster).options(options);
    builder.keys(keys.clone()).state_disk_is_encrypted()
}

async fn map(engine: &Engine, writer: u64) -> ReplicatedMap<String, String> {
    let spec = ResourceSpec::new("map", "test.v1").unwrap().epoch(FenceEpoch::new(writer));
    ReplicatedMap::open(engine, spec).await.unwrap()
}

async fn put(map: &ReplicatedMap<String, String>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let value = format!("{MARK} {number} {}", "x".repeat(20_000));
        map.put(&format!("k{}", number % 7), &value).await.unwrap();
    }
}

async fn check(map: &ReplicatedMap<String, String>, end: u64) {
    for number in end - 7..end {
        let key = format!("k{}", number % 7);
        let read = map.get(&key, ReadConsistency::Linearizable).await.unwrap();
        let found = read.value.expect("it was put").value;
        assert!(found.starts_with(&format!("{MARK} {number} ")), "{number}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Files below a directory that hold what is marked.
fn showing(dir: &Path) -> Vec<PathBuf> {
    let shows = |path: &PathBuf| {
        let raw = std::fs::read(path).unwrap();
        raw.windows(MARK.len()).any(|window| window == MARK.as_bytes())
    };
    files(dir).into_iter().filter(shows).collect()
}

/// Epochs that the log needs, by its files alone.
fn needs(dir: &Path) -> Vec<u32> {
    let files = WalFiles::open(dir, Keys::none()).unwrap();
    let mut needs: Vec<u32> = files.needs().map(|(_, epoch)| epoch.get()).collect();
    needs.dedup();
    needs
}

async fn refusal(builder: EngineBuilder) -> String {
    let error = builder.open().await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Incompatible { .. }), "{error}");
    error.to_string()
}

/// Write, rotate while it runs, restart, let go of the former key, restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_is_rotated_and_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let mut held = ring();
    let keys = Keys::new(held.clone());
    let engine = builder(dir.path(), OLD, &keys).open().await.unwrap();
    let first = map(&engine, 1).await;
    put(&first, 0..20).await;
    assert_eq!(keys.held().keys().copied().collect::<Vec<_>>(), [epoch(1)]);

    held.rotate(&SystemRandomness).unwrap();
    keys.replace(held.clone()).unwrap();
    put(&first, 20..30).await;
    check(&first, 30).await;
    engine.close().await.unwrap();
    drop(first);

    let keys = Keys::new(held.clone());
    let engine = builder(dir.path(), OLD, &keys).open().await.unwrap();
    let second = map(&engine, 2).await;
    check(&second, 30).await;
    let mut without = held.clone();
    without.retire(epoch(1)).unwrap();
    // The log leaves its former segments as it is written to.
    let mut end = 30;
    while keys.replace(without.clone()).is_err() {
        put(&second, end..end + 10).await;
        end += 10;
        assert!(end < 3000, "epoch 1 is needed for ever: {:?}", keys.held());
    }
    engine.close().await.unwrap();
    drop(second);
    assert_eq!(needs(dir.path()), [2]);

    let keys = Keys::new(without.clone());
    let engine = builder(dir.path(), OLD, &keys).open().await.unwrap();
    check(&map(&engine, 3).await, end).await;
    engine.close().await.unwrap();
    assert_eq!(showing(&dir.path().join("wal")), Vec::<PathBuf>::new());
    assert_eq!(showing(&dir.path().join("snapshots")), Vec::<PathBuf>::new());
    assert!(!showing(&dir.path().join("state")).is_empty(), "the gap that is documented");

    // Whoever has not the key is told which.
    let mut none_left = without.clone();
    none_left.rotate(&SystemRandomness).unwrap();
    none_left.retire(epoch(2)).unwrap();
    let retired = refusal(builder(dir.path(), OLD, &Keys::new(none_left))).await;
    assert!(retired.contains("epoch=2, which is retired"), "{retired}");
    let missing = refusal(builder(dir.path(), OLD, &Keys::new(ring()))).await;
    assert!(missing.contains("epoch=2, which the key ring lacks"), "{missing}");
    let mut other = ring();
    other.rotate(&SystemRandomness).unwrap();
    let wrong = refusal(builder(dir.path(), OLD, &Keys::new(other))).await;
    assert!(wrong.contains("another key of epoch=2"), "{wrong}");
    let none = refusal(Engine::builder(dir.path()).cluster(OLD)).await;
    assert!(none.contains("epoch=2, and no key ring"), "{none}");

    let engine = builder(dir.path(), OLD, &Keys::new(without)).open().await.unwrap();
    check(&map(&engine, 4).await, end).await;
    engine.close().await.unwrap();
}

/// Keys do not seal the state store: who has keys says where that lies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_without_a_word_about_the_state_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let silent = Engine::builder(dir.path()).keys(Keys::new(ring()));
    let error = silent.open().await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }));
    assert!(error.to_string().contains("state_disk_is_encrypted"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A directory that was clear, and is sealed from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_given_to_a_node_that_had_none() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).cluster(OLD).open().await.unwrap();
    put(&map(&engine, 1).await, 0..10).await;
    engine.close().await.unwrap();
    assert!(!showing(&dir.path().join("wal")).is_empty(), "the search finds what is there");
    assert_eq!(needs(dir.path()), [0; 0]);
    let keys = Keys::new(ring());
    let engine = builder(dir.path(), OLD, &keys).open().await.unwrap();
    let sealed = map(&engine, 2).await;
    check(&sealed, 10).await;
    put(&sealed, 10..20).await;
    engine.close().await.unwrap();
    assert_eq!(needs(dir.path()), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_sealed_with_the_keys_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut held = ring();
    let keys = Keys::new(held.clone());
    let backups = dir.path().join("backups");
    let place = place(&backups);
    let options = Options { kept_entries: 1 << 20, ..Options::default() };
    let engine =
        builder(&dir.path().join("old"), OLD, &keys).options(options).open().await.unwrap();
    let old = map(&engine, 1).await;
    put(&old, 0..10).await;
    engine.backup(&place).full(&id("full")).await.unwrap();
    held.rotate(&SystemRandomness).unwrap();
    keys.replace(held.clone()).unwrap();
    put(&old, 10..15).await;
    engine.backup(&place).incremental(&id("last"), &id("full")).await.unwrap();
    engine.close().await.unwrap();
    assert_eq!(showing(&backups), Vec::<PathBuf>::new());
    let needed = place.key_epochs(&id("last")).await.unwrap();
    assert_eq!(needed, [(id("full"), Some(epoch(1))), (id("last"), Some(epoch(2)))]);

    // Without keys the hashes are known to hold, and no more.
    let error = verify(&place, &id("last")).await.unwrap_err();
    assert!(matches!(&error, BackupError::Key(KeyError::NotGiven { .. })), "{error}");
    assert!(error.to_string().contains("epoch=1"), "{error}");
    let opened = place.clone().with_keys(Keys::new(held.clone()));
    assert_eq!(verify(&opened, &id("last")).await.unwrap().len(), 2);

    // Neither does a restore begin with the wrong ones.
    let mut without = held.clone();
    without.retire(epoch(1)).unwrap();
    let target = dir.path().join("new");
    for keys in [Keys::new(without), Keys::new(ring())] {
        let anew = builder(&target, NEW, &keys);
        let error = restore(&place, &id("last"), &anew, RestoreTo::End).await.unwrap_err();
        assert!(matches!(error, BackupError::Key(_)), "{error}");
        assert!(!target.exists());
    }
    let anew = builder(&target, NEW, &Keys::new(held));
    restore(&place, &id("last"), &anew, RestoreTo::End).await.unwrap();
    let engine = anew.open().await.unwrap();
    check(&map(&engine, 9).await, 15).await;
    engine.close().await.unwrap();

    // A file of another backup, or a byte changed: the hash says so first, and the key if that is set right.
    let file = files(&backups).into_iter().find(|path| path.ends_with("state-0")).unwrap();
    let mut raw = std::fs::read(&file).unwrap();
    raw[40] ^= 1;
    std::fs::write(&file, raw).unwrap();
    let error = verify(&place, &id("full")).await.unwrap_err();
    assert!(matches!(error, BackupError::Damaged { .. }), "without a key: {error}");
}
