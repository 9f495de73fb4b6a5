//! What a snapshot costs those who write meanwhile: three nodes with some state, callers in a closed
//! loop, and a newcomer that gets all of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use palisade::{Engine, Group, GroupId, Member, MemberChange, ReplicatedMap};
use palisade_benches::{
    Nodes, Stretch, Writers, builder, data_dir, ended, forget_peak, free_addresses, memory,
    node_at, spec,
};
use tokio::time::{Instant, sleep};

/// Bytes of a row of the state that is there before, and of those written meanwhile.
const ROW_BYTES: usize = 4096;
const WRITE_BYTES: usize = 256;
/// Writes go to so many rows in turn, so the state does not grow.
const WRITE_ROWS: u64 = 10_000;
const FILL_CALLERS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(600);

/// Writes a second without, during and after the transfer of a snapshot, and the memory it takes.
#[derive(Parser)]
struct Args {
    /// The state that is transferred, in MiB.
    #[arg(long, default_value_t = 400)]
    state_mib: usize,
    /// Callers at once.
    #[arg(long, default_value_t = 64)]
    callers: usize,
    /// How long to measure before and after each transfer, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Transfers; the one in the middle counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Least that the median of writes may be from the change until the newcomer has caught up, in percent of
    /// those before: with fewer, this fails.
    #[arg(long)]
    share_min: Option<f64>,
    /// Most that the median of memory may rise by meanwhile, in MiB: with more, this fails.
    #[arg(long)]
    memory_mib_max: Option<f64>,
    /// Where the data goes; a temporary directory if not given. It should be on a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// One transfer: stretches of time one after the other, and the most memory in each.
struct Run {
    before: (Stretch, f64),
    /// Until the state is written out.
    export: (Stretch, f64),
    /// Until the newcomer has it.
    install: (Stretch, f64),
    /// Until the newcomer has caught up with the log.
    catch_up: (Stretch, f64),
    after: (Stretch, f64),
}

impl Run {
    /// From the change of membership until the newcomer has caught up.
    fn during(&self) -> f64 {
        let parts = [self.export.0, self.install.0, self.catch_up.0];
        let writes: f64 =
            parts.iter().map(|part| part.per_second * part.length.as_secs_f64()).sum();
        writes / parts.iter().map(|part| part.length.as_secs_f64()).sum::<f64>()
    }

