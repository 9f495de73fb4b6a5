//! `palisade state`: the state of a node that is not running, offline and read-only.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use palisade::inspect::{GroupState, verify_state};
use serde_json::{Value, json};

use super::failed::Failed;
use super::output::Found;
use super::printable::printable;
use super::table::table;

/// Look at the state of a node that is not running; nothing is changed.
#[derive(Args)]
pub(super) struct StateCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Read every row and say whether it is what was written; exit code 6 if not, 5 if that is not known.
    Verify(VerifyArgs),
}

#[derive(Args)]
struct VerifyArgs {
    /// The node's data directory.
    dir: PathBuf,
}

impl StateCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::Verify(args) => verify(&args.dir),
        }
    }
}

fn verify(dir: &Path) -> Result<Found, Failed> {
    let state = verify_state(dir)?;
    let rows: Vec<Vec<String>> = state.groups.iter().map(row).collect();
    let mut text = format!("cluster {:032x}  node {}\n", state.cluster.get(), state.node);
    text.push_str(&table(&["GROUP", "APPLIED", "BYTES COMPARED", "STATE"], &rows));
    let mut first = None;
    for group in &state.groups {
        for what in group.latched.iter().chain(&group.faults) {
            let _ = writeln!(text, "group {}: {}", group.group, printable(what));
            first.get_or_insert_with(|| format!("group {}: {what}", group.group));
        }
    }
    let document = json!({
        "cluster": format!("{:032x}", state.cluster.get()),
        "node": state.node.get(),
        "families": state.families,
        "damaged": state.is_damaged(),
        "groups": state.groups.iter().map(group_json).collect::<Vec<_>>(),
    });
    let wrong = first.map(|what| {
        let help = "start the node: it halts that group and serves the others; then make the group \
                    anew from the other replicas, or restore a backup";
        Failed::new("Damaged", what, help)
    });
    // What was not looked at is not known to be whole.
    let wrong = wrong.or_else(|| {
        let group = state.groups.iter().find(|group| !group.has_sums)?;
        let what = format!("group {}: its rows were read, and not compared", group.group);
        let help = "its sums are of another release: start the node with this one, and ask again";
        Some(Failed::new("NotCompared", what, help))
    });
    Ok(Found::new(document, text).but(wrong))
}

fn row(group: &GroupState) -> Vec<String> {
    let state = match (group.latched.is_some() || !group.faults.is_empty(), group.has_sums) {
        (true, _) => "damaged",
        (false, true) => "as written",
        (false, false) => "not compared",
    };
    vec![
        group.group.to_string(),
        group.applied.offset.to_string(),
        group.bytes_compared.to_string(),
        state.to_owned(),
    ]
}

fn group_json(group: &GroupState) -> Value {
    json!({
        "group": group.group.get(),
        "applied_offset": group.applied.offset.get(),
        "applied_index": group.applied.index.get(),
        "log_time": group.applied.log_time.get(),
        "chain_head": group.chain_head,
        "bytes_compared": group.bytes_compared,
        "compared": group.has_sums,
        "latched": group.latched,
        "faults": group.faults,
    })
}
