//! Three engines with real files and sockets, each behind an endpoint.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use palisade::{ClusterId, Engine, Error, FailureDomain, NodeId, WalOptions};
use palisade_proto::directory::v1 as directory;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Nodes of one cluster, from 0 on.
pub(crate) struct Nodes {
    pub(crate) engines: Vec<Engine>,
    pub(crate) addresses: Vec<SocketAddr>,
    served: Vec<(oneshot::Sender<()>, JoinHandle<Result<(), Error>>)>,
    _dir: TempDir,
}

async fn listener() -> tokio::net::TcpListener {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
}

impl Nodes {
    pub(crate) async fn start(count: usize) -> Self {
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
                .cluster(ClusterId::new(9))
                .node(NodeId::new(at as u64 + 1))
                .domain(FailureDomain::new("local", "here", format!("zone-{at}")))
                .listen(peers[at])
                .wal(wal);
            for (number, peer) in peers.iter().enumerate() {
                builder = builder.voter(NodeId::new(number as u64 + 1), *peer);
            }
            engines.push(builder.open().await.unwrap());
        }
        let (mut addresses, mut served) = (Vec::new(), Vec::new());
        for engine in &engines {
            let listener = listener().await;
            addresses.push(listener.local_addr().unwrap());
            let (stop, stopped) = oneshot::channel();
            let engine = engine.clone();
            let serving = tokio::spawn(async move {
                let stopped = async { drop(stopped.await) };
                palisade_server::grpc::serve(&engine, listener, stopped).await
            });
            served.push((stop, serving));
        }
        Self { engines, addresses, served, _dir: dir }
    }

    pub(crate) async fn channel(&self, at: usize) -> Channel {
        let address = format!("http://{}", self.addresses[at]);
        Channel::from_shared(address).unwrap().connect().await.unwrap()
    }

    /// Makes a resource once there is a leader.
    pub(crate) async fn make(&self, name: &str, kind: directory::Kind) -> directory::Described {
        let channel = self.channel(0).await;
        let mut directory = directory::directory_client::DirectoryClient::new(channel);
        let spec = directory::Spec {
            name: name.to_owned(),
            schema: "test.v1".to_owned(),
            kind: kind.into(),
            replicas: self.engines.len() as u32,
            ..Default::default()
        };
        loop {
            let asked = directory::OpenRequest { spec: Some(spec.clone()) };
            match directory.open(asked).await {
                Ok(opened) => return opened.into_inner().described.unwrap(),
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(status) => panic!("{status:?}"),
            }
        }
    }

    pub(crate) async fn close(self) {
        for (stop, serving) in self.served {
            drop(stop);
            serving.await.unwrap().unwrap();
        }
        for engine in self.engines {
            engine.close().await.unwrap();
        }
    }
}
