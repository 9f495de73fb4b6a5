//! What one caller can have of a node is bounded, and who goes beyond is told so or cut off, while others are
//! served.

#[path = "support/nodes.rs"]
mod nodes;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::select_all;
use nodes::Nodes;
use palisade::{Direction, Error, LogPosition, ReadConsistency, ReplicatedLog, ResourceSpec};
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::cluster::v1::GetStatusRequest;
use palisade_proto::cluster::v1::cluster_client::ClusterClient;
use palisade_proto::common::v1::Resource;
use palisade_proto::failure::Failure;
use palisade_proto::log::v1::TailRequest;
use palisade_proto::log::v1::log_client::LogClient;
use palisade_proto::map::v1::PutRequest;
use palisade_proto::map::v1::map_client::MapClient;
use palisade_server::grpc::{Callers, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(120);
const LARGE_VALUES: usize = 512;
const LARGE_BYTES: usize = 16 << 20;
/// What `docs/grpc.md` says of answers: pages, single answers, and what the transport has of every call.
const ANSWERS_BYTES_MAX: usize = (32 + 64 + 128) << 20;

async fn channel(nodes: &Nodes) -> Channel {
    let endpoint = format!("http://{}", nodes.addresses[0]);
    Channel::from_shared(endpoint).unwrap().connect().await.unwrap()
}

async fn is_served(nodes: &Nodes) {
    let mut cluster = ClusterClient::new(channel(nodes).await);
    cluster.get_status(GetStatusRequest {}).await.unwrap();
}

/// Nobody who was not asked for a certificate is served from elsewhere, whoever opens the endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_served_on_loopback_alone() {
    let nodes = Nodes::start(1).await;
    for open in ["0.0.0.0:0", "[::]:0"] {
        let listener = TcpListener::bind(open).await.unwrap();
        let stop = std::future::pending();
        let served = serve(&nodes.engines[0], listener, Callers::Everyone, None, stop).await;
        let Err(Error::InvalidArgument { what }) = served else { panic!("{open}: {served:?}") };
        assert!(what.contains("certificates"), "{what}");
    }
    nodes.close().await;
}

/// A message or a head that is too long is refused before it is decoded, and the node serves on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused() {
    let nodes = Nodes::start(1).await;
    let map =
        Resource { name: "map".to_owned(), schema: "test.v1".to_owned(), ..Default::default() };
    let put = |bytes: usize| PutRequest {
        map: Some(map.clone()),
        key: "k".into(),
        value: vec![0; bytes].into(),
        ..Default::default()
    };
    let mut maps = MapClient::new(channel(&nodes).await);
    let refused = maps.put(put(MESSAGE_BYTES_MAX)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    // Of one that is not, it is the value that is judged: it was decoded.
    let refused = maps.put(put(MESSAGE_BYTES_MAX - 1024)).await.unwrap_err();
    assert_ne!(refused.code(), Code::OutOfRange, "{refused:?}");
    let mut cluster = ClusterClient::new(channel(&nodes).await);
    let mut asked = Request::new(GetStatusRequest {});
    asked.metadata_mut().insert("x-long", MetadataValue::try_from("a".repeat(17 << 10)).unwrap());
    assert!(cluster.get_status(asked).await.is_err(), "a head of 17 KiB");
    is_served(&nodes).await;
    nodes.close().await;
}

/// What a node says to whoever connects: the bounds of one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_told_its_bounds() {
    let nodes = Nodes::start(1).await;
    let mut stream = TcpStream::connect(nodes.addresses[0]).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "settings come first");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut settings).await.unwrap();
    let settings: BTreeMap<u16, u32> = settings
        .chunks(6)
        .map(|one| {
            let [a, b, rest @ ..]: [u8; 6] = one.try_into().unwrap();
            (u16::from_be_bytes([a, b]), u32::from_be_bytes(rest))
        })
        .collect();
    // RFC 9113: streams at once, bytes of one that were not looked at, bytes of a head.
    assert_eq!(settings.get(&3), Some(&256), "{settings:?}");
    assert_eq!(settings.get(&4), Some(&(1 << 20)), "{settings:?}");
    assert_eq!(settings.get(&6), Some(&(16 << 10)), "{settings:?}");
    drop(stream);
    nodes.close().await;
}

