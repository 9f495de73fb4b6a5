//! A cluster that moves to nodes elsewhere takes what it has granted with it.

#[path = "support/certified.rs"]
mod certified;
#[path = "support/granted.rs"]
mod granted;
#[path = "support/nodes.rs"]
mod nodes;

use std::time::Duration;

use granted::Cluster;
use palisade::backup::BackupId;
use palisade::{ClusterId, FailureDomain};
use palisade_client::proto::cluster::v1::Add;
use palisade_client::proto::cluster::v1::change_members_request::Change;
use palisade_client::proto::directory::v1 as directory;
use palisade_client::proto::directory::v1::alteration::Alteration;
use palisade_client::{AuditEvent, Client, Code, Consistency, Disposition, Grant, Right};
use palisade_server::backups::open;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
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

/// Until there is one: who asks again soon is told.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{what}"))
}

async fn is_healthy(cluster: &Cluster) {
    let way = cluster.certified.way("ops", cluster.nodes.addresses[0]).await;
    let serving = async || {
        let mut health = HealthClient::new(way.channel.clone());
        let found = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        (found.status() == ServingStatus::Serving).then_some(())
    };
    until("a node that takes writes", serving).await;
}

/// An application's map.
fn orders_spec() -> directory::Spec {
    directory::Spec {
        name: "orders".to_owned(),
        kind: directory::Kind::Map.into(),
        schema: "number.v1".to_owned(),
        ..Default::default()
    }
}

/// A backup that is restored at a provider where nothing was placed: who may grant still may, what the node did
/// for that is in the audit, and what else there is waits until somebody says that it is to be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_grant_still_may_when_a_backup_is_restored_elsewhere() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    ops.access().grant("reports", read("orders")).await.unwrap();
    is_healthy(&cluster).await;
    ops.directory().create(orders_spec()).await.unwrap();
    let orders = |client: &Client| client.map::<String, u64>("orders", "number.v1");
    let key = "k".to_owned();
    orders(&ops).put(&key, &7).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (place, _) = open(dir.path()).unwrap();
    let id = BackupId::new("monday").unwrap();
    cluster.nodes.engines[0].backup(&place).full(&id).await.unwrap();
    cluster.nodes.close().await;

    let elsewhere = FailureDomain::new("other", "there", "a");
    let restored = Cluster::restored((&place, &id), ClusterId::new(10), elsewhere).await;
    let ops = restored.client("ops");
    let grants = async || ops.access().grant("reports", read("second")).await.ok();
    assert_eq!(until("a grant", grants).await, [read("orders"), read("second")]);
    let placed = async || {
        let records = ops.access().audit(None, 0, true).await.ok()?.records;
        let placed = |name: &str| {
            let mut placed = records.iter().filter(|it| it.event() == AuditEvent::Placed);
            placed.any(|it| it.resource == name && it.why.contains("provider=other"))
        };
        (placed("palisade.access") && placed("palisade.audit")).then_some(())
    };
    until("records of what was placed", placed).await;
    is_healthy(&restored).await;

    let reports = restored.client("reports");
    let outside = orders(&reports).get(&key).await.unwrap_err();
    assert_eq!(outside.code(), Code::DomainUnavailable);
    let place = || {
        let provider = "other".to_owned();
        let rules = vec![directory::DomainRule { provider, ..Default::default() }];
        Alteration::Place(directory::Placement { rules })
    };
    let found = ops.directory().describe("orders", Consistency::Linearizable).await.unwrap();
    let theirs = reports.directory().alter("orders", found.revision, "mine", place()).await;
    assert_eq!(theirs.unwrap_err().failure().kind, "NOT_ALLOWED");
    ops.directory().alter("orders", found.revision, "it is here now", place()).await.unwrap();
    assert_eq!(orders(&reports).get(&key).await.unwrap().map(|found| found.value), Some(7));
    restored.nodes.close().await;
}

/// A node that an application's resource keeps out leaves the endpoint's own where they were, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_kept_out_moves_nothing() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    ops.access().grant("reports", read("orders")).await.unwrap();
    ops.directory().create(orders_spec()).await.unwrap();
    let add = Add {
        node: 2,
        address: "127.0.0.1:9".to_owned(),
        domain: "other/there/a".to_owned(),
        ..Default::default()
    };
    let added = ops.cluster().change_members(Change::AddLearner(add)).await.unwrap_err();
    assert_eq!(added.code(), Code::DomainUnavailable);
    assert_eq!(added.failure().facts["resource"], "orders");
    let own = ops.directory().describe("palisade.access", Consistency::Linearizable).await;
    let rules = own.unwrap().spec.unwrap().placement;
    assert_eq!(rules.iter().map(|rule| &*rule.provider).collect::<Vec<_>>(), ["local"]);
    cluster.nodes.close().await;
}
