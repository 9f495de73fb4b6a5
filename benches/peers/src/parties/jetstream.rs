//! Three NATS servers with a stream of three replicas; messages are published at the server that leads it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{connect, jetstream};
use palisade_benches::{Payloads, closed_loop, free_addresses};

use crate::load::{CONNECTIONS, Load, Told, Work};
use crate::party::{Party, not_offered};
use crate::server::{Program, Server, Unavailable, processes, stop_all, text, until_up};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STREAM: &str = "bench";
pub(crate) const PROGRAM: &str = "nats-server";

pub(crate) struct Jetstream {
    servers: Vec<Server>,
    leader: String,
}

impl Jetstream {
    pub(crate) async fn start(dir: &Path, sync_always: bool) -> Result<Self, Unavailable> {
        let addresses = free_addresses(6)?;
        let routes: Vec<String> =
            addresses[..3].iter().map(|address| format!("nats://{address}")).collect();
        let sync = if sync_always { "sync_interval: always" } else { "" };
        let mut servers = Vec::new();
        for at in 0..3 {
            let name = format!("nats-{at}");
            let config = format!(
                "server_name: {name}\nlisten: \"{}\"\n\
                 jetstream {{\n store_dir: \"{}\"\n {sync}\n}}\n\
                 cluster {{\n name: bench\n listen: \"{}\"\n routes: [{}]\n}}\n",
                addresses[at + 3],
                dir.join(&name).display(),
                addresses[at],
                routes.iter().map(|route| format!("\"{route}\"")).collect::<Vec<_>>().join(", ")
            );
            let file = dir.join(format!("{name}.conf"));
            fs::write(&file, config).map_err(text)?;
            let args = vec!["-c".to_owned(), file.display().to_string()];
            let program = Program { at: PROGRAM.to_owned(), args, user: None };
            servers.push(Server::start(&name, dir, &program)?);
        }
        let urls: Vec<String> =
            addresses[3..].iter().map(|address| format!("nats://{address}")).collect();
        let leader = until_up(&mut servers, START_TIMEOUT, async || created(&urls).await).await?;
        Ok(Self { servers, leader })
    }
}

/// Makes the stream, and says where it is led.
async fn created(urls: &[String]) -> Result<String, String> {
    let context = jetstream::new(connect(&urls[0]).await.map_err(text)?);
    let config = Config {
        name: STREAM.to_owned(),
        subjects: vec![STREAM.to_owned()],
        storage: StorageType::File,
        num_replicas: urls.len(),
        ..Config::default()
    };
    let mut stream = context.get_or_create_stream(config).await.map_err(text)?;
    let cluster = stream.info().await.map_err(text)?.cluster.clone();
    let leader = cluster.and_then(|cluster| cluster.leader).ok_or("the stream has no leader")?;
    let at = leader.rsplit('-').next().and_then(|at| at.parse::<usize>().ok());
    at.and_then(|at| urls.get(at)).cloned().ok_or(format!("nobody is named {leader}"))
}

#[tonic::async_trait]
impl Party for Jetstream {
    fn processes(&self) -> Vec<u32> {
        processes(&self.servers)
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        if load.work != Work::Put {
            return Err(not_offered(load));
        }
        let mut contexts: Vec<Context> = Vec::new();
        for _ in 0..CONNECTIONS {
            contexts.push(jetstream::new(connect(&self.leader).await.map_err(text)?));
        }
        let payloads = Payloads::of(load.bytes);
        let publish = move |number: u64| {
            let context = contexts[number as usize % contexts.len()].clone();
            let value = payloads.get(number);
            async move {
                let acked = context.publish(STREAM, value).await.map_err(text)?;
                acked.await.map(|_| ()).map_err(text)
            }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, publish).await?.into())
    }

    async fn stop(self: Box<Self>) {
        stop_all(self.servers).await;
    }
}
