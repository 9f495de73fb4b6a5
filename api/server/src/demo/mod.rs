//! The demo: three real processes, real data, real kills, and a check of every promise.

mod client;
mod cluster;
mod load;
mod report;
mod table;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use palisade::PlacementProfile;

use crate::reports::Flight;

use client::Client;
use cluster::Cluster;

/// The flights that the demo loads.
const FLIGHTS: &str = include_str!("../../data/flights-20k.ndjson");

/// How the demo is to run.
#[derive(Clone, Debug)]
pub struct DemoSettings {
    /// The program to start nodes with.
    pub program: PathBuf,
    /// Leave the cluster up at the end.
    pub keep: bool,
    /// Where the nodes keep their data; a temporary directory, removed at the end, if not given.
    pub dir: Option<PathBuf>,
    /// Load only the first so many flights.
    pub limit: Option<usize>,
    /// Where the service may run.
    pub profile: PlacementProfile,
}

/// What a phase of the demo measured.
#[derive(Clone, Debug)]
pub struct PhaseStats {
    /// How many requests were acknowledged.
    pub acknowledged: u64,
    /// How long it took, the failover included.
    pub elapsed: Duration,
    /// Median time to an acknowledgement.
    pub p50: Duration,
    /// 99th percentile of the same.
    pub p99: Duration,
    /// Longest time around the kill without any acknowledgement.
    pub gap: Duration,
    /// Requests that were sent again on purpose, after they had been acknowledged.
    pub repeated: u64,
}

/// What the demo found.
#[derive(Clone, Debug)]
pub struct DemoSummary {
    /// Loading the flights.
    pub loading: PhaseStats,
    /// Accepting the report requests.
    pub reporting: PhaseStats,
    /// What was checked, each with what was found.
    pub verified: Vec<String>,
}

/// Runs the demo to its end. An error says which promise was not kept, or what went wrong.
///
/// # Errors
/// As a sentence for people.
pub async fn run_demo(settings: DemoSettings) -> Result<DemoSummary, String> {
    let flights = parse_flights(settings.limit)?;
    let mut cluster = Cluster::start(&settings).await?;
    eprintln!(
        "three nodes are up, profile {}: {}",
        settings.profile.name,
        cluster.addresses().map(|address| format!("http://{address}")).join("  ")
    );
    eprintln!("their consoles: {}", cluster.consoles().join("  "));
    let client = Client::new(cluster.addresses())?;
    let loading = load::run(&mut cluster, &flights).await?;
    let reporting = report::run(&mut cluster, &flights).await?;
    cluster.kill_all()?;
    eprintln!("SIGKILL to all three nodes at once, then all are started again");
    for at in 0..3 {
        cluster.start_node(at)?;
    }
    client.wait_ready().await?;
    let verified = verify::run(&client, &flights, &reporting.accepted).await?;
    let summary = DemoSummary { loading, reporting: reporting.stats, verified };
    if settings.keep {
        eprint!("\n{summary}");
        table::print_keep(&cluster);
        // Ends with the process: whoever runs the demo stops it.
        std::future::pending::<()>().await;
    }
    cluster.stop();
    Ok(summary)
}

fn parse_flights(limit: Option<usize>) -> Result<Vec<Flight>, String> {
    FLIGHTS
        .lines()
        .take(limit.unwrap_or(usize::MAX))
        .enumerate()
        .map(|(at, line)| {
            serde_json::from_str(line).map_err(|error| format!("flights, line {}: {error}", at + 1))
        })
        .collect()
}
