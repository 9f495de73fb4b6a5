//! `palisade node`: one node as this process, until SIGTERM or Ctrl-C.

use std::sync::Arc;

use clap::Args;
use tokio::sync::Notify;

use super::config_args::ConfigArgs;
use super::failed::Failed;
use super::output::Found;
use super::{logs, runtime};
use crate::node::run;
#[cfg(feature = "otel")]
use crate::observe::Spans;

/// Run one node as this process, until SIGTERM or Ctrl-C; SIGHUP has it read certificates and keys anew.
#[derive(Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

impl NodeArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let config = self.config.config()?;
        let runtime = runtime()?;
        let _in_runtime = runtime.enter();
        #[cfg(feature = "otel")]
        let spans = config
            .collector
            .map(|collector| Spans::to(collector, config.node.cluster, config.node.id))
            .transpose()?;
        #[cfg(feature = "otel")]
        logs::start(&config.log, spans.as_ref().map(Spans::layer));
        #[cfg(not(feature = "otel"))]
        logs::start(&config.log, None);
        let ran = runtime.block_on(async {
            let look_again = Arc::new(Notify::new());
            tokio::select! {
                ran = run(config.node, Arc::clone(&look_again), stop_signal()) => ran,
                never = look_at_hangup(&look_again) => never,
            }
        });
        #[cfg(feature = "otel")]
        spans.into_iter().for_each(Spans::close);
        ran?;
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

/// Has certificates and keys looked at whenever the process is sent SIGHUP.
async fn look_at_hangup(look_again: &Notify) -> ! {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => {
            while hangup.recv().await.is_some() {
                look_again.notify_one();
            }
        }
        Err(error) => tracing::warn!(%error, "SIGHUP will not be heard"),
    }
    std::future::pending().await
}
