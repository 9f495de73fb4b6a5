//! Who may do what, over real nodes and certificates: granted, revoked, refused, and written down.

#[path = "support/certified.rs"]
mod certified;
#[path = "support/granted.rs"]
mod granted;
#[path = "support/nodes.rs"]
mod nodes;

use std::collections::BTreeSet;
use std::time::Duration;

use granted::Cluster;
use nodes::CLUSTER;
use palisade::{
    FenceEpoch, LogicalResourceName, ReadConsistency, ReplicatedLog, ReplicatedMap, ResourceSpec,
    SchemaId,
};
use palisade_client::{
    AuditEvent, AuditRecord, Client, Code, Consistency, Error, Grant, Log, Map, Right,
};
use palisade_proto::directory::v1::Spec;
use palisade_server::security::audit::AUDIT_LOG;
use palisade_server::security::grants::ACCESS_MAP;
use palisade_server::security::now_ms;
use palisade_server::security::token::{Caveat, Token, TokenKeys};
use tokio::task::JoinSet;

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

fn grant(resource: &str, rights: &[Right]) -> Grant {
    let rights = rights.iter().map(|right| (*right).into()).collect();
    Grant { resource: resource.to_owned(), rights, domains: Vec::new() }
}

fn map(client: &Client, name: &str) -> Map<String, u64> {
    client.map(name, "number.v1")
}

fn key() -> String {
    "k".to_owned()
}

fn is_refused(done: Result<impl Sized, Error>, kind: &str, case: &str) {
    let error = done.err().unwrap_or_else(|| panic!("{case}: it was done"));
    assert_eq!((error.code(), error.failure().kind.as_str()), (Code::Revoked, kind), "{case}");
}

/// Everything in the audit.
async fn audit(admin: &Client) -> Vec<AuditRecord> {
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = admin.access().audit(from, 0, false).await.unwrap();
        found.extend(page.records);
        match page.next {
            Some(next) => from = Some(next),
            None => return found,
        }
    }
}

