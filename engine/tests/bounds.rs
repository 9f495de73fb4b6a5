//! What an engine holds in memory is bounded by its settings, however much is stored.

#![cfg(feature = "rocksdb")]

use std::path::Path;
use std::process::Command;

use palisade::{
    Engine, History, Options, ReadConsistency, ReplicatedMap, ResourceSpec, WalOptions,
};
use tokio::task::JoinSet;

/// Says to the process of the test where it is to fill an engine.
const DIR: &str = "PALISADE_TEST_BOUNDS_DIR";
const TEST: &str = "ten_times_the_caches_are_taken_in_within_the_stated_memory";

const CACHE_BYTES: usize = 8 << 20;
const WRITE_BUFFER_BYTES: usize = 8 << 20;
const VALUE_BYTES: usize = 32 << 10;
const VALUES: usize = 10 * (CACHE_BYTES + WRITE_BUFFER_BYTES) / VALUE_BYTES;
const WRITERS: usize = 8;

fn options() -> Options {
    Options {
        proposals_bytes_max: 4 << 20,
        uncommitted_bytes_max: 8 << 20,
        apply_backlog_bytes_max: 8 << 20,
        entry_cache_bytes_max: 4 << 20,
        flush_bytes_target: 4 << 20,
        ..Options::default()
    }
}

fn wal_options() -> WalOptions {
    WalOptions { queued_bytes_max: 16 << 20, ..WalOptions::default() }
}

/// What `engine/docs/bounds.md` says of an engine with one group and without peers.
fn stated_bytes() -> usize {
    let options = options();
    let state = CACHE_BYTES + 3 * WRITE_BUFFER_BYTES;
    let log = 2 * wal_options().queued_bytes_max + options.entry_cache_bytes_max;
    let requests = options.proposals_bytes_max
        + options.uncommitted_bytes_max
        + options.apply_backlog_bytes_max;
    state + log + requests
}

/// What is resident of this process in KiB: now, or the most it was.
fn resident_kib(which: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Bytes that no compression makes less of.
fn value(number: usize) -> Vec<u8> {
    let mut state = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..VALUE_BYTES / 8).flat_map(|_| word()).collect()
}

async fn open(dir: &Path) -> (Engine, ReplicatedMap<u64, Vec<u8>>) {
    let builder = Engine::builder(dir)
        .state_cache_bytes(CACHE_BYTES)
        .state_write_buffer_bytes(WRITE_BUFFER_BYTES)
        .options(options())
        .wal(wal_options());
    let engine = builder.open().await.unwrap();
    let map = ReplicatedMap::open(&engine, ResourceSpec::new("m", "bytes.v1").unwrap());
    let map = map.await.unwrap();
    (engine, map)
}

async fn fill(dir: &Path) {
    let (engine, map) = open(dir).await;
    map.keep(History::NEWEST_ONLY).await.unwrap();
    let before = resident_kib("VmRSS");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let map = map.clone();
        writers.spawn(async move {
            for number in (writer..VALUES).step_by(WRITERS) {
                map.put(&(number as u64), &value(number)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    for number in 0..VALUES {
        let read = map.get(&(number as u64), ReadConsistency::Local).await.unwrap();
        assert_eq!(read.value.unwrap().value, value(number), "number={number}");
    }
    println!("grew_kib={}", resident_kib("VmHWM") - before);
    engine.close().await.unwrap();
}

#[test]
fn ten_times_the_caches_are_taken_in_within_the_stated_memory() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(dir) = std::env::var_os(DIR) {
        return runtime.block_on(fill(Path::new(&dir)));
    }
    // In a process of its own: tests beside this one take memory too.
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{told}\n{errors}");
    let grew = told.lines().find_map(|line| line.split("grew_kib=").nth(1)).unwrap();
    let grew_kib: usize = grew.trim().parse().unwrap();
    let stated_kib = stated_bytes() / 1024;
    println!(
        "stored_kib={} grew_kib={grew_kib} stated_kib={stated_kib}",
        VALUES * VALUE_BYTES / 1024
    );
    assert!(grew_kib <= stated_kib, "grew_kib={grew_kib}, stated_kib={stated_kib}");
}
