//! Whatever arrives on a node's socket: what is no message of a peer is refused, counted by cause, and
//! its connection closed; the node and its cluster go on.
//!
//! The bytes are written out by hand here, as the documents lay them out, and not by the code that
//! reads them.

mod journal;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use journal::Journal;
use palisade_replication::{
    Body, ClusterId, Envelope, GroupId, Incarnation, Keys, LogIndex, Member, Node, NodeConfig,
    NodeError, NodeId, OpenDisk, Options, PeerFault, PeerLinks, WalOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GROUP: GroupId = GroupId::new(1);
const CLUSTER: u128 = 77;
const RECORD: &[u8] = b"record";
/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);
const FRAME_BODY_BYTES_MAX: u32 = 16 << 20;

struct Cluster {
    _dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Node<Journal>>,
    /// What the first node holds.
    journal: Journal,
    expected: BTreeMap<PeerFault, u64>,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        drop(listeners);
        let voters: BTreeMap<NodeId, Member> = (1..)
            .zip(&addresses)
            .map(|(id, at)| (NodeId::new(id), Member { address: Some(*at), ..Member::default() }))
            .collect();
        let journal = Journal::default();
        let mut nodes = Vec::new();
        for (id, at) in (1..).zip(&addresses) {
            let config = NodeConfig {
                cluster: ClusterId::new(CLUSTER),
                node: NodeId::new(id),
                data_dir: dir.path().join(id.to_string()),
                groups: vec![GROUP],
                voters: voters.clone(),
                listen: Some(*at),
                links: PeerLinks::default(),
                options: Options::default(),
                disk: OpenDisk::default(),
                keys: Keys::none(),
                wal: WalOptions {
                    segment_bytes: 16 << 20,
                    batch_bytes_max: 15 << 20,
                    ..Default::default()
                },
            };
            let machine = if nodes.is_empty() { journal.clone() } else { Journal::default() };
            nodes.push(Node::open(config, machine).await.unwrap());
        }
        let cluster = Self { _dir: dir, addresses, nodes, journal, expected: BTreeMap::new() };
        // Everyone knows everyone in the life that is here.
        cluster.commit_everywhere().await;
        cluster
    }

    /// A record of each node, so that all of them take part.
    async fn commit_everywhere(&self) {
        for node in &self.nodes {
            assert!(node.stopped().is_none(), "{:?}", node.stopped());
            let payload = Bytes::from_static(RECORD);
            let committed = async {
                loop {
                    match node.propose(GROUP, payload.clone()).unwrap().await {
                        Err(NodeError::Unavailable | NodeError::Backpressure { .. }) => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        other => break other.unwrap(),
                    }
                }
            };
            tokio::time::timeout(PATIENCE, committed).await.expect("a commit");
        }
    }

    /// The first node has counted one more of this, and of nothing else, and works.
    async fn was_refused(&mut self, fault: PeerFault) {
        *self.expected.entry(fault).or_default() += 1;
        let expected = |fault| self.expected.get(&fault).copied().unwrap_or_default();
        let counted = async {
            while self.nodes[0].peer_faults()[&fault] < expected(fault) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{fault:?}"));
        for (fault, count) in self.nodes[0].peer_faults() {
            assert_eq!(count, expected(fault), "{fault:?}");
        }
        self.commit_everywhere().await;
        assert!(self.journal.records(GROUP).iter().all(|record| record == RECORD));
    }

    /// A connection to the first node that has said this.
    async fn connect(&self, said: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.addresses[0]).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream
    }

    /// A connection to the first node on which somebody was welcomed.
    async fn greeted(&self, from: u64, life: Incarnation) -> TcpStream {
        let mut stream = self.connect(&greeting(CLUSTER, from, 1, life, 2)).await;
        assert_eq!(stream.read_u8().await.unwrap(), 0, "welcome");
        let mut rest = [0; 33];
        stream.read_exact(&mut rest).await.unwrap();
        stream
    }
}

