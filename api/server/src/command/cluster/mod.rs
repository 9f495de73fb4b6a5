//! `palisade cluster` and `palisade member`: the nodes, the groups, and who takes part.

mod found;
mod health;
mod member;
mod status;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::{Instant, sleep};

pub(super) use member::MemberCommand;

use self::found::{InitArgs, JoinArgs};
use self::health::ailments;
use super::client_args::ClientArgs;
use super::failed::Failed;
use super::output::Found;

/// Between two looks at a cluster.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Make a cluster, let a node join it, and say how it is.
#[derive(Args)]
pub(super) struct ClusterCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write the configurations of a new cluster, one for each node; nothing that is there is changed.
    Init(InitArgs),
    /// Write the configuration of a node that joins a cluster, and say what is to be done then.
    Join(JoinArgs),
    /// Show nodes, groups, leaders and members.
    Status(StatusArgs),
    /// Wait until every node and every group serves; exit code 5 if they do not in time.
    Wait(WaitArgs),
}

#[derive(Args)]
struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct WaitArgs {
    /// For what: that every endpoint answers, every group has a leader, and every voter follows it.
    #[arg(long, required = true)]
    healthy: bool,
    /// For how long.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 60_000)]
    wait_ms: u64,
    #[command(flatten)]
    client: ClientArgs,
}

impl ClusterCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::Init(args) => args.run(),
            Action::Join(args) => args.run(),
            Action::Status(args) => args
                .client
                .run(|client| async move { status::found(&client.cluster().status().await) }),
            Action::Wait(args) => args.run(),
        }
    }
}

impl WaitArgs {
    fn run(self) -> Result<Found, Failed> {
        let until = Duration::from_millis(self.wait_ms);
        self.client.run(|client| async move {
            let (cluster, began) = (client.cluster(), Instant::now());
            loop {
                let wrong = ailments(&cluster.status().await);
                let Some(first) = wrong.first() else {
                    return Ok(Found::new(json!({ "healthy": true }), "healthy\n"));
                };
                if until <= began.elapsed() {
                    let what = format!("not healthy after {} ms: {first}", self.wait_ms);
                    let help = "`palisade cluster status` shows all of it";
                    let document = json!({ "healthy": false, "wrong": wrong });
                    let failed = Failed::new("Unready", what, help);
                    return Ok(Found::new(document, "").but(Some(failed)));
                }
                sleep(LOOK_EVERY).await;
            }
        })
    }
}
