//! First figures: durable replicated 256-byte appends a second, beside etcd in the same run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use palisade_benches::{Etcd, HttpNodes, Nodes, Sample, closed_loop, ended, median, record};

/// Durable replicated 256-byte appends a second, at several numbers of callers, medians of
/// alternating runs: in process, over HTTP, and etcd's put over gRPC.
#[derive(Parser)]
struct Args {
    /// Callers at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256,1024")]
    callers: Vec<usize>,
    /// Length of one run, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    run_ms: u64,
    /// Runs of each; the one in the middle is shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where the data goes; a temporary directory if not given. It should be on a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended(run(Args::parse()).await)
}

async fn run(args: Args) -> Result<(), String> {
    let temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let nodes = Nodes::open(&dir.join("palisade")).await?;
    let http = Arc::new(nodes.serve().await?);
    let etcd = Etcd::start(&dir).await?.map(Arc::new);
    if etcd.is_none() {
        println!("etcd is not installed: Palisade alone");
    }
    println!(
        "{:<8} {:<22} {:>10} {:>10} {:>10} {:>8}",
        "callers", "", "appends/s", "p50", "p99", "ratio"
    );
    for callers in &args.callers {
        let length = Duration::from_millis(args.run_ms);
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for _ in 0..args.runs.max(1) {
            samples[0].push(in_process(&nodes, *callers, length).await?);
            samples[1].push(over_http(&http, *callers, length).await?);
            if let Some(etcd) = &etcd {
                samples[2].push(put(etcd, *callers, length).await?);
            }
        }
        let [in_process, over_http, etcd] =
            samples.map(|samples| (!samples.is_empty()).then(|| median(samples)));
        let names = ["palisade, in process", "palisade, HTTP", "etcd put, gRPC"];
        for (name, sample) in names.into_iter().zip([in_process, over_http, etcd]) {
            let Some(sample) = sample else { continue };
            let ratio = etcd.map_or(f64::NAN, |etcd| sample.per_second / etcd.per_second);
            println!(
                "{callers:<8} {name:<22} {:>10.0} {:>10} {:>10} {ratio:>8.2}",
                sample.per_second,
                ms(sample.p50),
                ms(sample.p99),
            );
        }
    }
    nodes.close().await
}

fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

async fn in_process(nodes: &Nodes, callers: usize, length: Duration) -> Result<Sample, String> {
    let log = nodes.leader_log().await?;
    let append = move |number| {
        let log = log.clone();
        async move { log.append(&record(number)).await.map(|_| ()).map_err(|e| e.to_string()) }
    };
    closed_loop(callers, length, append).await
}

async fn over_http(
    http: &Arc<HttpNodes>,
    callers: usize,
    length: Duration,
) -> Result<Sample, String> {
    let http = Arc::clone(http);
    let append = move |number| {
        let http = Arc::clone(&http);
        async move { http.append(number, record(number)).await }
    };
    closed_loop(callers, length, append).await
}

async fn put(etcd: &Arc<Etcd>, callers: usize, length: Duration) -> Result<Sample, String> {
    let etcd = Arc::clone(etcd);
    let put = move |number| {
        let etcd = Arc::clone(&etcd);
        async move { etcd.put(number, record(number)).await }
    };
    closed_loop(callers, length, put).await
}
