//! Resources as they are stored, and how they are found in the state of one moment.
//!
//! ```text
//! 'c'                       number of the last resource that was made
//! 'h'                       the highest claim of a name that a resource was opened with
//! 'i' resource 4            kind, version of its projection, spec, hash of its policy 32, offset and log
//!                           time when it was made, revision, schemas: which of them are retired, as bits, count of those after
//!                           the first, each; 0, or 1 and of its deletion offset and until when it is kept
//! 'n' name                  its number
//! 'a' resource 4 revision 8 an alteration: `alteration.rs`
//! ```
//! The first schema is the one in the spec. Numbers in keys are big-endian.

use std::ops::ControlFlow;

use bytes::Bytes;
use palisade_replication::{GroupId, LogTime, Offset};

use crate::alteration::Revision;
use crate::codec::{DecodeError, Reader, put_number};
use crate::keys;
use crate::profile::PolicyHash;
use crate::refusal::Refusal;
use crate::resource::{LogicalResourceName, ResourceId, ResourceKind, ResourceSpec, SchemaId};
use crate::spec_codec::{decode_spec, encode_spec, put_kind, put_schema, take_kind, take_schema};
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};
use crate::view::View;

/// A resource: its kind, the version of that, its spec with the current epoch, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) kind: ResourceKind,
    pub(crate) version: u32,
    pub(crate) spec: ResourceSpec,
    /// Of its placement and its replicas, as the record said that made or placed it.
    pub(crate) policy: PolicyHash,
    /// The record that made it, and when.
    pub(crate) made: (Offset, LogTime),
    pub(crate) revision: Revision,
    /// What its values may be; the first is the one of the spec.
    pub(crate) schemas: Vec<KeptSchema>,
    /// It is not there any more, and can be taken back.
    pub(crate) deleted: Option<Deleted>,
}

/// A schema in a resource's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptSchema {
    pub(crate) id: SchemaId,
    /// Nobody opens the resource for writing with it any more.
    pub(crate) retired: bool,
}

/// A deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) offset: Offset,
    /// From then on it may be removed for good.
    pub(crate) until: LogTime,
}

impl Resource {
    /// Why nothing can be done with it, now that it is deleted.
    pub(crate) fn refusal(&self) -> Refusal {
        let until = self.deleted.map_or(LogTime::ZERO, |deleted| deleted.until);
        Refusal::Deleted { resource: self.spec.name.clone(), until }
    }

    /// Its schemas, in the order of their numbers.
    pub(crate) fn schema_ids(&self) -> Vec<SchemaId> {
        self.schemas.iter().map(|kept| kept.id.clone()).collect()
    }

    /// What of a schema's list somebody expects that is not so: that it is there, and may be written.
    pub(crate) fn schema_differs(
        &self,
        wanted: &SchemaId,
        written: bool,
    ) -> Option<(String, String)> {
        let known = self.schemas.iter().find(|kept| kept.id == *wanted);
        if known.is_some_and(|kept| !(written && kept.retired)) {
            return None;
        }
        let named = self.schemas.iter().map(|kept| {
            let retired = if kept.retired { " (retired)" } else { "" };
            format!("{}{retired}", kept.id)
        });
        let found = named.collect::<Vec<_>>().join(", ");
        Some((format!("schema={wanted}"), format!("schema={found}")))
    }

    /// Its time is over.
    pub(crate) fn is_gone(&self, now: LogTime) -> bool {
        self.deleted.is_some_and(|deleted| deleted.until <= now)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut raw = Vec::with_capacity(192);
        put_kind(&mut raw, &self.kind);
        put_number(&mut raw, self.version.into());
        encode_spec(&mut raw, &self.spec);
        raw.extend_from_slice(&self.policy.to_bytes());
        put_number(&mut raw, self.made.0.get());
        put_number(&mut raw, self.made.1.get());
        put_number(&mut raw, self.revision.get());
        let retired = self.schemas.iter().enumerate();
        let retired = retired.fold(0, |bits, (at, kept)| bits | u64::from(kept.retired) << at);
        put_number(&mut raw, retired);
        put_number(&mut raw, self.schemas.len() as u64 - 1);
        self.schemas[1..].iter().for_each(|kept| put_schema(&mut raw, &kept.id));
        match self.deleted {
            None => raw.push(0),
            Some(Deleted { offset, until }) => {
                raw.push(1);
                put_number(&mut raw, offset.get());
                put_number(&mut raw, until.get());
            }
        }
        raw.into()
    }

