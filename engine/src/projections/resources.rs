//! The table of a group's resources: who they are, and which writer is the current one (G3).

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::GroupId;

use crate::codec::{DecodeError, Reader};
use crate::command::{Outcome, Refusal, decode_spec, encode_spec, put_kind, take_kind};
use crate::keys;
use crate::resource::{
    FailureDomain, FenceEpoch, FenceGuard, ResourceId, ResourceKind, ResourceSpec,
};
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};
use crate::view::View;

/// A resource: its kind, and its spec with the current epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) kind: ResourceKind,
    pub(crate) spec: ResourceSpec,
}

/// All resources of one group; what is stored, kept in memory.
#[derive(Debug, Default)]
pub(crate) struct ResourceTable {
    by_id: BTreeMap<ResourceId, Resource>,
}

impl ResourceTable {
    pub(crate) fn load(read: &dyn StateRead, group: GroupId) -> Result<Self, StoreError> {
        let mut table = Self::default();
        let mut malformed = None;
        let (from, end) = keys::resources(group);
        let forward = Direction::Forward;
        read.walk(FamilyId::RESOURCES, &from, &end, forward, &mut |key, value| {
            let id = key.last_chunk().map(|raw| ResourceId(u32::from_be_bytes(*raw)));
            match (id, decode(value)) {
                (Some(id), Ok(resource)) => {
                    table.by_id.insert(id, resource);
                    Walk::Next
                }
                (_, Err(error)) => {
                    malformed = Some(error);
                    Walk::Stop
                }
                (None, _) => Walk::Stop,
            }
        })?;
        match malformed {
            Some(error) => Err(StoreError { what: error.to_string() }),
            None => Ok(table),
        }
    }

    /// Makes the resource, or opens it for a writer generation.
    pub(crate) fn open(
        &mut self,
        view: &mut View<'_>,
        group: GroupId,
        kind: ResourceKind,
        spec: ResourceSpec,
        caller: &FailureDomain,
    ) -> Outcome {
        let named = self.by_id.iter().find(|(_, resource)| resource.spec.name == spec.name);
        let placement = named.map_or(&spec.placement, |(_, resource)| &resource.spec.placement);
        if !placement.allows(caller) {
            let (domain, resource) = (caller.clone(), spec.name);
            return Outcome::Refused(Refusal::DomainUnavailable { domain, resource });
        }
        let id = match named {
            None => {
                let last = self.by_id.last_key_value().map_or(0, |(id, _)| id.0);
                ResourceId(last.checked_add(1).expect("resource ids overflow"))
            }
            Some((id, found)) => {
                let wanted = Resource { kind, spec: spec.clone() };
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
        let resource = Resource { kind, spec };
        view.put(FamilyId::RESOURCES, keys::resource(group, id), encode(&resource));
        self.by_id.insert(id, resource);
        Outcome::Opened { resource: id }
    }

    /// All resources as they are stored, with their epochs raised by one: no writer that has one open is the
    /// current one any more.
    #[cfg(all(feature = "backup", any(feature = "rocksdb", test)))]
    pub(crate) fn raised(&self, group: GroupId) -> Vec<(FamilyId, Vec<u8>, Option<Bytes>)> {
        let row = |(id, resource): (&ResourceId, &Resource)| {
            let mut resource = resource.clone();
            resource.spec.epoch = FenceEpoch::new(resource.spec.epoch.get().saturating_add(1));
            (FamilyId::RESOURCES, keys::resource(group, *id), Some(encode(&resource)))
        };
        self.by_id.iter().map(row).collect()
    }

    /// What each resource is, with its current epoch.
    #[cfg(all(feature = "backup", test))]
    pub(crate) fn specs(&self) -> impl Iterator<Item = &ResourceSpec> {
        self.by_id.values().map(|resource| &resource.spec)
    }

    /// Whether an operation of this kind, by this writer, from there, may touch the resource.
    pub(crate) fn admit(
        &self,
        id: ResourceId,
        kind: ResourceKind,
        epoch: FenceEpoch,
        caller: &FailureDomain,
    ) -> Result<(), Refusal> {
        let Some(found) = self.by_id.get(&id) else {
            return Err(Refusal::UnknownResource { resource: id });
        };
        if found.kind != kind {
            let (expected, found) = (kind.to_string(), found.kind.to_string());
            return Err(Refusal::Incompatible { expected, found });
        }
        let current = found.spec.epoch;
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
        Ok(())
    }
}

/// What a handle expects that the resource is not. The epoch may differ.
fn difference(wanted: &Resource, found: &Resource) -> Option<(String, String)> {
    let differs = |what: &str, a: String, b: String| {
        (a != b).then(|| (format!("{what}={a}"), format!("{what}={b}")))
    };
    differs("kind", wanted.kind.to_string(), found.kind.to_string())
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
}

fn encode(resource: &Resource) -> Bytes {
    let mut raw = Vec::with_capacity(128);
    put_kind(&mut raw, resource.kind);
    encode_spec(&mut raw, &resource.spec);
    raw.into()
}

fn decode(raw: &[u8]) -> Result<Resource, DecodeError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(raw));
    let resource = Resource { kind: take_kind(&mut reader)?, spec: decode_spec(&mut reader)? };
    reader.end("resource")?;
    Ok(resource)
}