/// The greeting of version 2, as `transport` lays it out.
fn greeting(cluster: u128, from: u64, to: u64, life: Incarnation, version: u32) -> Vec<u8> {
    let mut raw = b"PLSDPEER".to_vec();
    raw.extend(version.to_le_bytes());
    raw.extend(cluster.to_le_bytes());
    raw.extend(from.to_le_bytes());
    raw.extend(to.to_le_bytes());
    raw.extend(life.get().to_le_bytes());
    raw.extend([0; 18]);
    raw.extend(crc32(&raw).to_le_bytes());
    raw
}

/// A number as protobuf writes it.
fn varint(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut raw = (body.len() as u32).to_le_bytes().to_vec();
    raw.extend(crc32(body).to_le_bytes());
    raw.extend(body);
    raw
}

/// CRC-32 of IEEE 802.3, bit by bit.
fn crc32(raw: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !raw.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn envelope(from: u64, body: Body) -> Vec<u8> {
    let (from, to) = (NodeId::new(from), NodeId::new(1));
    let mut out = BytesMut::new();
    Envelope { group: GROUP, from, to, body }.encode(&mut out);
    out.to_vec()
}

fn flushed(from: u64) -> Vec<u8> {
    envelope(from, Body::Flushed { index: LogIndex::new(1) })
}

/// The other side closes, or resets what it has not read.
async fn assert_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let read = closed.expect("the connection is closed");
    assert!(read.is_err() || rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn a_log_that_could_not_write_what_arrives_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        cluster: ClusterId::new(CLUSTER),
        node: NodeId::new(1),
        data_dir: dir.path().to_owned(),
        groups: vec![GROUP],
        voters: BTreeMap::from([(NodeId::new(1), Member::default())]),
        listen: None,
        links: PeerLinks::default(),
        options: Options::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
        wal: WalOptions { batch_bytes_max: (12 << 20) - 1, ..WalOptions::default() },
    };
    match Node::open(config, Journal::default()).await.map(|_| ()) {
        Err(NodeError::InvalidArgument { what }) => assert!(what.contains("batch_bytes_max")),
        other => panic!("{other:?}"),
    }
}

