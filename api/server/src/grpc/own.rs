//! The resources of the endpoint itself: `palisade.`, then what they are for.

use bytes::Bytes;
use palisade::{
    Affinity, DomainRule, Engine, Error, FenceEpoch, LogRetention, LogicalResourceName, Placement,
    ReadConsistency, ReplicatedLog, ReplicatedMap, ResourceSpec, SchemaId,
};

use crate::security::audit::AUDIT_LOG;
use crate::security::grants::ACCESS_MAP;

const ACCESS_SCHEMA: &str = "palisade.grants.v1";
const AUDIT_SCHEMA: &str = "palisade.audit.v1";
/// Both lie in one group, so that a grant and the record of it are one write.
const TOGETHER: &str = "palisade.security";
/// How long the audit is kept: 400 days, for a look back at the same month of last year.
const AUDIT_KEPT_MS: u64 = 400 * 24 * 3600 * 1000;
/// And how much of it: what somebody who floods all nodes can have written in a week.
const AUDIT_KEPT_BYTES: u64 = 1 << 30;

/// Rows of grants, by who has them.
pub(crate) type AccessMap = ReplicatedMap<String, Vec<u8>>;
/// Records of the audit.
pub(crate) type AuditLog = ReplicatedLog<Bytes>;

/// One of them, usable wherever there is a replica, and here.
pub(crate) async fn own_spec(
    engine: &Engine,
    name: &str,
    schema: &str,
) -> Result<ResourceSpec, Error> {
    let mut providers = vec![engine.domain().provider.clone()];
    for group in engine.groups() {
        let members = group.status().await?.members;
        let named = members.member_domains().filter_map(|domain| domain.split('/').next());
        providers.extend(named.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    let rule = |provider| DomainRule { provider, region: None, zone: None };
    let placement = Placement::new(providers.into_iter().map(rule))?;
    Ok(ResourceSpec::new(name, schema)?.placement(placement))
}

/// Whether it is written by the endpoint itself, and by no call for resources: who may do what, and what
/// was refused, is never changed without a record of it.
pub(crate) fn is_kept(resource: &str) -> bool {
    [ACCESS_MAP, AUDIT_LOG].contains(&resource)
}

/// The map of grants, which is made if it is not there.
pub(crate) async fn access_map(engine: &Engine) -> Result<AccessMap, Error> {
    let (name, schema) = (LogicalResourceName::new(ACCESS_MAP)?, SchemaId::new(ACCESS_SCHEMA)?);
    // Another node may have made it, and known of other places.
    match AccessMap::open_existing(engine, &name, &schema, FenceEpoch::new(1)).await {
        Err(Error::NotFound { .. }) => {
            let spec = own_spec(engine, ACCESS_MAP, ACCESS_SCHEMA).await?;
            AccessMap::open(engine, spec.affinity(Affinity::new(TOGETHER)?)).await
        }
        opened => opened,
    }
}

/// The log of the audit, which is made if it is not there.
pub(crate) async fn audit_log(engine: &Engine) -> Result<AuditLog, Error> {
    let (name, schema) = (LogicalResourceName::new(AUDIT_LOG)?, SchemaId::new(AUDIT_SCHEMA)?);
    let log = match AuditLog::open_existing(engine, &name, &schema, FenceEpoch::new(1)).await {
        Err(Error::NotFound { .. }) => {
            let spec = own_spec(engine, AUDIT_LOG, AUDIT_SCHEMA).await?;
            AuditLog::open(engine, spec.affinity(Affinity::new(TOGETHER)?)).await?
        }
        opened => opened?,
    };
    let kept = LogRetention { keep_ms: Some(AUDIT_KEPT_MS), keep_bytes: Some(AUDIT_KEPT_BYTES) };
    if log.bounds(ReadConsistency::Linearizable).await?.value.retention != kept {
        log.retain(kept).await?;
    }
    Ok(log)
}
