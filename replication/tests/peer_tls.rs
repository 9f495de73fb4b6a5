//! TLS between peers: each way to be somebody else is refused, counted by cause, and leaves the node
//! unharmed. The other side is played with rustls alone.

#[path = "minted/anyone.rs"]
mod anyone;
mod journal;
#[path = "minted/mod.rs"]
mod minted;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyone::Anyone;
use bytes::Bytes;
use journal::Journal;
use minted::{Authority, EITHER, Leaf, Minted, SERVES};
use palisade_replication::{
    ClusterId, Credentials, CredentialsError, GroupId, Keys, Member, Node, NodeConfig, NodeError,
    NodeId, OpenDisk, Options, PeerFault, PeerLinks, PeerTls, WalOptions,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const GROUP: GroupId = GroupId::new(1);
const CLUSTER: u128 = 0x77;
/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);
const WELCOME: u8 = 0;
const NOT_YOUR_CERTIFICATE: u8 = 5;

fn node_uri(node: u64) -> String {
    format!("spiffe://{CLUSTER:032x}.palisade/node/{node}")
}

fn credentials(leaf: &Minted, authorities: &[&Authority]) -> Credentials {
    Credentials {
        certificates_pem: leaf.certificate_pem.clone().into_bytes(),
        key_pem: leaf.key_pem.clone().into_bytes(),
        authorities_pem: authorities.iter().map(|one| one.pem.as_str()).collect::<String>().into(),
    }
}

/// Node 1, and the authority of its cluster.
struct Fixture {
    _dir: tempfile::TempDir,
    peers: Authority,
    tls: PeerTls,
    node: Node<Journal>,
    journal: Journal,
    listens_at: SocketAddr,
    expected: BTreeMap<PeerFault, u64>,
}

impl Fixture {
    /// With the only voter in it, or beside another that is dialled.
    async fn start(other: Option<SocketAddr>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peers = Authority::new("peers");
        let leaf = peers.leaf(&Leaf::of(&node_uri(1)));
        let (cluster, id) = (ClusterId::new(CLUSTER), NodeId::new(1));
        let tls = PeerTls::new(cluster, id, &credentials(&leaf, &[&peers])).unwrap();
        let free = StdListener::bind("127.0.0.1:0").unwrap();
        let listens_at = free.local_addr().unwrap();
        drop(free);
        let member = |at| Member { address: Some(at), ..Member::default() };
        let mut voters = BTreeMap::from([(id, member(listens_at))]);
        voters.extend(other.map(|at| (NodeId::new(2), member(at))));
        let config = NodeConfig {
            cluster,
            node: id,
            data_dir: dir.path().join("1"),
            groups: vec![GROUP],
            voters,
            listen: Some(listens_at),
            links: PeerLinks::Tls(tls.clone()),
            options: Options::default(),
            wal: WalOptions {
                segment_bytes: 16 << 20,
                batch_bytes_max: 15 << 20,
                ..Default::default()
            },
            disk: OpenDisk::default(),
            keys: Keys::none(),
        };
        let journal = Journal::default();
        let node = Node::open(config, journal.clone()).await.unwrap();
        Self { _dir: dir, peers, tls, node, journal, listens_at, expected: BTreeMap::new() }
    }

    async fn connect(&self, shown: Option<&Minted>) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(shown, &TLS13).await
    }

    async fn connect_with(
        &self,
        shown: Option<&Minted>,
        version: &'static SupportedProtocolVersion,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(leaf) => {
                let key = leaf.key();
                config.with_client_auth_cert(vec![leaf.certificate.clone()], key).unwrap()
            }
        };
        let stream = TcpStream::connect(self.listens_at).await?;
        let name = ServerName::IpAddress(self.listens_at.ip().into());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Greets as a node of the cluster, and reads the one byte that answers.
    async fn greet(stream: &mut TlsStream<TcpStream>, node: u64) -> std::io::Result<u8> {
        stream.write_all(&greeting(CLUSTER, node, 1)).await?;
        stream.flush().await?;
        stream.read_u8().await
    }

    /// Nothing else has been counted, and the node works.
    async fn was_refused(&mut self, fault: PeerFault, case: &str) {
        let count = self.expected.entry(fault).or_default();
        *count += 1;
        let count = *count;
        self.within(case, async {
            while self.node.peer_faults()[&fault] < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        for (fault, count) in self.node.peer_faults() {
            let expected = self.expected.get(&fault).copied().unwrap_or_default();
            assert_eq!(count, expected, "{case}: {fault:?}");
        }
    }

    async fn commits(&self) {
        let commit = async {
            loop {
                match self.node.propose(GROUP, Bytes::from_static(b"r")).unwrap().await {
                    Err(NodeError::Unavailable) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => break other.unwrap(),
                }
            }
        };
        self.within("a commit", commit).await;
        assert!(self.journal.records(GROUP).iter().all(|record| record == b"r".as_slice()));
    }

    async fn within<T>(&self, what: &str, done: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| {
            panic!("{what}: not within {PATIENCE:?}, {:?}", self.node.peer_faults())
        })
    }
}

