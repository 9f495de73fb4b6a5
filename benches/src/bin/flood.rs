//! Proposals as fast as a process can offer them, without waiting for an answer: what is refused,
//! what is acknowledged, and how much memory it takes, against the bounds by name (G12).
//!
//! Three nodes, each a process of its own, so that each has its own memory figure and one can be
//! stopped. The flood comes from the process of the leader. What its callers themselves hold, a
//! future for each request that was not answered or whose answer was not looked at yet, is in that
//! process's figure: it is told beside it, and counts as the callers'.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use clap::Parser;
use palisade::{Disk, Error, OpenDisk, Options, ReplicatedLog, Role, WalOptions};
use palisade_benches::{Memory, builder, ended, free_addresses, memory_of, record, spec, voting};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Proposals offered before the answers to earlier ones are looked at.
const BURST: usize = 64;
/// Callers who wait at once: then the flood looks at answers before it goes on.
const CALLERS_MAX: usize = 1 << 17;
/// What a caller holds beside its future: the record, the record as it is proposed, what it waits on, and its deadline.
const CALLER_BYTES: usize = 2 << 10;
/// Memory of the state store: rows not flushed yet, and blocks that were read.
const STATE_BYTES: usize = 128 << 20;

/// A flood of proposals with nothing slow, with a stopped follower, with slow disks, and from
/// callers that do not wait for long.
#[derive(Clone, Parser)]
struct Args {
    /// Length of each flood, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Which; all if not given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How long a sync of a slow disk takes, in milliseconds.
    #[arg(long, default_value_t = 100)]
    slow_sync_ms: u64,
    /// How long an impatient caller waits, in milliseconds.
    #[arg(long, default_value_t = 300)]
    patience_ms: u64,
    /// Where the data goes; a temporary directory if not given. It should be on a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// For a process of this tool: which node it is, and where all of them listen.
    #[arg(long, hide = true)]
    node: Option<usize>,
    #[arg(long, hide = true, value_delimiter = ',')]
    addresses: Vec<SocketAddr>,
    #[arg(long, hide = true)]
    slow: bool,
    #[arg(long, hide = true)]
    impatient: bool,
}

struct Scenario {
    name: &'static str,
    stopped_follower: bool,
    slow_disks: bool,
    impatient: bool,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "plain", stopped_follower: false, slow_disks: false, impatient: false },
    Scenario { name: "stopped", stopped_follower: true, slow_disks: false, impatient: false },
    Scenario { name: "slow", stopped_follower: false, slow_disks: true, impatient: false },
    Scenario { name: "impatient", stopped_follower: false, slow_disks: true, impatient: true },
];

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.node {
        Some(at) => node(&args, at),
        None => run(&args),
    };
    ended(done)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What one node holds at most, by its bounds. Not in it: the program itself, what callers hold, and
/// what the allocator keeps.
fn bound_mib() -> f64 {
    let (options, wal) = (Options::default(), WalOptions::default());
    let inbox = 2 * options.proposals_bytes_max + options.peer_queue_bytes_max;
    let bytes = inbox
        + options.proposals_bytes_max
        + options.uncommitted_bytes_max
        + options.apply_backlog_bytes_max
        + options.entry_cache_bytes_max
        + 2 * options.peer_queue_bytes_max
        // Queued, and encoded for the write under way.
        + 2 * wal.queued_bytes_max
        + STATE_BYTES;
    bytes as f64 / f64::from(1 << 20)
}

/// Runs the scenarios, one after the other.
#[tokio::main(flavor = "current_thread")]
async fn run(args: &Args) -> Result<(), String> {
    let temporary = tempfile::tempdir().map_err(text)?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    println!("{} s each; bounds of a node: {:.0} MiB", args.seconds, bound_mib());
    println!(
        "{:<10} {:>10} {:>9} {:>10} {:>10}   memory in MiB: start, thirds, peak, end",
        "", "offered", "acked", "refused", "unknown"
    );
    for scenario in &SCENARIOS {
        if args.only.is_empty() || args.only.iter().any(|name| name == scenario.name) {
            let dir = dir.join(scenario.name);
            let flooded = flood_cluster(args, scenario, &dir).await;
            // Its processes have ended; the next needs the room.
            std::fs::remove_dir_all(&dir).map_err(text)?;
            flooded?;
        }
    }
    Ok(())
}