    pub(crate) fn decode(raw: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(raw));
        let kind = take_kind(&mut reader)?;
        let version = u32::try_from(reader.number("projection version")?)
            .map_err(|_| DecodeError { what: "projection version" })?;
        let spec = decode_spec(&mut reader)?;
        let policy = PolicyHash::from_bytes(reader.array("policy")?);
        let made = (Offset::new(reader.number("offset")?), LogTime::new(reader.number("time")?));
        let revision = Revision::new(reader.number("revision")?);
        let retired = reader.number("retired schemas")?;
        let more = reader.number("schemas")?;
        if more >= Self::SCHEMAS_MAX as u64 || retired >> (more + 1) != 0 {
            return Err(DecodeError { what: "schemas" });
        }
        let mut ids = vec![spec.schema.clone()];
        for _ in 0..more {
            ids.push(take_schema(&mut reader)?);
        }
        let kept = |(at, id)| KeptSchema { id, retired: retired >> at & 1 == 1 };
        let schemas = ids.into_iter().enumerate().map(kept).collect();
        let deleted = match reader.byte("deletion")? {
            0 => None,
            1 => Some(Deleted {
                offset: Offset::new(reader.number("offset")?),
                until: LogTime::new(reader.number("time")?),
            }),
            _ => return Err(DecodeError { what: "deletion" }),
        };
        reader.end("resource")?;
        Ok(Self { kind, version, spec, policy, made, revision, schemas, deleted })
    }
}

/// A resource as it is in the state of one moment.
pub(crate) fn stored(
    read: &dyn StateRead,
    group: GroupId,
    id: ResourceId,
) -> Result<Option<Resource>, StoreError> {
    let raw = read.get(FamilyId::RESOURCES, &keys::resource(group, id))?;
    raw.map(|raw| Resource::decode(&raw)).transpose().map_err(malformed)
}

/// The resource of a name, in the state of one moment.
pub(crate) fn find(
    read: &dyn StateRead,
    group: GroupId,
    name: &LogicalResourceName,
) -> Result<Option<(ResourceId, Resource)>, StoreError> {
    let Some(raw) = read.get(FamilyId::RESOURCES, &keys::name(group, name.as_str()))? else {
        return Ok(None);
    };
    let id = number(&raw)?;
    match stored(read, group, id)? {
        Some(resource) => Ok(Some((id, resource))),
        None => Err(StoreError::new(format!("resource={name} has no row"))),
    }
}

/// The number that was made last, zero before the first.
pub(crate) fn last_made(read: &dyn StateRead, group: GroupId) -> Result<ResourceId, StoreError> {
    let raw = read.get(FamilyId::RESOURCES, &keys::last_resource(group))?;
    raw.map_or(Ok(ResourceId(0)), |raw| number(&raw))
}

/// The last of the claims, in the system group, that resources of this group were opened with.
pub(crate) fn highest_claim(read: &dyn StateRead, group: GroupId) -> Result<Offset, StoreError> {
    let raw = read.get(FamilyId::RESOURCES, &keys::highest_claim(group))?;
    let number = |raw: Bytes| {
        let mut reader = Reader::new(raw);
        let claim = reader.number("claim")?;
        reader.end("claim").map(|()| Offset::new(claim))
    };
    raw.map_or(Ok(Offset::ZERO), number).map_err(malformed)
}

pub(crate) fn put_highest_claim(view: &mut View<'_>, group: GroupId, claim: Offset) {
    let mut raw = Vec::new();
    put_number(&mut raw, claim.get());
    view.put(FamilyId::RESOURCES, keys::highest_claim(group), raw.into());
}

