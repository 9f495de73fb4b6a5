//! What a start costs after a kill: how long until the node is open and until it serves, for so much log.
//!
//! A process of its own fills a map and is killed with SIGKILL. With what is set by default the state was
//! flushed not long before; with nothing flushed, all of the log is applied again. Beside it, in the same
//! run: how long it takes to read the files of the log and do nothing else.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use palisade::{
    Engine, EngineBuilder, Error, Options, ReadConsistency, ReplicatedMap, ResourceSpec,
};
use palisade_benches::ended;
use tokio::task::JoinSet;

const MIB: u64 = 1 << 20;
/// Values in one batch, and batches under way at a time.
const BATCH_VALUES: u64 = 16;
const BATCHES: usize = 16;

/// How long a killed node takes until it serves again, for each GiB of its log.
#[derive(Parser)]
struct Args {
    /// What is written before the kill, in MiB of values.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Bytes of a value, which do not compress.
    #[arg(long, default_value_t = 4096)]
    value_bytes: u64,
    /// Kills for each setting; the one in the middle counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where the data goes; a temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Nothing of the state is flushed.
    #[arg(long, hide = true)]
    unflushed: bool,
    /// Fills this directory and waits to be killed.
    #[arg(long, hide = true)]
    fill: Option<PathBuf>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.fill {
        Some(dir) => fill(dir, &args).await,
        None => run(&args).await,
    };
    ended(done)
}

fn builder(dir: &Path, args: &Args) -> EngineBuilder {
    let builder = Engine::builder(dir);
    if !args.unflushed {
        return builder;
    }
    // Neither is full before the kill: a row takes more than its value.
    let never = (4 * args.mib * MIB) as usize;
    let options = Options { flush_bytes_target: never, ..Options::default() };
    builder.state_write_buffer_bytes(never).options(options)
}

async fn map_of(engine: &Engine) -> Result<ReplicatedMap<u64, Vec<u8>>, Error> {
    ReplicatedMap::open(engine, ResourceSpec::new("recovery", "bytes.v1")?).await
}

/// Bytes that no compression makes less of.
fn value(number: u64, bytes: u64) -> Vec<u8> {
    let mut state = number ^ 0x9e37_79b9_7f4a_7c15;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(bytes as usize).collect()
}

async fn fill(dir: &Path, args: &Args) -> Result<(), String> {
    let engine = builder(dir, args).open().await.map_err(text)?;
    let map = map_of(&engine).await.map_err(text)?;
    let mut batches = JoinSet::new();
    let bytes = args.value_bytes;
    for first in (0..args.mib * MIB / bytes).step_by(BATCH_VALUES as usize) {
        let (engine, map) = (engine.clone(), map.clone());
        batches.spawn(async move { put_all(&engine, &map, first, bytes).await });
        if batches.len() >= BATCHES {
            settled(batches.join_next().await)?;
        }
    }
    while let Some(done) = batches.join_next().await {
        settled(Some(done))?;
    }
    println!("filled");
    // Until it is killed, or whoever began it is gone.
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).map_err(text)?;
    Ok(())
}