/// The audit once it holds something.
async fn audited(admin: &Client, holds: impl Fn(&[AuditRecord]) -> bool) -> Vec<AuditRecord> {
    let wait = async {
        loop {
            let found = audit(admin).await;
            if holds(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it is written down")
}

/// S3: nothing without a grant, what was granted with one, and nothing again once it is revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_may_do_what_it_was_granted_and_no_more() {
    let cluster = Cluster::start(1).await;
    let (ops, reports) = (cluster.client("ops"), cluster.client("reports"));
    map(&ops, "orders").open().await.unwrap();
    map(&ops, "orders").put(&key(), &7).await.unwrap();
    map(&ops, "secrets").open().await.unwrap();
    let orders = map(&reports, "orders");
    is_refused(orders.get(&key()).await, "NOT_ALLOWED", "nothing was granted");
    is_refused(reports.access().list(None).await, "NOT_ALLOWED", "grants are for who administers");
    is_refused(reports.access().audit(None, 0, false).await, "NOT_ALLOWED", "and so is the audit");
    let own = reports.access().grant("reports", grant("*", &[Right::Read])).await;
    is_refused(own, "NOT_ALLOWED", "nobody grants himself anything");

    let access = ops.access();
    let now = access.grant("reports", grant("orders", &[Right::Read])).await.unwrap();
    assert_eq!(now, [grant("orders", &[Right::Read])]);
    assert_eq!(orders.get(&key()).await.unwrap().unwrap().value, 7);
    is_refused(orders.put(&key(), &8).await, "NOT_ALLOWED", "it may only read");
    is_refused(map(&reports, "secrets").get(&key()).await, "NOT_ALLOWED", "another resource");
    access.grant("reports", grant("orders", &[Right::Append])).await.unwrap();
    orders.put(&key(), &8).await.unwrap();
    let both = grant("orders", &[Right::Read, Right::Append]);
    let listed = access.list(None).await.unwrap();
    assert_eq!((listed[0].client.as_str(), &listed[0].grants[..]), ("reports", &[both][..]));
    assert_eq!(access.list(Some("other")).await.unwrap(), []);

    let left = access.revoke("reports", Some("orders"), &[Right::Append]).await.unwrap();
    assert_eq!((&left.left[..], left.changed), (&[grant("orders", &[Right::Read])][..], true));
    let again = access.revoke("reports", Some("orders"), &[Right::Append]).await.unwrap();
    assert_eq!((&again.left, again.changed), (&left.left, false), "there is nothing to take");
    is_refused(orders.put(&key(), &9).await, "NOT_ALLOWED", "that was revoked");
    assert_eq!(access.revoke("reports", None, &[]).await.unwrap().left, []);
    is_refused(orders.get(&key()).await, "NOT_ALLOWED", "all of it was");
    assert_eq!(access.list(None).await.unwrap(), []);
    let wrong = access.revoke("reports", Some("**"), &[]).await;
    assert_eq!(wrong.unwrap_err().code(), Code::InvalidArgument);
    for wrong in [
        access.grant("Reports", grant("a", &[Right::Read])).await,
        access.grant("reports", grant("a*b", &[Right::Read])).await,
        access.grant("reports", grant("a", &[])).await,
    ] {
        assert_eq!(wrong.unwrap_err().code(), Code::InvalidArgument);
    }
    cluster.nodes.close().await;
}

/// What is granted at once, by several at several nodes, is granted; what one revokes stays revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_once_do_not_lose_each_other() {
    const EACH: usize = 12;
    let cluster = Cluster::start(3).await;
    let ops = cluster.client("ops");
    ops.access().grant("reports", grant("first", &[Right::Read])).await.unwrap();
    let mut all = JoinSet::new();
    for address in &cluster.nodes.addresses {
        let caller = cluster.certified.caller("ops").endpoint(format!("https://{address}"));
        let admin = caller.connect().unwrap();
        for number in 0..EACH / 3 {
            let (admin, name) = (admin.clone(), format!("of-{}-{number}", address.port()));
            all.spawn(async move {
                admin.access().grant("reports", grant(&name, &[Right::Read])).await.unwrap();
                name
            });
        }
    }
    let revoked = ops.access().revoke("reports", Some("first"), &[]).await.unwrap();
    assert!(revoked.left.iter().all(|grant| grant.resource != "first"));
    let mut expected = BTreeSet::new();
    while let Some(name) = all.join_next().await {
        expected.insert(name.unwrap());
    }
    let row = ops.access().list(Some("reports")).await.unwrap().remove(0);
    let found: BTreeSet<String> = row.grants.into_iter().map(|grant| grant.resource).collect();
    assert_eq!(found, expected);
    // Each is in the audit: one granted before, and one revoked.
    let records = audit(&ops).await;
    let of = |event: AuditEvent| records.iter().filter(|it| it.event == i32::from(event)).count();
    assert_eq!((of(AuditEvent::Granted), of(AuditEvent::Revoked)), (EACH + 1, 1));
    cluster.nodes.close().await;
}

/// To make a replica anew takes the right to, and leaves a record of who did it and why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_clears_a_replica_is_in_the_audit() {
    let cluster = Cluster::start(1).await;
    let (ops, reports) = (cluster.client("ops"), cluster.client("reports"));
    ops.access().grant("reports", grant("*", &[Right::Read, Right::Admin])).await.unwrap();
    let cleared = reports.cluster().rebuild_replica(1, 1, "because").await;
    is_refused(cleared, "NOT_ALLOWED", "the cluster is not among what it may");
    let without = ops.cluster().rebuild_replica(1, 1, " ").await.unwrap_err();
    assert_eq!(without.code(), Code::InvalidArgument, "a reason is needed");
    // Nothing has halted, so nothing is cleared; that it was to be is written down all the same.
    let cleared = ops.cluster().rebuild_replica(1, 1, "it looked wrong").await.unwrap_err();
    assert_eq!(cleared.code(), Code::PreconditionFailed);
    let of =
        |record: &AuditRecord| (record.who.clone(), record.resource.clone(), record.why.clone());
    let expected = ("ops".to_owned(), "group 1".to_owned(), "it looked wrong".to_owned());
    let found = audited(&ops, |records| {
        let cleared = |it: &&AuditRecord| it.event == i32::from(AuditEvent::Cleared);
        records.iter().filter(cleared).any(|it| of(it) == expected)
    });
    found.await;
    cluster.nodes.close().await;
}

