//! What fuzzing calls of the endpoint: the messages of all methods, and what a call says of itself.

use std::fmt::Debug;

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use palisade::{
    ClusterId, Error, FailureDomain, Freshness, GroupId, LogicalResourceName, Offset, Stored,
};
use palisade_proto::access::v1 as access;
use palisade_proto::admin::v1 as admin;
use palisade_proto::batch::v1 as batch;
use palisade_proto::cluster::v1 as cluster;
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1 as directory;
use palisade_proto::failure::{Disposition, Failure};
use palisade_proto::idempotency::v1 as idempotency;
use palisade_proto::log::v1 as log;
use palisade_proto::map::v1 as map;
use palisade_proto::session::v1 as session;
use prost::Message;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::access::Origin;
use super::convert::{self, epoch, fingerprint, needed, position};
use super::endpoint::{Call, FRESHNESS, number};
use super::failure::{failure, invalid};
use super::handles::{Key, Use};
use super::{
    access_service, backups, batch as batches, cluster as clusters, log as logs, map as maps, spec,
};
use crate::fuzz::{Target, sorted};
use crate::security::grants::{decode_row, encode_row, granting, revoking};

const CLUSTER: ClusterId = ClusterId::new(7);
/// What a status may take of a head, which has 16 KiB for everything.
const STATUS_BYTES_MAX: usize = 8 << 10;

type Judged = Result<(), Error>;

/// A failure is told in a head, whatever was asked, and the caller is told that he is wrong.
fn is_told(told: Failure) {
    assert_eq!(told.disposition, Disposition::Reject, "{told:?}");
    let status = Status::from(told);
    assert!(status.message().len() + status.details().len() <= STATUS_BYTES_MAX);
}

/// A message of a call. Decoded and encoded again, it is the same to whoever reads it next.
fn message<M>(raw: &[u8], judge: impl Fn(&M) -> Judged) -> bool
where
    M: Message + Default + PartialEq + Debug,
{
    let Ok(asked) = M::decode(raw) else { return false };
    let again = asked.encode_to_vec();
    assert!(M::decode(&again[..]).is_ok_and(|again| again == asked), "{asked:?}");
    let judged = judge(&asked);
    let is_good = judged.is_ok();
    if let Err(error) = judged {
        is_told(failure(&error));
    }
    is_good
}

