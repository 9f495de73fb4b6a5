//! The port of callers, over loopback: who is taken, who is not, and certificates that change meanwhile.

#[path = "../../../replication/tests/minted/anyone.rs"]
mod anyone;
#[path = "../../../replication/tests/minted/mod.rs"]
mod minted;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyone::Anyone;
use minted::{Authority, Leaf, Minted, SERVES};
use palisade::tls::CertificateRole;
use palisade::{ClusterId, NodeId};
use palisade_server::security::accept::{AcceptCounts, AcceptRefusal, CallerStream, Gate};
use palisade_server::security::tls::{TlsFiles, TlsWatch};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CLUSTER: ClusterId = ClusterId::new(0x77);
const HOUR: Duration = Duration::from_secs(3600);
/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

fn uri(cluster: u128, rest: &str) -> String {
    format!("spiffe://{cluster:032x}.palisade/{rest}")
}

fn caller() -> Leaf {
    Leaf::of(&uri(CLUSTER.get(), "client/reports"))
}

fn node() -> Leaf {
    Leaf::of(&uri(CLUSTER.get(), "node/1"))
}

#[expect(clippy::disallowed_methods, reason = "certificates are of the calendar")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn write(path: &Path, mode: u32, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn files(dir: &Path, leaf: &Minted, believed: &Authority) -> TlsFiles {
    let files = TlsFiles {
        certificates: dir.join("leaf.pem"),
        key: dir.join("leaf.key"),
        authorities: dir.join("believed.pem"),
    };
    write(&files.key, 0o600, &leaf.key_pem);
    write(&files.certificates, 0o644, &leaf.certificate_pem);
    write(&files.authorities, 0o644, &believed.pem);
    files
}

/// A call by whoever shows this, and how it was judged.
async fn call(
    gate: &Gate,
    shown: Option<&Minted>,
    version: &'static SupportedProtocolVersion,
) -> (Option<TlsStream<TcpStream>>, Result<CallerStream, AcceptRefusal>) {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(leaf) => {
            config.with_client_auth_cert(vec![leaf.certificate.clone()], leaf.key()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calling = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
    };
    let answering = async { gate.admit(listener.accept().await.unwrap().0).await };
    tokio::time::timeout(PATIENCE, async { tokio::join!(calling, answering) }).await.unwrap()
}

#[tokio::test]
async fn who_calls_must_be_a_caller_of_this_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let (peers, callers) = (Authority::new("peers"), Authority::new("callers"));
    let files = files(dir.path(), &peers.leaf(&node()), &callers);
    let tls = Arc::new(files.callers(CLUSTER, CertificateRole::Node).unwrap());
    let gate = Gate::new(CLUSTER, tls);
    let foreign = Authority::new("callers");
    let elsewhere = Leaf::of(&uri(0x78, "client/reports"));
    let untrusted = [
        ("another authority", foreign.leaf(&caller())),
        ("a node", peers.leaf(&node())),
        ("expired", callers.leaf(&Leaf { until: now() - HOUR, ..caller() })),
        ("not valid yet", callers.leaf(&Leaf { from: now() + HOUR, ..caller() })),
        ("for who answers only", callers.leaf(&Leaf { usages: SERVES, ..caller() })),
    ];
    let mut expected = AcceptCounts::default();
    for (case, leaf) in &untrusted {
        let (_, judged) = call(&gate, Some(leaf), &TLS13).await;
        assert!(matches!(judged, Err(AcceptRefusal::Untrusted { .. })), "{case}: {judged:?}");
        expected.untrusted += 1;
        assert_eq!(gate.counts(), expected, "{case}");
    }
    let (_, judged) = call(&gate, None, &TLS13).await;
    assert!(matches!(judged, Err(AcceptRefusal::Untrusted { .. })), "{judged:?}");
    let (_, judged) = call(&gate, Some(&callers.leaf(&caller())), &TLS12).await;
    assert!(matches!(judged, Err(AcceptRefusal::Untrusted { .. })), "{judged:?}");
    expected.untrusted += 2;
    for (case, leaf) in [
        ("another cluster", elsewhere),
        ("a node, by the authority of callers", node()),
        ("nobody", Leaf { uris: vec![], ..caller() }),
        ("for any use", Leaf { usages: &[], ..caller() }),
    ] {
        let (_, judged) = call(&gate, Some(&callers.leaf(&leaf)), &TLS13).await;
        assert!(matches!(judged, Err(AcceptRefusal::Identity(_))), "{case}: {judged:?}");
        expected.unidentified += 1;
        assert_eq!(gate.counts(), expected, "{case}");
    }
    let (calling, judged) = call(&gate, Some(&callers.leaf(&caller())), &TLS13).await;
    let mut taken = judged.unwrap();
    assert_eq!(taken.identity().client(), Some("reports"));
    let mut calling = calling.unwrap();
    calling.write_all(b"hello").await.unwrap();
    calling.flush().await.unwrap();
    let mut heard = [0; 5];
    taken.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    expected.taken += 1;
    assert_eq!(gate.counts(), expected);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (peers, callers) = (Authority::new("peers"), Authority::new("callers"));
    let files = files(dir.path(), &peers.leaf(&node()), &callers);
    let gate = Gate::new(CLUSTER, Arc::new(files.callers(CLUSTER, CertificateRole::Node).unwrap()));
    let until = now() + Duration::from_secs(2);
    let (_calling, judged) =
        call(&gate, Some(&callers.leaf(&Leaf { until, ..caller() })), &TLS13).await;
    let read = judged.unwrap().read_u8().await;
    assert!(read.is_err(), "{read:?}");
    assert!(until - Duration::from_secs(1) <= now(), "it ended before its certificate did");
}

