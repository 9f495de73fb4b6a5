//! Three nodes of ours, each a process, and the ways to call them: in the process of one node, and over gRPC.

mod grpc;
mod in_process;
mod node;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use palisade_benches::{Payloads, free_addresses};
use palisade_client::Client;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

pub(super) use self::grpc::{GrpcReads, streams, unary_puts};
pub(crate) use self::node::serve;
use crate::failover::silence;
use crate::load::{CONNECTIONS, Load, Told, Way, Work};
use crate::party::{Party, not_offered};
use crate::server::{Talker, text};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Names of the resources that are loaded; all are in one group.
const LOG: &str = "bench";
const SCHEMA: &str = "bytes.v1";
const MAP: &str = "bench/map";
const STATUS: &str = "bench/status";
const REQUESTS: &str = "bench/requests";

/// What a node is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// Whether it leads, and what it has applied.
    Status,
    /// To fill the map.
    Fill { keys: u64, bytes: usize },
    /// To be loaded, in its process. Reads at a follower are at least at this offset.
    Load { load: Load, at_least: u64 },
    /// How often it has synced.
    Syncs,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Status {
    leads: bool,
    grpc: SocketAddr,
    applied: u64,
}

pub(crate) struct Ours {
    nodes: Vec<Talker>,
    /// How many keys are there, and how long their values are.
    filled: Option<(u64, usize)>,
}

impl Ours {
    /// Starts three nodes below a folder.
    pub(crate) async fn start(dir: &Path) -> Result<Self, String> {
        let addresses = free_addresses(3)?;
        let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let dir = dir.to_str().ok_or("the folder's name is not UTF-8")?;
        let mut nodes = Vec::new();
        for at in 0..3 {
            let args = ["node", "--dir", dir, "--at", &at.to_string(), "--addresses"];
            let mut args: Vec<String> = args.map(str::to_owned).to_vec();
            args.push(all.join(","));
            nodes.push(Talker::start(&args)?);
        }
        for node in &mut nodes {
            node.hear::<()>().await?;
        }
        let mut ours = Self { nodes, filled: None };
        let end = Instant::now() + START_TIMEOUT;
        while ours.leader().await.is_err() {
            if end < Instant::now() {
                return Err("no node leads".to_owned());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(ours)
    }

    async fn leader(&mut self) -> Result<(usize, Status), String> {
        self.node(true).await
    }

    /// One that leads, or one that does not.
    async fn node(&mut self, leads: bool) -> Result<(usize, Status), String> {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let status: Status = node.ask(&Question::Status).await?;
            if status.leads == leads {
                return Ok((at, status));
            }
        }
        Err(if leads { "no node leads" } else { "every node leads" }.to_owned())
    }

    /// Every key is there before the first is read.
    async fn fill(&mut self, load: &Load) -> Result<(), String> {
        let wanted = (load.keys.count(), load.bytes);
        if self.filled != Some(wanted) {
            let (leader, _) = self.leader().await?;
            let (keys, bytes) = wanted;
            self.nodes[leader].ask::<()>(&Question::Fill { keys, bytes }).await?;
            self.filled = Some(wanted);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Party for Ours {
    fn processes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(Talker::process).collect()
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        if matches!(load.work, Work::Get | Work::GetAtLeast) {
            self.fill(load).await?;
        }
        let (leader, leads) = self.leader().await?;
        let at_follower = load.work == Work::GetAtLeast;
        let (at, status) = if at_follower { self.node(false).await? } else { (leader, leads) };
        let at_least = leads.applied;
        match (load.way, load.work) {
            (Way::InProcess, _) => {
                self.nodes[at].ask(&Question::Load { load: *load, at_least }).await
            }
            (Way::Unary, Work::Put) => unary_puts(status.grpc, load).await,
            (Way::Stream | Way::Batched, Work::Put) => streams(status.grpc, load).await,
            (Way::Unary, Work::Get | Work::GetAtLeast) => {
                let at_least = at_follower.then_some(at_least);
                GrpcReads::connect(status.grpc, at_least).await?.run(load).await
            }
            (Way::Unary, Work::Cas) => grpc::cas(status.grpc, load).await,
            (Way::Unary, Work::Submit) => grpc::submits(status.grpc, load).await,
            _ => Err(not_offered(load)),
        }
    }

    /// Clients know all nodes, as a user's would, and try again by themselves.
    async fn failover(&mut self, load: &Load) -> Result<Duration, String> {
        let mut endpoints = Vec::new();
        for node in &mut self.nodes {
            let status: Status = node.ask(&Question::Status).await?;
            endpoints.push(format!("http://{}", status.grpc));
        }
        let mut logs = Vec::new();
        for _ in 0..CONNECTIONS {
            let client =
                endpoints.iter().fold(Client::builder(), |builder, at| builder.endpoint(at));
            logs.push(client.connect().map_err(text)?.log::<Bytes>(LOG, SCHEMA));
        }
        let payloads = Payloads::of(load.bytes);
        let append = move |number: u64| {
            let log = logs[number as usize % logs.len()].clone();
            let value = payloads.get(number);
            async move { log.append(&[value]).await.map(|_| ()).map_err(text) }
        };
        let (leader, _) = self.leader().await?;
        let node = &mut self.nodes[leader];
        silence(load.in_flight, append, async || node.kill().await).await
    }

    async fn syncs(&mut self) -> Result<Option<u64>, String> {
        let mut syncs = 0;
        for node in &mut self.nodes {
            syncs += node.ask::<u64>(&Question::Syncs).await?;
        }
        Ok(Some(syncs))
    }

    async fn stop(self: Box<Self>) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}
