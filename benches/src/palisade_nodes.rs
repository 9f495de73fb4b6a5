//! Three Palisade nodes in this process, speaking over loopback TCP, each with its own directory.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use palisade::{
    ClusterId, Engine, FenceEpoch, LogicalResourceName, NodeId, Placement, ReplicaPolicy,
    ReplicatedLog, ResourceSpec, SchemaId,
};
use tokio::task::JoinSet;

/// Three running nodes.
pub struct Nodes {
    engines: Vec<Engine>,
    logs: Vec<ReplicatedLog<Vec<u8>>>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Nodes {
    /// Opens three nodes below a directory, and one log on each.
    ///
    /// # Errors
    /// When one cannot be opened, for people.
    pub async fn open(dir: &Path) -> Result<Self, String> {
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .map_err(text)?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()
            .map_err(text)?;
        drop(listeners);
        let mut engines = Vec::new();
        for at in 0..3 {
            let mut builder = Engine::builder(dir.join(format!("node-{at}")))
                .cluster(ClusterId::new(1))
                .node(NodeId::new(at as u64 + 1))
                .listen(addresses[at]);
            for (number, address) in addresses.iter().enumerate() {
                builder = builder.voter(NodeId::new(number as u64 + 1), *address);
            }
            engines.push(builder.open().await.map_err(text)?);
        }
        let mut logs = Vec::new();
        for engine in &engines {
            let spec = ResourceSpec {
                name: LogicalResourceName::new("bench").map_err(text)?,
                schema: SchemaId::new("bytes.v1").map_err(text)?,
                epoch: FenceEpoch::new(1),
                replicas: ReplicaPolicy::majority(3),
                placement: Placement::providers(["local"]).map_err(text)?,
            };
            logs.push(ReplicatedLog::open(engine, spec).await.map_err(text)?);
        }
        Ok(Self { engines, logs })
    }

    /// The log on the node that leads.
    ///
    /// # Errors
    /// When no node says that it leads.
    pub async fn leader_log(&self) -> Result<ReplicatedLog<Vec<u8>>, String> {
        for (engine, log) in self.engines.iter().zip(&self.logs) {
            let status = engine.status().await.map_err(text)?;
            if status.leader == Some(engine.node()) {
                return Ok(log.clone());
            }
        }
        Err("no node leads".to_owned())
    }

    /// Serves every node over HTTP.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn serve(&self) -> Result<HttpNodes, String> {
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for log in &self.logs {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(text)?;
            addresses.push(listener.local_addr().map_err(text)?);
            let routes = Router::new().route("/append", post(append)).with_state(log.clone());
            tasks.spawn(async move {
                if let Err(error) = axum::serve(listener, routes).await {
                    eprintln!("the HTTP server ended: {error}");
                }
            });
        }
        Ok(HttpNodes { addresses, client: reqwest::Client::new(), _tasks: tasks })
    }

    /// Closes all nodes.
    ///
    /// # Errors
    /// When one had stopped by itself.
    pub async fn close(self) -> Result<(), String> {
        for engine in self.engines {
            engine.close().await.map_err(text)?;
        }
        Ok(())
    }
}

async fn append(
    State(log): State<ReplicatedLog<Vec<u8>>>,
    body: Bytes,
) -> Result<String, (StatusCode, String)> {
    match log.append(&body.to_vec()).await {
        Ok(receipt) => Ok(receipt.offset.to_string()),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

/// The same nodes over HTTP, with a client.
pub struct HttpNodes {
    addresses: Vec<SocketAddr>,
    client: reqwest::Client,
    /// Ends the servers when dropped.
    _tasks: JoinSet<()>,
}

impl HttpNodes {
    /// Appends a record through one node or another.
    ///
    /// # Errors
    /// When it was not acknowledged.
    pub async fn append(&self, number: u64, record: Vec<u8>) -> Result<(), String> {
        let address = self.addresses[number as usize % self.addresses.len()];
        let sent = self.client.post(format!("http://{address}/append")).body(record).send();
        let response = sent.await.map_err(text)?;
        let status = response.status();
        let answer = response.text().await.map_err(text)?;
        if status.is_success() { Ok(()) } else { Err(format!("{status} {answer}")) }
    }
}
