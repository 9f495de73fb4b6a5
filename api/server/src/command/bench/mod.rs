//! `palisade bench`: what callers of a cluster see under a load of a certain shape. It measures, and claims
//! nothing: the numbers are of this machine, of these nodes, and of this moment.

mod load;
mod plot;
mod sample;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use palisade::Failure;
use serde_json::{Value, json};

use self::load::{Load, Until, Workload};
use self::sample::Sample;
use super::client_args::ClientArgs;
use super::failed::Failed;
use super::output::Found;
use super::runtime;
use super::table::table;
use crate::local::LocalCluster;
use crate::reports::cross_provider_profile;

/// Most requests under way at once.
const IN_FLIGHT_MAX: u64 = 4096;
/// Longest value.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

/// Load a cluster in a closed loop, and say how fast it answers. What is written stays in the resources
/// bench/log and bench/map.
#[derive(Args)]
pub(super) struct BenchArgs {
    /// What is done.
    #[arg(value_enum)]
    workload: WorkloadArg,
    /// Requests under way at once: each is followed by the next when it is answered.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=IN_FLIGHT_MAX))]
    in_flight: u64,
    /// Size of a value.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(0..=PAYLOAD_BYTES_MAX))]
    payload_bytes: u64,
    /// Keys that put and get are spread over.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// How long; a tenth of it before is not counted.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// So many requests, all of them counted, however long they take.
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    operations: Option<u64>,
    /// Write plots of latency and throughput there.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Start three nodes on this machine for it, in a directory that is removed at the end.
    #[arg(long, conflicts_with_all = ["endpoints", "dir"])]
    own_cluster: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum WorkloadArg {
    /// Append one value to a log, in a call of its own.
    Append,
    /// Append one value in each message of one stream.
    Stream,
    /// Set a key of a map.
    Put,
    /// Get a key of a map, linearizable.
    Get,
}

impl BenchArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let workload = match self.workload {
            WorkloadArg::Append => Workload::Append,
            WorkloadArg::Stream => Workload::Stream,
            WorkloadArg::Put => Workload::Put,
            WorkloadArg::Get => Workload::Get,
        };
        let until = match self.operations {
            Some(operations) => Until::Operations(operations),
            None => Until::Time(Duration::from_secs(self.seconds)),
        };
        let load = Load {
            workload,
            in_flight: self.in_flight,
            payload_bytes: self.payload_bytes as usize,
            keys: self.keys,
            until,
        };
        let sample = match self.own_cluster {
            false => measure(&load, &self.client)?,
            true => {
                let own = Own::start()?;
                measure(&load, &self.client.clone().of_dir(&own.dir))?
            }
        };
        if let Some(path) = &self.svg {
            fs::write(path, plot::svg(&load, &sample)).map_err(|error| {
                let what = format!("{}: {error}", path.display());
                Failed::new("InputOutput", what, "name a place that may be written to")
            })?;
        }
        Ok(found(&load, &sample, self.own_cluster))
    }
}

fn measure(load: &Load, client: &ClientArgs) -> Result<Sample, Failed> {
    runtime()?.block_on(async {
        tokio::select! {
            sample = load::run(load, client) => sample,
            _ = tokio::signal::ctrl_c() => {
                Err(Failed::new("Interrupted", "interrupted", "run it again to its end"))
            }
        }
    })
}

/// Three nodes of this process's own.
struct Own {
    dir: PathBuf,
}

impl Own {
    fn start() -> Result<Self, Failed> {
        let program = super::own_program()?;
        let name = format!("palisade-bench-{}", std::process::id());
        let own = Self { dir: std::env::temp_dir().join(name) };
        runtime()?
            .block_on(LocalCluster::found(&own.dir, &cross_provider_profile())?.start(&program))?;
        Ok(own)
    }

    fn stop(dir: &Path) -> Result<(), Failed> {
        // One that cannot be opened was not started.
        if let Ok(cluster) = LocalCluster::open(dir) {
            runtime()?.block_on(cluster.stop())?;
        }
        fs::remove_dir_all(dir).map_err(|error| {
            let what = format!("{}: {error}", dir.display());
            Failed::new("InputOutput", what, "remove it by hand")
        })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(failed) = Self::stop(&self.dir) {
            eprint!("{}", failed.lines("", ""));
        }
    }
}

fn found(load: &Load, sample: &Sample, own_cluster: bool) -> Found {
    let percentiles = sample.percentiles();
    let latencies: Vec<Value> = percentiles
        .iter()
        .map(|(percent, us)| json!({ "percent": percent, "latency_us": us }))
        .collect();
    let document = json!({
        "workload": load.workload.name(),
        "in_flight": load.in_flight,
        "payload_bytes": load.payload_bytes,
        "own_cluster": own_cluster,
        "seconds": sample.length.as_secs_f64(),
        "operations": sample.operations(),
        "failed": sample.failed,
        "per_second": sample.per_second(),
        "latency_us_mean": sample.latency_us.mean(),
        "latency_us_max": sample.latency_us.max(),
        "percentiles": latencies,
        "operations_by_second": sample.by_second,
    });
    let mut row = vec![
        load.workload.name().to_owned(),
        sample.operations().to_string(),
        format!("{:.0}", sample.per_second()),
    ];
    row.extend(percentiles.iter().map(|(_, us)| format!("{:.2}", *us as f64 / 1000.0)));
    row.push(format!("{:.2}", sample.latency_us.max() as f64 / 1000.0));
    let head = ["WORKLOAD", "OPERATIONS", "PER SECOND", "P50 MS", "P99 MS", "P99.9 MS", "MAX MS"];
    let mut text = table(&head, &[row]);
    for (code, count) in &sample.failed {
        text.push_str(&format!("failed: {count} with {code}\n"));
    }
    Found::new(document, text).but(unanswered(sample))
}

/// A measurement of requests some of which failed is none of the load that was asked for.
fn unanswered(sample: &Sample) -> Option<Failed> {
    let failed: u64 = sample.failed.values().sum();
    let what =
        format!("{failed} requests failed beside {} that were answered", sample.operations());
    let help = "look at how the cluster is (`palisade cluster status`), or load it less";
    (failed > 0).then(|| Failed::of(Failure::Degraded, what, help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::failed::Exit;

    #[test]
    fn a_load_that_was_not_answered_is_no_success() {
        let load = Load {
            workload: Workload::Put,
            in_flight: 1,
            payload_bytes: 1,
            keys: 1,
            until: Until::Operations(2),
        };
        let mut sample = Sample::new();
        sample.answered(Duration::from_millis(1), Duration::from_millis(1));
        assert!(found(&load, &sample, false).wrong().is_none());
        sample.failed("RATE_LIMITED");
        let found = found(&load, &sample, false);
        assert_eq!(found.wrong().map(Failed::exit), Some(Exit::Unavailable));
    }

    /// What could not be started is taken away like what was.
    #[test]
    fn nothing_is_left_of_nodes_that_were_never_there() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own { dir: dir.path().join("nodes") };
        fs::create_dir_all(own.dir.join("half")).unwrap();
        drop(own);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
