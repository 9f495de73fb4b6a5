//! What can be altered of a resource once it is there, and what is kept of each alteration.
//!
//! ```text
//! alteration  kind 1 byte: 1 add schema, 2 retire schema, then the schema; 3 place, then the placement;
//!             4 delete, then how long it is kept; 5 undelete; 6 declare, then the contract
//! altered     offset, log time, node, domain, reason, alteration
//! ```
//! Numbers, byte strings and domains as everywhere.

use std::fmt;

use bytes::Bytes;
use palisade_replication::{LogTime, NodeId, Offset};

use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::degradation::DegradationContract;
use crate::profile::PolicyHash;
use crate::refusal::Refusal;
use crate::resource::{FailureDomain, Placement, SchemaId};
use crate::resource_row::{Deleted, KeptSchema, Resource};
use crate::spec_codec::{
    put_contract, put_domain, put_placement, put_schema, take_contract, take_domain,
    take_placement, take_schema,
};

/// How often a resource was altered.
///
/// ```
/// use palisade::Revision;
///
/// assert_eq!(Revision::MADE.next(), Revision::new(1));
/// assert!(Revision::new(1).get() == 1 && Revision::MADE < Revision::new(1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(u64);

impl Revision {
    /// Of a resource that was made and never altered.
    pub const MADE: Self = Self(0);

    /// The revision of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one that the next alteration makes.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A change of what a resource is: `docs/directory.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alteration {
    /// Its values may have this schema, too; again, if it was retired.
    AddSchema(SchemaId),
    /// Nobody opens it for writing with this schema any more.
    RetireSchema(SchemaId),
    /// From where it may be used, and where its replicas may be.
    Place(Placement),
    /// What it does when something has failed: see [`crate::degradation`]. It binds every handle at once.
    Declare(Option<DegradationContract>),
    /// It is not there any more, and can be taken back for so many milliseconds of log time.
    Delete {
        /// At most [`Alteration::RETAIN_MS_MAX`].
        retain_ms: u64,
    },
    /// It is there again.
    Undelete,
}

impl Alteration {
    /// Longest time that a deleted resource is kept: 30 days.
    pub const RETAIN_MS_MAX: u64 = 30 * 86_400_000;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::AddSchema(schema) => {
                out.push(1);
                put_schema(out, schema);
            }
            Self::RetireSchema(schema) => {
                out.push(2);
                put_schema(out, schema);
            }
            Self::Place(placement) => {
                out.push(3);
                put_placement(out, placement);
            }
            Self::Delete { retain_ms } => {
                out.push(4);
                put_number(out, *retain_ms);
            }
            Self::Undelete => out.push(5),
            Self::Declare(contract) => {
                out.push(6);
                put_contract(out, contract.as_ref());
            }
        }
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.byte("alteration")? {
            1 => Ok(Self::AddSchema(take_schema(reader)?)),
            2 => Ok(Self::RetireSchema(take_schema(reader)?)),
            3 => Ok(Self::Place(take_placement(reader)?)),
            4 => match reader.number("retention")? {
                retain_ms @ 0..=Self::RETAIN_MS_MAX => Ok(Self::Delete { retain_ms }),
                _ => Err(DecodeError { what: "retention" }),
            },
            5 => Ok(Self::Undelete),
            6 => Ok(Self::Declare(take_contract(reader)?)),
            _ => Err(DecodeError { what: "alteration" }),
        }
    }

    /// Does it to a resource, whose revision rises.
    pub(crate) fn apply(
        &self,
        resource: &mut Resource,
        offset: Offset,
        now: LogTime,
    ) -> Result<(), Refusal> {
        if resource.deleted.is_some() && *self != Self::Undelete {
            return Err(resource.refusal());
        }
        match self {
            Self::AddSchema(schema) => resource.add_schema(schema)?,
            Self::RetireSchema(schema) => resource.retire_schema(schema)?,
            Self::Place(placement) => {
                resource.spec.placement = placement.clone();
                resource.policy = PolicyHash::of_spec(&resource.spec);
            }
            Self::Declare(contract) => resource.spec.contract = contract.clone(),
            Self::Delete { retain_ms } => {
                let until = LogTime::new(now.get().saturating_add(*retain_ms));
                resource.deleted = Some(Deleted { offset, until });
            }
            Self::Undelete => {
                if resource.deleted.take().is_none() {
                    return Err(unalterable("it is not deleted".to_owned()));
                }
            }
        }
        resource.revision = resource.revision.next();
        Ok(())
    }
}