/// The greeting of version 2, as `transport` lays it out.
fn greeting(cluster: u128, from: u64, to: u64) -> Vec<u8> {
    let mut raw = b"PLSDPEER".to_vec();
    raw.extend(2_u32.to_le_bytes());
    raw.extend(cluster.to_le_bytes());
    raw.extend(from.to_le_bytes());
    raw.extend(to.to_le_bytes());
    raw.extend(9_u128.to_le_bytes());
    raw.extend([0; 18]);
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let crc = !raw.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
    raw.extend(crc.to_le_bytes());
    raw
}

#[expect(clippy::disallowed_methods, reason = "certificates are of the calendar")]
fn now() -> SystemTime {
    SystemTime::now()
}

const HOUR: Duration = Duration::from_secs(3600);

/// Who calls without being a node of this cluster, in all the ways there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_must_be_the_node_that_it_says() {
    let mut at = Fixture::start(None).await;
    let clients = Authority::new("clients");
    let foreign = Authority::new("peers");
    let client_uri = format!("spiffe://{CLUSTER:032x}.palisade/client/reports");
    let good = Leaf::of(&node_uri(2));
    let with = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = good.clone();
        change(&mut leaf);
        leaf
    };
    let elsewhere = format!("spiffe://{:032x}.palisade/node/2", CLUSTER + 1);
    use PeerFault::{Untrusted, WrongIdentity};
    let cases = [
        ("another authority of the same name", foreign.leaf(&good), Untrusted),
        ("a client on the port of peers", clients.leaf(&Leaf::of(&client_uri)), Untrusted),
        ("a client of the peers' authority", at.peers.leaf(&Leaf::of(&client_uri)), WrongIdentity),
        ("another node", at.peers.leaf(&Leaf::of(&node_uri(3))), WrongIdentity),
        ("the node itself", at.peers.leaf(&Leaf::of(&node_uri(1))), WrongIdentity),
        ("another cluster", at.peers.leaf(&Leaf::of(&elsewhere)), WrongIdentity),
        ("nobody", at.peers.leaf(&with(&|leaf| leaf.uris.clear())), WrongIdentity),
        ("two at once", at.peers.leaf(&with(&|leaf| leaf.uris.push(node_uri(3)))), WrongIdentity),
        ("expired", at.peers.leaf(&with(&|leaf| leaf.until = now() - HOUR)), Untrusted),
        ("not valid yet", at.peers.leaf(&with(&|leaf| leaf.from = now() + HOUR)), Untrusted),
        ("for who answers only", at.peers.leaf(&with(&|leaf| leaf.usages = SERVES)), Untrusted),
        ("for any use", at.peers.leaf(&with(&|leaf| leaf.usages = &[])), Untrusted),
    ];
    for (case, leaf, fault) in cases {
        let answered = async {
            let mut stream = at.connect(Some(&leaf)).await?;
            Fixture::greet(&mut stream, 2).await
        };
        let answered = at.within(case, answered).await;
        // Whoever is refused for the node that it says hears so; all others hear nothing.
        assert!(!matches!(answered, Ok(WELCOME)), "{case}");
        assert!(matches!(answered, Err(_) | Ok(NOT_YOUR_CERTIFICATE)), "{case}: {answered:?}");
        at.was_refused(fault, case).await;
    }
    let answered = async {
        let mut stream = at.connect(None).await?;
        Fixture::greet(&mut stream, 2).await
    };
    assert!(at.within("no certificate", answered).await.is_err());
    at.was_refused(Untrusted, "no certificate").await;
    let old = at.peers.leaf(&good);
    assert!(at.within("TLS 1.2", at.connect_with(Some(&old), &TLS12)).await.is_err());
    at.was_refused(Untrusted, "TLS 1.2").await;
    let mut plain = TcpStream::connect(at.listens_at).await.unwrap();
    plain.write_all(&greeting(CLUSTER, 2, 1)).await.unwrap();
    at.was_refused(Untrusted, "no TLS").await;
    at.commits().await;

    // And who is the node is welcome.
    let leaf = at.peers.leaf(&good);
    let mut stream = at.connect(Some(&leaf)).await.unwrap();
    assert_eq!(at.within("welcome", Fixture::greet(&mut stream, 2)).await.unwrap(), WELCOME);
}

