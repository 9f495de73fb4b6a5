//! The resources of the endpoint itself: `palisade.`, then what they are for.
//!
//! They are wherever the cluster is: made for the providers that its members are at, and for another one before
//! a node there becomes a member ([`follow`]) or once one was made there of a backup ([`settle`]). So no cluster
//! moves away from its own grants. Each time is in the audit.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use palisade::{
    Affinity, Alteration, Described, Directory, Disposition, DomainRule, Engine, Error,
    FailureDomain, FenceEpoch, LogRetention, LogicalResourceName, Placement, ReadConsistency,
    ReplicatedLog, ReplicatedMap, ResourceSpec, ResourceState, SYSTEM_GROUP, SchemaId,
};
use tokio::time::sleep;

use crate::security::audit::{AUDIT_LOG, AuditEvent, AuditFacts, AuditQueue};
use crate::security::grants::{ACCESS_MAP, OWN_PREFIX, Right};
use crate::security::now_ms;

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
/// Before it is tried again to have them where the members are.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

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
    let domains = domains(engine).await?;
    let named = domains.iter().filter_map(|domain| domain.split('/').next());
    providers.extend(named.filter(|name| !name.is_empty()).map(str::to_owned));
    let rule = |provider| DomainRule { provider, region: None, zone: None };
    let placement = Placement::new(providers.into_iter().map(rule))?;
    Ok(ResourceSpec::new(name, schema)?.placement(placement))
}

/// Whether it is written by the endpoint itself, and by no call for resources: who may do what, and what
/// was refused, is never changed without a record of it.
pub(crate) fn is_kept(resource: &str) -> bool {
    [ACCESS_MAP, AUDIT_LOG].contains(&resource)
}

fn is_own(found: &Described) -> bool {
    let name = found.name.as_str();
    is_kept(name) || name.starts_with(PROBES)
}

/// Resources whose names begin so, a page after the other.
struct Pages {
    prefix: &'static str,
    /// None behind the last.
    after: Option<Option<LogicalResourceName>>,
}

impl Pages {
    fn of(prefix: &'static str) -> Self {
        Self { prefix, after: Some(None) }
    }

    async fn next(&mut self, engine: &Engine) -> Result<Option<Vec<Described>>, Error> {
        let Some(after) = self.after.take() else { return Ok(None) };
        let (directory, fresh) = (engine.directory(), ReadConsistency::Linearizable);
        let page = directory.list(self.prefix, after.as_ref(), PAGE, fresh).await?.resources;
        let last = page.last().filter(|_| page.len() == PAGE);
        self.after = last.map(|last| Some(last.name.clone()));
        Ok(Some(page))
    }
}

/// What the audit says when one of them is placed at one more provider.
fn placed(name: &LogicalResourceName, at: &str, facts: &AuditFacts) -> AuditFacts {
    AuditFacts {
        resource: name.to_string(),
        right: Right::Admin.to_string(),
        why: format!("provider={at} was added"),
        ..facts.clone()
    }
}

/// Has the endpoint's own resources be usable where a node is about to be. It comes before the node: no member
/// is taken that is outside the placement of a resource. Nothing is altered where others keep the node out.
pub(crate) async fn follow(
    engine: &Engine,
    to: &FailureDomain,
    note: &(dyn Fn(AuditFacts) + Sync),
    facts: &AuditFacts,
) -> Result<(), Error> {
    let mut all = Pages::of("");
    while let Some(page) = all.next(engine).await? {
        let outside = page.iter().find(|found| !is_own(found) && !found.placement.allows(to));
        if let Some(outside) = outside {
            let (domain, resource) = (to.to_string(), outside.name.to_string());
            return Err(Error::DomainUnavailable { domain, resource });
        }
    }
    place_own(engine, to, note, facts).await
}