/// A record that cannot be read is told as such, and the others are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_record_that_cannot_be_read_keeps_nobody_from_the_others() {
    let cluster = Cluster::start(1).await;
    let access = cluster.client("ops").access();
    access.grant("reports", grant("first", &[Right::Read])).await.unwrap();
    let name = LogicalResourceName::new(AUDIT_LOG).unwrap();
    let schema = SchemaId::new("palisade.audit.v1").unwrap();
    let engine = &cluster.nodes.engines[0];
    let log = ReplicatedLog::<Vec<u8>>::open_existing(engine, &name, &schema, FenceEpoch::new(1));
    // As a newer release might write it.
    log.await.unwrap().append(&vec![255]).await.unwrap();
    access.grant("reports", grant("second", &[Right::Read])).await.unwrap();
    let found = access.audit(None, 0, false).await.unwrap().records;
    let told: Vec<_> = found.iter().map(|it| (it.unreadable, it.resource.as_str())).collect();
    assert_eq!(told, [(false, "first"), (true, ""), (false, "second")]);
    assert!(found[1].why.contains("newer release"), "{:?}", found[1]);
    cluster.nodes.close().await;
}

/// Who may do everything does not do this: what is kept about access is written with a record of it, or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_goes_around_the_audit() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    ops.access().grant("reports", grant("orders", &[Right::Read])).await.unwrap();
    let rows: Map<String, Vec<u8>> = ops.map("palisade.access", "palisade.grants.v1");
    let records: Log<Vec<u8>> = ops.log("palisade.audit", "palisade.audit.v1");
    is_refused(rows.put(&"mallory".to_owned(), &Vec::new()).await, "NOT_ALLOWED", "a row");
    is_refused(records.append(&[Vec::new()]).await, "NOT_ALLOWED", "a record");
    for spec in [Spec { epoch: 9, ..Default::default() }, Spec::default()] {
        is_refused(rows.open_as(spec.clone()).await, "NOT_ALLOWED", "a fence before the rows");
        is_refused(records.open_as(spec).await, "NOT_ALLOWED", "a fence before the audit");
    }
    let batch = ops.batch().put(&rows, &"mallory".to_owned(), &Vec::new());
    is_refused(batch.commit().await, "NOT_ALLOWED", "a batch");
    // It may be looked at.
    rows.get(&"reports".to_owned()).await.unwrap().unwrap();
    let seen = records.scan(None, 0, Consistency::Linearizable).await.unwrap();
    assert!(!seen.entries.is_empty());
    let mallory = audited(&ops, |records| {
        records.iter().any(|it| it.resource == "palisade.audit" && it.who == "ops")
    });
    mallory.await;
    cluster.nodes.close().await;
}

/// S2, S3: a token is its principal's grants less what was taken away, whoever shows it; one that is not ours,
/// or over, is refused and not passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_narrows_and_is_never_passed_over() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    map(&ops, "orders").open().await.unwrap();
    map(&ops, "orders").put(&key(), &7).await.unwrap();
    let all = [Right::Read, Right::Append];
    ops.access().grant("reports", grant("orders", &all)).await.unwrap();
    let token = cluster.token("reports");
    let gateway = cluster.bearer("gateway", &token);
    assert_eq!(map(&gateway, "orders").get(&key()).await.unwrap().unwrap().value, 7);
    is_refused(
        map(&cluster.client("gateway"), "orders").get(&key()).await,
        "NOT_ALLOWED",
        "without",
    );

    let rights = palisade_server::security::grants::Rights::of([
        palisade_server::security::grants::Right::Read,
    ]);
    let narrowed = cluster.bearer("gateway", &token.narrowed(&Caveat::Rights(rights)).unwrap());
    map(&narrowed, "orders").get(&key()).await.unwrap();
    is_refused(map(&narrowed, "orders").put(&key(), &8).await, "NOT_ALLOWED", "it is to read");
    let bound = token.narrowed(&Caveat::Certificate([7; 32])).unwrap();
    let stolen = cluster.bearer("gateway", &bound);
    is_refused(map(&stolen, "orders").get(&key()).await, "NOT_ALLOWED", "of another certificate");

    // Its bearer has rights of its own, and is refused all the same.
    let over = token.narrowed(&Caveat::NotAfter { ms: now_ms() - 1 }).unwrap();
    is_refused(
        map(&cluster.bearer("ops", &over), "orders").get(&key()).await,
        "NOT_ALLOWED",
        "over",
    );
    let other = TokenKeys::parse(&format!("1 {}", "0f".repeat(32))).unwrap();
    let forged = Token::mint(&other, CLUSTER, "ops", now_ms(), Duration::from_secs(60)).unwrap();
    let forged = cluster.bearer("ops", &forged);
    is_refused(map(&forged, "orders").get(&key()).await, "NOT_AUTHENTICATED", "forged");
    let garbage = cluster.reaching(cluster.certified.caller("ops").token("pal1.none"));
    is_refused(map(&garbage, "orders").get(&key()).await, "NOT_AUTHENTICATED", "no token");
    let records = audited(&ops, |records| {
        let refused = |event: AuditEvent| records.iter().any(|it| it.event == i32::from(event));
        refused(AuditEvent::TokenRefused) && records.iter().any(|it| it.why.contains("certificate"))
    });
    let records = records.await;
    let forged = records.iter().find(|it| it.event == i32::from(AuditEvent::TokenRefused)).unwrap();
    assert_eq!((forged.who.as_str(), forged.token.as_str()), ("ops", ""), "{forged:?}");
    let stolen = records.iter().find(|it| it.why.contains("certificate")).unwrap();
    assert_eq!((stolen.who.as_str(), stolen.token.len()), ("reports", 32), "{stolen:?}");
    cluster.nodes.close().await;
}