    fn print(&self) {
        let stretches = [
            ("before", self.before),
            ("export", self.export),
            ("install", self.install),
            ("catch up", self.catch_up),
            ("after", self.after),
        ];
        for (name, (stretch, peak)) in stretches {
            println!(
                "{name:>8} {:>7.1} s {:>9.0} {:>9.0}% {:>9.0}% {:>7.0} ms {peak:>7.0} MiB",
                stretch.length.as_secs_f64(),
                stretch.per_second,
                100.0 * stretch.per_second / self.before.0.per_second,
                100.0 * stretch.per_second / self.after.0.per_second,
                stretch.wait_max.as_secs_f64() * 1000.0,
            );
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    ended(run(Args::parse()).await)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn run(args: Args) -> Result<(), String> {
    let temporary = tempfile::tempdir().map_err(text)?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let nodes = Nodes::open(&dir).await?;
    let (_, leader) = nodes.leader().await?;
    let map: ReplicatedMap<u64, Vec<u8>> =
        ReplicatedMap::open(leader, spec("state")?).await.map_err(text)?;
    fill(&map, args.state_mib).await?;

    println!(
        "{:>8} {:>9} {:>9} {:>10} {:>10} {:>10} {:>11}",
        "", "length", "writes/s", "of before", "of after", "p100", "peak"
    );
    let put = move |number: u64| {
        let (map, row) = (map.clone(), u64::MAX - number % WRITE_ROWS);
        async move { map.put(&row, &bytes(number, WRITE_BYTES)).await.map(|_| ()).map_err(text) }
    };
    let writers = Writers::start(args.callers, put);
    let mut runs = Vec::new();
    for at in 0..args.runs.max(1) {
        let run = transfer(&nodes, &writers, &dir, 3 + at, args.seconds).await?;
        run.print();
        runs.push(run);
    }
    writers.stop().await?;
    let median = |of: fn(&Run) -> f64| {
        let mut all: Vec<f64> = runs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let of_before = 100.0 * median(|run| run.during() / run.before.0.per_second);
    let of_after = 100.0 * median(|run| run.during() / run.after.0.per_second);
    let risen = median(|run| run.export.1.max(run.install.1).max(run.catch_up.1) - run.before.1);
    println!(
        "medians of {}: from the change of membership until the newcomer has caught up {of_before:.0} % of \
         before, {of_after:.0} % of after; {risen:+.0} MiB at the peak",
        runs.len(),
    );
    nodes.close().await?;
    // Without writes before there is no share of them.
    let is_less = |least: &f64| !of_before.is_finite() || of_before < *least;
    if let Some(least) = args.share_min.filter(is_less) {
        return Err(format!("{of_before:.0} % of before, and at least {least} % was asked for"));
    }
    if let Some(most) = args.memory_mib_max.filter(|most| *most < risen) {
        return Err(format!("{risen:+.0} MiB, and at most {most} MiB was asked for"));
    }
    Ok(())
}

/// Adds a newcomer, waits until it has everything, and takes it out again.
async fn transfer(
    nodes: &Nodes,
    writers: &Writers,
    dir: &Path,
    at: usize,
    seconds: u64,
) -> Result<Run, String> {
    let length = Duration::from_secs(seconds);
    let (place, leader) = nodes.leader().await?;
    let shelf = data_dir(dir, place).join("snapshots");
    until("a trimmed log", async || {
        Ok(data(leader)?.status().await.map_err(text)?.first_index.get() > 1)
    })
    .await?;

    let begin = || forget_peak().map(|()| writers.lap());
    let end = |lap| memory().map(|memory| (writers.since(lap), memory.peak));

    let lap = begin()?;
    sleep(length).await;
    let before = end(lap)?;

    let mut addresses = nodes.addresses().to_vec();
    addresses.resize(at, addresses[0]);
    addresses.extend(free_addresses(1)?);
    let newcomer = builder(dir, &addresses, at).joins().open().await.map_err(text)?;
    let older = exports(&shelf)?;
    let member = Member {
        address: Some(addresses[at]),
        incarnation: Some(newcomer.incarnation()),
        ..Member::default()
    };
    let lap = begin()?;
    change(leader, MemberChange::AddLearner { node: node_at(at), member }).await?;
    until("an export", async || Ok(exports(&shelf)?.iter().any(|name| !older.contains(name))))
        .await?;
    let export = end(lap)?;

    let lap = begin()?;
    until(
        "an installed snapshot",
        async || Ok(data(&newcomer)?.applied().map_err(text)?.get() > 0),
    )
    .await?;
    let install = end(lap)?;

    // Behind by less than a quarter of a second is caught up, while all go on writing.
    let lag_max = (before.0.per_second / 4.0) as u64;
    let lap = begin()?;
    until("a newcomer that has caught up", async || {
        let applied = data(&newcomer)?.applied().map_err(text)?.get();
        Ok(applied + lag_max >= data(leader)?.applied().map_err(text)?.get())
    })
    .await?;
    let catch_up = end(lap)?;

    let lap = begin()?;
    sleep(length).await;
    let after = end(lap)?;
    change(leader, MemberChange::Remove { node: node_at(at) }).await?;
    newcomer.close().await.map_err(text)?;
    std::fs::remove_dir_all(data_dir(dir, at)).map_err(text)?;
    Ok(Run { before, export, install, catch_up, after })
}

/// The exports that are whole.
fn exports(shelf: &Path) -> Result<Vec<String>, String> {
    let names = std::fs::read_dir(shelf).map_err(text)?;
    let names = names.map(|entry| Ok(entry.map_err(text)?.file_name().to_string_lossy().into()));
    let names: Vec<String> = names.collect::<Result<_, String>>()?;
    let is_whole = |name: &String| name.starts_with("out-") && name.ends_with(".manifest");
    Ok(names.into_iter().filter(is_whole).collect())
}

async fn until(
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !holds().await? {
        if Instant::now() > end {
            return Err(format!("no {what} within {PATIENCE:?}"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The group of all that is written here.
fn data(engine: &Engine) -> Result<Group, String> {
    engine.group(GroupId::new(1)).map_err(text)
}

/// A new leader, or another change, may stand in its way for a moment.
async fn change(leader: &Engine, change: MemberChange) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = leader.change_members(change.clone()).await {
        if Instant::now() > end {
            return Err(error.to_string());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Puts the state that is to be transferred.
async fn fill(map: &ReplicatedMap<u64, Vec<u8>>, state_mib: usize) -> Result<(), String> {
    let rows = ((state_mib << 20) / ROW_BYTES) as u64;
    let mut puts = tokio::task::JoinSet::new();
    for row in 0..rows {
        if puts.len() >= FILL_CALLERS {
            puts.join_next().await.expect("some are there").map_err(text)??;
        }
        let map = map.clone();
        puts.spawn(
            async move { map.put(&row, &bytes(row, ROW_BYTES)).await.map(|_| ()).map_err(text) },
        );
    }
    while let Some(put) = puts.join_next().await {
        put.map_err(text)??;
    }
    Ok(())
}

/// Bytes that do not compress.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    let mut state = seed;
    while bytes.len() < count {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}
