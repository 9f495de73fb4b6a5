//! `palisade fence`: what is fenced at nodes that run, and what an operator can clear of it.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use palisade::Failure;
use palisade_client::proto::cluster::v1::{Divergence, GetStatusResponse};
use palisade_client::proto::directory::v1::{Described, Kind};
use palisade_client::{Client, Consistency};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::client_args::ClientArgs;
use super::confirm::ConfirmArgs;
use super::failed::Failed;
use super::output::Found;
use super::runtime;
use super::table::table;

/// What is fenced at running nodes.
#[derive(Subcommand)]
pub(super) enum FenceCommand {
    List(ListArgs),
    Clear(ClearArgs),
}

/// List replicas that have halted, divergences, and the epochs of writers, as each node that is named has them:
/// without a quorum, too. Exit code 5 if one of them could not be asked. It takes the right to administer
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
    #[command(flatten)]
    confirm: ConfirmArgs,
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

/// What one node knows, as far as it could be asked.
struct Asked {
    endpoint: String,
    status: Option<GetStatusResponse>,
    /// Each with its group.
    divergences: Vec<(u64, Divergence)>,
    writers: Vec<Described>,
    /// Why a node with a halted replica did not tell the writers: the others may have them all.
    withheld: Option<Failed>,
    failed: Option<Failed>,
}

impl Asked {
    /// Asks a node for what it has itself: no quorum and no other node is waited for.
    async fn of(endpoint: String, client: Client, patience: Duration) -> Self {
        let (status, divergences, writers) = (None, Vec::new(), Vec::new());
        let withheld = None;
        let mut asked = Self { endpoint, status, divergences, writers, withheld, failed: None };
        let done = timeout(patience, asked.ask(&client)).await;
        let done = done.unwrap_or_else(|_| {
            let what = "it did not answer in time".to_owned();
            Err(Failed::of(
                Failure::Disconnected,
                what,
                "ask it again, or for longer (--timeout-ms)",
            ))
        });
        asked.failed = done.err().map(|failed| failed.at(&asked.endpoint));
        asked
    }

    async fn ask(&mut self, client: &Client) -> Result<(), Failed> {
        for found in client.cluster().status().await {
            self.status = Some(found.status?);
        }
        let Some(status) = &self.status else { return Ok(()) };
        let has_halted = status.groups.iter().any(|group| !group.halted.is_empty());
        for group in status.groups.iter().filter(|group| group.halted.is_empty()) {
            let found = client.cluster().divergences(status.node, group.group).await?;
            self.divergences.extend(found.into_iter().map(|found| (group.group, found)));
        }
        let mut after = String::new();
        loop {
            let page = match client.directory().list("", &after, Consistency::Local).await {
                Err(error) if has_halted => {
                    self.withheld = Some(Failed::from(error).at(&self.endpoint));
                    return Ok(());
                }
                page => page?,
            };
            self.writers.extend(page.described);
            match page.next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }
}

/// What is fenced, as everybody says who answers.
struct Fences {
    nodes: Vec<GetStatusResponse>,
    divergences: Vec<(u64, Divergence)>,
    writers: Vec<Described>,
    /// Nodes that have not said all of it.
    unasked: Vec<(String, Failed)>,
}

fn epoch(found: &Described) -> u64 {
    found.spec.as_ref().map_or(0, |spec| spec.epoch)
}

impl Fences {
    fn of(asked: Vec<Asked>) -> Self {
        let mut divergences = Vec::new();
        let mut writers: BTreeMap<String, Described> = BTreeMap::new();
        let (mut nodes, mut unasked) = (Vec::new(), Vec::new());
        let told = |node: &Asked| node.failed.is_none() && node.withheld.is_none();
        let somebody_told = asked.iter().any(told);
        for node in asked {
            nodes.extend(node.status);
            for found in node.divergences {
                // All members keep the same ones.
                if !divergences.contains(&found) {
                    divergences.push(found);
                }
            }
            for found in node.writers {
                let name = found.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
                // Some are behind: an epoch only ever rises.
                if writers.get(&name).is_none_or(|known| epoch(known) < epoch(&found)) {
                    writers.insert(name, found);
                }
            }
            let withheld = node.withheld.filter(|_| !somebody_told);
            unasked.extend(node.failed.or(withheld).map(|failed| (node.endpoint, failed)));
        }
        Self { nodes, divergences, writers: writers.into_values().collect(), unasked }
    }

    fn found(self) -> Result<Found, Failed> {
        let wrong = Failed::all(self.unasked.iter().map(|(_, failed)| failed.clone()));
        match wrong {
            Some(wrong) if self.nodes.is_empty() => Err(wrong),
            wrong => Ok(Found::new(self.document(), self.text()).but(wrong)),
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
        let unasked = self.unasked.iter().map(|(endpoint, _)| endpoint);
        json!({
            "halted": halted.collect::<Vec<_>>(),
            "divergences": divergences.collect::<Vec<_>>(),
            "writers": writers.collect::<Vec<_>>(),
            "unasked": unasked.collect::<Vec<_>>(),
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
        let unasked = self.unasked.iter().map(|(endpoint, _)| vec![endpoint.clone()]);
        let sections = [
            section(&["HALTED NODE", "GROUP", "CAUSE"], halted.collect()),
            section(&diverged, divergences.collect()),
            section(&["RESOURCE", "KIND", "GROUP", "EPOCH"], writers.collect()),
            section(&["NOT KNOWN OF"], unasked.collect()),
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
        let patience = self.client.patience();
        let asked = runtime()?.block_on(async {
            let each = self.client.connect_each()?.into_iter();
            let asked = each.map(|(endpoint, client)| Asked::of(endpoint, client, patience));
            Ok::<_, Failed>(join_all(asked).await)
        })?;
        Fences::of(asked).found()
    }
}

impl ClearArgs {
    fn run(self) -> Result<Found, Failed> {
        let Self { node, group, reason, confirm, client } = self;
        let plan = format!(
            "give up the state and the log of group {group} at node {node}, and have them again from its leader"
        );
        if let Some(planned) = confirm.planned(&[plan]) {
            return Ok(planned);
        }
        client.run(|client| async move {
            Ok(client.cluster().rebuild_replica(node, group, &reason).await?)
        })?;
        let document = json!({ "node": node, "group": group, "cleared": true });
        Ok(Found::new(document, format!("group {group} was made anew at node {node}\n")))
    }
}

#[cfg(test)]
mod tests {
    use palisade::Error;

    use super::*;

    fn asked(endpoint: &str, withheld: bool) -> Asked {
        let failed = || Failed::from(Error::InternalError { what: "it has halted".to_owned() });
        Asked {
            endpoint: endpoint.to_owned(),
            status: Some(GetStatusResponse::default()),
            divergences: Vec::new(),
            writers: Vec::new(),
            withheld: withheld.then(failed),
            failed: None,
        }
    }

    fn unasked(asked: Vec<Asked>) -> Vec<String> {
        Fences::of(asked).unasked.into_iter().map(|(endpoint, _)| endpoint).collect()
    }

    #[test]
    fn a_halted_replica_hides_no_writer_that_another_node_tells() {
        assert_eq!(unasked(vec![asked("one", true), asked("two", false)]), [""; 0]);
        assert_eq!(unasked(vec![asked("one", true)]), ["one"], "nobody has told the writers");
    }
}
