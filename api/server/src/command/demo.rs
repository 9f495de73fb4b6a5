//! `palisade demo`: three nodes, killed leaders, and a check of every promise.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failed::Failed;
use super::output::Found;
use super::{logs, runtime};
use crate::config::{LogFormat, LogSettings};
use crate::demo::{DemoSettings, DemoSummary, PhaseStats, run_demo};
use crate::reports::profile_by_name;

/// Start three nodes, load 20,000 flights, kill leaders, and check that nothing was lost.
#[derive(Args)]
pub(super) struct DemoArgs {
    /// Leave the cluster up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Where the nodes keep their data; a temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Load only the first so many flights.
    #[arg(long)]
    limit: Option<usize>,
    /// Where the service may run: single-az, multi-az, cross-region or cross-provider.
    #[arg(long, default_value = "cross-provider")]
    profile: String,
}

impl DemoArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        logs::start(&LogSettings { filter: "info".to_owned(), format: LogFormat::Text }, None);
        let profile = profile_by_name(&self.profile)?;
        let program = super::own_program()?;
        let Self { keep, dir, limit, .. } = self;
        let settings = DemoSettings { program, keep, dir, limit, profile };
        runtime()?.block_on(async {
            tokio::select! {
                done = run_demo(settings) => done.map(|summary| found(&summary)).map_err(|what| {
                    Failed::new("DemoFailed", what, "see node-1.log and the others under --dir")
                }),
                _ = tokio::signal::ctrl_c() => {
                    Err(Failed::new("Interrupted", "interrupted", "run it again to its end"))
                }
            }
        })
    }
}

fn found(summary: &DemoSummary) -> Found {
    let phase = |stats: &PhaseStats| {
        json!({
            "acknowledged": stats.acknowledged,
            "records_per_second": stats.rate(),
            "p50_ms": stats.p50.as_secs_f64() * 1000.0,
            "p99_ms": stats.p99.as_secs_f64() * 1000.0,
            "failover_gap_ms": stats.gap.as_secs_f64() * 1000.0,
            "repeated": stats.repeated,
        })
    };
    let document = json!({
        "loading": phase(&summary.loading),
        "reporting": phase(&summary.reporting),
        "verified": summary.verified,
    });
    Found::new(document, summary.to_string())
}