/// What is resident of this process in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A log of 16 MiB.
async fn large_log(nodes: &Nodes) -> ReplicatedLog<Vec<u8>> {
    let spec = ResourceSpec::new("large", "test.v1").unwrap();
    let log = ReplicatedLog::open(&nodes.engines[0], spec).await.unwrap();
    for number in 0..LARGE_VALUES {
        log.append(&vec![number as u8; LARGE_BYTES / LARGE_VALUES]).await.unwrap();
    }
    log
}

fn tail_of_large() -> TailRequest {
    let (name, schema) = ("large".to_owned(), "test.v1".to_owned());
    let log = Some(Resource { name, schema, ..Default::default() });
    TailRequest { log, from: None }
}

/// A connection whose streams are bounded, each for itself: the node's memory is looked at, and not the caller's.
async fn narrow(nodes: &Nodes) -> LogClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", nodes.addresses[0])).unwrap();
    let endpoint = endpoint.initial_stream_window_size(64 << 10);
    LogClient::new(endpoint.initial_connection_window_size(16 << 20).connect().await.unwrap())
}

/// G12: streams that nobody reads have no more of the node's memory than answers may, and who reads is served: on
/// another connection, and in its turn on the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_reads_takes_no_more_memory_than_it_may() {
    let nodes = Nodes::start(1).await;
    let log = large_log(&nodes).await;
    // So that the reads themselves have what they keep.
    let all = log.scan(LogPosition::START, Direction::Forward, 9999, ReadConsistency::Local).await;
    drop(all.unwrap());
    let before = resident();
    let mut unread = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..8 {
        let mut logs = narrow(&nodes).await;
        for _ in 0..64 {
            unread.push(logs.tail(tail_of_large()).await.unwrap().into_inner());
        }
        connections.push(logs);
    }
    let other = LogClient::new(channel(&nodes).await);
    for (mut logs, entries) in [(other, LARGE_VALUES), (connections.remove(0), 1)] {
        let mut tail = logs.tail(tail_of_large()).await.unwrap().into_inner();
        let mut told = 0;
        while told < entries {
            let message = timeout(PATIENCE, tail.message()).await.expect("its turn comes");
            told += message.unwrap().expect("it goes on").entries.len();
            is_served(&nodes).await;
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < ANSWERS_BYTES_MAX, "{} MiB", grown >> 20);
    }

    // Whose room it was is told so.
    let mut unread = select_all(unread);
    let ended = async {
        loop {
            if let Err(status) = unread.next().await.expect("they have no end") {
                return Failure::of(&status).unwrap_or_else(|| panic!("{status:?}"));
            }
        }
    };
    let failure = timeout(PATIENCE, ended).await.expect("one of them has ended");
    assert_eq!(failure.kind, "RATE_LIMITED", "{failure:?}");
    assert!(failure.retry_after.is_some());
    drop((unread, connections, log));
    nodes.close().await;
}

/// A test that is named on the page of security, as `path::name`, is there.
fn unheld(page: &str, text_of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let named = page.split('`').filter(|code| code.contains(".rs::"));
    let missing = named.filter(|code| {
        let (path, name) = code.split_once("::").expect("it was looked for");
        !text_of(path).is_some_and(|text| text.contains(&format!("fn {name}(")))
    });
    missing.map(str::to_owned).collect()
}

#[test]
fn every_default_of_security_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let text_of = |path: &str| fs::read_to_string(root.join("../..").join(path)).ok();
    assert_eq!(unheld(&page, text_of), [""; 0]);
    let (_, defaults) = page.split_once("\n## Defaults").unwrap();
    for number in 1..=11 {
        let row = defaults.lines().find(|line| line.starts_with(&format!("| {number} |")));
        let row = row.unwrap_or_else(|| panic!("default {number} is not on the page"));
        assert!(row.contains(".rs::") || row.contains("not there"), "{row}");
    }
    assert_eq!(
        unheld("`a.rs::held` `a.rs::gone`", |_| Some("fn held() {".to_owned())),
        ["a.rs::gone"]
    );
}
