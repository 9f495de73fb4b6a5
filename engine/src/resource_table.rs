//! The table of a group's resources: who they are, and which writer is the current one (G3).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use crate::alteration::{Altered, Revision};
use crate::command::{AlterCommand, Op, OpenCommand};
use crate::keys;
use crate::outcome::Outcome;
use crate::profile::PolicyHash;
use crate::projection::rebuild::Kinds;
use crate::projection::{At, Kind, ProjectionFault, Registry};
use crate::refusal::Refusal;
use crate::resource::{
    FailureDomain, FenceGuard, LogicalResourceName, ResourceId, ResourceKind, ResourceSpec,
};
use crate::resource_row::{
    KeptSchema, Resource, each_resource, highest_claim, last_made, put_highest_claim,
};
use crate::store::{FamilyId, StateRead, StoreError};
use crate::view::View;

/// Most resources of one group.
pub(crate) const RESOURCES_MAX: usize = 65_536;
/// How many alterations of a resource are kept.
pub(crate) const ALTERATIONS_KEPT: u64 = 64;

/// All resources of one group; what is stored, kept in memory.
#[derive(Debug)]
pub(crate) struct ResourceTable {
    by_id: BTreeMap<ResourceId, Resource>,
    by_name: BTreeMap<LogicalResourceName, ResourceId>,
    /// The number that was made last: none is made twice (D1).
    last: ResourceId,
    /// Which version of each kind decides, and what is to become of it.
    pub(crate) kinds: Kinds,
    /// The highest claim that any was opened with.
    claim: Offset,
}

impl ResourceTable {
    /// The table of a group with nothing in it.
    pub(crate) fn empty() -> Self {
        let (by_id, by_name) = (BTreeMap::new(), BTreeMap::new());
        let (last, claim) = (ResourceId::default(), Offset::ZERO);
        Self { by_id, by_name, last, claim, kinds: Kinds::default() }
    }

    /// The table as it is stored.
    ///
    /// # Errors
    /// When it cannot be read, and when a resource is of a projection that is not registered here.
    pub(crate) fn load(
        read: &dyn StateRead,
        registry: &Registry,
        group: GroupId,
    ) -> Result<Self, LoadError> {
        let (last, claim) = (last_made(read, group)?, highest_claim(read, group)?);
        let kinds = Kinds::load(read, group)?;
        let mut table = Self { last, claim, kinds, ..Self::empty() };
        each_resource(read, group, |id, resource| {
            table.by_name.insert(resource.spec.name.clone(), id);
            table.by_id.insert(id, resource);
            ControlFlow::Continue(())
        })?;
        for resource in table.by_id.values() {
            check_registered(registry, &resource.kind, table.kinds.version(resource))?;
        }
        Ok(table)
    }

    pub(crate) fn get(&self, id: ResourceId) -> Option<&Resource> {
        self.by_id.get(&id)
    }