/// Who answers without being the node that was called hears not one byte of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_must_be_the_node_that_was_called() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = Fixture::start(Some(listener.local_addr().unwrap())).await;
    let foreign = Authority::new("peers");
    let good = Leaf::of(&node_uri(2));
    let elsewhere = format!("spiffe://{:032x}.palisade/node/2", CLUSTER + 1);
    let expired = Leaf { until: now() - HOUR, ..good.clone() };
    let calls_only = Leaf { usages: &EITHER[1..], ..good.clone() };
    let cases = [
        ("another authority", foreign.leaf(&good), PeerFault::Untrusted),
        ("another node", at.peers.leaf(&Leaf::of(&node_uri(3))), PeerFault::WrongIdentity),
        ("another cluster", at.peers.leaf(&Leaf::of(&elsewhere)), PeerFault::WrongIdentity),
        ("expired", at.peers.leaf(&expired), PeerFault::Untrusted),
        ("for who calls only", at.peers.leaf(&calls_only), PeerFault::Untrusted),
    ];
    for (case, leaf, fault) in cases {
        let before = at.node.peer_faults()[&fault];
        let played = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            if let Ok(mut stream) = answer(&leaf, stream).await {
                // Its end, one way or the other.
                let _ = stream.read_to_end(&mut heard).await;
            }
            heard
        };
        assert!(at.within(case, played).await.is_empty(), "{case}");
        at.within(case, async {
            while at.node.peer_faults()[&fault] <= before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
    // The node itself is greeted.
    let leaf = at.peers.leaf(&good);
    let heard = at.within("a greeting", async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut heard = [0; 8];
        answer(&leaf, stream).await.unwrap().read_exact(&mut heard).await.unwrap();
        heard
    });
    assert_eq!(&heard.await, b"PLSDPEER");
}

async fn answer(
    leaf: &Minted,
    stream: TcpStream,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.certificate.clone()], leaf.key())
        .unwrap();
    TlsAcceptor::from(Arc::new(config)).accept(stream).await
}

/// A connection is not older than the certificates it was made with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_its_certificate() {
    let at = Fixture::start(None).await;
    // X.509 knows whole seconds.
    let until = now() + Duration::from_secs(3);
    let leaf = at.peers.leaf(&Leaf { until, ..Leaf::of(&node_uri(2)) });
    let mut stream = at.connect(Some(&leaf)).await.unwrap();
    assert_eq!(Fixture::greet(&mut stream, 2).await.unwrap(), WELCOME);
    let mut rest = Vec::new();
    let _ = at.within("its end", stream.read_to_end(&mut rest)).await;
    assert!(until - Duration::from_secs(1) <= now(), "it ended before its certificate did");
}

