//! What the way over gRPC leaves of the rate in process: appends of 256 bytes to one node of three.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use palisade::ReadConsistency;
use palisade_benches::{
    Echo, GrpcCalls, GrpcNode, Nodes, RECORD_BYTES, Sample, Shape, closed_loop, cpu_seconds, ended,
    median, record,
};
use palisade_client::{Client, Log};

/// Durable replicated 256-byte appends a second at the node that leads: in process, and over gRPC in several
/// ways, medians of alternating runs. Beside them the same calls, answered at once and stored nowhere.
#[derive(Parser)]
struct Args {
    /// Records under way at once.
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Connections, and streams where there are several.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Records of a message, where it has several.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Length of one run, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    run_ms: u64,
    /// Runs of each; the one in the middle is shown.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only the ways whose names have this in them, beside those in process.
    #[arg(long, default_value = "")]
    only: String,
    /// Least that the stream may reach of the rate in process, in percent: with less, this fails.
    #[arg(long)]
    share_min: Option<f64>,
    /// Where the data goes; a temporary directory if not given. It should be on a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A way to append, and its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    InProcess,
    InProcessBatched,
    Unary,
    Client,
    Stream,
    Streams,
    Batched,
    EchoUnary,
    EchoStream,
    EchoBatched,
}

impl Way {
    const ALL: [Self; 10] = [
        Self::InProcess,
        Self::InProcessBatched,
        Self::Unary,
        Self::Client,
        Self::Stream,
        Self::Streams,
        Self::Batched,
        Self::EchoUnary,
        Self::EchoStream,
        Self::EchoBatched,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in process",
            Self::InProcessBatched => "in process, batched",
            Self::Unary => "unary",
            Self::Client => "unary, palisade-client",
            Self::Stream => "one stream",
            Self::Streams => "streams",
            Self::Batched => "one stream, batched",
            Self::EchoUnary => "echo, unary",
            Self::EchoStream => "echo, one stream",
            Self::EchoBatched => "echo, one stream, batched",
        }
    }

    /// In process, with as many records to a call.
    fn base(self) -> Self {
        match self {
            Self::InProcessBatched | Self::Batched | Self::EchoBatched => Self::InProcessBatched,
            _ => Self::InProcess,
        }
    }

    fn stores(self) -> bool {
        !matches!(self, Self::EchoUnary | Self::EchoStream | Self::EchoBatched)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[tokio::main]
async fn main() -> ExitCode {
    ended(run(Args::parse()).await)
}

struct Bench {
    nodes: Nodes,
    grpc: GrpcCalls,
    echo: GrpcCalls,
    clients: Vec<Log<Vec<u8>>>,
    args: Args,
    _served: (GrpcNode, Echo),
}

impl Bench {
    async fn open(args: Args, dir: PathBuf) -> Result<Self, String> {
        let nodes = Nodes::open(&dir.join("palisade")).await?;
        let served = (nodes.serve_grpc().await?, Echo::serve().await?);
        let mut clients = Vec::new();
        for _ in 0..args.connections {
            let client = Client::builder().endpoint(format!("http://{}", served.0.address));
            clients.push(client.connect().map_err(text)?.log("bench", "bytes.v1"));
        }
        Ok(Self {
            grpc: GrpcCalls::connect(served.0.address, args.connections, RECORD_BYTES).await?,
            echo: GrpcCalls::connect(served.1.address(), args.connections, RECORD_BYTES).await?,
            nodes,
            clients,
            args,
            _served: served,
        })
    }

    async fn in_process(&self, records: usize, length: Duration) -> Result<Sample, String> {
        let log = self.nodes.leader_log().await?;
        let append = move |number: u64| {
            let log = log.clone();
            async move {
                let first = number * records as u64;
                let values: Vec<_> = (first..).take(records).map(record).collect();
                match &values[..] {
                    [value] => log.append(value).await.map(|_| ()).map_err(text),
                    values => log.append_all(values).await.map(|_| ()).map_err(text),
                }
            }
        };
        let sample = closed_loop(self.args.in_flight / records, length, append).await?;
        Ok(sample.times(records))
    }

    async fn through_client(&self, length: Duration) -> Result<Sample, String> {
        let clients = self.clients.clone();
        let append = move |number: u64| {
            let log = clients[number as usize % clients.len()].clone();
            async move { log.append(&[record(number)]).await.map(|_| ()).map_err(text) }
        };
        closed_loop(self.args.in_flight, length, append).await
    }

    async fn once(&self, way: Way) -> Result<Sample, String> {
        let Args { in_flight, connections, batch, run_ms, .. } = self.args;
        let length = Duration::from_millis(run_ms);
        let one = Shape { streams: 1, window: in_flight, records: 1 };
        let some = Shape { streams: connections, window: in_flight / connections, records: 1 };
        let batched = Shape { streams: 1, window: in_flight / batch, records: batch };
        match way {
            Way::InProcess => self.in_process(1, length).await,
            Way::InProcessBatched => self.in_process(batch, length).await,
            Way::Unary => self.grpc.unary(in_flight, length).await,
            Way::Client => self.through_client(length).await,
            Way::Stream => self.grpc.streams(one, length).await,
            Way::Streams => self.grpc.streams(some, length).await,
            Way::Batched => self.grpc.streams(batched, length).await,
            Way::EchoUnary => self.echo.unary(in_flight, length).await,
            Way::EchoStream => self.echo.streams(one, length).await,
            Way::EchoBatched => self.echo.streams(batched, length).await,
        }
    }

    async fn stored(&self) -> Result<Stored, String> {
        let log = self.nodes.leader_log().await?;
        let bounds = log.bounds(ReadConsistency::Linearizable).await.map_err(text)?;
        let status = log.group().status().await.map_err(text)?;
        Ok(Stored { records: bounds.value.entries, entries: status.committed_index.get() })
    }
}

/// What the nodes have.
struct Stored {
    /// Records of the bench.
    records: u64,
    /// Entries of the group's log.
    entries: u64,
}

/// One run of a way.
#[derive(Clone, Copy)]
struct Run {
    sample: Sample,
    /// Processor time of a record, in microseconds.
    cpu_us: f64,
    /// Records that have shared an entry.
    shared: f64,
}

async fn measured(bench: &Bench, way: Way) -> Result<Run, String> {
    let (before, cpu) = (bench.stored().await?, cpu_seconds()?);
    let sample = bench.once(way).await?;
    let cpu_us = 1e6 * (cpu_seconds()? - cpu);
    let after = bench.stored().await?;
    let stored = (after.records - before.records) as f64;
    let counted = sample.per_second * bench.args.run_ms as f64 / 1000.0;
    if !way.stores() {
        // Some are answered before the time that counts.
        return Ok(Run { sample, cpu_us: cpu_us / (1.1 * counted), shared: 0.0 });
    }
    if stored < counted {
        return Err(format!("{counted} appends were answered, and {stored} are in the log"));
    }
    let shared = stored / (after.entries - before.entries) as f64;
    Ok(Run { sample, cpu_us: cpu_us / stored, shared })
}

async fn run(args: Args) -> Result<(), String> {
    if args.connections == 0 || args.batch == 0 {
        return Err("--connections and --batch must be at least 1".into());
    }
    if args.in_flight < args.connections.max(args.batch) {
        return Err("--in-flight must be at least --connections and --batch".into());
    }
    let temporary = tempfile::tempdir().map_err(text)?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let bench = Bench::open(args, dir).await?;
    let ways = Way::ALL.into_iter().filter(|way| {
        way.name().starts_with("in process") || way.name().contains(&bench.args.only)
    });
    let mut runs: Vec<(Way, Vec<Run>)> = ways.map(|way| (way, Vec::new())).collect();
    for _ in 0..bench.args.runs.max(1) {
        for (way, runs) in &mut runs {
            runs.push(measured(&bench, *way).await?);
        }
    }
    let share = told(&runs);
    let least = bench.args.share_min;
    bench.nodes.close().await?;
    match (least, share) {
        (Some(least), Some(share)) if 100.0 * share < least => Err(format!(
            "one stream reaches {:.0} % of the rate in process, and {least} % was asked for",
            100.0 * share
        )),
        _ => Ok(()),
    }
}

/// Prints the table, and says what one stream has reached of the rate in process.
fn told(runs: &[(Way, Vec<Run>)]) -> Option<f64> {
    println!(
        "{:<26} {:>10} {:>10} {:>10} {:>14} {:>14} {:>14}",
        "", "records/s", "p50", "p99", "cpu us/record", "records/entry", "of in process"
    );
    let middle = |of: Way| {
        let (_, runs) = runs.iter().find(|(way, _)| *way == of)?;
        Some(median(runs.iter().map(|run| run.sample).collect()))
    };
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let mut share = None;
    for (way, runs) in runs {
        let (Some(sample), Some(base)) = (middle(*way), middle(way.base())) else { continue };
        let of = sample.per_second / base.per_second;
        if *way == Way::Stream {
            share = Some(of);
        }
        println!(
            "{:<26} {:>10.0} {:>10} {:>10} {:>14.1} {:>14.1} {:>12.0} %",
            way.name(),
            sample.per_second,
            ms(sample.p50),
            ms(sample.p99),
            middle_of(runs, |run| run.cpu_us),
            middle_of(runs, |run| run.shared),
            100.0 * of,
        );
    }
    share
}

fn middle_of(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
