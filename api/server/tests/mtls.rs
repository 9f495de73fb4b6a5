//! Three processes of the command under mutual TLS, as an operator sets them up: authorities and leaves by
//! `palisade ca`, and whoever has no right to be there is turned away.

#[path = "../../../replication/tests/minted/anyone.rs"]
mod anyone;
#[path = "../../../replication/tests/minted/mod.rs"]
#[allow(dead_code, reason = "authorities here are the command's own")]
mod minted;
mod support;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use minted::Leaf;
use palisade_client::{Client, ClientBuilder, Code, Consistency, Error, Log, Map};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use support::{json, palisade, run};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

const CLUSTER: &str = "000000000000000000000000000000aa";
/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(120);

fn done(dir: &Path, line: &str) {
    let output = run(dir, &line.split_whitespace().collect::<Vec<_>>());
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Three nodes, each a process, and the authorities of their cluster in `ca`.
struct Cluster {
    nodes: Vec<Child>,
    callers: Vec<SocketAddr>,
    dir: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

impl Cluster {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        done(at, &format!("ca init --dir ca --cluster {CLUSTER}"));
        done(at, "token key --keys tokens.keys");
        // Held until each has its own.
        let held: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = held.iter().map(|held| held.local_addr().unwrap()).collect();
        let (peers, callers) = (ports[..3].to_vec(), ports[3..].to_vec());
        drop(held);
        let voters: String = (1..).zip(&peers).fold(String::new(), |text, (id, address)| {
            format!("{text}\n[[voters]]\nid = {id}\naddress = \"{address}\"\n")
        });
        for id in 1..=3 {
            // No name of a host: it is not what a node is known by.
            done(at, &format!("ca issue --dir ca --node {id} --out node-{id}"));
            let text = format!(
                "[node]\nid = {id}\ncluster = \"{CLUSTER}\"\nmode = \"raft\"\ndata_dir = \"data-{id}\"\n\n\
                 [listen]\npeers = \"{}\"\ngrpc = \"{}\"\n\n\
                 [log]\nlevel = \"debug,palisade_server=trace,h2=info\"\n\n\
                 [security]\nadmins = [\"ops\"]\ntoken_keys_file = \"tokens.keys\"\nnode_cert_file = \"node-{id}/node-{id}.pem\"\n\
                 node_key_file = \"node-{id}/node-{id}.key\"\n\
                 peer_ca_file = \"node-{id}/peer-authorities.pem\"\n\
                 client_ca_file = \"node-{id}/client-authorities.pem\"\n{voters}",
                peers[id - 1],
                callers[id - 1],
            );
            fs::write(at.join(format!("node-{id}.toml")), text).unwrap();
        }
        let mut cluster = Self { nodes: Vec::new(), callers, dir };
        for id in 1..=3 {
            let node = cluster.spawn(id);
            cluster.nodes.push(node);
        }
        cluster
    }

    fn spawn(&self, id: usize) -> Child {
        let log = File::create(self.dir.path().join(format!("node-{id}.log"))).unwrap();
        palisade(self.dir.path())
            .args(["node", "--config", &format!("node-{id}.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Says it, in the directory of the cluster.
    fn done(&self, line: &str) {
        done(self.dir.path(), line);
    }

    fn issue(&self, client: &str) {
        self.done(&format!("ca issue --dir ca --client {client} --out {client} --renew"));
    }

    /// Has every node look at its files now.
    fn hang_up(&self) {
        for node in &self.nodes {
            kill_process(Pid::from_child(node), Signal::HUP).unwrap();
        }
    }

    /// Says it of the first node, as the operator, and gives the document that is answered.
    fn asked(&self, line: &str) -> serde_json::Value {
        let line = format!(
            "{line} --endpoint https://{} --cert-file ops/client-ops.pem \
             --key-file ops/client-ops.key --ca-file ops/peer-authorities.pem",
            self.callers[0],
        );
        let (code, document) = json(self.dir.path(), &line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(code, 0, "{line}: {document}");
        document
    }

    /// With the files that `ca issue` wrote for a caller.
    fn caller(&self, name: &str) -> ClientBuilder {
        let leaf = self.read(&format!("{name}/client-{name}.pem"));
        let key = self.read(&format!("{name}/client-{name}.key"));
        let authority = self.read(&format!("{name}/peer-authorities.pem"));
        Client::builder().identity(leaf, key).authority(authority).call_timeout(PATIENCE)
    }

    fn reaching(&self, caller: ClientBuilder) -> Client {
        let named = self.callers.iter().map(|address| format!("https://{address}"));
        named.fold(caller, ClientBuilder::endpoint).connect().unwrap()
    }

    /// The leaf that a node shows to whoever asks, and whether it goes on speaking with this one.
    async fn shown(
        &self,
        id: usize,
        with: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> (CertificateDer<'static>, bool) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(anyone::Anyone));
        let mut config = match with {
            None => config.with_no_client_auth(),
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.callers[id - 1]).await.unwrap();
        let name = ServerName::IpAddress(self.callers[id - 1].ip().into());
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        // Whoever is taken is answered with the settings of the node.
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let _ = stream.flush().await;
        let goes_on = stream.read_u8().await.is_ok();
        (leaf, goes_on)
    }
}

fn key() -> String {
    "k".to_owned()
}

fn kind(done: Result<impl Sized, Error>) -> (Code, String) {
    let error = done.err().expect("it was refused");
    (error.code(), error.failure().kind.clone())
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

/// A leaf of the cluster's own authority of callers that the command would not issue.
fn odd_leaf(
    cluster: &Cluster,
    leaf: &Leaf,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let issuer = cluster.read("ca/client/issuer.pem");
    let key = KeyPair::from_pem(&issuer).unwrap();
    let certificate = &issuer[issuer.find("-----BEGIN CERTIFICATE-----").unwrap()..];
    let issuer = Issuer::from_ca_cert_pem(certificate, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (leaf.from.into(), leaf.until.into());
    let uri = |uri: &String| SanType::URI(uri.as_str().try_into().unwrap());
    params.subject_alt_names = leaf.uris.iter().map(uri).collect();
    params.extended_key_usages = leaf.usages.to_vec();
    let signed = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    (vec![signed.der().clone()], key)
}

#[expect(clippy::disallowed_methods, reason = "certificates are of the calendar")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The nodes find each other, serve who was granted something, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_serve_whom_they_know() {
    let cluster = Cluster::start();
    cluster.issue("ops");
    cluster.issue("reports");
    cluster.issue("stranger");
    let ops = cluster.reaching(cluster.caller("ops"));
    let map: Map<String, u64> = ops.map("orders", "number.v1");
    let spec = palisade_client::proto::directory::v1::Spec { replicas: 3, ..Default::default() };
    map.open_as(spec).await.unwrap();
    map.put(&key(), &7).await.unwrap();
    let granted = cluster.asked("grant add reports orders read,append");
    assert_eq!(granted["granted"][0]["grants"][0]["rights"], "read,append", "{granted}");
    assert_eq!(cluster.asked("grant list"), granted);
    // At each node, once it goes by the grant.
    for address in &cluster.callers {
        let reports = cluster.caller("reports").endpoint(format!("https://{address}"));
        let map: Map<String, u64> = reports.connect().unwrap().map("orders", "number.v1");
        loop {
            match map.get(&key()).await {
                Ok(found) => break assert_eq!(found.unwrap().value, 7),
                Err(error) => assert_eq!(error.failure().kind, "NOT_ALLOWED", "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        map.put(&key(), &7).await.unwrap();
    }
    let stranger: Map<String, u64> =
        cluster.reaching(cluster.caller("stranger")).map("orders", "number.v1");
    let refused = (Code::Revoked, "NOT_ALLOWED".to_owned());
    assert_eq!(kind(stranger.get(&key()).await), refused, "nothing was granted");
    assert_eq!(kind(stranger.put(&key(), &8).await), refused, "nothing was granted");

    // With a token of somebody who may, it may what the token says.
    cluster.done(&format!(
        "token mint --keys tokens.keys --cluster {CLUSTER} --client reports --rights read --out t"
    ));
    let token = cluster.read("t");
    let bearer = cluster.reaching(cluster.caller("stranger").token(token.trim()));
    let bearer: Map<String, u64> = bearer.map("orders", "number.v1");
    assert_eq!(bearer.get(&key()).await.unwrap().unwrap().value, 7);
    assert_eq!(kind(bearer.put(&key(), &8).await), refused, "it is for reading");
    cluster.done("token narrow --token-file t --resource-prefix other --out less");
    cluster.done(&format!("token show --token-file less --keys tokens.keys --cluster {CLUSTER}"));

    // Whom the authority of callers of this cluster did not issue, or not for now, is not let in.
    cluster.done(&format!("ca init --dir other --cluster {CLUSTER}"));
    cluster.done("ca issue --dir other --client ops --out other-ops");
    let of = |dir: &str, name: &str| {
        let key = cluster.read(&format!("{dir}/{name}.key"));
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        (chain(&cluster.read(&format!("{dir}/{name}.pem"))), key)
    };
    let uri = |cluster: &str, rest: &str| Leaf::of(&format!("spiffe://{cluster}.palisade/{rest}"));
    let ops_uri = || uri(CLUSTER, "client/ops");
    let hour = Duration::from_secs(3600);
    let expired = Leaf { from: now() - 2 * hour, until: now() - hour, ..ops_uri() };
    let wrong = uri("000000000000000000000000000000ab", "client/ops");
    for (case, shown) in [
        ("no certificate", None),
        ("another authority", Some(of("other-ops", "client-ops"))),
        ("a node's", Some(of("node-1", "node-1"))),
        ("expired", Some(odd_leaf(&cluster, &expired))),
        ("another cluster", Some(odd_leaf(&cluster, &wrong))),
    ] {
        assert!(!cluster.shown(1, shown).await.1, "{case}");
    }
    assert!(cluster.shown(1, Some(of("ops", "client-ops"))).await.1, "who is known is");
    // And each of them is in the audit.
    let audited = async {
        loop {
            let records = ops.access().audit(None, 0, false).await.unwrap().records;
            let said = |text: &str| records.iter().any(|it| it.why.contains(text));
            let texts = ["sent no certificates", "UnknownIssuer", "expired", "another cluster"];
            if texts.into_iter().all(said) && said("nothing with this resource") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, audited).await.expect("each refusal is written down");
    let shown = cluster.asked("audit --limit 1000");
    let shown = shown["records"].as_array().unwrap();
    assert!(shown.iter().any(|record| record["who"] == "stranger"), "{shown:?}");

    // S5: whatever is logged, nobody who reads it could take part.
    let keys = cluster.read("tokens.keys");
    let secret = keys.split_whitespace().last().unwrap();
    for id in 1..=3 {
        let log = cluster.read(&format!("node-{id}.log"));
        assert!(log.contains("callers are served"), "it is the log");
        for text in [token.trim(), secret, "PRIVATE KEY", "pal1."] {
            assert!(!log.contains(text), "node {id} has logged a secret");
        }
    }
}

/// Certificates are renewed, and authorities exchanged, under a client that goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_while_they_serve() {
    let cluster = Cluster::start();
    cluster.issue("ops");
    cluster.issue("old");
    let ops = cluster.reaching(cluster.caller("ops"));
    let map: Map<String, u64> = ops.map("orders", "number.v1");
    let spec = palisade_client::proto::directory::v1::Spec { replicas: 3, ..Default::default() };
    map.open_as(spec).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writing = JoinSet::new();
    writing.spawn({
        let (map, stop) = (map.clone(), Arc::clone(&stop));
        async move {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                map.put(&key(), &number).await.unwrap();
            }
            number
        }
    });
    let own = |name: &str| {
        let key = cluster.read(&format!("{name}/client-{name}.key"));
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        Some((chain(&cluster.read(&format!("{name}/client-{name}.pem"))), key))
    };
    // Every node shows its new leaf, and goes on.
    let shows_what_is_there = async || {
        for id in 1..=3 {
            let file = format!("node-{id}/node-{id}.pem");
            while cluster.shown(id, own("ops")).await.0 != chain(&cluster.read(&file))[0] {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let renew = || {
        for id in 1..=3 {
            cluster.done(&format!("ca issue --dir ca --node {id} --out node-{id} --renew"));
        }
        cluster.hang_up();
    };
    let before = cluster.shown(1, own("ops")).await.0;
    renew();
    tokio::time::timeout(PATIENCE, shows_what_is_there()).await.expect("the new leaves");
    assert_ne!(cluster.shown(1, own("ops")).await.0, before);

    // The authority of callers is exchanged: bundles first, then leaves, then the former is dropped.
    cluster.done("ca rotate --dir ca client");
    renew();
    tokio::time::timeout(PATIENCE, shows_what_is_there()).await.expect("the new leaves");
    cluster.issue("ops");
    let (leaf, own_key) = (cluster.read("ops/client-ops.pem"), cluster.read("ops/client-ops.key"));
    ops.renew(leaf, own_key, cluster.read("ops/peer-authorities.pem")).unwrap();
    assert!(cluster.shown(1, own("old")).await.1, "both are believed");
    cluster.done("ca rotate --dir ca client --drop-former --confirm");
    renew();
    let gone = async {
        while cluster.shown(1, own("old")).await.1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("what the former issued is refused");
    assert!(cluster.shown(1, own("ops")).await.1);
    stop.store(true, Ordering::Relaxed);
    let number = writing.join_next().await.unwrap().expect("no write was refused");
    assert_eq!(map.get(&key()).await.unwrap().unwrap().value, number);
}

/// Each is stopped in turn, the leader too, and comes back with a new certificate, while clients append: no call
/// fails, and every record is there once, in the order of its writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_restarted_one_by_one_under_load() {
    const WRITERS: u64 = 4;
    let mut cluster = Cluster::start();
    cluster.issue("ops");
    let ops = cluster.reaching(cluster.caller("ops"));
    let log: Log<u64> = ops.log("orders", "number.v1");
    let spec = palisade_client::proto::directory::v1::Spec { replicas: 3, ..Default::default() };
    log.open_as(spec).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let appended: Arc<[AtomicU64]> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let mut writing = JoinSet::new();
    for writer in 0..WRITERS {
        let (log, stop, appended) = (log.clone(), Arc::clone(&stop), Arc::clone(&appended));
        writing.spawn(async move {
            let own = &appended[writer as usize];
            while !stop.load(Ordering::Relaxed) {
                let number = own.load(Ordering::Relaxed) + 1;
                log.append(&[writer << 32 | number]).await.expect("no call fails");
                own.store(number, Ordering::Relaxed);
            }
        });
    }
    let all_go_on = async || {
        let before: Vec<u64> = appended.iter().map(|one| one.load(Ordering::Relaxed)).collect();
        let goes_on = |(one, before): (&AtomicU64, &u64)| *before < one.load(Ordering::Relaxed);
        while !appended.iter().zip(&before).all(goes_on) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for id in 1..=3_usize {
        tokio::time::timeout(PATIENCE, all_go_on()).await.expect("every writer goes on");
        kill_process(Pid::from_child(&cluster.nodes[id - 1]), Signal::TERM).unwrap();
        let ended = async {
            loop {
                if let Some(status) = cluster.nodes[id - 1].try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let status = tokio::time::timeout(PATIENCE, ended).await.expect("it stops when it is told");
        assert!(status.success(), "{}", cluster.read(&format!("node-{id}.log")));
        tokio::time::timeout(PATIENCE, all_go_on()).await.expect("the two others go on");
        cluster.done(&format!("ca issue --dir ca --node {id} --out node-{id} --renew"));
        cluster.nodes[id - 1] = cluster.spawn(id);
        // It is a part of the cluster again once it knows all that is committed.
        let alone = cluster.caller("ops").endpoint(format!("https://{}", cluster.callers[id - 1]));
        let alone: Log<u64> = alone.connect().unwrap().log("orders", "number.v1");
        let back = async {
            while alone.scan_back(None, 1, Consistency::Linearizable).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, back).await.expect("it is back");
    }
    tokio::time::timeout(PATIENCE, all_go_on()).await.expect("every writer goes on");
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writing.join_next().await {
        ended.expect("no call fails");
    }
    let mut held = vec![Vec::new(); WRITERS as usize];
    let mut from = None;
    loop {
        let page = log.scan(from, 1000, Consistency::Linearizable).await.unwrap();
        for entry in page.entries {
            held[(entry.value >> 32) as usize].push(entry.value & u64::from(u32::MAX));
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    for (held, appended) in held.iter().zip(&*appended) {
        let all: Vec<u64> = (1..=appended.load(Ordering::Relaxed)).collect();
        assert_eq!(*held, all, "each once, in order");
    }
}
