//! One Redis and two replicas of it, all with an append-only file that is synced always; each caller has a
//! connection, sets a key, and waits for both replicas.

use std::path::Path;
use std::time::Duration;

use palisade_benches::{Payloads, closed_loop, free_addresses};
use redis::aio::MultiplexedConnection;

use super::pool::Pool;
use crate::load::{Load, Told, Work};
use crate::party::{Party, not_offered};
use crate::server::{Program, Server, Unavailable, processes, stop_all, text, until_up};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const REPLICAS: i64 = 2;
const WAIT_MS: u32 = 5000;

pub(crate) struct Redis {
    servers: Vec<Server>,
    primary: String,
}

impl Redis {
    pub(crate) async fn start(dir: &Path) -> Result<Self, Unavailable> {
        let ports: Vec<String> =
            free_addresses(3)?.iter().map(|address| address.port().to_string()).collect();
        let mut servers = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            let name = format!("redis-{at}");
            let data = dir.join(&name);
            std::fs::create_dir_all(&data).map_err(text)?;
            let data = data.display().to_string();
            let mut args = vec!["--port", port, "--bind", "127.0.0.1", "--dir", &data];
            args.extend(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
            args.extend(["--repl-diskless-sync-delay", "0"]);
            if at > 0 {
                args.extend(["--replicaof", "127.0.0.1", &ports[0]]);
            }
            let args = args.into_iter().map(str::to_owned).collect();
            let program = Program { at: "redis-server".to_owned(), args, user: None };
            servers.push(Server::start(&name, dir, &program)?);
        }
        let primary = format!("redis://127.0.0.1:{}/", ports[0]);
        until_up(&mut servers, START_TIMEOUT, async || {
            set(&mut connect(&primary).await?, 0, b"").await
        })
        .await?;
        Ok(Self { servers, primary })
    }
}

async fn connect(url: &str) -> Result<MultiplexedConnection, String> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(url).map_err(text)?;
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(text)
}

/// Sets a key, and waits until both replicas have it.
async fn set(connection: &mut MultiplexedConnection, key: u64, value: &[u8]) -> Result<(), String> {
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg(format!("key-{key}")).arg(value).ignore();
    pipe.cmd("WAIT").arg(REPLICAS).arg(WAIT_MS);
    let (replicas,): (i64,) = pipe.query_async(connection).await.map_err(text)?;
    if replicas < REPLICAS { Err(format!("{replicas} replicas have it")) } else { Ok(()) }
}

#[tonic::async_trait]
impl Party for Redis {
    fn processes(&self) -> Vec<u32> {
        processes(&self.servers)
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        if load.work != Work::Put {
            return Err(not_offered(load));
        }
        let mut connections = Vec::new();
        for _ in 0..load.in_flight {
            connections.push(connect(&self.primary).await?);
        }
        let (connections, keys) = (Pool::of(connections), load.keys);
        let payloads = Payloads::of(load.bytes);
        let put = move |number: u64| {
            let (connections, value) = (connections.clone(), payloads.get(number));
            async move {
                let mut connection = connections.take()?;
                set(&mut connection, keys.key(number), &value).await?;
                connections.put(connection);
                Ok(())
            }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, put).await?.into())
    }

    async fn stop(self: Box<Self>) {
        stop_all(self.servers).await;
    }
}
