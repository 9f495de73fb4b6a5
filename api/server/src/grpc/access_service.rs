//! `palisade.access.v1.Access`: who may do what, and what was refused.

use palisade::tls::Subject;
use palisade::{ClusterId, Direction, Error, LogPosition, MapRange, ReadConsistency, Version};
use palisade_proto::access::v1 as proto;
use palisade_proto::access::v1::access_server::Access as Service;
use palisade_proto::common::v1 as common;
use tonic::{Request, Response, Status};

use super::convert;
use super::convert::{needed, of_position, position};
use super::endpoint::{Call, Endpoint, refused};
use super::failure::invalid;
use super::own::{access_map, audit_log};
use super::spec::{of_placement, placement};
use crate::security::audit::{AUDIT_LOG, AuditError, AuditEvent, AuditFacts, AuditRecord};
use crate::security::grants::{
    ACCESS_MAP, Grant, Pattern, Right, Rights, decode_row, encode_row, granting, revoking,
};
use crate::security::now_ms;

/// How often a change is tried that others are faster than. One of them has changed something each time.
const TRIES_MAX: usize = 16;
/// Before it is worth trying again.
const RETRY_MS: u64 = 50;
/// Callers of one answer.
const LISTED_MAX: usize = 256;
/// Records of one answer.
const AUDIT_LISTED_MAX: usize = 256;

fn rights(asked: &[i32]) -> Result<Rights, Error> {
    let each = asked.iter().map(|right| match proto::Right::try_from(*right) {
        Ok(proto::Right::Read) => Ok(Right::Read),
        Ok(proto::Right::Append) => Ok(Right::Append),
        Ok(proto::Right::Admin) => Ok(Right::Admin),
        _ => Err(invalid(format!("right={right} is none: read, append or admin"))),
    });
    Ok(Rights::of(each.collect::<Result<Vec<_>, _>>()?))
}

fn pattern(text: &str) -> Result<Pattern, Error> {
    Pattern::parse(text).map_err(|error| invalid(format!("resource={text:?}: {error}")))
}

pub(crate) fn grant(asked: &proto::Grant) -> Result<Grant, Error> {
    let rights = rights(&asked.rights)?;
    if rights == Rights::default() {
        return Err(invalid("a grant without a right grants nothing"));
    }
    let domains = match &asked.domains[..] {
        [] => None,
        rules => Some(placement(rules)?),
    };
    Ok(Grant { pattern: pattern(&asked.resource)?, rights, domains })
}

/// Of which resources, of all if nothing is said, and which rights.
pub(crate) fn revoked(asked: &proto::RevokeRequest) -> Result<(Option<Pattern>, Rights), Error> {
    let pattern = match &*asked.resource {
        "" => None,
        text => Some(pattern(text)?),
    };
    let rights = match &asked.rights[..] {
        [] => Rights::ALL,
        asked => rights(asked)?,
    };
    Ok((pattern, rights))
}

/// Whose grants are changed.
pub(crate) fn named(cluster: ClusterId, client: &str) -> Result<(), Error> {
    let named = Subject::of_client(cluster, client).map(drop);
    named.map_err(|error| invalid(format!("client={client:?}: {error}")))
}

fn of_grant(grant: &Grant) -> proto::Grant {
    let right = |right| match right {
        Right::Read => proto::Right::Read.into(),
        Right::Append => proto::Right::Append.into(),
        Right::Admin => proto::Right::Admin.into(),
    };
    proto::Grant {
        resource: grant.pattern.to_string(),
        rights: grant.rights.each().map(right).collect(),
        domains: grant.domains.as_ref().map(of_placement).unwrap_or_default(),
    }
}

fn of_record(position: LogPosition, log_time_ms: u64, record: AuditRecord) -> proto::AuditRecord {
    let AuditRecord { facts, count, first_ms, last_ms, node } = record;
    let event = match facts.event {
        AuditEvent::NotAuthenticated => proto::AuditEvent::NotAuthenticated,
        AuditEvent::TokenRefused => proto::AuditEvent::TokenRefused,
        AuditEvent::NotAllowed => proto::AuditEvent::NotAllowed,
        AuditEvent::Granted => proto::AuditEvent::Granted,
        AuditEvent::Revoked => proto::AuditEvent::Revoked,
        AuditEvent::Cleared => proto::AuditEvent::Cleared,
        AuditEvent::Placed => proto::AuditEvent::Placed,
    };
    proto::AuditRecord {
        position: Some(of_position(position)),
        log_time_ms,
        event: event.into(),
        count,
        first_ms,
        last_ms,
        node,
        who: facts.who,
        token: facts.token,
        address: facts.address,
        method: facts.method,
        resource: facts.resource,
        right: facts.right,
        why: facts.why,
        unreadable: false,
    }
}

/// One that cannot be read: it keeps nobody from the others.
fn of_unreadable(position: LogPosition, log_time_ms: u64, error: AuditError) -> proto::AuditRecord {
    proto::AuditRecord {
        position: Some(of_position(position)),
        log_time_ms,
        why: error.to_string(),
        unreadable: true,
        ..Default::default()
    }
}

