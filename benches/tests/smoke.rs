//! The canonical workload in its smallest size.

use std::time::Duration;

use palisade_benches::{Nodes, closed_loop, record};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_take_appends() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = Nodes::open(dir.path()).await.unwrap();
    let log = nodes.leader_log().await.unwrap();
    let append = move |number| {
        let log = log.clone();
        async move { log.append(&record(number)).await.map(|_| ()).map_err(|e| e.to_string()) }
    };
    let sample = closed_loop(8, Duration::from_millis(200), append).await.unwrap();
    assert!(sample.per_second > 0.0);
    let http = nodes.serve().await.unwrap();
    for number in 0..6 {
        http.append(number, record(number)).await.unwrap();
    }
    nodes.close().await.unwrap();
}
