//! A directory that a newer release has written.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use crate::engine::Engine;
use crate::error::Error;
use crate::keys;
use crate::machine::STATE_VERSION;
use crate::map::ReplicatedMap;
use crate::read::ReadConsistency;
use crate::resource::ResourceSpec;
use crate::store::{
    Direction, Families, FamilyId, RocksStore, StateMemory, StateRead, StateStore, Walk, WriteSet,
};

fn state(dir: &Path) -> RocksStore {
    let families = Families::new(&[]).unwrap();
    RocksStore::open(&dir.join("state"), families, StateMemory::default()).unwrap()
}

/// Puts this in place of whose the state is, and gives what was there.
fn owned(dir: &Path, owner: Bytes) -> Bytes {
    let store = state(dir);
    let before = store.get(FamilyId::META, keys::OWNER).unwrap().unwrap();
    let row = (FamilyId::META, keys::OWNER.to_vec(), Some(owner));
    store.commit(WriteSet::rows(vec![row])).unwrap();
    store.flush().unwrap();
    before
}

type Row = (FamilyId, Vec<u8>, Vec<u8>);

/// Every row of the state, and every other file.
fn everything(dir: &Path) -> (Vec<Row>, BTreeMap<String, Vec<u8>>) {
    let (store, mut rows) = (state(dir), Vec::new());
    for family in store.families().ids() {
        let mut each = |key: &[u8], value: &[u8]| {
            rows.push((family, key.to_vec(), value.to_vec()));
            Walk::Next
        };
        store.walk(family, &[], &[0xff; 64], Direction::Forward, &mut each).unwrap();
    }
    let (mut files, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("state") {
                folders.push(path);
            } else if path.is_file() {
                let name = path.display().to_string();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    (rows, files)
}

/// G10: it is refused by its number, before anything of it is changed, and the release that wrote it goes on.
#[tokio::test]
async fn a_state_of_a_newer_release_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let spec = || ResourceSpec::new("map", "test.v1").unwrap();
    let engine = Engine::builder(dir).open().await.unwrap();
    let map: ReplicatedMap<String, String> = ReplicatedMap::open(&engine, spec()).await.unwrap();
    map.put(&"k".into(), &"v".into()).await.unwrap();
    engine.close().await.unwrap();
    drop((map, engine));

    let own = owned(dir, Bytes::from_static(&[STATE_VERSION + 1, 1, 2, 3]));
    let before = everything(dir);
    for _ in 0..2 {
        let refused = Engine::builder(dir).open().await.map(|_| ()).unwrap_err();
        let Error::Incompatible { expected, found } = &refused else { panic!("{refused}") };
        assert_eq!(*expected, format!("state version={STATE_VERSION}"));
        assert!(found.contains(&(STATE_VERSION + 1).to_string()), "by its number: {found}");
        assert!(found.contains("newer release"), "and what to do: {found}");
        assert!(before == everything(dir), "something was written before it was refused");
    }

    owned(dir, own);
    let engine = Engine::builder(dir).open().await.unwrap();
    let map: ReplicatedMap<String, String> = ReplicatedMap::open(&engine, spec()).await.unwrap();
    let read = map.get(&"k".into(), ReadConsistency::Linearizable).await.unwrap();
    assert_eq!(read.value.unwrap().value, "v");
    engine.close().await.unwrap();
}

/// The checksum of a file, as it is where `at` says, made anew.
fn summed(mut raw: Vec<u8>, at: std::ops::Range<usize>) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&raw[..at.start]);
    hasher.update(&raw[at.end..]);
    let crc = hasher.finalize().to_le_bytes();
    raw[at].copy_from_slice(&crc);
    raw
}

/// G10: each file that is read before the state says its version, and is refused by it.
#[tokio::test]
async fn every_file_of_a_newer_release_is_refused_by_name_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let segment = loop {
        let engine = Engine::builder(dir).open().await.unwrap();
        engine.close().await.unwrap();
        let files = std::fs::read_dir(dir.join("wal")).unwrap();
        let mut names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        if let Some(name) = names.find(|name| name.ends_with(".seg")) {
            break format!("wal/{name}");
        }
    };
    for file in ["node", "ages", "terms", "terms.copy", segment.as_str()] {
        let path = dir.join(file);
        let own = std::fs::read(&path).unwrap();
        let mut newer = own.clone();
        newer[8..12].copy_from_slice(&77_u32.to_le_bytes());
        let newer = if file == segment {
            let (head, frames) = newer.split_at(96);
            [&summed(head.to_vec(), 12..16)[..], frames].concat()
        } else {
            let end = newer.len();
            summed(newer, end - 4..end)
        };
        std::fs::write(&path, &newer).unwrap();
        let refused = Engine::builder(dir).open().await.map(|_| ()).unwrap_err();
        let Error::Incompatible { found, .. } = &refused else { panic!("{file}: {refused}") };
        assert!(found.contains(file.trim_start_matches("wal/")), "by its name: {found}");
        assert!(found.contains("version=77"), "by its number: {found}");
        assert!(found.contains("newer release"), "and what to do: {found}");
        assert!(std::fs::read(&path).unwrap() == newer, "{file} was changed before it was refused");
        std::fs::write(&path, &own).unwrap();
    }
    let engine = Engine::builder(dir).open().await.unwrap();
    engine.close().await.unwrap();
}
