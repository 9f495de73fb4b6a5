//! The client over real nodes: what it repeats takes effect once, and what it reads is what it has written.

#[path = "support/nodes.rs"]
mod nodes;

use std::collections::BTreeSet;
use std::time::Duration;

use nodes::Nodes;
use palisade_client::{Client, Code, Consistency, Disposition, Log, Map, RequestState};
use palisade_proto::directory::v1::Spec;
use tokio::task::JoinSet;

fn client(nodes: &Nodes) -> Client {
    let builder = Client::builder().call_timeout(Duration::from_secs(30));
    let named = nodes.addresses.iter().map(|address| format!("http://{address}"));
    named.fold(builder, |builder, endpoint| builder.endpoint(endpoint)).connect().unwrap()
}

fn three() -> Spec {
    Spec { replicas: 3, ..Default::default() }
}

/// G6, F2: whatever node leads or is gone, each append is there once, and each read shows those before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_take_effect_once_while_leaders_change() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 60;
    let nodes = Nodes::start(3).await;
    let client = client(&nodes);
    let log: Log<u64> = client.log("log", "number.v1");
    log.open_as(three()).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let log = log.clone();
        writers.spawn(async move {
            for number in 0..EACH {
                let value = writer * EACH + number;
                let done = log.append(&[value]).await.unwrap();
                let read = log.scan(done.first, 1, Consistency::Local).await.unwrap();
                assert_eq!(read.entries[0].value, value);
            }
        });
    }
    // Meanwhile: every node leads, and then one is gone.
    for at in [1, 2, 0, 1] {
        tokio::time::sleep(Duration::from_millis(150)).await;
        for engine in &nodes.engines {
            // Only the leader can, and it may be another by now.
            let _ = engine
                .group(palisade::GroupId::new(1))
                .unwrap()
                .transfer_leadership(palisade::NodeId::new(at as u64 + 1));
        }
    }
    nodes.engines[1].close().await.unwrap();
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let (mut from, mut values) = (None, Vec::new());
    loop {
        let page = log.scan(from, 0, Consistency::Linearizable).await.unwrap();
        values.extend(page.entries.iter().map(|entry| entry.value));
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    assert_eq!(values.len() as u64, WRITERS * EACH);
    assert_eq!(values.into_iter().collect::<BTreeSet<_>>().len() as u64, WRITERS * EACH);
}

/// Streams go on at another node, without a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_and_a_watch_outlive_a_node() {
    let nodes = Nodes::start(3).await;
    let client = client(&nodes);
    let log: Log<u64> = client.log("log", "number.v1");
    let map: Map<String, u64> = client.map("map", "number.v1");
    log.open_as(three()).await.unwrap();
    map.open_as(three()).await.unwrap();
    let key = "k".to_owned();
    let mut writer = JoinSet::new();
    writer.spawn({
        let (log, map, key) = (log.clone(), map.clone(), key.clone());
        async move {
            for number in 0..100 {
                log.append(&[number]).await.unwrap();
                map.put(&key, &number).await.unwrap();
            }
        }
    });
    let (mut tail, mut watch) = (log.tail(None), map.watch(0, b""));
    let (mut entries, mut changes) = (Vec::new(), Vec::new());
    while entries.len() < 100 {
        entries.push(tail.next().await.unwrap().value);
        // The node that serves both is gone in the middle.
        if entries.len() == 30 {
            nodes.engines[0].close().await.unwrap();
        }
    }
    while changes.len() < 100 {
        let event = watch.next().await.unwrap();
        changes.extend(event.changes.into_iter().map(|change| change.now.unwrap().value));
    }
    writer.join_next().await.unwrap().unwrap();
    assert_eq!(entries, (0..100).collect::<Vec<_>>());
    assert_eq!(changes, (0..100).collect::<Vec<_>>());
}

/// The report flow as a service in another process has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_is_answered_as_the_first_time() {
    let nodes = Nodes::start(3).await;
    let client = client(&nodes);
    let requests = client.requests("requests", "request.v1");
    let reports: Log<String> = client.log("reports", "report.v1");
    let status: Map<String, String> = client.map("status", "status.v1");
    requests.open_as(three()).await.unwrap();
    reports.open_as(three()).await.unwrap();
    status.open_as(three()).await.unwrap();
    let id = "r1".to_owned();
    let submit = async |fingerprint| {
        let batch = client
            .batch()
            .reserve(&requests, &id, [fingerprint; 32], 1)
            .append(&reports, &["a report".to_owned()])
            .put(&status, &id, &"accepted".to_owned())
            .complete(&requests, &id, 1, "accepted".into());
        batch.commit().await
    };
    let first = submit(7).await.unwrap();
    let again = submit(7).await.unwrap();
    assert!(!first.receipt.duplicate && again.receipt.duplicate);
    assert_eq!(again.receipt.offset, first.receipt.offset);
    let conflict = submit(8).await.unwrap_err();
    assert_eq!(conflict.code(), Code::IdempotencyConflict);
    assert_eq!(conflict.disposition(), Disposition::Reject);
    let state = requests.status(&id, Consistency::Linearizable).await.unwrap();
    let completed =
        RequestState::Completed { offset: first.receipt.offset, result: "accepted".into() };
    assert_eq!(state, completed);
    assert_eq!(status.get(&id).await.unwrap().unwrap().value, "accepted");
    nodes.close().await;
}

/// Nobody there: the call ends when its time is over, and says that nothing is known.
#[tokio::test]
async fn a_client_without_nodes_gives_up() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", held.local_addr().unwrap());
    drop(held);
    let builder = Client::builder().endpoint(endpoint).call_timeout(Duration::from_millis(300));
    let map: Map<String, u64> = builder.connect().unwrap().map("map", "number.v1");
    let error = map.get(&"k".to_owned()).await.unwrap_err();
    assert_eq!((error.code(), error.disposition()), (Code::Disconnected, Disposition::Retry));
    assert!(Client::builder().connect().is_err());
    assert!(Client::builder().endpoint("no address").connect().is_err());
    // Nothing secret goes over the network in clear, or into a log.
    let secret = || Client::builder().token("pal1.secret");
    assert!(secret().endpoint("http://192.0.2.1:7201").connect().is_err());
    assert!(secret().endpoint("http://127.0.0.1:7201").connect().is_ok());
    assert!(!format!("{:?}", secret()).contains("secret"));
}
