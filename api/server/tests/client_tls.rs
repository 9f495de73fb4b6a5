//! The client's own judgement of who answers: a node of its cluster by certificate, whatever its address is.

#[path = "../../../replication/tests/minted/mod.rs"]
mod minted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use minted::{Authority, Leaf, Minted};
use palisade_client::{Client, Code, Map};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const CLUSTER: u128 = 0x77;
const HOUR: Duration = Duration::from_secs(3600);

fn leaf(cluster: u128, rest: &str) -> Leaf {
    Leaf::of(&format!("spiffe://{cluster:032x}.palisade/{rest}"))
}

#[expect(clippy::disallowed_methods, reason = "certificates are of the calendar")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Somebody who answers with this leaf, believes callers of this authority, and counts the bytes that he is
/// told once the handshake is done.
async fn answers(
    shown: &Minted,
    callers: &Authority,
    version: &'static rustls::SupportedProtocolVersion,
) -> (String, Arc<AtomicU64>, JoinSet<()>) {
    let mut roots = RootCertStore::empty();
    let authority = rustls::pki_types::pem::PemObject::from_pem_slice(callers.pem.as_bytes());
    roots.add(authority.unwrap()).unwrap();
    let provider = Arc::new(default_provider());
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![shown.certificate.clone()], shown.key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let told = Arc::new(AtomicU64::new(0));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut serving = JoinSet::new();
    serving.spawn({
        let told = Arc::clone(&told);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut heard = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut heard).await {
                    told.fetch_add(count as u64, Ordering::Relaxed);
                }
            }
        }
    });
    (endpoint, told, serving)
}

/// S1, S2: whoever is no node of the cluster is told nothing: not a name of a resource, and not a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_speaks_to_nodes_of_its_cluster_alone() {
    let (peers, callers) = (Authority::new("peers"), Authority::new("callers"));
    let own = callers.leaf(&leaf(CLUSTER, "client/reports"));
    let calls = async |endpoint: &str| {
        let client = Client::builder()
            .identity(own.certificate_pem.clone(), own.key_pem.clone())
            .authority(peers.pem.clone())
            .token("pal1.secret")
            .call_timeout(Duration::from_millis(500))
            .endpoint(endpoint)
            .connect()
            .unwrap();
        let map: Map<String, u64> = client.map("map", "number.v1");
        map.get(&"k".to_owned()).await.unwrap_err()
    };
    let node = || leaf(CLUSTER, "node/1");
    let tls13 = &rustls::version::TLS13;
    let another = Authority::new("peers");
    for (case, shown, said) in [
        ("another authority", another.leaf(&node()), "invalid peer certificate"),
        ("a caller of the authority of callers", callers.leaf(&node()), "invalid peer certificate"),
        ("a caller", peers.leaf(&leaf(CLUSTER, "client/reports")), "not of a node"),
        ("a node of another cluster", peers.leaf(&leaf(0x78, "node/1")), "not of a node"),
        ("nobody", peers.leaf(&Leaf { uris: vec![], ..node() }), "exactly one URI"),
        ("for any use", peers.leaf(&Leaf { usages: &[], ..node() }), "not of a node"),
        (
            "expired",
            peers.leaf(&Leaf { until: now() - HOUR, from: now() - 2 * HOUR, ..node() }),
            "expired",
        ),
    ] {
        let (endpoint, told, _serving) = answers(&shown, &callers, tls13).await;
        let error = calls(&endpoint).await;
        assert_eq!(error.code(), Code::Disconnected, "{case}: {error}");
        assert!(error.to_string().contains(said), "{case}: {error}");
        assert_eq!(told.load(Ordering::Relaxed), 0, "{case}: it was told something");
    }
    let (endpoint, told, _serving) =
        answers(&peers.leaf(&node()), &callers, &rustls::version::TLS12).await;
    calls(&endpoint).await;
    assert_eq!(told.load(Ordering::Relaxed), 0, "an older TLS");
    // A node of the cluster, whose leaf has the name of no host.
    let (endpoint, told, _serving) = answers(&peers.leaf(&node()), &callers, tls13).await;
    calls(&endpoint).await;
    assert!(told.load(Ordering::Relaxed) > 0, "it was spoken to");
}

/// What does not fit is found out before anything is sent.
#[tokio::test]
async fn a_client_needs_credentials_that_fit() {
    let (peers, callers) = (Authority::new("peers"), Authority::new("callers"));
    let own = callers.leaf(&leaf(CLUSTER, "client/reports"));
    let other = callers.leaf(&leaf(CLUSTER, "client/other"));
    let https = || Client::builder().endpoint("https://127.0.0.1:1");
    let with = |leaf: &Minted| https().identity(leaf.certificate_pem.clone(), leaf.key_pem.clone());
    assert!(https().connect().is_err(), "no certificate");
    assert!(with(&own).connect().is_err(), "nobody is believed");
    let client = with(&own).authority(peers.pem.clone()).connect().unwrap();
    let mixed = https().identity(own.certificate_pem.clone(), other.key_pem.clone());
    assert!(mixed.authority(peers.pem.clone()).connect().is_err(), "another's key");
    let node = peers.leaf(&leaf(CLUSTER, "node/1"));
    assert!(with(&node).authority(peers.pem.clone()).connect().is_err(), "a node's");
    let elsewhere = callers.leaf(&leaf(0x78, "client/reports"));
    let renew = |leaf: &Minted| {
        client.renew(leaf.certificate_pem.clone(), leaf.key_pem.clone(), peers.pem.clone())
    };
    assert!(renew(&elsewhere).is_err(), "of another cluster");
    renew(&other).unwrap();
}