const STRANGER: Incarnation = Incarnation::new(4242);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_is_not_for_this_node_is_refused() {
    let mut cluster = Cluster::start().await;
    let life = cluster.nodes[2].incarnation();
    let mut altered = greeting(CLUSTER, 3, 1, life, 2);
    altered[40] ^= 1;
    let mut no_peer = greeting(CLUSTER, 3, 1, life, 2);
    no_peer[..4].copy_from_slice(b"GET ");
    let cases = [
        (greeting(CLUSTER + 1, 3, 1, life, 2), 1, PeerFault::ForeignCluster),
        (greeting(CLUSTER, 3, 2, life, 2), 2, PeerFault::WrongNode),
        (greeting(CLUSTER, 1, 1, life, 2), 2, PeerFault::WrongNode),
        (greeting(CLUSTER, 3, 1, life, 1), 3, PeerFault::UnknownVersion),
        (no_peer, 3, PeerFault::UnknownVersion),
        (altered, 4, PeerFault::Corrupt),
    ];
    for (said, reason, fault) in cases {
        let mut stream = cluster.connect(&said).await;
        assert_eq!(stream.read_u8().await.unwrap(), reason, "{fault:?}");
        assert_closed(stream).await;
        cluster.was_refused(fault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_no_peer_sends_are_refused() {
    let mut cluster = Cluster::start().await;
    let life = cluster.nodes[2].incarnation();
    let mut corrupt = frame(&flushed(3));
    *corrupt.last_mut().unwrap() ^= 1;
    let oversized = [(FRAME_BODY_BYTES_MAX + 1).to_le_bytes(), [0; 4]].concat();
    let mut unknown = flushed(3);
    unknown[0] = 99;
    let cases = [
        (corrupt, PeerFault::Corrupt),
        // Nothing of it need arrive: its length is enough.
        (oversized, PeerFault::Oversized),
        (frame(&unknown), PeerFault::UnknownVersion),
        (frame(&flushed(3)[..30]), PeerFault::Malformed),
        (frame(&flushed(2)), PeerFault::Impostor),
    ];
    for (said, fault) in cases {
        let mut stream = cluster.greeted(3, life).await;
        // What comes before it is taken, also in the same packet.
        stream.write_all(&[frame(&flushed(3)), said].concat()).await.unwrap();
        assert_closed(stream).await;
        cluster.was_refused(fault).await;
    }
}

/// What only a replica can judge: the transport took these messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_no_replica_takes_close_their_connection() {
    let mut cluster = Cluster::start().await;
    let life = cluster.nodes[2].incarnation();
    // RUSTSEC-2024-0437: 4 Mi levels end the stack of a codec that descends into them.
    let groups = [0xa3, 1].repeat(4 << 20);
    let in_entry = [&[0x3a, 0x80, 0x80, 0x80, 4][..], &groups].concat();
    // An append (3) without end: protobuf, as raft lays it out.
    let cut = vec![0x08, 3, 0x10, 1, 0x18, 3, 0x20];
    // A read (15) that says not which: raft looks for its name, on the leader if not here.
    let read = vec![0x08, 15, 0x10, 1, 0x18, 3];
    for raft in [groups, in_entry, cut, read] {
        let mut stream = cluster.greeted(3, life).await;
        let said = frame(&envelope(3, Body::Raft(raft.into())));
        // It may be closed before all of it is written.
        let _ = stream.write_all(&said).await;
        assert_closed(stream).await;
        cluster.was_refused(PeerFault::Malformed).await;
    }
    // An append (3) after entry 1 in a term that nobody has seen yet, with an entry of 10 MiB: nothing but
    // its size speaks against it, and that is more than the log takes at once.
    let mut append = vec![0x08, 3, 0x10, 1, 0x18, 3, 0x20, 0xff, 0x7f, 0x30, 1];
    let data = vec![7; 10 << 20];
    let mut entry = vec![0x18, 2, 0x22];
    entry.extend(varint(data.len()));
    entry.extend(data);
    append.push(0x3a);
    append.extend(varint(entry.len()));
    append.extend(entry);
    let mut stream = cluster.greeted(3, life).await;
    let _ = stream.write_all(&frame(&envelope(3, Body::Raft(append.into())))).await;
    assert_closed(stream).await;
    cluster.was_refused(PeerFault::Oversized).await;
    // A raft message that names another sender than the one that greeted.
    let other = Bytes::from_static(&[0x08, 6, 0x10, 1, 0x18, 2, 0x20, 1]);
    let mut stream = cluster.greeted(3, life).await;
    stream.write_all(&frame(&envelope(3, Body::Raft(other)))).await.unwrap();
    assert_closed(stream).await;
    cluster.was_refused(PeerFault::Impostor).await;
}

/// Somebody under a known name, out of another data directory: it is let in, since it may lead a group
/// that has taken it up under this name; what it promises does not count, and ends the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_life_of_a_known_node_promises_nothing() {
    let mut cluster = Cluster::start().await;
    // A vote (6), a confirmation of entries (4) and of a leader's heartbeat (9).
    let raft = |kind: u8| Body::Raft(vec![0x08, kind, 0x10, 1, 0x18, 3, 0x20, 1].into());
    // Whom it calls itself must not be who leads: a leader is no stranger.
    cluster.nodes.pop().unwrap().close().await.unwrap();
    cluster.commit_everywhere().await;
    for body in [raft(6), raft(4), raft(9), Body::Recount { stand: 1 }] {
        let mut stream = cluster.greeted(3, STRANGER).await;
        stream.write_all(&frame(&envelope(3, body))).await.unwrap();
        assert_closed(stream).await;
        cluster.was_refused(PeerFault::WrongIncarnation).await;
    }
}