fn number(raw: &[u8]) -> Result<ResourceId, StoreError> {
    let raw = raw.try_into().map_err(|_| malformed(DecodeError { what: "resource number" }))?;
    Ok(ResourceId(u32::from_be_bytes(raw)))
}

/// Every resource, in the order they were made, as long as `each` says.
pub(crate) fn each_resource(
    read: &dyn StateRead,
    group: GroupId,
    mut each: impl FnMut(ResourceId, Resource) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut broken = Ok(());
    let (from, end) = keys::resources(group);
    read.walk(FamilyId::RESOURCES, &from, &end, Direction::Forward, &mut |key, value| {
        let id = key.last_chunk().map(|raw| ResourceId(u32::from_be_bytes(*raw)));
        match (id, Resource::decode(value)) {
            (Some(id), Ok(resource)) => match each(id, resource) {
                ControlFlow::Continue(()) => return Walk::Next,
                ControlFlow::Break(()) => {}
            },
            (_, Err(error)) => broken = Err(malformed(error)),
            (None, _) => broken = Err(malformed(DecodeError { what: "resource key" })),
        }
        Walk::Stop
    })?;
    broken
}

/// Numbers of resources whose names begin with `prefix` and come after `after`, in the order of names.
pub(crate) fn named(
    read: &dyn StateRead,
    group: GroupId,
    prefix: &str,
    after: Option<&LogicalResourceName>,
    limit: usize,
) -> Result<Vec<ResourceId>, StoreError> {
    let (mut from, end) = keys::names(group, prefix);
    if let Some(after) = after {
        let mut behind = keys::name(group, after.as_str());
        behind.push(0);
        from = from.max(behind);
    }
    let mut found = Vec::new();
    let mut broken = Ok(());
    if from >= end {
        return Ok(found);
    }
    read.walk(FamilyId::RESOURCES, &from, &end, Direction::Forward, &mut |_, raw| {
        match number(raw) {
            Ok(id) => found.push(id),
            Err(error) => broken = Err(error),
        }
        if broken.is_ok() && found.len() < limit { Walk::Next } else { Walk::Stop }
    })?;
    broken.map(|()| found)
}

fn malformed(error: DecodeError) -> StoreError {
    StoreError::new(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_resource() -> impl Strategy<Value = Resource> {
        let schemas = vec(any::<bool>(), 1..=Resource::SCHEMAS_MAX);
        let deleted = proptest::option::of((any::<u64>(), any::<u64>()));
        (schemas, any::<u64>(), deleted).prop_map(|(schemas, revision, deleted)| {
            let kept = |(at, retired)| {
                let id = SchemaId::new(&format!("v{at}")).unwrap();
                KeptSchema { id, retired }
            };
            let deleted = deleted.map(|(offset, until)| Deleted {
                offset: Offset::new(offset),
                until: LogTime::new(until),
            });
            Resource {
                kind: ResourceKind::MAP,
                version: 1,
                spec: ResourceSpec::new("a", "v0").unwrap(),
                policy: PolicyHash::from_bytes([revision as u8; 32]),
                made: (Offset::new(revision / 2), LogTime::new(7)),
                revision: Revision::new(revision),
                schemas: schemas.into_iter().enumerate().map(kept).collect(),
                deleted,
            }
        })
    }

    proptest! {
        /// E8, also of bytes that were changed.
        #[test]
        fn a_row_has_one_form(resource in any_resource(), at: usize, byte: u8) {
            let raw = resource.encode();
            prop_assert_eq!(Resource::decode(&raw), Ok(resource));
            let mut other = raw.to_vec();
            let at = at % other.len();
            other[at] = byte;
            if let Ok(found) = Resource::decode(&other) {
                prop_assert_eq!(found.encode(), other);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(raw in vec(any::<u8>(), 0..200)) {
            let _ = Resource::decode(&raw);
        }
    }
}
