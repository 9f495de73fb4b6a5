//! `palisade node`: one node as this process, until SIGTERM or Ctrl-C.

use clap::Args;
use palisade::Error;

use super::config_args::ConfigArgs;
use super::failed::Failed;
use super::output::Found;
use super::{logs, runtime};
use crate::node::{Security, run};

/// Run one node as this process, until SIGTERM or Ctrl-C.
#[derive(Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

impl NodeArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let config = self.config.config()?;
        logs::start(&config.log);
        if let Security::MutualTls(_) = config.node.security {
            // Never less than what was asked for.
            let what = "this release does not speak TLS yet: security.mode=mtls".to_owned();
            return Err(Failed::from(Error::Incompatible {
                expected: what,
                found: "insecure-loopback".to_owned(),
            }));
        }
        runtime()?.block_on(run(config.node, stop_signal()))?;
        Ok(Found::nothing())
    }
}

/// Resolves when the process is asked to end.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM will not be heard");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
