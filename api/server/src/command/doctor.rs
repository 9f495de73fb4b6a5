//! `palisade doctor`: what about this machine would keep a node from running well.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::config_args::ConfigArgs;
use super::failed::Failed;
use super::output::Found;
use crate::doctor::{Finding, Mark, Subject, examine};

/// Look whether a node would run well here: clock, disk, ports, limits, certificates.
#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Look at this directory instead of the configured one.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl DoctorArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let mut subject = Subject { dir: self.dir, ..Subject::default() };
        // Without a configuration there is still a machine to look at.
        if !self.config.is_empty() {
            let node = self.config.config()?.node;
            subject.take(&node);
        }
        let findings = examine(&subject);
        let text: String = findings.iter().map(line).collect();
        let documents: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "mark": finding.mark.word(),
                    "found": finding.found,
                    "fix": finding.fix,
                })
            })
            .collect();
        let failed = findings.iter().filter(|finding| finding.mark == Mark::Failed);
        let failed: Vec<&str> = failed.map(|finding| finding.check).collect();
        let document = json!({ "healthy": failed.is_empty(), "checks": documents });
        let wrong = (!failed.is_empty()).then(|| {
            let what = format!("a node would not run well here: {}", failed.join(", "));
            Failed::new("Unfit", what, "each line with a cross says what to do")
        });
        Ok(Found::new(document, text).but(wrong))
    }
}

fn line(finding: &Finding) -> String {
    let mut line = format!("{} {:<14} {}\n", finding.mark.sign(), finding.check, finding.found);
    if let Some(fix) = &finding.fix {
        line.push_str(&format!("{:17}fix: {fix}\n", ""));
    }
    line
}
