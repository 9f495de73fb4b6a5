//! Three engines that know each other by certificate, over loopback.

#[path = "support/data.rs"]
mod data;
#[path = "../../replication/tests/minted/mod.rs"]
mod minted;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data::Data;
use minted::{Authority, Leaf};
use palisade::tls::{Credentials, PeerTls};
use palisade::{
    ClusterId, Disposition, Engine, Error, NodeId, PeerFault, ReadConsistency, ReplicaPolicy,
    ReplicatedMap, ResourceSpec, WalOptions,
};
use tokio::task::JoinSet;

const CLUSTER: ClusterId = ClusterId::new(9);

fn addresses() -> Vec<SocketAddr> {
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

/// A new leaf for a node, and whom it believes.
fn credentials(issuer: &Authority, node: u64, believed: &[&Authority]) -> Credentials {
    let leaf =
        issuer.leaf(&Leaf::of(&format!("spiffe://{:032x}.palisade/node/{node}", CLUSTER.get())));
    Credentials {
        certificates_pem: leaf.certificate_pem.into_bytes(),
        key_pem: leaf.key_pem.into_bytes(),
        authorities_pem: believed.iter().map(|one| one.pem.as_str()).collect::<String>().into(),
    }
}

fn peer_tls(node: u64, credentials: &Credentials) -> PeerTls {
    PeerTls::new(CLUSTER, NodeId::new(node), credentials).unwrap()
}

async fn open(dir: &Path, addresses: &[SocketAddr], node: u64, tls: PeerTls) -> Engine {
    let wal =
        WalOptions { segment_bytes: 16 << 20, batch_bytes_max: 15 << 20, ..Default::default() };
    let mut builder = Engine::builder(dir.join(format!("node-{node}")))
        .cluster(CLUSTER)
        .node(NodeId::new(node))
        .listen(addresses[node as usize - 1])
        .peer_tls(tls)
        .wal(wal)
        .request_timeout_ms(6_000);
    for (number, address) in (1..).zip(addresses) {
        builder = builder.voter(NodeId::new(number), *address);
    }
    builder.open().await.unwrap()
}

async fn map(engine: &Engine) -> ReplicatedMap<String, String> {
    let spec = ResourceSpec::new("map", "test.v1").unwrap().replicas(ReplicaPolicy::majority(3));
    ReplicatedMap::open(engine, spec).await.unwrap()
}

/// Writes one key of a node's own until it is told to stop; returns the last value that was promised, and
/// how many were.
async fn write_on(
    map: ReplicatedMap<String, String>,
    key: String,
    stop: Arc<AtomicBool>,
) -> (String, u64) {
    let mut number = 0;
    loop {
        let value = format!("{number}");
        loop {
            match map.put(&key, &value).await {
                Ok(_) => break,
                // The same again is what these ask for.
                Err(error) => assert!(
                    matches!(error.disposition(), Disposition::Retry | Disposition::Indeterminate),
                    "{error:?}"
                ),
            }
        }
        if stop.load(Ordering::Relaxed) {
            return (value, number + 1);
        }
        number += 1;
    }
}

/// Leaves are issued anew, and then the authority is: all of it while the nodes are written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let (former, next) = (Authority::new("peers 1"), Authority::new("peers 2"));
    let mut all = Vec::new();
    let mut engines = Vec::new();
    for node in 1..=3 {
        let tls = peer_tls(node, &credentials(&former, node, &[&former]));
        engines.push(open(dir.path(), &addresses, node, tls.clone()).await);
        all.push(tls);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for (node, engine) in (1..).zip(&engines) {
        let (map, stop) = (map(engine).await, Arc::clone(&stop));
        writers.spawn(async move {
            let key = format!("node-{node}");
            let (value, count) = write_on(map, key.clone(), stop).await;
            (key, value, count)
        });
    }
    let reader = map(&engines[0]).await;
    // The issuer, and whom to believe, of each step of a rotation; the last ends every connection that was
    // made under the former.
    let steps: [(&Authority, &[&Authority]); 4] = [
        (&former, &[&former]),
        (&former, &[&former, &next]),
        (&next, &[&former, &next]),
        (&next, &[&next]),
    ];
    for (issuer, believed) in steps {
        for (node, tls) in (1..).zip(&all) {
            tls.replace(&credentials(issuer, node, believed)).unwrap();
        }
        // Every node is written through, and so has its connections, before the next step.
        for engine in &engines {
            let map = map(engine).await;
            let put = async {
                while let Err(error) = map.put(&"step".to_owned(), &"done".to_owned()).await {
                    assert_ne!(error.disposition(), Disposition::Halt, "{error:?}");
                }
            };
            tokio::time::timeout(Duration::from_secs(60), put).await.expect("a commit");
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(written) = writers.join_next().await {
        let (key, value, count) = written.unwrap();
        assert!(count > 1, "nothing was written meanwhile");
        let read = reader.get(&key, ReadConsistency::Linearizable).await.unwrap();
        assert_eq!(read.value.unwrap().value, value, "{key}: what was promised last");
    }
    for engine in engines {
        let faults = engine.peer_faults();
        assert_eq!(faults[&PeerFault::WrongIdentity], 0, "{faults:?}");
        engine.close().await.unwrap();
    }
}

/// A member that comes back with a certificate of another authority is heard by nobody: two others go on
/// without it, and one other makes no quorum with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_certificate_never_joins() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let (ours, foreign) = (Authority::new("peers"), Authority::new("peers"));
    let mut engines = Vec::new();
    for node in 1..=3 {
        let tls = peer_tls(node, &credentials(&ours, node, &[&ours]));
        engines.push(open(dir.path(), &addresses, node, tls).await);
    }
    let (key, value) = ("k".to_owned(), "v".to_owned());
    for engine in &engines {
        map(engine).await.put(&key, &value).await.unwrap();
    }
    let third = engines.pop().unwrap();
    third.close().await.unwrap();
    drop(third);
    // It comes back, believes them, and they do not believe it.
    let tls = peer_tls(3, &credentials(&foreign, 3, &[&foreign, &ours]));
    let stranger = open(dir.path(), &addresses, 3, tls).await;
    let map = map(&engines[0]).await;
    let receipt = map.put(&key, &value).await.unwrap();
    let refused = async {
        while engines.iter().any(|engine| engine.peer_faults()[&PeerFault::Untrusted] == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), refused).await.expect("it is refused");
    assert!(stranger.data().applied().unwrap() < receipt.offset, "nobody speaks to it");
    let second = engines.pop().unwrap();
    second.close().await.unwrap();
    drop(second);
    let alone = map.put(&key, &value).await;
    assert!(
        matches!(alone, Err(Error::Disconnected { .. })),
        "one node and a stranger are no quorum: {alone:?}"
    );
    assert!(stranger.data().applied().unwrap() < receipt.offset);
    stranger.close().await.unwrap();
    engines.pop().unwrap().close().await.unwrap();
}
