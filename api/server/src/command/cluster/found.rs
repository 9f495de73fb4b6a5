//! `palisade cluster init` and `join`: configurations for real machines, and what is to be done with them.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use palisade::{DATA_GROUPS_MAX, Error};
use serde_json::{Value, json};

use super::status::hex;
use crate::command::client_args::ClientArgs;
use crate::command::failed::Failed;
use crate::command::output::Found;
use crate::command::table::table;
use crate::config::{CERTS, NodeFile, VoterText, client, random_cluster, voter};
use crate::security::files::make_dir;

#[derive(Args)]
pub(super) struct InitArgs {
    /// A first voter, ID=ADDRESS:PORT[@provider/region/zone]; once for each. Callers reach it at the next port.
    #[arg(long = "node", value_name = "NODE", value_parser = voter, required = true)]
    nodes: Vec<VoterText>,
    /// Where to write the configurations.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Groups that resources are spread over, for the life of the cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=DATA_GROUPS_MAX))]
    data_groups: u64,
    /// A caller who may do everything, and grant others what they may; once for each.
    #[arg(long = "admin", value_name = "NAME", value_parser = client, conflicts_with = "insecure_loopback")]
    admins: Vec<String>,
    /// For nodes on this machine alone, without certificates.
    #[arg(long)]
    insecure_loopback: bool,
}

#[derive(Args)]
pub(super) struct JoinArgs {
    /// The node that joins, ID=ADDRESS:PORT[@provider/region/zone]. Callers reach it at the next port.
    #[arg(long, value_name = "NODE", value_parser = voter)]
    node: VoterText,
    /// Where to write the configuration.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// A caller who may do everything at this node, as at the others; once for each.
    #[arg(long = "admin", value_name = "NAME", value_parser = client, conflicts_with = "insecure_loopback")]
    admins: Vec<String>,
    /// For nodes on this machine alone, without certificates.
    #[arg(long)]
    insecure_loopback: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// A port behind that of the other nodes.
fn behind(node: &VoterText, by: u16) -> Result<u16, Failed> {
    node.address.port().checked_add(by).ok_or_else(|| {
        let what = format!("node {}: no port is {by} behind {}", node.id, node.address.port());
        Failed::new("Usage", what, "choose a lower one")
    })
}

/// Callers reach a node at the port behind that of the other nodes.
fn grpc(node: &VoterText) -> Result<SocketAddr, Failed> {
    Ok(SocketAddr::new(node.address.ip(), behind(node, 1)?))
}

/// And its operator, on its own machine alone, at the one behind that.
fn console(node: &VoterText) -> Result<Option<SocketAddr>, Failed> {
    Ok(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, behind(node, 2)?))))
}

fn path_of(dir: &Path, node: &VoterText) -> PathBuf {
    dir.join(format!("node-{}.toml", node.id))
}