impl Endpoint {
    /// Changes what a caller has, and writes down who did, at one offset. Of several at once each sees what
    /// the one before has made.
    async fn change_grants(
        &self,
        call: &Call,
        client: &String,
        facts: AuditFacts,
        change: impl Fn(&[Grant]) -> Vec<Grant>,
    ) -> Result<(Vec<proto::Grant>, Option<common::Receipt>), Error> {
        named(self.engine.cluster(), client)?;
        let (map, log) = (access_map(&self.engine).await?, audit_log(&self.engine).await?);
        let why = format!("client={client}");
        let facts = AuditFacts { why, ..facts };
        let record = AuditRecord::once(facts, self.engine.node().get(), now_ms()).encode().into();
        for _ in 0..TRIES_MAX {
            let row = call.read(map.get(client, ReadConsistency::Linearizable)).await?.value;
            let before = match &row {
                Some(row) => decode_row(&row.value).map_err(|error| Error::Incompatible {
                    expected: "a row of grants".to_owned(),
                    found: error.to_string(),
                })?,
                None => Vec::new(),
            };
            let after = change(&before);
            let listed = after.iter().map(of_grant).collect();
            if after == before {
                return Ok((listed, None));
            }
            let version = row.map_or(Version::ABSENT, |row| row.version);
            let batch = self.engine.batch();
            let batch = match &after[..] {
                [] => batch.delete_if(&map, client, version),
                after => {
                    let row = encode_row(after).map_err(|error| invalid(error.to_string()))?;
                    batch.put_if(&map, client, &row, version)
                }
            };
            match call.commit(batch.append(&log, &record)).await {
                Err(Error::VersionMismatch { .. }) => {}
                done => {
                    let receipt = done?.receipt;
                    self.follow_grants_up_to(receipt.offset).await;
                    return Ok((listed, Some(convert::receipt(receipt))));
                }
            }
        }
        Err(Error::RateLimited { retry_after_ms: RETRY_MS })
    }

    async fn list_grants(
        &self,
        call: &Call,
        asked: &proto::ListRequest,
    ) -> Result<proto::ListResponse, Error> {
        let map = access_map(&self.engine).await?;
        let range = match &*asked.client {
            // The least key behind it.
            "" => MapRange::from(&format!("{}\0", asked.after)).limit(LISTED_MAX),
            client => MapRange::from(&client.to_owned()).before(&format!("{client}\0")),
        };
        let page = call.read(map.range(range, ReadConsistency::Linearizable)).await?.value;
        let last = page.rows.last().map(|(client, _)| client.clone());
        let next = page.next.and(last).unwrap_or_default();
        let granted = page.rows.into_iter().map(|(client, row)| {
            let grants = decode_row(&row.value);
            let unreadable = grants.is_err();
            let grants = grants.unwrap_or_default().iter().map(of_grant).collect();
            proto::Granted { client, grants, unreadable }
        });
        Ok(proto::ListResponse { granted: granted.collect(), next })
    }

    async fn list_audit(
        &self,
        call: &Call,
        asked: &proto::ListAuditRequest,
    ) -> Result<proto::ListAuditResponse, Error> {
        let log = audit_log(&self.engine).await?;
        let bounds = call.read(log.bounds(ReadConsistency::Linearizable)).await?.value;
        let (direction, end) = match asked.newest_first {
            true => (Direction::Backward, bounds.tail),
            false => (Direction::Forward, bounds.first),
        };
        let from = asked.from.as_ref().map(position).transpose()?.unwrap_or(end);
        if asked.newest_first && from <= bounds.first {
            // What was before is not kept any more, and nobody asks for it.
            return Ok(proto::ListAuditResponse::default());
        }
        let limit = match asked.limit as usize {
            0 => AUDIT_LISTED_MAX,
            limit => limit.min(AUDIT_LISTED_MAX),
        };
        let read = log.scan(from, direction, limit, ReadConsistency::Linearizable);
        let page = call.read(read).await?.value;
        let records = page.entries.into_iter().map(|entry| {
            let (position, log_time_ms) = (entry.position, entry.log_time.get());
            match AuditRecord::decode(&entry.value) {
                Ok(record) => of_record(position, log_time_ms, record),
                Err(error) => of_unreadable(position, log_time_ms, error),
            }
        });
        let records = records.collect();
        Ok(proto::ListAuditResponse { records, next: page.next.map(of_position) })
    }
}

#[tonic::async_trait]
impl Service for Endpoint {
    async fn grant(
        &self,
        request: Request<proto::GrantRequest>,
    ) -> Result<Response<proto::GrantResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow_own(&call, Right::Admin, ACCESS_MAP)?;
        let granted = async {
            let new = grant(needed(asked.grant.as_ref(), "grant")?)?;
            let facts = AuditFacts {
                resource: new.pattern.to_string(),
                right: new.rights.to_string(),
                ..self.facts(&call, AuditEvent::Granted)
            };
            self.change_grants(&call, &asked.client, facts, |grants| granting(grants, &new)).await
        };
        let (grants, receipt) = granted.await.map_err(refused)?;
        Ok(Response::new(proto::GrantResponse { grants, receipt }))
    }

    async fn revoke(
        &self,
        request: Request<proto::RevokeRequest>,
    ) -> Result<Response<proto::RevokeResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow_own(&call, Right::Admin, ACCESS_MAP)?;
        let done = async {
            let (pattern, rights) = revoked(&asked)?;
            let facts = AuditFacts {
                resource: asked.resource.clone(),
                right: rights.to_string(),
                ..self.facts(&call, AuditEvent::Revoked)
            };
            let change = |grants: &[Grant]| revoking(grants, pattern.as_ref(), rights);
            self.change_grants(&call, &asked.client, facts, change).await
        };
        let (grants, receipt) = done.await.map_err(refused)?;
        Ok(Response::new(proto::RevokeResponse { grants, receipt }))
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow_own(&call, Right::Admin, ACCESS_MAP)?;
        Ok(Response::new(self.list_grants(&call, &asked).await.map_err(refused)?))
    }

    async fn list_audit(
        &self,
        request: Request<proto::ListAuditRequest>,
    ) -> Result<Response<proto::ListAuditResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow_own(&call, Right::Admin, AUDIT_LOG)?;
        Ok(Response::new(self.list_audit(&call, &asked).await.map_err(refused)?))
    }
}
