//! `palisade fence`: what is fenced at nodes that run, and what an operator can clear of it.

use clap::{Args, Subcommand};
use palisade::Error;
use palisade_client::proto::cluster::v1::{Divergence, GetStatusResponse};
use palisade_client::proto::directory::v1::{Described, Kind};
use palisade_client::{Client, Consistency};
use serde_json::{Value, json};

use super::client_args::ClientArgs;
use super::failed::Failed;
use super::output::Found;
use super::table::table;

/// What is fenced at running nodes.
#[derive(Subcommand)]
pub(super) enum FenceCommand {
    List(ListArgs),
    Clear(ClearArgs),
}

/// List replicas that have halted, divergences, and the epochs of writers. It takes the right to administer
/// palisade.cluster.
#[derive(Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Make a replica anew that has halted because its state is wrong: its state and log there are given up. It takes
/// the right to administer palisade.cluster.
#[derive(Args)]
pub(super) struct ClearArgs {
    /// The node whose replica has halted.
    #[arg(long, value_name = "NUMBER")]
    node: u64,
    /// The group of it.
    #[arg(long, value_name = "NUMBER")]
    group: u64,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do it; without, only the plan is shown.
    #[arg(long)]
    confirm: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl FenceCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self {
            Self::List(args) => args.run(),
            Self::Clear(args) => args.run(),
        }
    }
}

/// What is fenced, as everybody says who answers.
struct Fences {
    nodes: Vec<GetStatusResponse>,
    /// Each with its group.
    divergences: Vec<(u64, Divergence)>,
    writers: Vec<Described>,
}

impl Fences {
    async fn of(client: &Client) -> Result<Self, Failed> {
        let cluster = client.cluster();
        let (mut nodes, mut failed) = (Vec::new(), None);
        for found in cluster.status().await {
            match found.status {
                Ok(status) => nodes.push(status),
                Err(error) => failed = Some(error),
            }
        }
        if let (true, Some(error)) = (nodes.is_empty(), failed) {
            return Err(error.into());
        }
        let mut divergences: Vec<(u64, Divergence)> = Vec::new();
        for node in &nodes {
            for group in node.groups.iter().filter(|group| group.halted.is_empty()) {
                for found in cluster.divergences(node.node, group.group).await? {
                    // All members keep the same ones.
                    let found = (group.group, found);
                    if !divergences.contains(&found) {
                        divergences.push(found);
                    }
                }
            }
        }
        let (mut writers, mut after) = (Vec::new(), String::new());
        loop {
            let page = client.directory().list("", &after, Consistency::Linearizable).await?;
            writers.extend(page.described);
            match page.next {
                Some(next) => after = next,
                None => return Ok(Self { nodes, divergences, writers }),
            }
        }
    }

    fn halted(&self) -> impl Iterator<Item = (u64, u64, &str)> {
        let of_node = |node: &GetStatusResponse| node.node;
        self.nodes.iter().flat_map(move |node| {
            let halted = node.groups.iter().filter(|group| !group.halted.is_empty());
            halted.map(move |group| (of_node(node), group.group, group.halted.as_str()))
        })
    }

    fn document(&self) -> Value {
        let halted = self
            .halted()
            .map(|(node, group, cause)| json!({ "node": node, "group": group, "cause": cause }));
        let divergences = self.divergences.iter().map(|(group, found)| {
            json!({
                "group": group,
                "node": found.node,
                "compared": found.compared,
                "found": found.found,
                "log_time_ms": found.log_time_ms,
                "has_majority": found.has_majority,
                "projection": found.projection,
                "resource": (!found.resource.is_empty()).then_some(&found.resource),
            })
        });
        let writers = self.writers.iter().map(|found| {
            let [resource, kind, group, epoch] = writer(found);
            json!({
                "resource": resource,
                "kind": kind,
                "group": group.parse::<u64>().ok(),
                "epoch": epoch.parse::<u64>().ok(),
            })
        });
        json!({
            "halted": halted.collect::<Vec<_>>(),
            "divergences": divergences.collect::<Vec<_>>(),
            "writers": writers.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let halted = self.halted().map(|(node, group, cause)| {
            vec![node.to_string(), group.to_string(), cause.to_owned()]
        });
        let divergences = self.divergences.iter().map(|(group, found)| {
            let resource = if found.resource.is_empty() { "-" } else { &found.resource };
            vec![
                found.node.to_string(),
                group.to_string(),
                found.compared.to_string(),
                found.projection.clone(),
                resource.to_owned(),
            ]
        });
        let writers = self.writers.iter().map(|found| writer(found).to_vec());
        let section =
            |head: &[&str], rows: Vec<Vec<String>>| (!rows.is_empty()).then(|| table(head, &rows));
        let diverged = ["DIVERGED NODE", "GROUP", "COMPARED", "PROJECTION", "RESOURCE"];
        let sections = [
            section(&["HALTED NODE", "GROUP", "CAUSE"], halted.collect()),
            section(&diverged, divergences.collect()),
            section(&["RESOURCE", "KIND", "GROUP", "EPOCH"], writers.collect()),
        ];
        let sections: Vec<String> = sections.into_iter().flatten().collect();
        match sections.is_empty() {
            true => "nothing is fenced\n".to_owned(),
            false => sections.join("\n"),
        }
    }
}

/// Its resource, kind, group and epoch.
fn writer(found: &Described) -> [String; 4] {
    let spec = found.spec.clone().unwrap_or_default();
    let kind = match spec.kind() {
        Kind::Log => "log",
        Kind::Map => "map",
        Kind::Idempotency => "idempotency",
        Kind::Unspecified => "unknown",
    };
    [spec.name.clone(), kind.to_owned(), found.group.to_string(), spec.epoch.to_string()]
}

impl ListArgs {
    fn run(self) -> Result<Found, Failed> {
        let found = self.client.run(|client| async move { Fences::of(&client).await })?;
        Ok(Found::new(found.document(), found.text()))
    }
}

impl ClearArgs {
    fn run(self) -> Result<Found, Failed> {
        let Self { node, group, reason, confirm, client } = self;
        if !confirm {
            let plan = format!(
                "the state and the log of group {group} at node {node} would be given up, and come again from \
                 its leader\n"
            );
            let document = json!({ "node": node, "group": group, "cleared": false });
            let error = Error::PreconditionFailed { what: "nothing was done".to_owned() };
            let wrong = Failed::from(error).helping("to do it, repeat this with --confirm");
            return Ok(Found::new(document, plan).but(Some(wrong)));
        }
        client.run(|client| async move {
            Ok(client.cluster().rebuild_replica(node, group, &reason).await?)
        })?;
        let document = json!({ "node": node, "group": group, "cleared": true });
        Ok(Found::new(document, format!("group {group} was made anew at node {node}\n")))
    }
}