/// Writes them all, or none if one is there.
fn write(dir: &Path, files: &[NodeFile]) -> Result<(), Failed> {
    let failed = |path: &Path, error: &io::Error| {
        let what = format!("{}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::AlreadyExists => Failed::from(Error::AlreadyExists { what })
                .helping("choose another directory: what is there is never changed"),
            _ => Failed::new("InputOutput", what, "check the rights and the space of that place"),
        }
    };
    make_dir(dir).map_err(|error| failed(dir, &error))?;
    for file in files {
        let path = path_of(dir, &file.node);
        if path.exists() {
            return Err(failed(&path, &io::ErrorKind::AlreadyExists.into()));
        }
    }
    for file in files {
        let path = path_of(dir, &file.node);
        file.write(&path).map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

fn row(dir: &Path, file: &NodeFile) -> Vec<String> {
    let path = path_of(dir, &file.node).display().to_string();
    let console = file.admin.map(|admin| format!("http://{admin}/")).unwrap_or_default();
    vec![
        file.node.id.to_string(),
        file.node.address.to_string(),
        file.grpc.to_string(),
        console,
        path,
    ]
}

fn document(dir: &Path, file: &NodeFile) -> Value {
    json!({
        "node": file.node.id,
        "peers": file.node.address.to_string(),
        "grpc": file.grpc.to_string(),
        "console": file.admin.map(|admin| format!("http://{admin}/")),
        "config": path_of(dir, &file.node).display().to_string(),
    })
}

/// How a node gets its certificates.
fn issue(file: &NodeFile) -> String {
    let NodeFile { node, grpc, .. } = file;
    format!("palisade ca issue --dir ca --node {} --ip {} --out {CERTS}", node.id, grpc.ip())
}

fn found(dir: &Path, files: &[NodeFile], next: &[String]) -> Found {
    let rows: Vec<Vec<String>> = files.iter().map(|file| row(dir, file)).collect();
    let mut text = table(&["NODE", "PEERS", "CALLERS", "CONSOLE", "CONFIGURATION"], &rows);
    text.push_str("then:\n");
    next.iter().for_each(|step| text.push_str(&format!("  {step}\n")));
    let nodes: Vec<Value> = files.iter().map(|file| document(dir, file)).collect();
    let cluster = files.first().map(|file| &file.cluster);
    Found::new(json!({ "cluster": cluster, "nodes": nodes, "next": next }), text)
}

impl InitArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        for (at, node) in self.nodes.iter().enumerate() {
            let same = |other: &VoterText| other.id == node.id || other.address == node.address;
            if self.nodes[..at].iter().any(same) {
                let what = format!("node {} has the number or address of another", node.id);
                return Err(Failed::new("Usage", what, "give each its own"));
            }
        }
        let cluster = random_cluster().map_err(|error| {
            Failed::new("InputOutput", format!("random bytes: {error}"), "check /dev/urandom")
        })?;
        let file = |node: &VoterText| {
            Ok(NodeFile {
                written_by: "palisade cluster init",
                node: node.clone(),
                cluster: cluster.clone(),
                data_groups: self.data_groups,
                voters: self.nodes.clone(),
                grpc: grpc(node)?,
                admin: console(node)?,
                reports: None,
                backup_dir: None,
                admins: self.admins.clone(),
                is_loopback: self.insecure_loopback,
            })
        };
        let files = self.nodes.iter().map(file).collect::<Result<Vec<_>, Failed>>()?;
        let here = files.iter().filter(|file| file.node.address.ip().is_loopback());
        let mut taken = BTreeSet::new();
        for file in here {
            let consoles = file.admin.map(|admin| admin.port());
            for port in [file.node.address.port(), file.grpc.port()].into_iter().chain(consoles) {
                if !taken.insert(port) {
                    let what = format!("node {}: port {port} is of two nodes", file.node.id);
                    let help = "a node takes three ports that follow each other: for peers, callers and its console";
                    return Err(Failed::new("Usage", what, help));
                }
            }
        }
        write(&self.out, &files)?;
        let mut next = Vec::new();
        if !self.insecure_loopback {
            next.push(format!("palisade ca init --dir ca --cluster {cluster}"));
            next.extend(files.iter().map(issue));
            let admins = self.admins.iter();
            next.extend(
                admins
                    .map(|name| format!("palisade ca issue --dir ca --client {name} --out {name}")),
            );
        }
        next.extend(files.iter().map(|file| {
            let path = path_of(&self.out, &file.node);
            format!("palisade node --config {}", path.display())
        }));
        next.push("palisade cluster wait --healthy".to_owned());
        Ok(found(&self.out, &files, &next))
    }
}

impl JoinArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        self.client.run(|client| async move {
            let nodes = client.cluster().status().await;
            let Some(status) = nodes.iter().find_map(|node| node.status.as_ref().ok()) else {
                let error = nodes.into_iter().find_map(|node| node.status.err());
                return Err(error.expect("a client has an endpoint").into());
            };
            let members = status.groups.iter().flat_map(|group| &group.members);
            if members.clone().any(|member| member.node == self.node.id) {
                let what = format!("node {} is a member already", self.node.id);
                let help = "a node that joins has a number that no other has";
                return Err(Failed::from(Error::AlreadyExists { what }).helping(help));
            }
            let file = NodeFile {
                written_by: "palisade cluster join",
                grpc: grpc(&self.node)?,
                admin: console(&self.node)?,
                node: self.node,
                cluster: hex(&status.cluster),
                // The first group holds the names.
                data_groups: status.groups.len().saturating_sub(1) as u64,
                voters: Vec::new(),
                reports: None,
                backup_dir: None,
                admins: self.admins,
                is_loopback: self.insecure_loopback,
            };
            let files = [file];
            write(&self.out, &files)?;
            let file = &files[0];
            let (id, path) = (file.node.id, path_of(&self.out, &file.node));
            let scheme = if self.insecure_loopback { "http" } else { "https" };
            let mut next = Vec::new();
            if !self.insecure_loopback {
                next.push(issue(file));
            }
            next.push(format!("palisade node --config {}", path.display()));
            next.push(format!(
                "palisade member add {id} --address {} --endpoint {scheme}://{} and those of the others",
                file.node.address, file.grpc
            ));
            next.push(format!("palisade member promote {id}"));
            Ok(found(&self.out, &files, &next))
        })
    }
}
