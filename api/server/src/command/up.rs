//! `palisade up` and `palisade down`: three nodes on this machine, from one directory.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::failed::Failed;
use super::output::Found;
use super::runtime;
use super::table::table;
use crate::local::{LocalCluster, LocalError, LocalNode};
use crate::reports::cross_provider_profile;

/// Where the nodes of `palisade up` are if nothing else is said.
pub(super) const LOCAL_DIR: &str = "palisade-local";

/// Start three nodes on this machine, and leave them up; their state outlives them.
#[derive(Args)]
pub(super) struct UpArgs {
    /// Where configurations, data and logs are kept.
    #[arg(long, default_value = LOCAL_DIR)]
    dir: PathBuf,
}

/// Stop the nodes that `palisade up` started; their state stays.
#[derive(Args)]
pub(super) struct DownArgs {
    /// As with `palisade up`.
    #[arg(long, default_value = LOCAL_DIR)]
    dir: PathBuf,
}

impl UpArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let program = super::own_program()?;
        let cluster = LocalCluster::found(&self.dir, &cross_provider_profile())?;
        runtime()?.block_on(cluster.start(&program))?;
        let nodes = cluster.nodes()?;
        let rows: Vec<Vec<String>> = nodes
            .iter()
            .map(|node| {
                let pid = node.pid.map_or("-".to_owned(), |pid| pid.to_string());
                vec![
                    node.id.to_string(),
                    pid,
                    node.peers.clone(),
                    node.grpc.as_ref().map_or("-".to_owned(), |grpc| format!("http://{grpc}")),
                    format!("http://{}", node.reports),
                    console(node),
                ]
            })
            .collect();
        let heads = ["NODE", "PID", "PEERS", "CALLERS", "REPORT SERVICE", "CONSOLE"];
        let mut text = table(&heads, &rows);
        let dir = self.dir.display();
        text.push_str(&format!("look at them with: palisade cluster status --dir {dir}\n"));
        text.push_str(&format!("stop them with: palisade down --dir {dir}\n"));
        Ok(Found::new(json!({ "dir": dir.to_string(), "nodes": documents(&nodes) }), text))
    }
}

impl DownArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let cluster = LocalCluster::open(&self.dir)?;
        let stopped = runtime()?.block_on(cluster.stop())?;
        let text: String = stopped
            .iter()
            .map(|(id, pid)| format!("node {id} is down, it was process {pid}\n"))
            .collect();
        let text = if text.is_empty() { "no node was up\n".to_owned() } else { text };
        let stopped: Vec<Value> =
            stopped.iter().map(|(id, pid)| json!({ "node": id, "pid": pid })).collect();
        Ok(Found::new(json!({ "stopped": stopped }), text))
    }
}

/// The address of its console, if it has an admin port.
fn console(node: &LocalNode) -> String {
    match node.admin.as_str() {
        "-" => "-".to_owned(),
        admin => format!("http://{admin}/"),
    }
}

fn documents(nodes: &[LocalNode]) -> Vec<Value> {
    let document = |node: &LocalNode| {
        json!({
            "node": node.id,
            "pid": node.pid,
            "peers": node.peers,
            "grpc": node.grpc,
            "reports": node.reports,
            "admin": node.admin,
            "config": node.config.display().to_string(),
            "log": node.log.display().to_string(),
        })
    };
    nodes.iter().map(document).collect()
}

impl From<LocalError> for Failed {
    fn from(error: LocalError) -> Self {
        let what = error.to_string();
        match error {
            LocalError::NotThere { .. } => Self::from(palisade::Error::NotFound { what })
                .helping("name the directory that `palisade up` was given"),
            LocalError::Io { .. } => {
                Self::new("InputOutput", what, "check the rights and the space of that place")
            }
            LocalError::Busy { .. } => Self::new("InUse", what, "wait until that has ended"),
            LocalError::Config(errors) => Self::from(errors),
            LocalError::Ended { .. } => {
                Self::new("Unready", what, "the last lines of that log say why")
            }
            LocalError::NotReady { .. } => {
                Self::new("Unready", what, "wait, and look at the logs in that directory")
            }
            LocalError::StillUp { pid, .. } => {
                Self::new("Unready", what, format!("see its log; to end it anyway: kill -9 {pid}"))
            }
        }
    }
}