async fn flood_cluster(args: &Args, scenario: &Scenario, dir: &Path) -> Result<(), String> {
    let addresses = free_addresses(3)?;
    let mut nodes = Vec::new();
    for at in 0..3 {
        nodes.push(Process::start(args, scenario, dir, &addresses, at)?);
    }
    for node in &mut nodes {
        node.expect("open")?;
    }
    let leader = wait_for_leader(&mut nodes).await?;
    let stopped = scenario.stopped_follower.then_some((leader + 1) % 3);
    if let Some(stopped) = stopped {
        nodes[stopped].signal("-STOP")?;
    }
    let mut figures: Vec<Vec<Memory>> = vec![Vec::new(); nodes.len()];
    let mut look = |nodes: &[Process]| -> Result<(), String> {
        for (node, figures) in nodes.iter().zip(&mut figures) {
            figures.push(memory_of(node.child.id())?);
        }
        Ok(())
    };
    look(&nodes)?;
    nodes[leader].say(&format!("flood {}", args.seconds))?;
    for _ in 0..args.seconds {
        sleep(Duration::from_secs(1)).await;
        look(&nodes)?;
    }
    let told = nodes[leader].read()?;
    if let Some(stopped) = stopped {
        nodes[stopped].signal("-CONT")?;
    }
    sleep(Duration::from_secs(3)).await;
    look(&nodes)?;
    for node in &mut nodes {
        node.close()?;
    }
    let counts: Vec<&str> = told.split_whitespace().collect();
    let [offered, acked, refused, unknown, callers, caller_bytes] = counts[..] else {
        return Err(format!("the flood failed: {told}"));
    };
    println!("{:<10} {offered:>10} {acked:>9} {refused:>10} {unknown:>10}", scenario.name);
    let [callers, caller_bytes] = [callers, caller_bytes].map(|count| count.parse::<usize>());
    let (callers, caller_bytes) = (callers.map_err(text)?, caller_bytes.map_err(text)?);
    let callers_mib = (callers * (caller_bytes + CALLER_BYTES)) as f64 / f64::from(1 << 20);
    println!(
        "{:<10} callers: {callers} of {caller_bytes} bytes at most, {callers_mib:.0} MiB with what they wait on",
        ""
    );
    for (at, figures) in figures.iter().enumerate() {
        let role = match at {
            at if at == leader => "leader",
            at if Some(at) == stopped => "stopped",
            _ => "follower",
        };
        let third = |n: usize| figures[(args.seconds as usize * n / 3).max(1)].now;
        let peak = figures.iter().map(|memory| memory.peak).fold(0.0, f64::max);
        println!(
            "{:<10} {:>44} {:>8.0} {:>6.0} {:>6.0} {:>6.0} {peak:>6.0} {:>6.0}",
            "",
            role,
            figures[0].now,
            third(1),
            third(2),
            third(3),
            figures[figures.len() - 1].now,
        );
        let callers_mib = if at == leader { callers_mib } else { 0.0 };
        if peak > bound_mib() + callers_mib {
            return Err(format!(
                "{role}: {peak:.0} MiB is over the bound and {callers_mib:.0} MiB of callers"
            ));
        }
    }
    Ok(())
}

async fn wait_for_leader(nodes: &mut [Process]) -> Result<usize, String> {
    for _ in 0..600 {
        for (at, node) in nodes.iter_mut().enumerate() {
            node.say("who")?;
            if node.read()? == "leader" {
                return Ok(at);
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err("no node leads after a minute".to_owned())
}

/// A process of one node, spoken to in lines.
struct Process {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(
        args: &Args,
        scenario: &Scenario,
        dir: &Path,
        addresses: &[SocketAddr],
        at: usize,
    ) -> Result<Self, String> {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut command = Command::new(std::env::current_exe().map_err(text)?);
        command.args(["--node", &at.to_string(), "--addresses", &addresses.join(",")]);
        command.args(["--slow-sync-ms", &args.slow_sync_ms.to_string()]);
        command.args(["--patience-ms", &args.patience_ms.to_string()]);
        command.arg("--dir").arg(dir);
        command.args(scenario.slow_disks.then_some("--slow"));
        command.args(scenario.impatient.then_some("--impatient"));
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(text)?;
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, answers })
    }

    fn say(&mut self, line: &str) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{line}").map_err(text)
    }

    fn read(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).map_err(text)?;
        if read == 0 { Err("a node ended".to_owned()) } else { Ok(line.trim().to_owned()) }
    }

    fn expect(&mut self, expected: &str) -> Result<(), String> {
        let found = self.read()?;
        if found == expected { Ok(()) } else { Err(format!("a node said {found}")) }
    }

    fn signal(&self, signal: &str) -> Result<(), String> {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        if status.map_err(text)?.success() { Ok(()) } else { Err(format!("kill {signal} failed")) }
    }

    fn close(&mut self) -> Result<(), String> {
        self.say("close")?;
        self.expect("closed")?;
        self.child.wait().map(|_| ()).map_err(text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After an error; it has ended otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

static SLOW_SYNC: OnceLock<Duration> = OnceLock::new();

/// Files that take their time to be synced.
struct SlowDisk(Arc<dyn Disk>);

impl Disk for SlowDisk {
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.0.list()
    }
    fn create(&self, name: &str, bytes: u64) -> std::io::Result<()> {
        self.0.create(name, bytes)
    }
    fn len(&self, name: &str) -> std::io::Result<u64> {
        self.0.len(name)
    }
    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(name, pos, buffer)
    }
    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_medium(name, pos, buffer)
    }
    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_at(name, pos, bytes)
    }
    #[expect(clippy::disallowed_methods, reason = "to be slow is what it is for")]
    fn sync(&self, name: &str) -> std::io::Result<()> {
        std::thread::sleep(SLOW_SYNC.get().copied().unwrap_or_default());
        self.0.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> std::io::Result<()> {
        self.0.sync_dir()
    }
}

