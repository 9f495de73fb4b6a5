//! Three engines with real files and sockets, each behind an endpoint.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use palisade::backup::{BackupId, BackupPlace, RestoreTo, restore};
use palisade::{ClusterId, Engine, EngineBuilder, Error, FailureDomain, NodeId, WalOptions};
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
    /// Where they reach each other.
    pub(crate) peers: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    served: JoinSet<Result<(), Error>>,
    dir: TempDir,
}

fn builder(dir: &Path, at: usize, domain: FailureDomain, peer: SocketAddr) -> EngineBuilder {
    let wal =
        WalOptions { segment_bytes: 16 << 20, batch_bytes_max: 15 << 20, ..Default::default() };
    Engine::builder(dir.join(format!("node-{at}")))
        .cluster(CLUSTER)
        .node(NodeId::new(at as u64 + 1))
        .domain(domain)
        .listen(peer)
        .wal(wal)
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
        Self::start_with(count, callers, |_, builder| builder).await
    }

    /// And with what each node has beside that.
    pub(crate) async fn start_with(
        count: usize,
        callers: impl Fn(NodeId) -> Callers,
        with: impl Fn(NodeId, EngineBuilder) -> EngineBuilder,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Held until each has its own.
        let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let peers: Vec<_> = held.iter().map(|held| held.local_addr().unwrap()).collect();
        drop(held);
        let mut engines = Vec::new();
        for at in 0..count {
            let domain = FailureDomain::new("local", "here", format!("zone-{at}"));
            let mut builder = builder(dir.path(), at, domain, peers[at]);
            for (number, peer) in peers.iter().enumerate() {
                builder = builder.voter(NodeId::new(number as u64 + 1), *peer);
            }
            let builder = with(NodeId::new(at as u64 + 1), builder);
            engines.push(builder.open().await.unwrap());
        }
        let mut nodes = Self::none(dir, peers);
        for engine in engines {
            let callers = callers(engine.node());
            nodes.serve(engine, callers).await;
        }
        nodes
    }

    fn none(dir: TempDir, peers: Vec<SocketAddr>) -> Self {
        Self {
            engines: Vec::new(),
            observed: Vec::new(),
            addresses: Vec::new(),
            peers,
            stop: watch::Sender::new(false),
            served: JoinSet::new(),
            dir,
        }
    }

    /// One node of another cluster, there, as a backup of these has it.
    #[allow(dead_code, reason = "not every test file restores")]
    pub(crate) async fn restored(
        (place, id): (&BackupPlace, &BackupId),
        cluster: ClusterId,
        domain: FailureDomain,
        callers: impl Fn(NodeId) -> Callers,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let builder = builder(dir.path(), 0, domain, peer).cluster(cluster);
        restore(place, id, &builder, RestoreTo::End).await.unwrap();
        let engine = builder.open().await.unwrap();
        let (mut nodes, callers) = (Self::none(dir, vec![peer]), callers(engine.node()));
        nodes.serve(engine, callers).await;
        nodes
    }

    async fn serve(&mut self, engine: Engine, callers: Callers) {
        let listener = listener().await;
        self.addresses.push(listener.local_addr().unwrap());
        let (of, mut stopped) = (Observed::from(&engine), self.stop.subscribe());
        self.observed.push(of.clone());
        self.engines.push(engine);
        self.served.spawn(async move {
            let stop = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
            serve(of, listener, callers, None, stop).await
        });
    }

    /// Opens one more, which waits to be made a member, and serves it.
    #[allow(dead_code, reason = "not every test file needs more")]
    pub(crate) async fn add(&mut self, domain: FailureDomain, callers: Callers) {
        let at = self.engines.len();
        let peer = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let engine = builder(self.dir.path(), at, domain, peer).joins().open().await.unwrap();
        self.peers.push(peer);
        self.serve(engine, callers).await;
    }

    /// Tells the endpoints to stop, and waits until they have. The engines go on.
    #[allow(dead_code, reason = "not every test file looks at what is left then")]
    pub(crate) async fn stop_serving(&mut self) {
        self.stop.send_replace(true);
        while let Some(served) = self.served.join_next().await {
            served.unwrap().unwrap();
        }
    }

    pub(crate) async fn close(mut self) {
        self.stop_serving().await;
        for engine in self.engines {
            engine.close().await.unwrap();
        }
    }
}