    /// The projection that decides for a resource, and where its rows are.
    pub(crate) fn kind<'a>(&self, registry: &'a Registry, found: &Resource) -> Option<Kind<'a>> {
        self.kinds.find(registry, found)
    }

    /// The version that decides for a kind, if there are resources of it or it was ever rebuilt.
    pub(crate) fn in_use(&self, kind: &ResourceKind) -> Option<u32> {
        let first = || self.by_id.values().find(|found| found.kind == *kind);
        self.kinds.active(kind).or_else(|| first().map(|found| found.version))
    }

    /// Makes the resource, or opens it for a writer generation.
    ///
    /// # Errors
    /// When the projection is not registered here as it is where the record comes from: this node cannot
    /// compute what the others do.
    pub(crate) fn open(
        &mut self,
        view: &mut View<'_>,
        registry: &Registry,
        at: At,
        command: OpenCommand,
    ) -> Result<Outcome, ProjectionFault> {
        match self.in_use(&command.kind) {
            // Every replica knows which version decides: whoever has another must ask again.
            Some(version) if version != command.version => {
                let say = |version| format!("projection={} version={version}", command.kind);
                let (expected, found) = (say(command.version), say(version));
                return Ok(Outcome::Refused(Refusal::Incompatible { expected, found }));
            }
            Some(_) => {}
            None => check_registered(registry, &command.kind, command.version)
                .map_err(|unknown| ProjectionFault::new(unknown.to_string()))?,
        }
        if let Err(refusal) = command.policy.check(PolicyHash::of_spec(&command.spec)) {
            return Ok(Outcome::Refused(refusal));
        }
        let claim = command.claim;
        let named = self.by_name.get(&command.spec.name).copied();
        let opened = match named.and_then(|id| Some((id, self.by_id.get_mut(&id)?))) {
            Some((id, found)) => reopen(found, &command).map(|raised| (id, raised)),
            None => self.make(view, at, command).map(|id| (id, true)),
        };
        match opened {
            Ok((resource, changed)) => {
                if changed {
                    self.store(view, at.group, resource);
                }
                if self.claim < claim {
                    self.claim = claim;
                    put_highest_claim(view, at.group, claim);
                }
                let schemas = self.get(resource).map(Resource::schema_ids).unwrap_or_default();
                Ok(Outcome::Opened { resource, schemas })
            }
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        }
    }

    fn make(
        &mut self,
        view: &mut View<'_>,
        at: At,
        command: OpenCommand,
    ) -> Result<ResourceId, Refusal> {
        let OpenCommand { kind, version, spec, policy, caller, .. } = command;
        admit_from(&spec, &caller)?;
        if self.by_id.len() >= RESOURCES_MAX {
            return Err(Refusal::TooManyResources { most: RESOURCES_MAX });
        }
        let next = self.last.0.checked_add(1).map(ResourceId);
        let id = next.ok_or(Refusal::TooManyResources { most: RESOURCES_MAX })?;
        self.last = id;
        let raw = Bytes::copy_from_slice(&id.0.to_be_bytes());
        view.put(FamilyId::RESOURCES, keys::last_resource(at.group), raw.clone());
        view.put(FamilyId::RESOURCES, keys::name(at.group, spec.name.as_str()), raw);
        self.by_name.insert(spec.name.clone(), id);
        let schemas = vec![KeptSchema { id: spec.schema.clone(), retired: false }];
        let (made, revision) = ((at.offset, at.log_time), Revision::MADE);
        let made = Resource { kind, version, spec, policy, made, revision, schemas, deleted: None };
        self.by_id.insert(id, made);
        Ok(id)
    }

    fn store(&self, view: &mut View<'_>, group: GroupId, id: ResourceId) {
        if let Some(resource) = self.by_id.get(&id) {
            view.put(FamilyId::RESOURCES, keys::resource(group, id), resource.encode());
        }
    }

    /// Changes what a resource is, and keeps that it was.
    pub(crate) fn alter(&mut self, view: &mut View<'_>, at: At, command: AlterCommand) -> Outcome {
        let AlterCommand { resource: id, expected, node, caller, reason, alteration, policy } =
            command;
        let Some(found) = self.by_id.get_mut(&id) else {
            return Outcome::Refused(Refusal::UnknownResource { resource: id });
        };
        let differs = Refusal::RevisionDiffers { expected, found: found.revision };
        let policies = policy.zip(AlterCommand::policy(&alteration, found.spec.replicas));
        let refused = admit_from(&found.spec, &caller)
            .and_then(|()| if expected == found.revision { Ok(()) } else { Err(differs) })
            .and_then(|()| policies.map_or(Ok(()), |(said, here)| said.check(here)))
            .and_then(|()| alteration.apply(found, at.offset, at.log_time));
        if let Err(refusal) = refused {
            return Outcome::Refused(refusal);
        }
        let revision = found.revision;
        let (offset, log_time, domain) = (at.offset, at.log_time, caller);
        let altered = Altered { revision, offset, log_time, node, domain, reason, alteration };
        let key = |revision| keys::alteration(at.group, id, revision);
        view.put(FamilyId::RESOURCES, key(revision.get()), altered.encode());
        if let Some(old @ 1..) = revision.get().checked_sub(ALTERATIONS_KEPT) {
            view.remove(FamilyId::RESOURCES, key(old));
        }
        self.store(view, at.group, id);
        Outcome::Altered { revision }
    }

    /// Removes all that a deleted resource had, if its time is over, and says whether it was. Its number is
    /// not used again.
    pub(crate) fn bury(
        &mut self,
        view: &mut View<'_>,
        family: FamilyId,
        at: At,
        id: ResourceId,
    ) -> bool {
        let Some(found) = self.by_id.get(&id).filter(|found| found.is_gone(at.log_time)) else {
            return false;
        };
        let rows = keys::of_resource(at.group, id);
        view.clear(family, &rows, &keys::after(&rows));
        let (from, end) = keys::alterations(at.group, id);
        view.clear(FamilyId::RESOURCES, &from, &end);
        view.remove(FamilyId::RESOURCES, keys::name(at.group, found.spec.name.as_str()));
        view.remove(FamilyId::RESOURCES, keys::resource(at.group, id));
        self.by_name.remove(&found.spec.name);
        self.by_id.remove(&id);
        true
    }

    /// All resources as they are stored, with their epochs raised by one: no writer that has one open is the
    /// current one any more.
    #[cfg(all(feature = "backup", any(feature = "rocksdb", test)))]
    pub(crate) fn raised(&self, group: GroupId) -> Vec<(FamilyId, Vec<u8>, Option<Bytes>)> {
        let row = |(id, resource): (&ResourceId, &Resource)| {
            let mut resource = resource.clone();
            let epoch = resource.spec.epoch.get();
            resource.spec.epoch = crate::resource::FenceEpoch::new(epoch.saturating_add(1));
            (FamilyId::RESOURCES, keys::resource(group, *id), Some(resource.encode()))
        };
        self.by_id.iter().map(row).collect()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ResourceId, &Resource)> {
        self.by_id.iter().map(|(id, resource)| (*id, resource))
    }

    /// The resource of an operation or guard, if this writer, from there, may touch it.
    pub(crate) fn admit(&self, op: &Op, caller: &FailureDomain) -> Result<&Resource, Refusal> {
        let Some(found) = self.by_id.get(&op.resource) else {
            return Err(Refusal::UnknownResource { resource: op.resource });
        };
        if found.deleted.is_some() {
            return Err(found.refusal());
        }
        let (epoch, current) = (op.epoch, found.spec.epoch);
        if FenceGuard::new(current).check(epoch).is_err() {
            return Err(if epoch < current {
                Refusal::Fenced { current }
            } else {
                Refusal::NotOpened { epoch, current }
            });
        }
        admit_from(&found.spec, caller)?;
        Ok(found)
    }
}