impl Resource {
    /// Most schemas that one resource has.
    pub(crate) const SCHEMAS_MAX: usize = 32;

    fn add_schema(&mut self, schema: &SchemaId) -> Result<(), Refusal> {
        match self.schemas.iter_mut().find(|kept| kept.id == *schema) {
            // It has its number still: who goes back to it reads what it wrote.
            Some(kept) if kept.retired => {
                kept.retired = false;
                return Ok(());
            }
            Some(_) => return Err(unalterable(format!("schema={schema} is there already"))),
            None => {}
        }
        if self.schemas.len() >= Self::SCHEMAS_MAX {
            let most = Self::SCHEMAS_MAX;
            return Err(unalterable(format!("a resource has at most {most} schemas")));
        }
        self.schemas.push(KeptSchema { id: schema.clone(), retired: false });
        Ok(())
    }

    fn retire_schema(&mut self, schema: &SchemaId) -> Result<(), Refusal> {
        let written = self.schemas.iter().filter(|kept| !kept.retired).count();
        let found = self.schemas.iter_mut().find(|kept| kept.id == *schema);
        match found {
            Some(kept) if !kept.retired && written > 1 => {
                kept.retired = true;
                Ok(())
            }
            Some(kept) if !kept.retired => Err(unalterable(format!(
                "schema={schema} is the last that may be written: add another first"
            ))),
            _ => Err(unalterable(format!("schema={schema} is not there, or retired already"))),
        }
    }
}

fn unalterable(what: String) -> Refusal {
    Refusal::Unalterable { what }
}

/// An alteration that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Altered {
    /// What it made.
    pub revision: Revision,
    /// Its record.
    pub offset: Offset,
    /// When.
    pub log_time: LogTime,
    /// Through which node.
    pub node: NodeId,
    /// On behalf of whom.
    pub domain: FailureDomain,
    /// Why, in words.
    pub reason: Reason,
    /// What was done.
    pub alteration: Alteration,
}

impl Altered {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        put_number(&mut out, self.offset.get());
        put_number(&mut out, self.log_time.get());
        put_number(&mut out, self.node.get());
        put_domain(&mut out, &self.domain);
        self.reason.put(&mut out);
        self.alteration.encode(&mut out);
        out.into()
    }

    pub(crate) fn decode(revision: Revision, raw: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(raw));
        let altered = Self {
            revision,
            offset: Offset::new(reader.number("offset")?),
            log_time: LogTime::new(reader.number("log time")?),
            node: NodeId::new(reader.number("node")?),
            domain: take_domain(&mut reader)?,
            reason: Reason::take(&mut reader)?,
            alteration: Alteration::take(&mut reader)?,
        };
        reader.end("alteration")?;
        Ok(altered)
    }
}

/// Why something was altered, for people: 1 to 256 bytes.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// let (directory, name) = (engine.directory(), LogicalResourceName::new("stock")?);
/// let refused = directory.delete(&name, Revision::MADE, 60_000, "").await;
/// assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "nobody says why");
///
/// directory.delete(&name, Revision::MADE, 60_000, "not sold any more").await?;
/// let made = directory.alterations(&name, ReadConsistency::Linearizable).await?.value;
/// let reason: &Reason = &made[0].reason;
/// assert_eq!(reason.as_str(), "not sold any more");
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// Longest one.
    pub const BYTES_MAX: usize = 256;

    pub(crate) fn new(text: &str) -> Option<Self> {
        (1..=Self::BYTES_MAX).contains(&text.len()).then(|| Self(text.to_owned()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.0.as_bytes());
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let text = reader.text(Self::BYTES_MAX, "reason")?;
        Self::new(&text).ok_or(DecodeError { what: "reason" })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
