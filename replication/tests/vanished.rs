//! A peer that is gone without a word: nothing that is sent to it arrives, and nobody says so.

mod journal;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use journal::Journal;
use palisade_replication::{
    ClusterId, GroupId, Keys, Member, Node, NodeConfig, NodeId, OpenDisk, Options, PeerLinks,
    WalOptions,
};
use socket2::{SockFilter, SockRef};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const GROUP: GroupId = GroupId::new(1);
/// Long enough for a busy machine, and short of the quarter of an hour for which a kernel tries by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// A way to a node that can lose what is under way on it.
struct Way {
    address: SocketAddr,
    /// The near ends of its connections.
    connections: Arc<Mutex<Vec<OwnedFd>>>,
    _running: JoinSet<()>,
}

impl Way {
    fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let connections = Arc::<Mutex<Vec<OwnedFd>>>::default();
        let accepted = Arc::clone(&connections);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut streams = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                // The node may not listen yet.
                let Ok(mut far) = TcpStream::connect(node).await else { continue };
                accepted.lock().unwrap().push(near.as_fd().try_clone_to_owned().unwrap());
                streams.spawn(async move {
                    // It ends with the connection, however that does.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, connections, _running: running }
    }

    /// Every packet to what is connected now is lost from here on: nothing is confirmed, nothing refused.
    fn lose(&self) -> usize {
        // A filter that passes none of their bytes.
        const RETURN: u16 = 0x06;
        let connections = self.connections.lock().unwrap();
        for near in connections.iter() {
            SockRef::from(near).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]).unwrap();
        }
        connections.len()
    }
}

async fn open(
    dir: &Path,
    id: u64,
    voters: &BTreeMap<NodeId, Member>,
    listen: SocketAddr,
) -> (Node<Journal>, Journal) {
    let config = NodeConfig {
        cluster: ClusterId::new(7),
        node: NodeId::new(id),
        data_dir: dir.join(id.to_string()),
        groups: vec![GROUP],
        voters: voters.clone(),
        listen: Some(listen),
        links: PeerLinks::default(),
        options: Options::default(),
        wal: WalOptions::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
    };
    let journal = Journal::default();
    (Node::open(config, journal.clone()).await.unwrap(), journal)
}

async fn commit(node: &Node<Journal>, payload: &'static str) {
    let committed = tokio::time::timeout(PATIENCE, async {
        while node.propose(GROUP, Bytes::from(payload)).unwrap().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    committed.await.unwrap_or_else(|_| panic!("{payload}: no commit within {PATIENCE:?}"));
}

/// Connections that lead nowhere are given up, and the peer is dialled again, though nobody has closed them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanished_is_dialled_again() {
    let dir = tempfile::tempdir().unwrap();
    let free: [TcpListener; 2] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let listen = free.map(|listener| listener.local_addr().unwrap());
    let ways = listen.map(Way::to);
    let voters: BTreeMap<_, _> = (1..)
        .zip(&ways)
        .map(|(id, way)| {
            (NodeId::new(id), Member { address: Some(way.address), ..Member::default() })
        })
        .collect();
    let (one, of_one) = open(dir.path(), 1, &voters, listen[0]).await;
    let (two, of_two) = open(dir.path(), 2, &voters, listen[1]).await;
    commit(&one, "before").await;
    for way in &ways {
        assert!(way.lose() > 0);
    }
    commit(&one, "on new connections").await;
    one.close().await.unwrap();
    two.close().await.unwrap();
    // The one may have heard of the last commit, and the other not yet.
    let (first, second) = (of_one.records(GROUP), of_two.records(GROUP));
    assert!(first.iter().zip(&second).all(|(one, two)| one == two), "{first:?} {second:?}");
}
