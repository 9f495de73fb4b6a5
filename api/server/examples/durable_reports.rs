//! The report service on three nodes in one process: submit in AWS, work in GCP, read at the
//! receipt's offset.
//!
//! `cargo run -p palisade-server --example durable_reports`

use std::net::{SocketAddr, TcpListener};

use palisade::{ClusterId, Engine, Error, NodeId, Offset, ReadConsistency, ReadOptions};
use palisade_server::reports::{
    ReportService, ReportSubmission, RequestState, Worker, aws_zone, cross_provider_profile,
    gcp_region,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("palisade-example-{}", std::process::id()));
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    drop(listeners);

    let mut engines = Vec::new();
    for (at, domain) in [aws_zone(), aws_zone(), gcp_region()].into_iter().enumerate() {
        let mut builder = Engine::builder(dir.join(format!("node-{}", at + 1)))
            .cluster(ClusterId::new(1))
            .node(NodeId::new(at as u64 + 1))
            .domain(domain)
            .listen(addresses[at]);
        for (number, address) in addresses.iter().enumerate() {
            builder = builder.voter(NodeId::new(number as u64 + 1), *address);
        }
        engines.push(builder.open().await?);
    }
    let ingress = ReportService::open(&engines[0], cross_provider_profile()).await?;
    let elsewhere = ReportService::open(&engines[2], cross_provider_profile()).await?;

    let submission = ReportSubmission {
        request_id: "req-2001-01-atl".into(),
        airport: "ATL".into(),
        month: "2001-01".into(),
    };
    let receipt = ingress.submit(&aws_zone(), &submission).await?;
    println!("accepted at offset {}: {}", receipt.accepted_offset, receipt.status_path);
    assert!(ingress.submit(&aws_zone(), &submission).await?.duplicate);

    // The worker's node may not have applied the command yet; the read below waits for it.
    let fresh =
        ReadOptions::from(ReadConsistency::AtLeastOffset(Offset::new(receipt.accepted_offset)))
            .wait(std::time::Duration::from_secs(5));
    elsewhere.read_status(&gcp_region(), &submission.request_id, fresh).await?;
    let mut worker = Worker::new(elsewhere.clone(), gcp_region(), "worker-gcp", (0, 1))?;
    assert_eq!(worker.tick().await?, 1);

    let status = elsewhere
        .read_status(&gcp_region(), &submission.request_id, fresh)
        .await?
        .ok_or_else(|| Error::NotFound { what: "the request".into() })?;
    assert!(matches!(status.state, RequestState::Completed { .. }));
    println!("completed: {:?}", status.state);

    for engine in engines {
        engine.close().await?;
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