/// An expired leaf is shown to nobody's liking, and works again once it is renewed; what is broken changes
/// nothing, and is told until it is mended.
#[tokio::test]
async fn files_are_taken_while_the_node_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (peers, callers) = (Authority::new("peers"), Authority::new("callers"));
    let expired = peers.leaf(&Leaf { until: now() - HOUR, from: now() - 2 * HOUR, ..node() });
    let at = files(dir.path(), &expired, &callers);
    let tls = Arc::new(at.callers(CLUSTER, CertificateRole::Node).unwrap());
    let watch = TlsWatch::new(at.clone(), Arc::clone(&tls) as _);
    let status = watch.look();
    assert!(status.expired && status.failure.is_none(), "{status:?}");
    // By a caller that judges, as ours do.
    let leaf = callers.leaf(&caller());
    let theirs = dir.path().join("caller");
    fs::create_dir(&theirs).unwrap();
    let judging = files(&theirs, &leaf, &peers).callers(CLUSTER, CertificateRole::Client).unwrap();
    let gate = Gate::new(CLUSTER, Arc::clone(&tls));
    assert!(!reaches(&gate, &judging.setup().client()).await, "the node's leaf has expired");

    let renewed = peers.leaf(&node());
    // Half of it is there: the certificate, and not its key.
    write(&at.certificates, 0o644, &renewed.certificate_pem);
    let status = watch.look();
    assert_eq!((status.failures, status.reloads), (1, 0), "{status:?}");
    assert!(status.failure.is_some() && status.expired);
    write(&at.key, 0o600, &renewed.key_pem);
    let status = watch.look();
    assert_eq!((status.failures, status.reloads, status.expired), (0, 1, false), "{status:?}");
    assert!(status.failure.is_none());
    assert!(reaches(&gate, &judging.setup().client()).await, "it was renewed");

    for (case, path, mode, text) in [
        ("broken", &at.certificates, 0o644, "-----BEGIN CERTIFICATE-----\nAAAA"),
        ("empty", &at.authorities, 0o644, ""),
        ("a key for everybody", &at.key, 0o644, renewed.key_pem.as_str()),
    ] {
        let before = fs::read_to_string(path).unwrap();
        let former = if path == &at.key { 0o600 } else { 0o644 };
        write(path, mode, text);
        let status = watch.look();
        assert_eq!(status.failures, 1, "{case}: {status:?}");
        assert_eq!(watch.look().failures, 2, "{case}: it is told until it is mended");
        assert!(reaches(&gate, &judging.setup().client()).await, "{case}: the former are in use");
        write(path, former, &before);
        let status = watch.look();
        assert_eq!((status.failures, status.reloads), (0, 1), "{case}: {status:?}");
    }
    fs::remove_file(&at.certificates).unwrap();
    assert!(watch.look().failure.unwrap().contains("leaf.pem"), "the file is named");

    // Of somebody else, they are not taken either: not when opened, and not later.
    let other = files(&theirs, &peers.leaf(&node()), &callers);
    assert!(other.callers(CLUSTER, CertificateRole::Client).is_err(), "a node's for a caller");
    assert!(other.callers(ClusterId::new(1), CertificateRole::Node).is_err(), "another cluster");
    assert!(other.peers(CLUSTER, NodeId::new(2)).is_err(), "another node");
    assert!(other.peers(CLUSTER, NodeId::new(1)).is_err(), "callers issue no nodes");
}

