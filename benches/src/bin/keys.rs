//! How long a node takes to open with a map of many small keys.
//!
//! What is measured is a start after a close: everything is flushed, and nothing of it is read before it is
//! asked for.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use palisade::{
    BATCH_OPS_MAX, Engine, Error, History, ReadConsistency, ReplicatedMap, ResourceSpec,
};
use palisade_benches::{ended, memory};
use tokio::task::JoinSet;

/// Batches under way at a time.
const BATCHES: usize = 16;
/// Between two reports while it fills.
const TELL_EVERY: u64 = 5_000_000;

/// How long a node takes to open with a map of many small keys.
#[derive(Parser)]
struct Args {
    /// Keys of 8 bytes, with values of 8.
    #[arg(long, default_value_t = 50_000_000)]
    keys: u64,
    /// Starts; the one in the middle counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Most that the median start may take until the node is open, in milliseconds: with more, this fails.
    #[arg(long)]
    open_ms_max: Option<f64>,
    /// Where the data goes; a temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    ended(run(Args::parse()).await)
}

async fn map_of(engine: &Engine) -> Result<ReplicatedMap<u64, u64>, Error> {
    ReplicatedMap::open(engine, ResourceSpec::new("keys", "number.v1")?).await
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
async fn fill(dir: &Path, keys: u64) -> Result<(), String> {
    let engine = Engine::builder(dir).open().await.map_err(text)?;
    let map = map_of(&engine).await.map_err(text)?;
    map.keep(History::NEWEST_ONLY).await.map_err(text)?;
    let begun = Instant::now();
    let mut batches = JoinSet::new();
    for first in (0..keys).step_by(BATCH_OPS_MAX) {
        let mut batch = engine.batch();
        for key in first..(first + BATCH_OPS_MAX as u64).min(keys) {
            // Spread, as names are: a permutation of all numbers.
            batch = batch.put(&map, &key.wrapping_mul(0x9e37_79b9_7f4a_7c15), &key);
        }
        batches.spawn(async move { batch.commit().await.map(|_| ()) });
        if batches.len() >= BATCHES
            && let Some(done) = batches.join_next().await
        {
            done.map_err(text)?.map_err(text)?;
        }
        if first / TELL_EVERY != (first + BATCH_OPS_MAX as u64) / TELL_EVERY {
            println!("{first} keys after {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    while let Some(done) = batches.join_next().await {
        done.map_err(text)?.map_err(text)?;
    }
    engine.close().await.map_err(text)
}

/// How long until it is open, and until a key was read from its own state.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
async fn open(dir: &Path, key: u64) -> Result<(Duration, Duration), String> {
    let begun = Instant::now();
    let engine = Engine::builder(dir).open().await.map_err(text)?;
    let opened = begun.elapsed();
    let spec = ResourceSpec::new("keys", "number.v1").map_err(text)?;
    let reader = ReplicatedMap::<u64, u64>::open_reader(&engine, &spec.name, &spec.schema);
    let reader = reader.await.map_err(text)?;
    let name = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let found = reader.get(&name, ReadConsistency::Local).await.map_err(text)?;
    let read = begun.elapsed();
    if found.value.is_none_or(|found| found.value != key) {
        return Err(format!("key={key} is not there"));
    }
    engine.close().await.map_err(text)?;
    Ok((opened, read))
}

fn disk_bytes(dir: &Path) -> Result<u64, String> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(text)? {
        let entry = entry.map_err(text)?;
        let found = entry.metadata().map_err(text)?;
        bytes += if found.is_dir() { disk_bytes(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}

async fn run(args: Args) -> Result<(), String> {
    if args.keys == 0 {
        return Err("--keys must be at least 1".into());
    }
    let temporary = tempfile::tempdir().map_err(text)?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned()).join("keys");
    fill(&dir, args.keys).await?;
    let gib = disk_bytes(&dir)? as f64 / (1 << 30) as f64;
    println!("{} keys, {gib:.2} GiB on disk", args.keys);
    let mut starts = Vec::new();
    for number in 0..args.runs.max(1) as u64 {
        let (opened, read) = open(&dir, number * 7919 % args.keys).await?;
        let (opened, read) = (opened.as_secs_f64(), read.as_secs_f64());
        println!("open after {opened:.3} s, a key read after {read:.3} s");
        starts.push((opened, read));
    }
    starts.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (opened, read) = starts[starts.len() / 2];
    let peak = memory()?.peak;
    println!("median: open after {opened:.3} s, a key read after {read:.3} s; peak {peak:.0} MiB");
    let opened_ms = 1000.0 * opened;
    match args.open_ms_max {
        Some(max) if max < opened_ms => Err(format!(
            "a node is open after {opened_ms:.0} ms, and at most {max} ms was asked for"
        )),
        _ => Ok(()),
    }
}