/// Has them be usable where the members are, for as long as it takes. Members are outside where a backup was
/// restored at another provider, and nowhere else.
pub(super) async fn settle(engine: &Engine, audit: &AuditQueue) -> Infallible {
    let mut said = String::new();
    while let Err(error) = settle_once(engine, audit).await {
        match error.disposition() {
            Disposition::Reject | Disposition::Halt if said != error.to_string() => {
                tracing::warn!(%error, "what the endpoint keeps is not placed where the cluster is");
                said = error.to_string();
            }
            Disposition::Reject | Disposition::Halt => {}
            Disposition::Retry | Disposition::Indeterminate => {
                tracing::debug!(%error, "no quorum yet");
            }
        }
        sleep(SETTLE_PAUSE).await;
    }
    std::future::pending().await
}

async fn settle_once(engine: &Engine, audit: &AuditQueue) -> Result<(), Error> {
    let note = |facts: AuditFacts| audit.note(facts, now_ms());
    let facts = AuditFacts::of(AuditEvent::Placed);
    // Each member for itself: what it knows of others may be of long ago.
    if is_member_here(engine).await? {
        place_own(engine, engine.domain(), &note, &facts).await?;
    }
    Ok(())
}

/// Where members are known to be.
async fn domains(engine: &Engine) -> Result<BTreeSet<String>, Error> {
    let mut domains = BTreeSet::new();
    for group in engine.groups() {
        let members = group.status().await?.members;
        domains.extend(members.member_domains().map(str::to_owned));
    }
    Ok(domains)
}

/// Whether this node is a member where it says that it is.
async fn is_member_here(engine: &Engine) -> Result<bool, Error> {
    let members = engine.group(SYSTEM_GROUP)?.status().await?.members;
    let known = members.member(engine.node()).map(|member| member.domain.as_str());
    Ok(known == Some(&*engine.domain().to_string()))
}

/// Adds the provider of a node to where each of them is.
async fn place_own(
    engine: &Engine,
    to: &FailureDomain,
    note: &(dyn Fn(AuditFacts) + Sync),
    facts: &AuditFacts,
) -> Result<(), Error> {
    let mut all = Pages::of(OWN_PREFIX);
    while let Some(page) = all.next(engine).await? {
        for own in page.into_iter().filter(is_own) {
            let name = own.name.clone();
            if place_at(engine, own, to).await? {
                let provider = &to.provider;
                tracing::warn!(resource = %name, provider, "a provider was added to its placement");
                note(placed(&name, provider, facts));
            }
        }
    }
    Ok(())
}

/// Adds a provider to where a resource is, if it is not there yet. Says whether it did.
async fn place_at(engine: &Engine, mut own: Described, to: &FailureDomain) -> Result<bool, Error> {
    for _ in 0..TRIES_MAX {
        let is_there = own.placement.allows(to);
        if is_there || !matches!(own.state, ResourceState::Active) {
            return Ok(false);
        }
        let provider = to.provider.clone();
        let added = DomainRule { provider, region: None, zone: None };
        let rules = own.placement.rules().iter().cloned().chain([added]);
        let place = Alteration::Place(Placement::new(rules)?);
        let directory = directory_for(engine, &own.placement).await?;
        match directory.alter(&own.name, own.revision, place, "the cluster is there").await {
            // Somebody else was faster, perhaps with the same.
            Err(Error::PreconditionFailed { .. }) => {
                let fresh = ReadConsistency::Linearizable;
                own = directory.describe(&own.name, fresh).await?.value;
            }
            done => return done.map(|_| true),
        }
    }
    Err(Error::RateLimited { retry_after_ms: RETRY_MS })
}

/// The directory for who places a resource anew that is placed so. A member that is outside came there with a
/// backup, and speaks for where the resource was: nobody could place it otherwise.
pub(super) async fn directory_for(
    engine: &Engine,
    placement: &Placement,
) -> Result<Directory, Error> {
    let (directory, here) = (engine.directory(), engine.domain());
    if placement.allows(here) {
        return Ok(directory);
    }
    let is_member = is_member_here(engine).await?;
    let was = placement.rules().first().filter(|_| is_member);
    Ok(match was {
        Some(DomainRule { provider, region, zone }) => directory.caller(FailureDomain::new(
            provider,
            region.as_deref().unwrap_or_default(),
            zone.as_deref().unwrap_or_default(),
        )),
        None => directory,
    })
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
