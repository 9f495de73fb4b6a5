//! A cluster that moves to nodes elsewhere takes what it has granted with it.

#[path = "support/certified.rs"]
mod certified;
#[path = "support/granted.rs"]
mod granted;
#[path = "support/nodes.rs"]
mod nodes;

use std::time::Duration;

use granted::Cluster;
use palisade::FailureDomain;
use palisade_client::proto::cluster::v1::Add;
use palisade_client::proto::cluster::v1::change_members_request::Change;
use palisade_client::proto::directory::v1 as directory;
use palisade_client::proto::directory::v1::alteration::Alteration;
use palisade_client::{Client, Code, Consistency, Disposition, Grant, Right};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until it is made: who is added catches up first.
async fn change(ops: &Client, change: &Change) {
    let mut last = None;
    let made = async {
        loop {
            match ops.cluster().change_members(change.clone()).await {
                Ok(_) => return,
                Err(error)
                    if error.code() == Code::PreconditionFailed
                        || error.disposition() != Disposition::Reject =>
                {
                    last = Some(error);
                }
                Err(error) => panic!("{change:?}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let made = tokio::time::timeout(PATIENCE, made).await;
    made.unwrap_or_else(|_| panic!("{change:?}: {last:?}"));
}

fn read(resource: &str) -> Grant {
    let rights = vec![Right::Read.into()];
    Grant { resource: resource.to_owned(), rights, domains: Vec::new() }
}

/// The grants, the audit and the probes were made for one provider; then all nodes are at another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_grant_still_may_when_all_nodes_are_elsewhere() {
    let mut cluster = Cluster::start(1).await;
    cluster.client("ops").access().grant("reports", read("first")).await.unwrap();
    let way = cluster.certified.way("ops", cluster.nodes.addresses[0]).await;
    let asked = HealthCheckRequest::default();
    HealthClient::new(way.channel.clone()).check(asked).await.unwrap();
    for zone in ["a", "b"] {
        cluster.add(FailureDomain::new("other", "there", zone)).await;
    }
    let ops = cluster.client("ops");
    for (at, zone) in [(1, "a"), (2, "b")] {
        let newcomer = &cluster.nodes.engines[at];
        let node = newcomer.node().get();
        let add = Add {
            node,
            incarnation: newcomer.incarnation().get().to_be_bytes().to_vec().into(),
            address: cluster.nodes.peers[at].to_string(),
            domain: format!("other/there/{zone}"),
        };
        change(&ops, &Change::AddLearner(add)).await;
        change(&ops, &Change::Promote(node)).await;
    }
    change(&ops, &Change::Remove(1)).await;

    let there = cluster.certified.caller("ops");
    let there =
        there.endpoint(format!("https://{}", cluster.nodes.addresses[1])).connect().unwrap();
    let granted = there.access().grant("reports", read("second")).await.unwrap();
    assert_eq!(granted, [read("first"), read("second")]);
    let records = there.access().audit(None, 0, false).await.unwrap().records;
    assert!(records.iter().any(|record| record.resource == "second"), "{records:?}");

    // An administrator may place them otherwise, with every member inside, and alters nothing else.
    let directory = there.directory();
    let name = "palisade.access";
    let found = directory.describe(name, Consistency::Linearizable).await.unwrap();
    let rule = |provider: &str| directory::DomainRule {
        provider: provider.to_owned(),
        ..Default::default()
    };
    let place =
        |provider: &str| Alteration::Place(directory::Placement { rules: vec![rule(provider)] });
    let without = directory.alter(name, found.revision, "back", place("local")).await;
    assert_eq!(without.unwrap_err().code(), Code::DomainUnavailable);
    directory.alter(name, found.revision, "all are there", place("other")).await.unwrap();
    let delete = Alteration::Delete(directory::Delete { retain_ms: 0 });
    let deleted = directory.alter(name, found.revision + 1, "gone", delete).await.unwrap_err();
    assert_eq!(deleted.failure().kind, "NOT_ALLOWED");
    there.access().grant("reports", read("third")).await.unwrap();
    cluster.nodes.close().await;
}
