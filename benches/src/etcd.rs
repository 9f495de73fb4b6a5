//! Three etcd processes on loopback, and just enough of its protocol to put a value.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// Connections to each member.
const CHANNELS: usize = 4;
const START_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// What it answers is of no interest beyond that it does.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct PutResponse {}

/// A running cluster of three members; stopped when dropped.
pub struct Etcd {
    members: Vec<Child>,
    channels: Vec<Channel>,
    turn: AtomicUsize,
}

impl Etcd {
    /// Starts three members below a directory. `Ok(None)` if etcd is not installed.
    ///
    /// # Errors
    /// When they do not come up.
    pub async fn start(dir: &Path) -> Result<Option<Self>, String> {
        let listeners: Vec<TcpListener> = (0..6)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        drop(listeners);
        let url = |at: usize| format!("http://{}", addresses[at]);
        let cluster: Vec<String> = (0..3).map(|at| format!("m{at}={}", url(at))).collect();
        let mut etcd =
            Self { members: Vec::new(), channels: Vec::new(), turn: AtomicUsize::new(0) };
        for at in 0..3 {
            let spawned = Command::new("etcd")
                .args(["--name", &format!("m{at}"), "--logger", "zap", "--log-level", "error"])
                .arg("--data-dir")
                .arg(dir.join(format!("etcd-{at}")))
                .args(["--listen-peer-urls", &url(at), "--initial-advertise-peer-urls", &url(at)])
                .args(["--listen-client-urls", &url(at + 3)])
                .args(["--advertise-client-urls", &url(at + 3)])
                .args(["--initial-cluster", &cluster.join(",")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            match spawned {
                Ok(member) => etcd.members.push(member),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(format!("etcd: {error}")),
            }
        }
        for at in 0..3 {
            for _ in 0..CHANNELS {
                let endpoint =
                    Channel::from_shared(url(at + 3)).map_err(|error| error.to_string())?;
                etcd.channels.push(endpoint.connect_lazy());
            }
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = etcd.put(0, Vec::new()).await {
            if Instant::now() > deadline {
                return Err(format!("etcd did not come up: {error}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(Some(etcd))
    }

    /// Puts a value under a key of its own, through one member or another.
    ///
    /// # Errors
    /// When it was not acknowledged.
    pub async fn put(&self, number: u64, value: Vec<u8>) -> Result<(), String> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut grpc = Grpc::new(self.channels[turn % self.channels.len()].clone());
        grpc.ready().await.map_err(|error| error.to_string())?;
        let request = PutRequest { key: number.to_be_bytes().to_vec(), value };
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
        let put = grpc.unary(tonic::Request::new(request), path, codec).await;
        put.map(|_| ()).map_err(|status| status.to_string())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Err(error) = member.kill().and_then(|()| member.wait().map(|_| ())) {
                eprintln!("could not stop etcd: {error}");
            }
        }
    }
}
