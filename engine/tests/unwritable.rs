//! A data directory that cannot be written, or has no room for another file's name. On real file systems that are
//! so, as root alone.
#![cfg(all(feature = "rocksdb", target_os = "linux"))]

#[path = "support/mounted.rs"]
mod mounted;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mounted::mounted;
use palisade::{
    Disposition, Engine, Error, ReadConsistency, ReplicatedMap, ResourceSpec, WalOptions,
};

const PATIENCE: Duration = Duration::from_secs(120);

type Texts = ReplicatedMap<String, String>;

async fn open(dir: &Path) -> Result<Engine, Error> {
    // Small, so that new files are wanted soon.
    let wal =
        WalOptions { segment_bytes: 16 << 20, batch_bytes_max: 15 << 20, ..WalOptions::default() };
    Engine::builder(dir).wal(wal).state_write_buffer_bytes(2 << 20).open().await
}

async fn texts(engine: &Engine) -> Texts {
    ReplicatedMap::open(engine, ResourceSpec::new("texts", "text.v1").unwrap()).await.unwrap()
}

fn remount(at: &Path, how: &str) {
    let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(at).status();
    assert!(done.unwrap().success(), "remount,{how}");
}

/// It is refused with what is the matter, and is as it was once that is over.
#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused() {
    let test = "a_directory_that_cannot_be_written_is_refused";
    let Some(at) = mounted(test, "mount -t tmpfs -o size=256m none \"$1\"") else { return };
    let dir = at.join("node");
    remount(&at, "ro");
    let refused = open(&dir).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("Read-only file system"), "before it is there: {refused}");
    remount(&at, "rw");
    let engine = open(&dir).await.unwrap();
    texts(&engine).await.put(&"k".into(), &"v".into()).await.unwrap();
    engine.close().await.unwrap();

    remount(&at, "ro");
    for _ in 0..2 {
        let refused = open(&dir).await.map(drop).unwrap_err();
        let said = refused.to_string();
        assert_eq!(refused.disposition(), Disposition::Halt, "{said}");
        assert!(said.contains("Read-only file system"), "{said}");
    }
    remount(&at, "rw");
    let engine = open(&dir).await.unwrap();
    let read = texts(&engine).await.get(&"k".into(), ReadConsistency::Linearizable).await.unwrap();
    assert_eq!(read.value.unwrap().value, "v");
    engine.close().await.unwrap();
}

/// No room for a file is as no room in a file: nothing is taken in, and it goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_room_for_names_comes_back_by_itself() {
    let test = "a_directory_without_room_for_names_comes_back_by_itself";
    let prepare = "mount -t tmpfs -o size=1g,nr_inodes=200 none \"$1\"";
    let Some(at) = mounted(test, prepare) else { return };
    let engine = open(&at.join("node")).await.unwrap();
    let map = texts(&engine).await;
    let names = at.join("names");
    fs::create_dir(&names).unwrap();
    let taken = (0..).find(|number| File::create(names.join(number.to_string())).is_err());
    println!("{taken:?} names were left");

    let (value, mut written) = ("v".repeat(100_000), 0_u64);
    for attempt in 0.. {
        assert!(attempt < 2_000, "another file was never wanted");
        match map.put(&format!("k{written}"), &value).await {
            Ok(_) => written += 1,
            Err(Error::RateLimited { .. }) => break,
            // It was taken in before there was no room for it, and waits.
            Err(Error::Disconnected { outcome_unknown: true }) => {}
            Err(error) => panic!("after {written}: {error}"),
        }
    }
    map.get(&"k0".into(), ReadConsistency::Local).await.unwrap().value.unwrap();
    fs::remove_dir_all(&names).unwrap();
    let took = tokio::time::timeout(PATIENCE, async {
        while map.put(&"last".into(), &value).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    took.await.expect("it goes on by itself");
    engine.close().await.unwrap();
    drop(map);
    let engine = open(&at.join("node")).await.unwrap();
    let map = texts(&engine).await;
    for key in (0..written).map(|number| format!("k{number}")).chain(["last".to_owned()]) {
        let read = map.get(&key, ReadConsistency::Linearizable).await.unwrap();
        assert_eq!(read.value.expect("G1").value, value, "{key}");
    }
    engine.close().await.unwrap();
}
