//! What one caller can have of a node is bounded, and who goes beyond is told so or cut off, while others are
//! served.

#[path = "support/nodes.rs"]
mod nodes;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nodes::Nodes;
use palisade::Error;
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::cluster::v1::GetStatusRequest;
use palisade_proto::cluster::v1::cluster_client::ClusterClient;
use palisade_proto::common::v1::Resource;
use palisade_proto::map::v1::PutRequest;
use palisade_proto::map::v1::map_client::MapClient;
use palisade_server::grpc::{Callers, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

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
