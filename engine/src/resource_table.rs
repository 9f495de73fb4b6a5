//! The table of a group's resources: who they are, and which writer is the current one (G3).

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::GroupId;

use crate::codec::{DecodeError, Reader, put_number};
use crate::command::{Op, OpenCommand};
use crate::keys;
use crate::outcome::Outcome;
use crate::projection::{ProjectionFault, Registry};
use crate::refusal::Refusal;
use crate::resource::{
    FailureDomain, FenceGuard, LogicalResourceName, ResourceId, ResourceKind, ResourceSpec,
};
use crate::spec_codec::{decode_spec, encode_spec, put_kind, take_kind};
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};
use crate::view::View;

/// A resource: its kind, the version of that, and its spec with the current epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) kind: ResourceKind,
    pub(crate) version: u32,
    pub(crate) spec: ResourceSpec,
}

/// All resources of one group; what is stored, kept in memory.
#[derive(Debug, Default)]
pub(crate) struct ResourceTable {
    by_id: BTreeMap<ResourceId, Resource>,
}

impl ResourceTable {
    /// The table as it is stored.
    ///
    /// # Errors
    /// When it cannot be read, and when a resource is of a projection that is not registered here.
    pub(crate) fn load(
        read: &dyn StateRead,
        registry: &Registry,
        group: GroupId,
    ) -> Result<Self, LoadError> {
        let mut table = Self::default();
        each_resource(read, group, |id, resource| {
            table.by_id.insert(id, resource);
            Walk::Next
        })?;
        for resource in table.by_id.values() {
            check_registered(registry, &resource.kind, resource.version)?;
        }
        Ok(table)
    }

    pub(crate) fn get(&self, id: ResourceId) -> Option<&Resource> {
        self.by_id.get(&id)
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
        group: GroupId,
        command: OpenCommand,
    ) -> Result<Outcome, ProjectionFault> {
        let OpenCommand { kind, version, spec, caller } = command;
        check_registered(registry, &kind, version)
            .map_err(|unknown| ProjectionFault::new(unknown.to_string()))?;
        Ok(self.open_known(view, group, Resource { kind, version, spec }, &caller))
    }

    fn open_known(
        &mut self,
        view: &mut View<'_>,
        group: GroupId,
        wanted: Resource,
        caller: &FailureDomain,
    ) -> Outcome {
        let spec = &wanted.spec;
        let named = self.by_id.iter().find(|(_, resource)| resource.spec.name == spec.name);
        let placement = named.map_or(&spec.placement, |(_, resource)| &resource.spec.placement);
        if !placement.allows(caller) {
            let (domain, resource) = (caller.clone(), spec.name.clone());
            return Outcome::Refused(Refusal::DomainUnavailable { domain, resource });
        }
        let id = match named {
            None => {
                let last = self.by_id.last_key_value().map_or(0, |(id, _)| id.0);
                ResourceId(last.checked_add(1).expect("resource ids overflow"))
            }
            Some((id, found)) => {
                if let Some((expected, found)) = difference(&wanted, found) {
                    return Outcome::Refused(Refusal::Incompatible { expected, found });
                }
                let current = found.spec.epoch;
                if spec.epoch < current {
                    return Outcome::Refused(Refusal::Fenced { current });
                }
                if spec.epoch == current {
                    return Outcome::Opened { resource: *id };
                }
                *id
            }
        };
        view.put(FamilyId::RESOURCES, keys::resource(group, id), encode(&wanted));
        self.by_id.insert(id, wanted);
        Outcome::Opened { resource: id }
    }

    /// All resources as they are stored, with their epochs raised by one: no writer that has one open is the
    /// current one any more.
    #[cfg(all(feature = "backup", any(feature = "rocksdb", test)))]
    pub(crate) fn raised(&self, group: GroupId) -> Vec<(FamilyId, Vec<u8>, Option<Bytes>)> {
        let row = |(id, resource): (&ResourceId, &Resource)| {
            let mut resource = resource.clone();
            let epoch = resource.spec.epoch.get();
            resource.spec.epoch = crate::resource::FenceEpoch::new(epoch.saturating_add(1));
            (FamilyId::RESOURCES, keys::resource(group, *id), Some(encode(&resource)))
        };
        self.by_id.iter().map(row).collect()
    }

    /// What each resource is, with its current epoch.
    pub(crate) fn specs(&self) -> impl Iterator<Item = (ResourceId, &ResourceSpec)> {
        self.by_id.iter().map(|(id, resource)| (*id, &resource.spec))
    }

