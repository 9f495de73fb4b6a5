//! `palisade member`: who takes part in a cluster, and who leads.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use palisade::FailureDomain;
use palisade_client::proto::cluster::v1::change_members_request::Change;
use palisade_client::proto::cluster::v1::{Add, GetStatusResponse, Replace};
use palisade_client::{Client, NodeStatus};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::LOOK_EVERY;
use super::status::hex;
use crate::command::client_args::ClientArgs;
use crate::command::confirm::ConfirmArgs;
use crate::command::failed::Failed;
use crate::command::output::Found;
use crate::config::domain;

/// Change who takes part in a cluster, in all its groups, and who leads.
#[derive(Args)]
pub(in crate::command) struct MemberCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Let a node that waits to join receive the log; it counts for nothing until it is promoted.
    Add(AddArgs),
    /// Make a learner that has caught up a voter.
    Promote(OneArgs),
    /// Make a voter a learner.
    Demote(ConfirmedArgs),
    /// Take a voter or learner out.
    Remove(ConfirmedArgs),
    /// Let a learner that has caught up take the place of a voter, in one step.
    Replace(ReplaceArgs),
    /// Hand the leadership of a group to another voter, and wait until it has it.
    Transfer(TransferArgs),
}

#[derive(Args)]
struct AddArgs {
    /// The number of the node.
    node: u64,
    /// Where the others reach it.
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// Where it is, provider/region/zone; as the node itself says if it is among the endpoints.
    #[arg(long, value_parser = domain)]
    domain: Option<FailureDomain>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct OneArgs {
    /// The number of the node.
    node: u64,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct ConfirmedArgs {
    /// The number of the node.
    node: u64,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct ReplaceArgs {
    /// The voter that leaves.
    old: u64,
    /// The learner that takes its place.
    new: u64,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct TransferArgs {
    /// The group.
    group: u64,
    /// The voter that is to lead it.
    node: u64,
    /// For how long it is tried.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30_000)]
    wait_ms: u64,
    #[command(flatten)]
    client: ClientArgs,
}

impl MemberCommand {
    pub(in crate::command) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::Add(args) => args.run(),
            Action::Promote(OneArgs { node, client }) => {
                change(&client, Change::Promote(node), format!("node {node} is a voter"))
            }
            Action::Demote(ConfirmedArgs { node, confirm, client }) => {
                let plan = [
                    format!("make voter {node} a learner, in all groups"),
                    format!("let node {node} count for no write and no election any more"),
                ];
                confirm.planned(&plan).map_or_else(
                    || change(&client, Change::Demote(node), format!("node {node} is a learner")),
                    Ok,
                )
            }
            Action::Remove(ConfirmedArgs { node, confirm, client }) => {
                let plan = [
                    format!("take node {node} out of all groups"),
                    format!(
                        "never let this life of node {node} back in: its data is of no use then"
                    ),
                ];
                confirm.planned(&plan).map_or_else(
                    || change(&client, Change::Remove(node), format!("node {node} is out")),
                    Ok,
                )
            }
            Action::Replace(ReplaceArgs { old, new, confirm, client }) => {
                let plan = [
                    format!("let learner {new} take the place of voter {old}, in all groups"),
                    format!(
                        "never let this life of node {old} back in: its data is of no use then"
                    ),
                ];
                let done = format!("node {new} is a voter, node {old} is out");
                let replace = Change::Replace(Replace { old, new });
                confirm.planned(&plan).map_or_else(|| change(&client, replace, done), Ok)
            }
            Action::Transfer(args) => args.run(),
        }
    }
}

fn change(client: &ClientArgs, change: Change, done: String) -> Result<Found, Failed> {
    client.run(|client| async move { make(&client, change, done).await })
}

async fn make(client: &Client, change: Change, done: String) -> Result<Found, Failed> {
    let groups = client.cluster().change_members(change).await?;
    let text = match groups.is_empty() {
        true => format!("{done}; it was so before\n"),
        false => format!("{done}\n"),
    };
    Ok(Found::new(json!({ "groups_changed": groups }), text))
}

impl AddArgs {
    fn run(self) -> Result<Found, Failed> {
        self.client.run(|client| async move {
            let nodes = client.cluster().status().await;
            let is_it = |status: &&GetStatusResponse| status.node == self.node;
            let itself = nodes.iter().filter_map(answer).find(is_it);
            let incarnation = itself.map(|node| node.incarnation.clone()).unwrap_or_default();
            let domain = match (&self.domain, itself.and_then(|node| node.domain.clone())) {
                (Some(domain), _) => domain.to_string(),
                (None, Some(own)) => format!("{}/{}/{}", own.provider, own.region, own.zone),
                (None, None) => {
                    let what = format!("node {} is not among the endpoints", self.node);
                    let help = "say where it is with --domain, or name its endpoint too";
                    return Err(Failed::new("Usage", what, help));
                }
            };
            let life = if incarnation == Bytes::new() { String::new() } else { hex(&incarnation) };
            let address = self.address.to_string();
            let add = Add { node: self.node, incarnation, address, domain };
            let done = match life.as_str() {
                "" => format!("node {} is a learner, whichever life of it comes first", self.node),
                life => format!("node {} is a learner, in its life {life}", self.node),
            };
            make(&client, Change::AddLearner(add), done).await
        })
    }
}

fn answer(node: &NodeStatus) -> Option<&GetStatusResponse> {
    node.status.as_ref().ok()
}

impl TransferArgs {
    fn run(self) -> Result<Found, Failed> {
        let wait = Duration::from_millis(self.wait_ms);
        self.client.run(|client| async move {
            let (cluster, began) = (client.cluster(), Instant::now());
            let (group, node) = (self.group, self.node);
            loop {
                cluster.transfer_leadership(group, node).await?;
                sleep(LOOK_EVERY).await;
                let nodes = cluster.status().await;
                let groups = nodes.iter().filter_map(answer).flat_map(|status| &status.groups);
                // Who has heard of the newest term knows who leads in it.
                let newest =
                    groups.filter(|it| it.group == group).max_by_key(|it| (it.term, it.leader));
                if newest.is_some_and(|newest| newest.leader == node) {
                    let document = json!({ "group": group, "leader": node });
                    return Ok(Found::new(document, format!("node {node} leads group {group}\n")));
                }
                if wait <= began.elapsed() {
                    let what = format!(
                        "node {node} does not lead group {group} after {} ms",
                        self.wait_ms
                    );
                    let help = "`palisade cluster status` says who does, and who is behind";
                    return Err(Failed::new("Unready", what, help));
                }
            }
        })
    }
}