/// New credentials are taken while the node runs: the authority that takes the other's place issues what is
/// taken beside the former's, and once the former is dropped, so are the connections under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authority_takes_the_place_of_another() {
    let mut at = Fixture::start(None).await;
    let next = Authority::new("peers");
    let (of_former, of_next) =
        (at.peers.leaf(&Leaf::of(&node_uri(2))), next.leaf(&Leaf::of(&node_uri(2))));
    let ours = next.leaf(&Leaf::of(&node_uri(1)));

    // A certificate whose authority nobody believes is not taken, nor is a broken file, nor another's name.
    for (case, wrong) in [
        ("nobody believes it", credentials(&ours, &[&at.peers])),
        ("broken", Credentials { key_pem: b"-----BEGIN".to_vec(), ..credentials(&ours, &[&next]) }),
        (
            "another key",
            Credentials {
                key_pem: of_next.key_pem.clone().into_bytes(),
                ..credentials(&ours, &[&next])
            },
        ),
        ("no authority", credentials(&ours, &[])),
    ] {
        assert!(at.tls.replace(&wrong).is_err(), "{case}");
    }
    let another = at.tls.replace(&credentials(&of_next, &[&next]));
    assert!(matches!(another, Err(CredentialsError::OfAnother { .. })), "{another:?}");
    let mut early = at.connect(Some(&of_former)).await.unwrap();
    assert_eq!(Fixture::greet(&mut early, 2).await.unwrap(), WELCOME, "the former are in use");

    at.tls.replace(&credentials(&ours, &[&at.peers, &next])).unwrap();
    for leaf in [&of_former, &of_next] {
        let mut stream = at.connect(Some(leaf)).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.peer_certificates().unwrap()[0], ours.certificate);
        assert_eq!(Fixture::greet(&mut stream, 2).await.unwrap(), WELCOME);
    }
    let mut of_now = at.connect(Some(&of_next)).await.unwrap();
    assert_eq!(Fixture::greet(&mut of_now, 2).await.unwrap(), WELCOME);

    at.tls.replace(&credentials(&ours, &[&next])).unwrap();
    let mut rest = Vec::new();
    let _ = at.within("its end", early.read_to_end(&mut rest)).await;
    let answered = async {
        let mut stream = at.connect(Some(&of_former)).await?;
        Fixture::greet(&mut stream, 2).await
    };
    assert!(at.within("the former", answered).await.is_err());
    at.was_refused(PeerFault::Untrusted, "the former").await;
    // The other goes on.
    of_now.write_all(&[0xff; 8]).await.unwrap();
    of_now.flush().await.unwrap();
    at.was_refused(PeerFault::Oversized, "it is listened to").await;
}

/// G12: a crowd that never speaks takes no more places than there are, and keeps nobody out. It is more than
/// all connections that a node has at once, so that without their making room the last would find none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_crowd_keeps_nobody_out() {
    const CROWD: usize = 900;
    let at = Fixture::start(None).await;
    let mut crowd = VecDeque::new();
    for _ in 0..CROWD {
        crowd.push_back(TcpStream::connect(at.listens_at).await.unwrap());
        // Whose place was taken is gone.
        let is_over = |stream: &TcpStream| !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        while crowd.front().is_some_and(is_over) {
            crowd.pop_front();
        }
    }
    // At once, and not when the crowd's time is over.
    let leaf = at.peers.leaf(&Leaf::of(&node_uri(2)));
    let mut stream = at.within("TLS", at.connect(Some(&leaf))).await.unwrap();
    assert_eq!(at.within("welcome", Fixture::greet(&mut stream, 2)).await.unwrap(), WELCOME);
    at.within("places are taken from the oldest", async {
        while at.node.peer_faults()[&PeerFault::Stalled] < CROWD as u64 / 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    at.commits().await;
}

/// Without certificates a node speaks to this machine alone, unless it is told that the network is safe.
#[test]
fn plain_tcp_is_for_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let config = |listen: &str, links: PeerLinks| NodeConfig {
        cluster: ClusterId::new(CLUSTER),
        node: NodeId::new(1),
        data_dir: dir.path().to_owned(),
        groups: vec![GROUP],
        voters: BTreeMap::from([(NodeId::new(1), Member::default())]),
        listen: Some(listen.parse().unwrap()),
        links,
        options: Options::default(),
        wal: WalOptions::default(),
        disk: OpenDisk::default(),
        keys: Keys::none(),
    };
    for fine in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        config(fine, PeerLinks::Loopback).validate().unwrap();
    }
    for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
        let refused = config(open, PeerLinks::Loopback).validate();
        let Err(NodeError::InvalidArgument { what }) = refused else {
            panic!("{open}: {refused:?}")
        };
        assert!(what.contains("peer_tls"), "{what}");
        config(open, PeerLinks::Unprotected).validate().unwrap();
    }
    let voter = Member { address: Some("10.0.0.2:1".parse().unwrap()), ..Member::default() };
    let mut beside = config("127.0.0.1:1", PeerLinks::Loopback);
    beside.voters.insert(NodeId::new(2), voter);
    assert!(beside.validate().is_err());

    let peers = Authority::new("peers");
    let other = peers.leaf(&Leaf::of(&node_uri(2)));
    let (cluster, two) = (ClusterId::new(CLUSTER), NodeId::new(2));
    let tls = PeerTls::new(cluster, two, &credentials(&other, &[&peers])).unwrap();
    let refused = config("127.0.0.1:1", PeerLinks::Tls(tls)).validate();
    assert!(refused.is_err(), "credentials of another node");
    let one = PeerTls::new(cluster, NodeId::new(1), &credentials(&other, &[&peers]));
    assert!(matches!(one, Err(CredentialsError::OfAnother { .. })), "{one:?}");
}