/// G9: whether a caller from there may touch the resource.
fn admit_from(spec: &ResourceSpec, caller: &FailureDomain) -> Result<(), Refusal> {
    if spec.placement.allows(caller) {
        return Ok(());
    }
    Err(Refusal::DomainUnavailable { domain: caller.clone(), resource: spec.name.clone() })
}

/// Opens a resource that is there. Says whether its epoch was raised.
fn reopen(found: &mut Resource, wanted: &OpenCommand) -> Result<bool, Refusal> {
    admit_from(&found.spec, &wanted.caller)?;
    if found.deleted.is_some() {
        return Err(found.refusal());
    }
    if wanted.anew {
        return Err(Refusal::AlreadyThere { resource: found.spec.name.clone() });
    }
    if let Some((expected, found)) = difference(wanted, found) {
        return Err(Refusal::Incompatible { expected, found });
    }
    let current = found.spec.epoch;
    if wanted.spec.epoch < current {
        return Err(Refusal::Fenced { current });
    }
    found.spec.epoch = wanted.spec.epoch;
    Ok(wanted.spec.epoch != current)
}

/// Why a table of resources cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It has a resource that this node cannot compute.
    #[error(transparent)]
    Unregistered(#[from] Unregistered),
}

/// A projection that is not registered here, or in another version.
#[derive(Debug, thiserror::Error)]
#[error("{expected} is not registered here, {found}")]
pub(crate) struct Unregistered {
    /// What the state is of.
    pub(crate) expected: String,
    /// What there is.
    pub(crate) found: String,
}

fn check_registered(
    registry: &Registry,
    kind: &ResourceKind,
    version: u32,
) -> Result<(), Unregistered> {
    if registry.find_version(kind.as_str(), version).is_some() {
        return Ok(());
    }
    let known = registry.find(kind.as_str()).map(|kind| kind.projection.version());
    Err(Unregistered {
        expected: format!("projection={kind} version={version}"),
        found: match known {
            None => "the engine was opened without it".to_owned(),
            Some(newer) if version < newer => format!(
                "the engine was opened with version={newer} alone: say EngineBuilder::superseding of \
                 version={version} too, until the newer one has taken its place"
            ),
            Some(older) => format!(
                "the engine was opened with version={older}: open it with the release that has \
                 version={version}"
            ),
        },
    })
}

/// What a writer expects that the resource is not. The epoch may differ.
fn difference(wanted: &OpenCommand, found: &Resource) -> Option<(String, String)> {
    let differs = |what: &str, a: String, b: String| {
        (a != b).then(|| (format!("{what}={a}"), format!("{what}={b}")))
    };
    let (spec, kept) = (&wanted.spec, &found.spec);
    differs("kind", wanted.kind.to_string(), found.kind.to_string())
        .or_else(|| found.schema_differs(&spec.schema, true))
        .or_else(|| {
            let replicas = |spec: &ResourceSpec| spec.replicas.replicas.to_string();
            differs("replicas", replicas(spec), replicas(kept))
        })
        .or_else(|| {
            let domains = |spec: &ResourceSpec| spec.replicas.domains.to_string();
            differs("domains", domains(spec), domains(kept))
        })
        .or_else(|| {
            let placement = |spec: &ResourceSpec| format!("{:?}", spec.placement.rules);
            differs("placement", placement(spec), placement(kept))
        })
        .or_else(|| {
            let contract = |spec: &ResourceSpec| match &spec.contract {
                Some(contract) => contract.hash().to_string(),
                None => "none".to_owned(),
            };
            differs("contract", contract(spec), contract(kept))
        })
}