async fn put_all(
    engine: &Engine,
    map: &ReplicatedMap<u64, Vec<u8>>,
    first: u64,
    bytes: u64,
) -> Result<(), Error> {
    loop {
        let mut batch = engine.batch();
        for number in first..first + BATCH_VALUES {
            batch = batch.put(map, &number, &value(number, bytes));
        }
        match batch.commit().await {
            Err(Error::RateLimited { retry_after_ms }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            done => return done.map(|_| ()),
        }
    }
}

fn settled(done: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Result<(), String> {
    done.map_or(Ok(()), |done| done.map_err(text)?.map_err(text))
}

/// Fills a directory in a process that is killed when it has.
fn filled(dir: &Path, args: &Args) -> Result<(), String> {
    let program = std::env::current_exe().map_err(text)?;
    let mut command = Command::new(program);
    command.arg("--fill").arg(dir).args(["--mib", &args.mib.to_string()]);
    command.args(["--value-bytes", &args.value_bytes.to_string()]);
    if args.unflushed {
        command.arg("--unflushed");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(text)?;
    let told = wait_for_fill(&mut child);
    let killed = child.kill().and_then(|()| child.wait()).map_err(text);
    told.and(killed.map(|_| ()))
}

fn wait_for_fill(child: &mut Child) -> Result<(), String> {
    let told = child.stdout.take().ok_or("no standard output")?;
    let line = BufReader::new(told).lines().next().ok_or("it ended before it was killed")?;
    if line.map_err(text)? == "filled" { Ok(()) } else { Err("it said something else".into()) }
}

/// One start after a kill.
#[derive(Clone, Copy)]
struct Start {
    log_bytes: u64,
    read: Duration,
    opened: Duration,
    served: Duration,
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
async fn start(dir: &Path, args: &Args) -> Result<Start, String> {
    let begun = Instant::now();
    let log_bytes = read_log(&dir.join("wal"))?;
    let read = begun.elapsed();
    let begun = Instant::now();
    let engine = builder(dir, args).open().await.map_err(text)?;
    let opened = begun.elapsed();
    let map = loop {
        match map_of(&engine).await {
            Ok(map) => break map,
            // It still applies its log, and nobody else leads.
            Err(Error::Disconnected { .. }) => {}
            Err(error) => return Err(text(error)),
        }
    };
    let last = args.mib * MIB / args.value_bytes - 1;
    let found = map.get(&last, ReadConsistency::Linearizable).await.map_err(text)?;
    let served = begun.elapsed();
    if found.value.is_none_or(|found| found.value != value(last, args.value_bytes)) {
        return Err("the last value that was acknowledged is not there".into());
    }
    engine.close().await.map_err(text)?;
    Ok(Start { log_bytes, read, opened, served })
}

/// Reads every file of the log, and says how much that is.
fn read_log(dir: &Path) -> Result<u64, String> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let path = entry.map_err(text)?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let mut file = std::fs::File::open(&path).map_err(text)?;
            bytes += std::io::copy(&mut file, &mut std::io::sink()).map_err(text)?;
        }
    }
    Ok(bytes)
}

async fn run(args: &Args) -> Result<(), String> {
    let temporary = tempfile::tempdir().map_err(text)?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    println!("{} MiB of values of {} bytes, then SIGKILL", args.mib, args.value_bytes);
    for unflushed in [false, true] {
        let args = Args { dir: None, fill: None, unflushed, ..*args };
        let what = if unflushed { "nothing flushed" } else { "flushed by default" };
        let mut starts = Vec::new();
        for number in 0..args.runs.max(1) {
            let dir = dir.join(format!("recovery-{unflushed}-{number}"));
            filled(&dir, &args)?;
            let start = start(&dir, &args).await?;
            println!("{what}: {}", told(&start));
            starts.push(start);
            std::fs::remove_dir_all(&dir).map_err(text)?;
        }
        starts.sort_by_key(|start| start.served);
        println!("{what}, median: {}", told(&starts[starts.len() / 2]));
    }
    Ok(())
}

fn told(start: &Start) -> String {
    let Start { log_bytes, read, opened, served } = *start;
    let gib = log_bytes as f64 / (1 << 30) as f64;
    let each = |length: Duration| length.as_secs_f64() / gib.max(f64::EPSILON);
    format!(
        "{gib:.2} GiB of log; read in {:.2} s, open after {:.2} s, serves after {:.2} s; \
         for each GiB {:.2}, {:.2} and {:.2} s; serving / reading {:.1}",
        read.as_secs_f64(),
        opened.as_secs_f64(),
        served.as_secs_f64(),
        each(read),
        each(opened),
        each(served),
        served.as_secs_f64() / read.as_secs_f64().max(f64::EPSILON),
    )
}
