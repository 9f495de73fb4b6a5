//! Three Palisade nodes in this process, speaking over loopback TCP, each with its own directory.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use palisade::{
    ClusterId, Engine, EngineBuilder, NodeId, ReplicaPolicy, ReplicatedLog, ResourceSpec, Role,
};
use palisade_server::grpc::{Callers, serve};
use tokio::task::JoinSet;

/// Three running nodes.
pub struct Nodes {
    addresses: Vec<SocketAddr>,
    engines: Vec<Engine>,
    logs: Vec<ReplicatedLog<Vec<u8>>>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Addresses on loopback where nobody listens yet.
///
/// # Errors
/// When no port is free.
pub fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, String> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").map_err(text);
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| listener.local_addr().map_err(text)).collect()
}

/// The name of the node at a place in the list of addresses.
#[must_use]
pub fn node_at(at: usize) -> NodeId {
    NodeId::new(at as u64 + 1)
}

/// The node at a place of those at these addresses, and not yet who votes.
pub fn builder(dir: &Path, addresses: &[SocketAddr], at: usize) -> EngineBuilder {
    Engine::builder(data_dir(dir, at))
        .cluster(ClusterId::new(1))
        .node(node_at(at))
        .listen(addresses[at])
}

/// Where it keeps its data.
#[must_use]
pub fn data_dir(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("node-{at}"))
}

/// The same node, with all of these as first voters.
pub fn voting(builder: EngineBuilder, addresses: &[SocketAddr]) -> EngineBuilder {
    let voters = addresses.iter().enumerate();
    voters.fold(builder, |builder, (at, address)| builder.voter(node_at(at), *address))
}

/// A resource of this name on three nodes.
///
/// # Errors
/// When the name is none.
pub fn spec(name: &str) -> Result<ResourceSpec, String> {
    Ok(ResourceSpec::new(name, "bytes.v1").map_err(text)?.replicas(ReplicaPolicy::majority(3)))
}

impl Nodes {
    /// Opens three nodes below a directory, and one log on each.
    ///
    /// # Errors
    /// When one cannot be opened, for people.
    pub async fn open(dir: &Path) -> Result<Self, String> {
        let addresses = free_addresses(3)?;
        let mut engines = Vec::new();
        for at in 0..3 {
            let builder = voting(builder(dir, &addresses, at), &addresses);
            engines.push(builder.open().await.map_err(text)?);
        }
        let mut logs = Vec::new();
        for engine in &engines {
            logs.push(ReplicatedLog::open(engine, spec("bench")?).await.map_err(text)?);
        }
        Ok(Self { addresses, engines, logs })
    }

    /// Where they listen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The node that leads, and its place.
    ///
    /// # Errors
    /// When no node says that it leads.
    pub async fn leader(&self) -> Result<(usize, &Engine), String> {
        for (at, (engine, log)) in self.engines.iter().zip(&self.logs).enumerate() {
            if log.group().status().await.map_err(text)?.role == Role::Leader {
                return Ok((at, engine));
            }
        }
        Err("no node leads".to_owned())
    }

    /// The log on the node that leads.
    ///
    /// # Errors
    /// When no node says that it leads.
    pub async fn leader_log(&self) -> Result<ReplicatedLog<Vec<u8>>, String> {
        let (at, _) = self.leader().await?;
        Ok(self.logs[at].clone())
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

    /// Serves the node that leads over gRPC, as `palisade node` does on loopback.
    ///
    /// # Errors
    /// When no node leads, or no port is free.
    pub async fn serve_grpc(&self) -> Result<GrpcNode, String> {
        let (_, engine) = self.leader().await?;
        let (engine, mut task) = (engine.clone(), JoinSet::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(text)?;
        let address = listener.local_addr().map_err(text)?;
        task.spawn(async move {
            let never = std::future::pending();
            if let Err(error) = serve(&engine, listener, Callers::Everyone, None, never).await {
                eprintln!("the gRPC server ended: {error}");
            }
        });
        Ok(GrpcNode { address, _task: task })
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
        Ok(done) => Ok(done.receipt.offset.to_string()),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

/// The node that led, over gRPC.
pub struct GrpcNode {
    /// Where it serves.
    pub address: SocketAddr,
    /// Ends the server when dropped.
    _task: JoinSet<()>,
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