async fn reaches(gate: &Gate, config: &Arc<ClientConfig>) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calling = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await.is_ok()
    };
    let answering = async { gate.admit(listener.accept().await.unwrap().0).await.is_ok() };
    let both = async { tokio::join!(calling, answering) };
    let (called, answered) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    called && answered
}

/// Of a connection under an authority that is dropped, nothing more is read; under another, it goes on (H4).
#[tokio::test]
async fn a_dropped_authority_takes_its_connections_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let peers = Authority::new("peers");
    let (former, next) = (Authority::new("callers 1"), Authority::new("callers 2"));
    let at = files(dir.path(), &peers.leaf(&node()), &former);
    let tls = Arc::new(at.callers(CLUSTER, CertificateRole::Node).unwrap());
    let watch = TlsWatch::new(at.clone(), Arc::clone(&tls) as _);
    watch.look();
    let gate = Gate::new(CLUSTER, tls);
    let take = async |issuer: &Authority| {
        let (calling, judged) = call(&gate, Some(&issuer.leaf(&caller())), &TLS13).await;
        (calling.unwrap(), judged.unwrap())
    };
    let hears = async |calling: &mut TlsStream<TcpStream>, taken: &mut CallerStream| {
        calling.write_all(b"x").await.unwrap();
        calling.flush().await.unwrap();
        tokio::time::timeout(PATIENCE, taken.read_u8()).await.unwrap()
    };
    let (mut of_former, mut taken_former) = take(&former).await;
    write(&at.authorities, 0o644, &format!("{}{}", former.pem, next.pem));
    watch.look();
    let (mut of_next, mut taken_next) = take(&next).await;
    assert_eq!(hears(&mut of_former, &mut taken_former).await.unwrap(), b'x', "both are believed");
    write(&at.authorities, 0o644, &next.pem);
    watch.look();
    let ended = tokio::time::timeout(PATIENCE, taken_former.read_u8()).await.unwrap();
    assert!(ended.unwrap_err().to_string().contains("not believed"));
    assert!(taken_former.read_u8().await.is_err(), "and not again");
    assert_eq!(hears(&mut of_next, &mut taken_next).await.unwrap(), b'x');
}

/// Who connects and says nothing has its place for a while, and no longer.
#[tokio::test]
async fn a_caller_that_says_nothing_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (peers, callers) = (Authority::new("peers"), Authority::new("callers"));
    let files = files(dir.path(), &peers.leaf(&node()), &callers);
    let gate = Gate::new(CLUSTER, Arc::new(files.callers(CLUSTER, CertificateRole::Node).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let answering = gate.admit(listener.accept().await.unwrap().0);
    let judged = tokio::time::timeout(PATIENCE, answering).await.expect("its time is over");
    assert!(matches!(judged, Err(AcceptRefusal::Stalled)), "{judged:?}");
    assert_eq!(gate.counts().stalled, 1);
}