/// Every refusal is written down: who, what, from where and why. A flood of them is few records, and none is
/// left out of the count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_in_the_audit_and_a_flood_is_few_records() {
    const FLOOD: u64 = 1000;
    let cluster = Cluster::start(1).await;
    let (ops, mallory) = (cluster.client("ops"), cluster.client("mallory"));
    map(&ops, "orders").open().await.unwrap();
    let orders = map(&mallory, "orders");
    let mut flood = JoinSet::new();
    for _ in 0..8 {
        let orders = orders.clone();
        flood.spawn(async move {
            for _ in 0..FLOOD / 8 {
                is_refused(orders.get(&key()).await, "NOT_ALLOWED", "a flood");
            }
        });
    }
    while let Some(done) = flood.join_next().await {
        done.unwrap();
    }
    let of_mallory = |record: &&AuditRecord| record.who == "mallory";
    let counted = |records: &[AuditRecord]| {
        records.iter().filter(of_mallory).map(|record| record.count).sum::<u64>() == FLOOD
    };
    let records = audited(&ops, counted).await;
    let records: Vec<_> = records.iter().filter(of_mallory).collect();
    assert!(records.len() < 50, "{} records", records.len());
    let first = records[0];
    assert_eq!(first.event, i32::from(AuditEvent::NotAllowed));
    assert_eq!((first.resource.as_str(), first.right.as_str()), ("orders", "read"));
    assert_eq!(first.method, "/palisade.map.v1.Map/Get");
    assert_eq!((first.address.as_str(), first.node), ("127.0.0.1", 1));
    assert!(first.why.contains("granted"), "{}", first.why);
    assert!(first.first_ms <= first.last_ms && first.last_ms <= now_ms());
    cluster.nodes.close().await;
}

/// A restore raises the epoch of every resource, so that nobody writes on from before: the endpoint's own are
/// written all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_are_changed_in_whatever_epoch_they_are() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    ops.access().grant("reports", grant("orders", &[Right::Read])).await.unwrap();
    let engine = &cluster.nodes.engines[0];
    for (name, schema) in [(ACCESS_MAP, "palisade.grants.v1"), (AUDIT_LOG, "palisade.audit.v1")] {
        let known = LogicalResourceName::new(name).unwrap();
        let found = engine.directory().describe(&known, ReadConsistency::Linearizable).await;
        let found = found.unwrap().value;
        let spec = ResourceSpec::new(name, schema).unwrap();
        let spec =
            spec.placement(found.placement).affinity(found.affinity).replicas(found.replicas);
        let spec = spec.epoch(FenceEpoch::new(found.epoch.get() + 3));
        if name == ACCESS_MAP {
            ReplicatedMap::<String, Vec<u8>>::open(engine, spec).await.unwrap();
        } else {
            ReplicatedLog::<Vec<u8>>::open(engine, spec).await.unwrap();
        }
    }
    ops.access().grant("reports", grant("events", &[Right::Append])).await.unwrap();
    let left = ops.access().revoke("reports", Some("orders"), &[Right::Read]).await.unwrap();
    assert!(left.changed);
    // And what is refused from now on is written down.
    let reports = cluster.client("reports");
    is_refused(map(&reports, "orders").get(&key()).await, "NOT_ALLOWED", "revoked");
    audited(&ops, |records| records.iter().any(|record| record.resource == "orders")).await;
    cluster.nodes.close().await;
}
