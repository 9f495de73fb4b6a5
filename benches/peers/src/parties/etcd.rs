//! Three etcd members; requests go to the one that leads, which spares etcd to pass them on.

use std::path::Path;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use palisade_benches::{Payloads, Until, closed_loop, free_addresses};
use tokio::time::timeout;

use super::pool::Pool;
use crate::failover::silence;
use crate::keys::Keys;
use crate::load::{CONNECTIONS, Load, Told, Work};
use crate::party::{Party, not_offered};
use crate::server::{Program, Server, Unavailable, processes, stop_all, text, until_up};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one try of a put is waited for while a leader is elected.
const TRY_TIMEOUT: Duration = Duration::from_millis(250);
const FILL_CALLERS: usize = 64;

pub(crate) struct Etcd {
    servers: Vec<Server>,
    clients: Vec<String>,
    leader: String,
    follower: String,
    filled: Option<(u64, usize)>,
}

impl Etcd {
    pub(crate) async fn start(dir: &Path) -> Result<Self, Unavailable> {
        let urls: Vec<String> =
            free_addresses(6)?.iter().map(|address| format!("http://{address}")).collect();
        let cluster: Vec<String> = (0..3).map(|at| format!("m{at}={}", urls[at])).collect();
        let cluster = cluster.join(",");
        let mut servers = Vec::new();
        for at in 0..3 {
            let name = format!("m{at}");
            let data = dir.join(format!("etcd-{at}")).display().to_string();
            let (peer, client) = (&urls[at], &urls[at + 3]);
            let args = [
                ["--name", &name],
                ["--logger", "zap"],
                ["--log-level", "error"],
                ["--data-dir", &data],
                ["--listen-peer-urls", peer],
                ["--initial-advertise-peer-urls", peer],
                ["--listen-client-urls", client],
                ["--advertise-client-urls", client],
                ["--initial-cluster", &cluster],
                // Of the default it would stop taking writes in a long run.
                ["--quota-backend-bytes", "8589934592"],
            ];
            let args = args.concat().into_iter().map(str::to_owned).collect();
            let program = Program { at: "etcd".to_owned(), args, user: None };
            servers.push(Server::start(&name, dir, &program)?);
        }
        let clients = urls[3..].to_vec();
        let (leader, follower) =
            until_up(&mut servers, START_TIMEOUT, || roles(clients.clone())).await?;
        Ok(Self { servers, clients, leader, follower, filled: None })
    }

    async fn fill(&mut self, load: &Load) -> Result<(), String> {
        let wanted = (load.keys.count(), load.bytes);
        if self.filled != Some(wanted) {
            let (clients, payloads) = (connect(&self.leader).await?, Payloads::of(load.bytes));
            let put = move |number: u64| {
                let mut client = clients[number as usize % clients.len()].clone();
                let value = payloads.get(number);
                async move { client.put(key(number), value, None).await.map(|_| ()).map_err(text) }
            };
            closed_loop(FILL_CALLERS, Until::Requests(wanted.0), put).await?;
            self.filled = Some(wanted);
        }
        Ok(())
    }
}

fn key(at: u64) -> String {
    format!("key-{at}")
}

async fn connect(url: &str) -> Result<Vec<Client>, String> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect([url], None).await.map_err(text)?);
    }
    Ok(clients)
}

/// Where the leader is, and one that follows it.
async fn roles(urls: Vec<String>) -> Result<(String, String), String> {
    let (mut leader, mut follower) = (None, None);
    for url in urls {
        let mut client = Client::connect([&url], None).await.map_err(text)?;
        let status = client.status().await.map_err(text)?;
        let this = status.header().map(etcd_client::ResponseHeader::member_id);
        let leads = this == Some(status.leader());
        *(if leads { &mut leader } else { &mut follower }) = Some(url);
    }
    leader.zip(follower).ok_or_else(|| "no member leads".to_owned())
}

