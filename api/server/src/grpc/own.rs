//! The resources of the endpoint itself: `palisade.`, then what they are for.
//!
//! They are wherever the cluster is: made for the providers that its members are at, and for another one before
//! a node there becomes a member ([`follow`]). So no cluster moves away from its own grants.

use bytes::Bytes;
use palisade::{
    Affinity, Alteration, Described, DomainRule, Engine, Error, FailureDomain, FenceEpoch,
    LogRetention, LogicalResourceName, Placement, ReadConsistency, ReplicatedLog, ReplicatedMap,
    ResourceSpec, ResourceState, SchemaId,
};

use crate::security::audit::AUDIT_LOG;
use crate::security::grants::{ACCESS_MAP, OWN_PREFIX};

const ACCESS_SCHEMA: &str = "palisade.grants.v1";
const AUDIT_SCHEMA: &str = "palisade.audit.v1";
/// Both lie in one group, so that a grant and the record of it are one write.
const TOGETHER: &str = "palisade.security";
/// How long the audit is kept: 400 days, for a look back at the same month of last year.
const AUDIT_KEPT_MS: u64 = 400 * 24 * 3600 * 1000;
/// And how much of it: what somebody who floods all nodes can have written in a week.
const AUDIT_KEPT_BYTES: u64 = 1 << 30;

/// Of each data group there is one, with its number behind this: see [`super::probe`].
pub(super) const PROBES: &str = "palisade.probe/";
/// Resources that are looked at together.
const PAGE: usize = 256;
/// Before it is worth trying again.
const RETRY_MS: u64 = 50;
/// How often one is placed anew that others alter meanwhile.
const TRIES_MAX: usize = 8;

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

/// Has the endpoint's own resources be usable where a node is about to be. It comes before the node: no member
/// is taken that is outside the placement of a resource.
pub(crate) async fn follow(engine: &Engine, to: &FailureDomain) -> Result<(), Error> {
    let is_own = |found: &Described| {
        let name = found.name.as_str();
        is_kept(name) || name.starts_with(PROBES)
    };
    let mut after = None;
    loop {
        let (directory, fresh) = (engine.directory(), ReadConsistency::Linearizable);
        let page = directory.list(OWN_PREFIX, after.as_ref(), PAGE, fresh).await?.resources;
        for own in page.iter().filter(|found| is_own(found)) {
            place_at(engine, own.clone(), to).await?;
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.name.clone()),
            _ => return Ok(()),
        }
    }
}

/// Adds a provider to where a resource is, if it is not there yet.
async fn place_at(engine: &Engine, mut own: Described, to: &FailureDomain) -> Result<(), Error> {
    let directory = engine.directory();
    for _ in 0..TRIES_MAX {
        let is_there = own.placement.allows(to);
        if is_there || !matches!(own.state, ResourceState::Active) {
            return Ok(());
        }
        let provider = to.provider.clone();
        let added = DomainRule { provider, region: None, zone: None };
        let rules = own.placement.rules().iter().cloned().chain([added]);
        let place = Alteration::Place(Placement::new(rules)?);
        match directory.alter(&own.name, own.revision, place, "the cluster grows").await {
            // Somebody else was faster, perhaps with the same.
            Err(Error::PreconditionFailed { .. }) => {
                let fresh = ReadConsistency::Linearizable;
                own = directory.describe(&own.name, fresh).await?.value;
            }
            done => return done.map(|_| ()),
        }
    }
    Err(Error::RateLimited { retry_after_ms: RETRY_MS })
}

/// The epoch that one of them is written in, or `None` if there is none: a restore raises those of all resources.
pub(super) async fn epoch_of(
    engine: &Engine,
    name: &LogicalResourceName,
) -> Result<Option<FenceEpoch>, Error> {
    match engine.directory().describe(name, ReadConsistency::Linearizable).await {
        Ok(found) => Ok(Some(found.value.epoch)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The map of grants, which is made if it is not there.
pub(crate) async fn access_map(engine: &Engine) -> Result<AccessMap, Error> {
    let (name, schema) = (LogicalResourceName::new(ACCESS_MAP)?, SchemaId::new(ACCESS_SCHEMA)?);
    // Another node may have made it, and known of other places.
    match epoch_of(engine, &name).await? {
        Some(epoch) => AccessMap::open_existing(engine, &name, &schema, epoch).await,
        None => {
            let spec = own_spec(engine, ACCESS_MAP, ACCESS_SCHEMA).await?;
            AccessMap::open(engine, spec.affinity(Affinity::new(TOGETHER)?)).await
        }
    }
}

/// The log of the audit, which is made if it is not there.
pub(crate) async fn audit_log(engine: &Engine) -> Result<AuditLog, Error> {
    let (name, schema) = (LogicalResourceName::new(AUDIT_LOG)?, SchemaId::new(AUDIT_SCHEMA)?);
    let log = match epoch_of(engine, &name).await? {
        Some(epoch) => AuditLog::open_existing(engine, &name, &schema, epoch).await?,
        None => {
            let spec = own_spec(engine, AUDIT_LOG, AUDIT_SCHEMA).await?;
            AuditLog::open(engine, spec.affinity(Affinity::new(TOGETHER)?)).await?
        }
    };
    let kept = LogRetention { keep_ms: Some(AUDIT_KEPT_MS), keep_bytes: Some(AUDIT_KEPT_BYTES) };
    if log.bounds(ReadConsistency::Linearizable).await?.value.retention != kept {
        log.retain(kept).await?;
    }
    Ok(log)
}