    /// The resource of an operation or guard, if this writer, from there, may touch it.
    pub(crate) fn admit(&self, op: &Op, caller: &FailureDomain) -> Result<&Resource, Refusal> {
        let Some(found) = self.by_id.get(&op.resource) else {
            return Err(Refusal::UnknownResource { resource: op.resource });
        };
        let (epoch, current) = (op.epoch, found.spec.epoch);
        if FenceGuard::new(current).check(epoch).is_err() {
            return Err(if epoch < current {
                Refusal::Fenced { current }
            } else {
                Refusal::NotOpened { epoch, current }
            });
        }
        if !found.spec.placement.allows(caller) {
            let (domain, resource) = (caller.clone(), found.spec.name.clone());
            return Err(Refusal::DomainUnavailable { domain, resource });
        }
        Ok(found)
    }
}

/// A resource as it is in the state of one moment.
pub(crate) fn stored(
    read: &dyn StateRead,
    group: GroupId,
    id: ResourceId,
) -> Result<Option<Resource>, StoreError> {
    let raw = read.get(FamilyId::RESOURCES, &keys::resource(group, id))?;
    let resource = raw.map(|raw| decode(&raw)).transpose();
    resource.map_err(|error| StoreError { what: error.to_string() })
}

/// The resource of a name, in the state of one moment.
pub(crate) fn find(
    read: &dyn StateRead,
    group: GroupId,
    name: &LogicalResourceName,
) -> Result<Option<(ResourceId, Resource)>, StoreError> {
    let mut found = None;
    each_resource(read, group, |id, resource| {
        if resource.spec.name != *name {
            return Walk::Next;
        }
        found = Some((id, resource));
        Walk::Stop
    })?;
    Ok(found)
}

/// Every resource, in the order they were made, as long as `each` says.
pub(crate) fn each_resource(
    read: &dyn StateRead,
    group: GroupId,
    mut each: impl FnMut(ResourceId, Resource) -> Walk,
) -> Result<(), StoreError> {
    let mut malformed = None;
    let (from, end) = keys::resources(group);
    read.walk(FamilyId::RESOURCES, &from, &end, Direction::Forward, &mut |key, value| {
        let id = key.last_chunk().map(|raw| ResourceId(u32::from_be_bytes(*raw)));
        match (id, decode(value)) {
            (Some(id), Ok(resource)) => each(id, resource),
            (_, Err(error)) => {
                malformed = Some(error);
                Walk::Stop
            }
            (None, _) => Walk::Stop,
        }
    })?;
    match malformed {
        Some(error) => Err(StoreError { what: error.to_string() }),
        None => Ok(()),
    }
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
    let known = registry.find(kind.as_str()).map(|kind| kind.projection.version());
    if known == Some(version) {
        return Ok(());
    }
    Err(Unregistered {
        expected: format!("projection={kind} version={version}"),
        found: known.map_or_else(
            || "the engine was opened without it".to_owned(),
            |known| format!("the engine was opened with version={known}"),
        ),
    })
}

/// What a handle expects that the resource is not. The epoch may differ.
fn difference(wanted: &Resource, found: &Resource) -> Option<(String, String)> {
    let differs = |what: &str, a: String, b: String| {
        (a != b).then(|| (format!("{what}={a}"), format!("{what}={b}")))
    };
    differs("kind", wanted.kind.to_string(), found.kind.to_string())
        .or_else(|| differs("version", wanted.version.to_string(), found.version.to_string()))
        .or_else(|| {
            differs("schema", wanted.spec.schema.to_string(), found.spec.schema.to_string())
        })
        .or_else(|| {
            let replicas = |resource: &Resource| resource.spec.replicas.replicas.to_string();
            differs("replicas", replicas(wanted), replicas(found))
        })
        .or_else(|| {
            let domains = |resource: &Resource| resource.spec.replicas.domains.to_string();
            differs("domains", domains(wanted), domains(found))
        })
        .or_else(|| {
            let placement = |resource: &Resource| format!("{:?}", resource.spec.placement.rules);
            differs("placement", placement(wanted), placement(found))
        })
        .or_else(|| {
            let contract = |resource: &Resource| match &resource.spec.contract {
                Some(contract) => contract.hash().to_string(),
                None => "none".to_owned(),
            };
            differs("contract", contract(wanted), contract(found))
        })
}

fn encode(resource: &Resource) -> Bytes {
    let mut raw = Vec::with_capacity(128);
    put_kind(&mut raw, &resource.kind);
    put_number(&mut raw, resource.version.into());
    encode_spec(&mut raw, &resource.spec);
    raw.into()
}

fn decode(raw: &[u8]) -> Result<Resource, DecodeError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(raw));
    let kind = take_kind(&mut reader)?;
    let version = u32::try_from(reader.number("projection version")?)
        .map_err(|_| DecodeError { what: "projection version" })?;
    let resource = Resource { kind, version, spec: decode_spec(&mut reader)? };
    reader.end("resource")?;
    Ok(resource)
}