#[tonic::async_trait]
impl Party for Etcd {
    fn processes(&self) -> Vec<u32> {
        processes(&self.servers)
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        match load.work {
            Work::Put => puts(&self.leader, load).await,
            Work::Get => {
                self.fill(load).await?;
                gets(&self.leader, load, None).await
            }
            Work::GetAtLeast => {
                self.fill(load).await?;
                gets(&self.follower, load, Some(GetOptions::new().with_serializable())).await
            }
            Work::Cas => cas(&self.leader, load).await,
            _ => Err(not_offered(load)),
        }
    }

    /// Clients know all members, as a user's would.
    async fn failover(&mut self, load: &Load) -> Result<Duration, String> {
        let leader = self.clients.iter().position(|url| *url == self.leader);
        let server = &mut self.servers[leader.ok_or("no member leads")?];
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Client::connect(&self.clients, None).await.map_err(text)?);
        }
        let (payloads, keys) = (Payloads::of(load.bytes), load.keys);
        let put = move |number: u64| {
            let mut client = clients[number as usize % clients.len()].clone();
            let (key, value) = (key(keys.key(number)), payloads.get(number));
            async move {
                // By itself a call waits for a leader far longer than it takes to elect one.
                let put = timeout(TRY_TIMEOUT, client.put(key, value, None)).await;
                put.map_err(text)?.map(|_| ()).map_err(text)
            }
        };
        silence(load.in_flight, put, async || server.kill().await).await
    }

    async fn stop(self: Box<Self>) {
        stop_all(self.servers).await;
    }
}

async fn puts(url: &str, load: &Load) -> Result<Told, String> {
    let (clients, payloads) = (connect(url).await?, Payloads::of(load.bytes));
    let keys: Keys = load.keys;
    let put = move |number: u64| {
        let mut client = clients[number as usize % clients.len()].clone();
        let (key, value) = (key(keys.key(number)), payloads.get(number));
        async move { client.put(key, value, None).await.map(|_| ()).map_err(text) }
    };
    Ok(closed_loop(load.in_flight as usize, load.length, put).await?.into())
}

async fn gets(url: &str, load: &Load, options: Option<GetOptions>) -> Result<Told, String> {
    let (clients, keys) = (connect(url).await?, load.keys);
    let get = move |number: u64| {
        let mut client = clients[number as usize % clients.len()].clone();
        let (key, options) = (key(keys.key(number)), options.clone());
        async move {
            let found = client.get(key, options).await.map_err(text)?;
            if found.kvs().is_empty() { Err("a key is not there".to_owned()) } else { Ok(()) }
        }
    };
    Ok(closed_loop(load.in_flight as usize, load.length, get).await?.into())
}

async fn cas(url: &str, load: &Load) -> Result<Told, String> {
    let (clients, payloads) = (connect(url).await?, Payloads::of(load.bytes));
    let mut known = Vec::new();
    for at in 0..load.in_flight {
        let key = format!("cas-{at}");
        let put = clients[0].clone().put(key.clone(), payloads.get(at), None).await;
        let revision = put.map_err(text)?.header().map(etcd_client::ResponseHeader::revision);
        known.push((key, revision.ok_or("an answer without a revision")?));
    }
    let known = Pool::of(known);
    let replace = move |number: u64| {
        let mut client = clients[number as usize % clients.len()].clone();
        let (known, value) = (known.clone(), payloads.get(number));
        async move {
            let (key, revision) = known.take()?;
            let is_as_seen = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
            let put = TxnOp::put(key.clone(), value, None);
            let txn = Txn::new().when([is_as_seen]).and_then([put]);
            let done = client.txn(txn).await.map_err(text)?;
            let revision = done.header().map(etcd_client::ResponseHeader::revision);
            match revision.filter(|_| done.succeeded()) {
                Some(revision) => known.put((key, revision)),
                None => return Err("somebody else has the key".to_owned()),
            }
            Ok(())
        }
    };
    Ok(closed_loop(load.in_flight as usize, load.length, replace).await?.into())
}
