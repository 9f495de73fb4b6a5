//! Streams that were begun when it was allowed, and that outlive the right to them.

#[path = "support/certified.rs"]
mod certified;
#[path = "support/granted.rs"]
mod granted;
#[path = "support/nodes.rs"]
mod nodes;

use std::time::Duration;

use futures_util::{StreamExt, stream};
use granted::Cluster;
use palisade::{
    Direction, LogPosition, LogicalResourceName, Offset, ReadConsistency, ReplicatedLog, SchemaId,
};
use palisade_client::proto::common::v1 as common;
use palisade_client::proto::failure::Failure;
use palisade_client::proto::log::v1 as log;
use palisade_client::proto::log::v1::log_client::LogClient;
use palisade_client::proto::map::v1 as map;
use palisade_client::proto::map::v1::map_client::MapClient;
use palisade_client::{Grant, Log, Map, Right};
use palisade_server::security::audit::{AUDIT_LOG, AuditRecord};
use palisade_server::security::now_ms;
use palisade_server::security::token::{Caveat, Token};
use tonic::{Request, Status, Streaming};

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

fn grant(resource: &str, rights: &[Right]) -> Grant {
    let rights = rights.iter().map(|right| (*right).into()).collect();
    Grant { resource: resource.to_owned(), rights, domains: Vec::new() }
}

fn resource(name: &str) -> Option<common::Resource> {
    let (name, schema) = (name.to_owned(), "number.v1".to_owned());
    Some(common::Resource { name, schema, epoch: 0, caller: None })
}

fn bearing<T>(message: T, token: &Token) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {}", token.to_text()).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// How a stream ends, whatever it says before.
async fn end<T>(messages: &mut Streaming<T>) -> String {
    let ended = async {
        loop {
            match messages.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return kind(&status),
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends")
}

/// Until a value is told that was written by then.
async fn is_told(tailed: &mut Streaming<log::TailResponse>, value: u64) {
    let told = async {
        loop {
            let entries = tailed.message().await.unwrap().expect("it goes on").entries;
            let mut values = entries.iter().filter_map(|entry| entry.value.as_ref());
            if values.any(|found| found.data[..] == value.to_be_bytes()) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it may still be read");
}

fn kind(status: &Status) -> String {
    Failure::of(status).unwrap_or_else(|| panic!("{status}")).kind
}

/// A map and a log, which `reports` may read and write.
async fn start() -> Cluster {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    let orders: Map<String, u64> = ops.map("orders", "number.v1");
    orders.open().await.unwrap();
    let events: Log<u64> = ops.log("events", "number.v1");
    events.open().await.unwrap();
    events.append(&[7]).await.unwrap();
    for name in ["orders", "events"] {
        let all = grant(name, &[Right::Read, Right::Append]);
        ops.access().grant("reports", all).await.unwrap();
    }
    cluster
}

fn watch() -> map::WatchRequest {
    map::WatchRequest { map: resource("orders"), ..Default::default() }
}

fn tail() -> log::TailRequest {
    log::TailRequest { log: resource("events"), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_them() {
    let cluster = start().await;
    let way = cluster.certified.way("reports", cluster.nodes.addresses[0]).await;
    let mut maps = MapClient::new(way.channel.clone());
    let mut logs = LogClient::new(way.channel.clone());
    let mut watched = maps.watch(watch()).await.unwrap().into_inner();
    let mut tailed = logs.tail(tail()).await.unwrap().into_inner();
    let first = log::AppendStreamRequest {
        log: resource("events"),
        values: vec![8_u64.to_be_bytes().to_vec().into()],
    };
    // Nothing but its log, as clients begin.
    let named = log::AppendStreamRequest { log: resource("events"), values: Vec::new() };
    let idle = stream::iter([named]).chain(stream::pending());
    let mut idle = logs.append_stream(idle).await.unwrap().into_inner();
    let open = stream::iter([first]).chain(stream::pending());
    let mut appended = logs.append_stream(open).await.unwrap().into_inner();
    appended.message().await.unwrap().expect("the first is answered");
    watched.message().await.unwrap().expect("it says how far it is");

    let ops = cluster.client("ops");
    ops.access().revoke("reports", Some("events"), &[Right::Append]).await.unwrap();
    assert_eq!(end(&mut appended).await, "NOT_ALLOWED");
    assert_eq!(end(&mut idle).await, "NOT_ALLOWED");
    // What was there before it was revoked is no sign of life.
    ops.log::<u64>("events", "number.v1").append(&[9]).await.unwrap();
    is_told(&mut tailed, 9).await;
    ops.access().revoke("reports", None, &[]).await.unwrap();
    assert_eq!(end(&mut watched).await, "NOT_ALLOWED");
    assert_eq!(end(&mut tailed).await, "NOT_ALLOWED");
    drop(way);
    cluster.nodes.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_token_ends_them() {
    let cluster = start().await;
    let way = cluster.certified.way("gateway", cluster.nodes.addresses[0]).await;
    let mut maps = MapClient::new(way.channel.clone());
    let soon = Caveat::NotAfter { ms: now_ms() + 3_000 };
    let token = cluster.token("reports").narrowed(&soon).unwrap();
    let mut watched = maps.watch(bearing(watch(), &token)).await.unwrap().into_inner();
    watched.message().await.unwrap().expect("it says how far it is");
    assert_eq!(end(&mut watched).await, "NOT_ALLOWED");
    drop(way);
    cluster.nodes.close().await;
}

/// S7: what was refused just before a node stops is in the audit, also while a stream is open that has no end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_keeps_nothing_out_of_the_audit() {
    let mut cluster = start().await;
    let address = cluster.nodes.addresses[0];
    let way = cluster.certified.way("reports", address).await;
    let mut watched =
        MapClient::new(way.channel.clone()).watch(watch()).await.unwrap().into_inner();
    watched.message().await.unwrap().expect("it says how far it is");
    // The first is written at once. The others wait then.
    let names = ["mallory-1", "mallory-2", "mallory-3"];
    for name in names {
        let way = cluster.certified.way(name, address).await;
        let refused = MapClient::new(way.channel.clone()).watch(watch()).await.unwrap_err();
        assert_eq!(kind(&refused), "NOT_ALLOWED");
    }
    tokio::time::timeout(PATIENCE, cluster.nodes.stop_serving()).await.expect("it stops");

    let engine = &cluster.nodes.engines[0];
    let name = LogicalResourceName::new(AUDIT_LOG).unwrap();
    let schema = SchemaId::new("palisade.audit.v1").unwrap();
    let log = ReplicatedLog::<bytes::Bytes>::open_reader(engine, &name, &schema).await.unwrap();
    let from: LogPosition = Offset::ZERO.into();
    let read = log.scan(from, Direction::Forward, 100, ReadConsistency::Linearizable);
    let records = read.await.unwrap().value.entries;
    let records = records.iter().map(|entry| AuditRecord::decode(&entry.value).unwrap());
    let found: Vec<String> = records.map(|record| record.facts.who).collect();
    for name in names {
        assert!(found.iter().any(|who| who == name), "{name} is not among {found:?}");
    }
    drop((watched, way));
    cluster.nodes.close().await;
}