/// The process of one node: does what its standard input says, until it is told to close.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn node(args: &Args, at: usize) -> Result<(), String> {
    SLOW_SYNC.get_or_init(|| Duration::from_millis(args.slow_sync_ms));
    let dir = args.dir.as_deref().ok_or("a node needs its directory")?;
    let mut builder = voting(builder(dir, &args.addresses, at), &args.addresses);
    if args.slow {
        builder = builder.disk(OpenDisk::over(|_, disk| Arc::new(SlowDisk(disk))));
    }
    let engine = builder.open().await.map_err(text)?;
    let log: ReplicatedLog<Vec<u8>> =
        ReplicatedLog::open(&engine, spec("flood")?).await.map_err(text)?;
    let answer = |line: &str| writeln!(std::io::stdout(), "{line}").map_err(text);
    answer("open")?;
    for line in std::io::stdin().lines() {
        let line = line.map_err(text)?;
        match line.split_once(' ') {
            Some(("flood", seconds)) => {
                let length = Duration::from_secs(seconds.parse().map_err(text)?);
                let patience = args.impatient.then(|| Duration::from_millis(args.patience_ms));
                let counts = flood(&log, length, patience).await?;
                answer(&counts.map(|count| count.to_string()).join(" "))?;
            }
            _ if line == "who" => {
                let role = log.group().status().await.map_err(text)?.role;
                answer(if role == Role::Leader { "leader" } else { "other" })?;
            }
            _ => break,
        }
    }
    engine.close().await.map_err(text)?;
    answer("closed")
}

/// What became of an offer.
enum Answer {
    Acked,
    Refused,
    Unknown,
}

/// Offers one record after the other. Returns how many were offered, acknowledged, refused, how many nobody knows of,
/// how many callers there were at once, and the bytes of the future of each.
async fn flood(
    log: &ReplicatedLog<Vec<u8>>,
    length: Duration,
    patience: Option<Duration>,
) -> Result<[u64; 6], String> {
    let end = Instant::now() + length;
    let mut counts = [0; 4];
    let mut count = |answer: Result<Answer, String>| {
        answer.map(|answer| match answer {
            Answer::Acked => counts[1] += 1,
            Answer::Refused => counts[2] += 1,
            Answer::Unknown => counts[3] += 1,
        })
    };
    let (mut offered, mut callers, mut caller_bytes) = (0, 0, 0);
    let mut waiting = JoinSet::new();
    while Instant::now() < end {
        for _ in 0..BURST {
            let (log, number) = (log.clone(), offered);
            offered += 1;
            let mut append = Box::pin(async move {
                let record = record(number);
                let append = log.append(&record);
                let answer = match patience {
                    None => append.await,
                    Some(patience) => match timeout(patience, append).await {
                        Ok(answer) => answer,
                        Err(_) => return Ok(Answer::Unknown),
                    },
                };
                match answer {
                    Ok(_) => Ok(Answer::Acked),
                    Err(Error::RateLimited { .. }) => Ok(Answer::Refused),
                    Err(Error::Disconnected { .. }) => Ok(Answer::Unknown),
                    Err(error) => Err(error.to_string()),
                }
            });
            caller_bytes = size_of_val(&*append);
            // Offered at once; only who is not answered at once waits.
            match std::future::poll_fn(|cx| Poll::Ready(append.as_mut().poll(cx))).await {
                Poll::Ready(answer) => count(answer)?,
                Poll::Pending => {
                    waiting.spawn(append);
                }
            }
        }
        callers = callers.max(waiting.len());
        while let Some(done) = waiting.try_join_next() {
            count(done.map_err(text)?)?;
        }
        while CALLERS_MAX <= waiting.len()
            && let Some(done) = waiting.join_next().await
        {
            count(done.map_err(text)?)?;
        }
        tokio::task::yield_now().await;
    }
    while let Some(done) = waiting.join_next().await {
        count(done.map_err(text)?)?;
    }
    let [_, acked, refused, unknown] = counts;
    Ok([offered, acked, refused, unknown, callers as u64, caller_bytes as u64])
}
