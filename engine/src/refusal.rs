//! Why a record has no effect, and what its caller is told.

use bytes::Bytes;
use palisade_replication::LogTime;

use crate::alteration::Revision;
use crate::clients::REPLY_BYTES_MAX;
use crate::error::Error;
use crate::projection::OUTCOME_BYTES_MAX;
use crate::projections::{idempotency, log, map};
use crate::resource::{FailureDomain, FenceEpoch, LogicalResourceName, ResourceId};
use crate::stored::Stored;

/// Why a record has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The writer is not the current one any more.
    Fenced { current: FenceEpoch },
    /// The writer has an epoch that nobody has opened the resource with.
    NotOpened { epoch: FenceEpoch, current: FenceEpoch },
    /// There is no such resource.
    UnknownResource { resource: ResourceId },
    /// The resource is something else than it is opened as.
    Incompatible { expected: String, found: String },
    /// The resource may not be used from there (G9).
    DomainUnavailable { domain: FailureDomain, resource: LogicalResourceName },
    /// The resource is deleted, and can be taken back until then.
    Deleted { resource: LogicalResourceName, until: LogTime },
    /// There is a resource of this name.
    AlreadyThere { resource: LogicalResourceName },
    /// A group has no room for more resources.
    TooManyResources { most: usize },
    /// A cluster has no room for more names.
    TooManyNames { most: u64 },
    /// A cluster has no room for more affinities.
    TooManyAffinities { most: u64 },
    /// The resource was altered since its maker looked.
    RevisionDiffers { expected: Revision, found: Revision },
    /// The alteration cannot be done to the resource as it is.
    Unalterable { what: String },
    /// What a batch demands is not so, and it says nothing to be done then.
    GuardFailed { guard: usize },
    /// The projection refuses an operation, for its own reason.
    ByProjection { projection: &'static str, op: usize, detail: Bytes },
    /// What an operation would answer is too long.
    OutcomeTooLong { op: usize, bytes: usize },
    /// What a numbered batch would answer is too long to be kept.
    ReplyTooLong { bytes: usize },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Fenced { current } => Self::Fenced { current },
            Refusal::NotOpened { epoch, current } => Self::PreconditionFailed {
                what: format!("epoch={epoch} was not opened, current={current}"),
            },
            Refusal::UnknownResource { resource } => {
                Self::NotFound { what: format!("resource number {}", resource.0) }
            }
            Refusal::Incompatible { expected, found } => Self::Incompatible { expected, found },
            Refusal::DomainUnavailable { domain, resource } => Self::DomainUnavailable {
                domain: domain.to_string(),
                resource: resource.to_string(),
            },
            Refusal::Deleted { resource, until } => Self::NotFound {
                what: format!(
                    "resource={resource} is deleted: it can be undeleted until log_time={until}"
                ),
            },
            Refusal::AlreadyThere { resource } => {
                Self::AlreadyExists { what: format!("resource={resource}") }
            }
            Refusal::TooManyResources { most } => Self::PreconditionFailed {
                what: format!("a group has at most {most} resources: delete some"),
            },
            Refusal::TooManyNames { most } => Self::PreconditionFailed {
                what: format!("a cluster has at most {most} names, those that are gone among them"),
            },
            Refusal::TooManyAffinities { most } => Self::PreconditionFailed {
                what: format!("a cluster has at most {most} affinities: use one that is there"),
            },
            Refusal::RevisionDiffers { expected, found } => Self::PreconditionFailed {
                what: format!("the resource was altered, revision={found} expected={expected}"),
            },
            Refusal::Unalterable { what } => Self::PreconditionFailed { what },
            Refusal::GuardFailed { guard } => Self::GuardFailed { guard },
            Refusal::ByProjection { projection, op, detail } => {
                by_projection(projection, op, detail)
            }
            Refusal::OutcomeTooLong { op, bytes } => Self::InvalidArgument {
                what: format!(
                    "the outcome of operation {op} has {bytes} bytes, at most {OUTCOME_BYTES_MAX} \
                     are allowed"
                ),
            },
            Refusal::ReplyTooLong { bytes } => Self::InvalidArgument {
                what: format!(
                    "the outcomes of a numbered batch have {bytes} bytes, at most {REPLY_BYTES_MAX} \
                     are allowed"
                ),
            },
        }
    }
}

/// The built-in projections have errors of their own.
fn by_projection(projection: &'static str, op: usize, detail: Bytes) -> Error {
    let known = match projection {
        log::NAME => log::LogRefusal::from_bytes(&detail).ok().map(|refusal| refusal.error(op)),
        map::NAME => map::MapRefusal::from_bytes(&detail).ok().map(|refusal| refusal.error(op)),
        idempotency::NAME => {
            idempotency::RequestRefusal::from_bytes(&detail).ok().map(|refusal| refusal.error(op))
        }
        _ => None,
    };
    known.unwrap_or(Error::Refused { projection, op, detail })
}