/// What a method may be sent: all of a good message and a part of it, nothing, a field of a later release, and
/// lengths of what is not there.
fn seeds(run: fn(&[u8]) -> bool, good: &(impl Message + Debug)) -> Vec<(String, Vec<u8>)> {
    let whole = good.encode_to_vec();
    assert!(run(&whole), "{good:?} is taken");
    let with = |behind: &[u8]| [&whole[..], behind].concat();
    let seeds = vec![
        ("whole", whole.clone()),
        ("cut", whole[..whole.len() * 2 / 3].to_vec()),
        ("nothing", Vec::new()),
        ("twice", with(&whole)),
        ("later", with(&[0xf8, 0x7f, 1])),
        ("long", with(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("groups", with(&[0x0b; 64])),
    ];
    sorted(run, seeds)
}

macro_rules! targets {
    ($($name:ident: $message:ty, $judge:expr, $good:expr;)*) => {
        /// Every target of the endpoint.
        pub(crate) const TARGETS: &[Target] = &[
            $(Target {
                name: stringify!($name),
                run: |raw| message::<$message>(raw, $judge),
                seeds: || seeds(|raw| message::<$message>(raw, $judge), &$good),
            },)*
            Target { name: "call_metadata", run: metadata, seeds: metadata_seeds },
            Target { name: "freshness_token", run: freshness, seeds: freshness_seeds },
            Target { name: "client_token", run: client, seeds: freshness_seeds },
        ];
    };
}

targets! {
    access_grant: access::GrantRequest, grant, access::GrantRequest {
        client: "reports".to_owned(),
        grant: Some(access::Grant {
            resource: "orders/*".to_owned(),
            rights: vec![1, 2],
            domains: vec![rule()],
        }),
    };
    access_revoke: access::RevokeRequest, revoke, access::RevokeRequest {
        client: "reports".to_owned(),
        resource: "orders/*".to_owned(),
        rights: vec![3],
    };
    access_list: access::ListRequest, |_| Ok(()), access::ListRequest {
        client: String::new(),
        after: "reports".to_owned(),
    };
    access_list_audit: access::ListAuditRequest, |asked: &access::ListAuditRequest| {
        asked.from.as_ref().map(position).transpose().map(drop)
    }, access::ListAuditRequest { from: Some(at()), limit: 7, newest_first: true };
    admin_create: admin::CreateRequest, |asked: &admin::CreateRequest| {
        backups::named(asked).map(drop).map_err(|told| {
            let what = told.message.clone();
            is_told(told);
            invalid(what)
        })
    }, admin::CreateRequest {
        id: "tuesday".to_owned(),
        parent: "monday".to_owned(),
        bytes_per_second: 9,
    };
    batch_commit: batch::CommitRequest, commit, whole_batch();
    cluster_get_status: cluster::GetStatusRequest, |_| Ok(()), cluster::GetStatusRequest {};
    cluster_change_members: cluster::ChangeMembersRequest, |asked: &cluster::ChangeMembersRequest| {
        clusters::change(asked).map(drop)
    }, cluster::ChangeMembersRequest {
        change: Some(cluster::change_members_request::Change::AddLearner(cluster::Add {
            node: 4,
            incarnation: vec![7; 16].into(),
            address: "127.0.0.1:7300".to_owned(),
            domain: "aws/eu-west-1/a".to_owned(),
        })),
    };
    cluster_transfer_leadership: cluster::TransferLeadershipRequest, |_| Ok(()),
        cluster::TransferLeadershipRequest { group: 1, to: 2 };
    cluster_list_divergences: cluster::ListDivergencesRequest, |_| Ok(()),
        cluster::ListDivergencesRequest { group: 1 };
    cluster_rebuild_replica: cluster::RebuildReplicaRequest, |_| Ok(()),
        cluster::RebuildReplicaRequest { group: 1, reason: "it differs".to_owned() };
    directory_open: directory::OpenRequest, |asked: &directory::OpenRequest| {
        specified(asked.spec.as_ref())
    }, directory::OpenRequest { spec: Some(whole_spec()) };
    directory_create: directory::CreateRequest, |asked: &directory::CreateRequest| {
        specified(asked.spec.as_ref())
    }, directory::CreateRequest { spec: Some(whole_spec()) };
    directory_describe: directory::DescribeRequest, |asked: &directory::DescribeRequest| {
        name(&asked.name)?;
        read(asked.options.as_ref())
    }, directory::DescribeRequest { name: "orders".to_owned(), options: Some(fresh()) };
    directory_list: directory::ListRequest, |asked: &directory::ListRequest| {
        if !asked.after.is_empty() {
            name(&asked.after)?;
        }
        read(asked.options.as_ref())
    }, directory::ListRequest {
        prefix: "or".to_owned(),
        after: "orders".to_owned(),
        options: Some(fresh()),
    };
    directory_alter: directory::AlterRequest, alter, directory::AlterRequest {
        name: "orders".to_owned(),
        revision: 1,
        reason: "it moves".to_owned(),
        alteration: Some(directory::Alteration {
            alteration: Some(directory::alteration::Alteration::Place(directory::Placement {
                rules: vec![rule()],
            })),
        }),
    };
    directory_list_alterations: directory::ListAlterationsRequest,
        |asked: &directory::ListAlterationsRequest| {
            name(&asked.name)?;
            read(asked.options.as_ref())
        },
        directory::ListAlterationsRequest { name: "orders".to_owned(), options: Some(fresh()) };
    idempotency_reserve: idempotency::ReserveRequest, |asked: &idempotency::ReserveRequest| {
        names(asked.store.as_ref(), "store", Use::Write)?;
        fingerprint(&asked.fingerprint).map(drop)
    }, idempotency::ReserveRequest {
        store: resource(),
        key: "k".to_owned(),
        fingerprint: vec![7; 32].into(),
        owner_epoch: 2,
        issued_ms: Some(3),
    };
    idempotency_complete: idempotency::CompleteRequest, |asked: &idempotency::CompleteRequest| {
        names(asked.store.as_ref(), "store", Use::Write)
    }, idempotency::CompleteRequest {
        store: resource(),
        key: "k".to_owned(),
        owner_epoch: 2,
        result: "done".into(),
    };
    idempotency_get_status: idempotency::GetStatusRequest, |asked: &idempotency::GetStatusRequest| {
        names(asked.store.as_ref(), "store", Use::Read)?;
        read(asked.options.as_ref())
    }, idempotency::GetStatusRequest {
        store: resource(),
        key: "k".to_owned(),
        options: Some(fresh()),
    };
    idempotency_set_window: idempotency::SetWindowRequest, |asked: &idempotency::SetWindowRequest| {
        names(asked.store.as_ref(), "store", Use::Write)
    }, idempotency::SetWindowRequest { store: resource(), retention_ms: 4, requests_max: 5 };
    log_append: log::AppendRequest, |asked: &log::AppendRequest| {
        names(asked.log.as_ref(), "log", Use::Write)?;
        numbered(asked.number.as_ref())?;
        logs::appending(&asked.values, asked.expected_tail.as_ref()).map(drop)
    }, log::AppendRequest {
        log: resource(),
        values: vec!["value".into()],
        expected_tail: Some(at()),
        number: Some(command()),
    };
    log_append_stream: log::AppendStreamRequest, |asked: &log::AppendStreamRequest| {
        names(asked.log.as_ref(), "log", Use::Write)
    }, log::AppendStreamRequest { log: resource(), values: vec!["value".into(), "other".into()] };
    log_scan: log::ScanRequest, |asked: &log::ScanRequest| {
        names(asked.log.as_ref(), "log", Use::Read)?;
        logs::scanning(asked)?;
        read(asked.options.as_ref())
    }, log::ScanRequest {
        log: resource(),
        from: Some(at()),
        direction: 2,
        limit: 9,
        options: Some(fresh()),
    };
    log_tail: log::TailRequest, |asked: &log::TailRequest| {
        names(asked.log.as_ref(), "log", Use::Read)?;
        asked.from.as_ref().map(position).transpose().map(drop)
    }, log::TailRequest { log: resource(), from: Some(at()) };
    log_get_bounds: log::GetBoundsRequest, |asked: &log::GetBoundsRequest| {
        names(asked.log.as_ref(), "log", Use::Read)?;
        read(asked.options.as_ref())
    }, log::GetBoundsRequest { log: resource(), options: Some(fresh()) };
    log_set_retention: log::SetRetentionRequest, |asked: &log::SetRetentionRequest| {
        names(asked.log.as_ref(), "log", Use::Write)
    }, log::SetRetentionRequest {
        log: resource(),
        retention: Some(log::Retention { keep_ms: Some(1), keep_bytes: Some(2) }),
    };
    log_trim: log::TrimRequest, |asked: &log::TrimRequest| {
        names(asked.log.as_ref(), "log", Use::Write)?;
        logs::trimming(asked).map(drop)
    }, log::TrimRequest { log: resource(), before: Some(at()) };
    log_get_consumer: log::GetConsumerRequest, |asked: &log::GetConsumerRequest| {
        names(asked.log.as_ref(), "log", Use::Read)?;
        read(asked.options.as_ref())
    }, log::GetConsumerRequest {
        log: resource(),
        consumer: "reader".to_owned(),
        options: Some(fresh()),
    };
    log_set_consumer: log::SetConsumerRequest, |asked: &log::SetConsumerRequest| {
        names(asked.log.as_ref(), "log", Use::Write)?;
        logs::consumed(asked).map(drop)
    }, log::SetConsumerRequest {
        log: resource(),
        consumer: "reader".to_owned(),
        change: Some(log::set_consumer_request::Change::Reset(at())),
        owner_epoch: Some(3),
    };
    map_get: map::GetRequest, |asked: &map::GetRequest| {
        names(asked.map.as_ref(), "map", Use::Read)?;
        read(asked.options.as_ref())
    }, map::GetRequest {
        map: resource(),
        keys: vec!["a".into(), "b".into()],
        options: Some(fresh()),
        at: 7,
    };
    map_put: map::PutRequest, |asked: &map::PutRequest| {
        names(asked.map.as_ref(), "map", Use::Write)?;
        numbered(asked.number.as_ref())?;
        maps::putting(asked.expected.as_ref().map(|it| it.version), asked.ttl_ms).map(drop)
    }, map::PutRequest {
        map: resource(),
        key: "k".into(),
        value: "value".into(),
        expected: Some(map::Expected { version: 7 }),
        ttl_ms: 0,
        number: Some(command()),
    };
    map_delete: map::DeleteRequest, |asked: &map::DeleteRequest| {
        names(asked.map.as_ref(), "map", Use::Write)?;
        numbered(asked.number.as_ref())
    }, map::DeleteRequest {
        map: resource(),
        key: "k".into(),
        expected: Some(map::Expected { version: 7 }),
        number: Some(command()),
    };
    map_range: map::RangeRequest, |asked: &map::RangeRequest| {
        names(asked.map.as_ref(), "map", Use::Read)?;
        let _ = maps::range(asked);
        read(asked.options.as_ref())
    }, map::RangeRequest {
        map: resource(),
        keys: Some(map::range_request::Keys::Interval(map::Interval {
            from: "a".into(),
            end: "b".into(),
        })),
        backward: true,
        limit: 9,
        options: Some(fresh()),
        at: 7,
    };
    map_watch: map::WatchRequest, |asked: &map::WatchRequest| {
        names(asked.map.as_ref(), "map", Use::Read)?;
        let _ = maps::watching(asked);
        Ok(())
    }, map::WatchRequest { map: resource(), from: 7, prefix: "a".into(), progress_ms: 500 };
    map_get_bounds: map::GetBoundsRequest, |asked: &map::GetBoundsRequest| {
        names(asked.map.as_ref(), "map", Use::Read)?;
        read(asked.options.as_ref())
    }, map::GetBoundsRequest { map: resource(), options: Some(fresh()) };
    map_set_history: map::SetHistoryRequest, |asked: &map::SetHistoryRequest| {
        names(asked.map.as_ref(), "map", Use::Write)
    }, map::SetHistoryRequest { map: resource(), keep_ms: 1, changes_max: 2 };
    session_register: session::RegisterRequest, |_| Ok(()),
        session::RegisterRequest { group: 1, ttl_ms: 60_000 };
}

fn name(text: &str) -> Judged {
    LogicalResourceName::new(text).map(drop)
}

/// A resource of a call, as what is opened, and where its caller is.
fn names(resource: Option<&common::Resource>, field: &str, how: Use) -> Judged {
    Key::of(resource, field, how)?;
    if let Some(caller) = resource.and_then(|resource| resource.caller.as_ref()) {
        let _ = convert::domain(caller).to_string();
    }
    Ok(())
}

fn read(options: Option<&common::ReadOptions>) -> Judged {
    convert::options(options.cloned(), None, None).map(drop)
}

fn numbered(command: Option<&common::CommandNumber>) -> Judged {
    number(command.cloned()).map(drop)
}

fn specified(asked: Option<&directory::Spec>) -> Judged {
    let own = FailureDomain::new("aws", "eu-west-1", "a");
    spec::spec(needed(asked, "spec")?, &own).map(drop)
}

/// What is altered is told again in the same way.
fn alter(asked: &directory::AlterRequest) -> Judged {
    name(&asked.name)?;
    let taken = spec::alteration(needed(asked.alteration.as_ref(), "alteration")?)?;
    let told = spec::of_alteration(&taken);
    assert_eq!(spec::alteration(&told).expect("it was taken"), taken);
    Ok(())
}

/// A grant that is taken can be stored, and read back.
fn grant(asked: &access::GrantRequest) -> Judged {
    access_service::named(CLUSTER, &asked.client)?;
    let new = access_service::grant(needed(asked.grant.as_ref(), "grant")?)?;
    let grants = granting(&[], &new);
    let row = encode_row(&grants).map_err(|error| invalid(error.to_string()))?;
    assert_eq!(decode_row(&row).expect("it was encoded"), grants);
    Ok(())
}

fn revoke(asked: &access::RevokeRequest) -> Judged {
    access_service::named(CLUSTER, &asked.client)?;
    let (pattern, rights) = access_service::revoked(asked)?;
    assert_eq!(revoking(&[], pattern.as_ref(), rights), [], "there is nothing to revoke");
    Ok(())
}

fn commit(asked: &batch::CommitRequest) -> Judged {
    use batch::guard::Guard;
    use batch::operation::Operation;
    batches::bounded(asked)?;
    numbered(asked.number.as_ref())?;
    for guard in &asked.guards {
        match needed(guard.guard.as_ref(), "guard")? {
            Guard::VersionIs(guard) => names(guard.map.as_ref(), "map", Use::Write)?,
            Guard::TailIs(guard) => {
                names(guard.log.as_ref(), "log", Use::Write)?;
                position(needed(guard.tail.as_ref(), "tail")?)?;
            }
            Guard::IsCompleted(guard) => names(guard.store.as_ref(), "store", Use::Write)?,
        }
    }
    for operation in asked.then.iter().chain(&asked.otherwise) {
        match needed(operation.operation.as_ref(), "operation")? {
            Operation::Append(append) => {
                names(append.log.as_ref(), "log", Use::Write)?;
                logs::appending(&append.values, append.expected_tail.as_ref())?;
            }
            Operation::Put(put) => {
                names(put.map.as_ref(), "map", Use::Write)?;
                maps::putting(put.expected_version, put.ttl_ms)?;
            }
            Operation::Delete(delete) => names(delete.map.as_ref(), "map", Use::Write)?,
            Operation::Reserve(reserve) => {
                names(reserve.store.as_ref(), "store", Use::Write)?;
                fingerprint(&reserve.fingerprint)?;
            }
            Operation::Complete(complete) => {
                names(complete.store.as_ref(), "store", Use::Write)?;
                let _ = epoch(complete.owner_epoch);
            }
        }
    }
    Ok(())
}

/// Lines of a head, each with a letter for its name.
fn metadata(raw: &[u8]) -> bool {
    let mut head = HeaderMap::new();
    for line in raw.split(|byte| *byte == b'\n') {
        let Some((letter, value)) = line.split_first() else { continue };
        let name = match letter {
            b'f' => FRESHNESS,
            b't' => "grpc-timeout",
            _ => return false,
        };
        let Ok(value) = HeaderValue::from_bytes(value) else { return false };
        head.append(name, value);
    }
    let call = Call::of(None, Origin::default(), &MetadataMap::from_headers(head));
    let is_good = call.is_ok();
    if let Err(error) = call {
        is_told(failure(&error));
    }
    is_good
}

fn metadata_seeds() -> Vec<(String, Vec<u8>)> {
    use base64::Engine as _;
    let token = base64::engine::general_purpose::STANDARD_NO_PAD.encode(token());
    let whole = format!("f{token}\nt100m\nf{token}");
    assert!(metadata(whole.as_bytes()), "{whole}");
    let seeds = vec![
        ("whole", whole.into_bytes()),
        ("nothing", Vec::new()),
        ("cut", format!("f{}", &token[..9]).into_bytes()),
        ("no-base64", b"f~~~\nt1S".to_vec()),
        ("long-timeout", b"t99999999H".to_vec()),
        ("no-timeout", b"t-1S".to_vec()),
        ("many", format!("f{token}\n").repeat(66).into_bytes()),
    ];
    sorted(metadata, seeds)
}

fn token() -> Bytes {
    Freshness { cluster: CLUSTER, group: GroupId::new(1), offset: Offset::new(300) }.to_bytes()
}

/// What is read is written in one way only.
fn freshness(raw: &[u8]) -> bool {
    let Ok(found) = convert::freshness(&Bytes::copy_from_slice(raw)) else { return false };
    assert_eq!(found.to_bytes(), raw);
    true
}

/// The client of a command, which is named as a freshness is.
fn client(raw: &[u8]) -> bool {
    let client = Bytes::copy_from_slice(raw);
    let judged = number(Some(common::CommandNumber { client, seq: 1, acked_up_to: 0 }));
    assert_eq!(judged.is_ok(), freshness(raw));
    judged.is_ok()
}

fn freshness_seeds() -> Vec<(String, Vec<u8>)> {
    let whole = token().to_vec();
    let (cut, mut later) = (whole[..whole.len() - 1].to_vec(), whole.clone());
    later[0] = 0xff;
    let long = [&whole[..], &[0; 3]].concat();
    let seeds = vec![("whole", whole), ("cut", cut), ("later", later), ("long", long)];
    sorted(freshness, seeds)
}

fn resource() -> Option<common::Resource> {
    Some(common::Resource {
        name: "orders".to_owned(),
        schema: "order.v1".to_owned(),
        epoch: 2,
        caller: Some(common::Domain {
            provider: "aws".to_owned(),
            region: "eu-west-1".to_owned(),
            zone: "a".to_owned(),
        }),
    })
}

/// The same where the caller is named beside it.
fn plain() -> Option<common::Resource> {
    resource().map(|resource| common::Resource { caller: None, ..resource })
}

fn at() -> common::Position {
    common::Position { offset: 7, index: 1 }
}

fn command() -> common::CommandNumber {
    common::CommandNumber { client: token(), seq: 9, acked_up_to: 8 }
}

fn fresh() -> common::ReadOptions {
    common::ReadOptions {
        consistency: Some(common::read_options::Consistency::AtLeast(token())),
        wait_ms: Some(50),
        refuse_stale: true,
    }
}

fn rule() -> directory::DomainRule {
    directory::DomainRule {
        provider: "aws".to_owned(),
        region: "eu-west-1".to_owned(),
        zone: String::new(),
    }
}

fn whole_spec() -> directory::Spec {
    let throttle = directory::Rule {
        when: vec!["RATE_LIMITED".to_owned()],
        mode: "Normal".to_owned(),
        action: "Throttle".to_owned(),
        per_second: 10,
    };
    directory::Spec {
        name: "orders".to_owned(),
        schema: "order.v1".to_owned(),
        kind: directory::Kind::Map.into(),
        epoch: 2,
        replicas: 3,
        domains: 2,
        placement: vec![rule()],
        affinity: "shop".to_owned(),
        contract: Some(directory::Contract { rules: vec![throttle] }),
    }
}

fn whole_batch() -> batch::CommitRequest {
    use batch::guard::Guard;
    use batch::operation::Operation;
    let guard = |guard| batch::Guard { guard: Some(guard) };
    let operation = |operation| batch::Operation { operation: Some(operation) };
    let key = || "k".to_owned();
    batch::CommitRequest {
        guards: vec![
            guard(Guard::VersionIs(batch::VersionIs { map: plain(), key: "k".into(), version: 7 })),
            guard(Guard::TailIs(batch::TailIs { log: plain(), tail: Some(at()) })),
            guard(Guard::IsCompleted(batch::IsCompleted { store: plain(), key: key() })),
        ],
        then: vec![
            operation(Operation::Append(batch::Append {
                log: plain(),
                values: vec!["value".into()],
                expected_tail: Some(at()),
            })),
            operation(Operation::Put(batch::Put {
                map: plain(),
                key: "k".into(),
                value: "value".into(),
                expected_version: Some(7),
                ttl_ms: 0,
            })),
            operation(Operation::Reserve(batch::Reserve {
                store: plain(),
                key: key(),
                fingerprint: vec![7; 32].into(),
                owner_epoch: 2,
                issued_ms: Some(3),
            })),
        ],
        otherwise: vec![
            operation(Operation::Delete(batch::Delete {
                map: plain(),
                key: "k".into(),
                expected_version: None,
            })),
            operation(Operation::Complete(batch::Complete {
                store: plain(),
                key: key(),
                owner_epoch: 2,
                result: "done".into(),
            })),
        ],
        number: Some(command()),
        caller: None,
    }
}
