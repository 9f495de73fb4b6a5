//! Three engines with real files and sockets, each behind an endpoint.

use std::net::{SocketAddr, TcpListener};

use palisade::{ClusterId, Engine, Error, FailureDomain, NodeId, WalOptions};
use palisade_server::grpc::{Callers, serve};
use palisade_server::observe::Observed;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) const CLUSTER: ClusterId = ClusterId::new(9);

/// Nodes of one cluster, from 0 on.
pub(crate) struct Nodes {
    pub(crate) engines: Vec<Engine>,
    #[allow(dead_code, reason = "not every test file looks at it")]
    pub(crate) observed: Vec<Observed>,
    pub(crate) addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    served: JoinSet<Result<(), Error>>,
    _dir: TempDir,
}

async fn listener() -> tokio::net::TcpListener {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
}

impl Nodes {
    #[allow(dead_code, reason = "not every test starts them so")]
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_for(count, |_| Callers::Everyone).await
    }

    /// With those that each node, numbered from 1, is to serve.
    pub(crate) async fn start_for(count: usize, callers: impl Fn(NodeId) -> Callers) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Held until each has its own.
        let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let peers: Vec<_> = held.iter().map(|held| held.local_addr().unwrap()).collect();
        drop(held);
        let mut engines = Vec::new();
        for at in 0..count {
            let wal = WalOptions {
                segment_bytes: 16 << 20,
                batch_bytes_max: 15 << 20,
                ..Default::default()
            };
            let mut builder = Engine::builder(dir.path().join(format!("node-{at}")))
                .cluster(CLUSTER)
                .node(NodeId::new(at as u64 + 1))
                .domain(FailureDomain::new("local", "here", format!("zone-{at}")))
                .listen(peers[at])
                .wal(wal);
            for (number, peer) in peers.iter().enumerate() {
                builder = builder.voter(NodeId::new(number as u64 + 1), *peer);
            }
            engines.push(builder.open().await.unwrap());
        }
        let (mut addresses, mut served) = (Vec::new(), JoinSet::new());
        let (stop, stopped) = watch::channel(false);
        let observed: Vec<Observed> = engines.iter().map(Observed::from).collect();
        for (engine, of) in engines.iter().zip(&observed) {
            let listener = listener().await;
            addresses.push(listener.local_addr().unwrap());
            let (of, mut stopped) = (of.clone(), stopped.clone());
            let callers = callers(engine.node());
            served.spawn(async move {
                let stop = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
                serve(of, listener, callers, None, stop).await
            });
        }
        Self { engines, observed, addresses, stop, served, _dir: dir }
    }

    pub(crate) async fn close(mut self) {
        self.stop.send(true).unwrap();
        while let Some(served) = self.served.join_next().await {
            served.unwrap().unwrap();
        }
        for engine in self.engines {
            engine.close().await.unwrap();
        }
    }
}
