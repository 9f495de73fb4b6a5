//! Commands: what a record says, its outcome, and its bytes.
//!
//! ```text
//! version 1 byte (1), kind 1 byte (1 open, 2 batch), then
//! open    resource kind 1, name, schema, epoch, replicas, caller, rules: count,
//!         each provider, region or nothing, zone or nothing;
//!         in replicas, from bit 32 on, the failure domains that a commit must reach beyond one
//! batch   caller, ops: count, each kind 1, resource, epoch, then
//!   1 append    payload
//!   2 put       guard, key, value
//!   3 delete    guard, key
//!   4 reserve   owner epoch, fingerprint 32 bytes, key
//!   5 complete  owner epoch, key, result
//! caller  provider, region, zone
//! guard   0 for none, otherwise the version plus one
//! ```
//! Numbers and byte strings as in `codec`.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};

use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::resource::{
    DomainRule, FailureDomain, FenceEpoch, LogicalResourceName, Placement, ReplicaPolicy,
    ResourceId, ResourceKind, ResourceSpec, SchemaId,
};

/// Most operations of one batch.
pub const BATCH_OPS_MAX: usize = 256;
/// Longest key of a map or an idempotency store.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value, payload or result.
pub const VALUE_BYTES_MAX: usize = 512 << 10;

const VERSION: u8 = 1;
const DOMAIN_PART_BYTES_MAX: usize = 64;

/// Offset of the last change of a key, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub(crate) Offset);

impl Version {
    /// The key is not there.
    pub const ABSENT: Self = Self(Offset::ZERO);

    /// The offset at which the key was last changed.
    #[must_use]
    pub const fn offset(self) -> Offset {
        self.0
    }
}

/// A canonical digest of a request: the same request has the same, another request another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub(crate) [u8; 32]);

impl Fingerprint {
    /// The SHA-256 of a canonical encoding of the request.
    #[must_use]
    pub fn of(canonical: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(canonical).into())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Open { kind: ResourceKind, spec: ResourceSpec, caller: FailureDomain },
    Batch { caller: FailureDomain, ops: Vec<Op> },
}

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) resource: ResourceId,
    pub(crate) epoch: FenceEpoch,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Append { payload: Bytes },
    Put { guard: Option<Version>, key: Bytes, value: Bytes },
    Delete { guard: Option<Version>, key: Bytes },
    Reserve { owner: FenceEpoch, fingerprint: Fingerprint, key: Bytes },
    Complete { owner: FenceEpoch, key: Bytes, result: Bytes },
}

impl Action {
    pub(crate) fn kind(&self) -> ResourceKind {
        match self {
            Self::Append { .. } => ResourceKind::Log,
            Self::Put { .. } | Self::Delete { .. } => ResourceKind::Map,
            Self::Reserve { .. } | Self::Complete { .. } => ResourceKind::Idempotency,
        }
    }
}

/// The result of a completed request, and where it was completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The record that completed it.
    pub offset: Offset,
    /// When.
    pub log_time: LogTime,
    /// What the completing record said.
    pub result: Bytes,
}

/// What the application of a record answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Opened {
        resource: ResourceId,
    },
    /// The batch took effect at its offset.
    Applied,
    /// The request was completed before: no effect now, the first result again.
    Duplicate(Completion),
    /// No effect; the first operation that could not be done says why.
    Refused(Refusal),
}

/// Why a record has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Fenced {
        current: FenceEpoch,
    },
    NotOpened {
        epoch: FenceEpoch,
        current: FenceEpoch,
    },
    UnknownResource {
        resource: ResourceId,
    },
    Incompatible {
        expected: String,
        found: String,
    },
    DomainUnavailable {
        domain: FailureDomain,
        resource: LogicalResourceName,
    },
    VersionMismatch {
        expected: Version,
        found: Version,
    },
    IdempotencyConflict,
    InProgress {
        owner: FenceEpoch,
        since: LogTime,
    },
    NotReserved,
    CompletedOtherwise {
        at: Offset,
    },
    /// A record is one place in a log, so it holds one payload of it at most.
    AppendedTwice,
}

impl Command {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128);
        out.push(VERSION);
        match self {
            Self::Open { kind, spec, caller } => {
                out.push(1);
                out.push(kind_byte(*kind));
                encode_spec(&mut out, spec);
                put_domain(&mut out, caller);
            }
            Self::Batch { caller, ops } => {
                out.push(2);
                put_domain(&mut out, caller);
                put_number(&mut out, ops.len() as u64);
                for op in ops {
                    put_op(&mut out, op);
                }
            }
        }
        out.into()
    }

    pub(crate) fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        if reader.byte("command version")? != VERSION {
            return Err(DecodeError { what: "command version" });
        }
        let command = match reader.byte("command kind")? {
            1 => Self::Open {
                kind: take_kind(&mut reader)?,
                spec: decode_spec(&mut reader)?,
                caller: take_domain(&mut reader)?,
            },
            2 => {
                let caller = take_domain(&mut reader)?;
                let count = reader.number("op count")?;
                if count == 0 || count > BATCH_OPS_MAX as u64 {
                    return Err(DecodeError { what: "op count" });
                }
                let ops =
                    (0..count).map(|_| take_op(&mut reader)).collect::<Result<Vec<_>, _>>()?;
                Self::Batch { caller, ops }
            }
            _ => return Err(DecodeError { what: "command kind" }),
        };
        reader.end("command")?;
        Ok(command)
    }
}

fn kind_byte(kind: ResourceKind) -> u8 {
    match kind {
        ResourceKind::Log => 1,
        ResourceKind::Map => 2,
        ResourceKind::Idempotency => 3,
    }
}

pub(crate) fn put_kind(out: &mut Vec<u8>, kind: ResourceKind) {
    out.push(kind_byte(kind));
}

pub(crate) fn take_kind(reader: &mut Reader) -> Result<ResourceKind, DecodeError> {
    match reader.byte("resource kind")? {
        1 => Ok(ResourceKind::Log),
        2 => Ok(ResourceKind::Map),
        3 => Ok(ResourceKind::Idempotency),
        _ => Err(DecodeError { what: "resource kind" }),
    }
}

pub(crate) fn encode_spec(out: &mut Vec<u8>, spec: &ResourceSpec) {
    put_bytes(out, spec.name.as_str().as_bytes());
    put_bytes(out, spec.schema.as_str().as_bytes());
    put_number(out, spec.epoch.get());
    let beyond = u64::from(spec.replicas.domains.saturating_sub(1));
    put_number(out, u64::from(spec.replicas.replicas) | beyond << 32);
    put_number(out, spec.placement.rules.len() as u64);
    for rule in &spec.placement.rules {
        put_bytes(out, rule.provider.as_bytes());
        // A rule's names are never empty, so nothing can stand for all.
        put_bytes(out, rule.region.as_deref().unwrap_or("").as_bytes());
        put_bytes(out, rule.zone.as_deref().unwrap_or("").as_bytes());
    }
}

fn malformed<E>(what: &'static str) -> impl FnOnce(E) -> DecodeError {
    move |_| DecodeError { what }
}

pub(crate) fn decode_spec(reader: &mut Reader) -> Result<ResourceSpec, DecodeError> {
    let name = reader.text(LogicalResourceName::BYTES_MAX, "resource name")?;
    let schema = reader.text(SchemaId::BYTES_MAX, "schema id")?;
    let epoch = FenceEpoch::new(reader.number("epoch")?);
    let replicas = reader.number("replicas")?;
    let beyond = (replicas >> 32) as u32;
    let domains = beyond.checked_add(1).ok_or(DecodeError { what: "replicas" })?;
    let replicas = ReplicaPolicy::majority(replicas as u32).across_domains(domains);
    let count = reader.number("placement")?;
    if count > Placement::RULES_MAX as u64 {
        return Err(DecodeError { what: "placement" });
    }
    let mut rules = Vec::new();
    for _ in 0..count {
        let provider = reader.text(DOMAIN_PART_BYTES_MAX, "provider")?;
        let region = reader.text(DOMAIN_PART_BYTES_MAX, "region")?;
        let zone = reader.text(DOMAIN_PART_BYTES_MAX, "zone")?;
        let some = |part: String| (!part.is_empty()).then_some(part);
        rules.push(DomainRule { provider, region: some(region), zone: some(zone) });
    }
    Ok(ResourceSpec {
        name: LogicalResourceName::new(&name).map_err(malformed("resource name"))?,
        schema: SchemaId::new(&schema).map_err(malformed("schema id"))?,
        epoch,
        replicas,
        placement: Placement::new(rules).map_err(malformed("placement"))?,
    })
}

fn put_domain(out: &mut Vec<u8>, domain: &FailureDomain) {
    for part in [&domain.provider, &domain.region, &domain.zone] {
        put_bytes(out, part.as_bytes());
    }
}

fn take_domain(reader: &mut Reader) -> Result<FailureDomain, DecodeError> {
    Ok(FailureDomain {
        provider: reader.text(DOMAIN_PART_BYTES_MAX, "provider")?,
        region: reader.text(DOMAIN_PART_BYTES_MAX, "region")?,
        zone: reader.text(DOMAIN_PART_BYTES_MAX, "zone")?,
    })
}

fn put_guard(out: &mut Vec<u8>, guard: Option<Version>) {
    put_number(out, guard.map_or(0, |version| version.0.get() + 1));
}

fn take_guard(reader: &mut Reader) -> Result<Option<Version>, DecodeError> {
    Ok(reader.number("guard")?.checked_sub(1).map(|raw| Version(Offset::new(raw))))
}

fn put_op(out: &mut Vec<u8>, op: &Op) {
    out.push(match &op.action {
        Action::Append { .. } => 1,
        Action::Put { .. } => 2,
        Action::Delete { .. } => 3,
        Action::Reserve { .. } => 4,
        Action::Complete { .. } => 5,
    });
    put_number(out, u64::from(op.resource.0));
    put_number(out, op.epoch.get());
    match &op.action {
        Action::Append { payload } => put_bytes(out, payload),
        Action::Put { guard, key, value } => {
            put_guard(out, *guard);
            put_bytes(out, key);
            put_bytes(out, value);
        }
        Action::Delete { guard, key } => {
            put_guard(out, *guard);
            put_bytes(out, key);
        }
        Action::Reserve { owner, fingerprint, key } => {
            put_number(out, owner.get());
            out.extend_from_slice(&fingerprint.0);
            put_bytes(out, key);
        }
        Action::Complete { owner, key, result } => {
            put_number(out, owner.get());
            put_bytes(out, key);
            put_bytes(out, result);
        }
    }
}

fn take_op(reader: &mut Reader) -> Result<Op, DecodeError> {
    let kind = reader.byte("op kind")?;
    let resource = u32::try_from(reader.number("resource")?)
        .map(ResourceId)
        .map_err(|_| DecodeError { what: "resource" })?;
    let epoch = FenceEpoch::new(reader.number("epoch")?);
    let action = match kind {
        1 => Action::Append { payload: reader.bytes(VALUE_BYTES_MAX, "payload")? },
        2 => Action::Put {
            guard: take_guard(reader)?,
            key: reader.bytes(KEY_BYTES_MAX, "key")?,
            value: reader.bytes(VALUE_BYTES_MAX, "value")?,
        },
        3 => {
            Action::Delete { guard: take_guard(reader)?, key: reader.bytes(KEY_BYTES_MAX, "key")? }
        }
        4 => Action::Reserve {
            owner: FenceEpoch::new(reader.number("owner")?),
            fingerprint: Fingerprint(reader.array("fingerprint")?),
            key: reader.bytes(KEY_BYTES_MAX, "key")?,
        },
        5 => Action::Complete {
            owner: FenceEpoch::new(reader.number("owner")?),
            key: reader.bytes(KEY_BYTES_MAX, "key")?,
            result: reader.bytes(VALUE_BYTES_MAX, "result")?,
        },
        _ => return Err(DecodeError { what: "op kind" }),
    };
    Ok(Op { resource, epoch, action })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn action() -> impl Strategy<Value = Action> {
        let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let epoch = || any::<u64>().prop_map(FenceEpoch::new);
        let guard =
            || proptest::option::of((0..u64::MAX).prop_map(|raw| Version(Offset::new(raw))));
        prop_oneof![
            bytes().prop_map(|payload| Action::Append { payload }),
            (guard(), bytes(), bytes()).prop_map(|(guard, key, value)| Action::Put {
                guard,
                key,
                value
            }),
            (guard(), bytes()).prop_map(|(guard, key)| Action::Delete { guard, key }),
            (epoch(), any::<[u8; 32]>(), bytes()).prop_map(|(owner, raw, key)| Action::Reserve {
                owner,
                fingerprint: Fingerprint(raw),
                key
            }),
            (epoch(), bytes(), bytes()).prop_map(|(owner, key, result)| Action::Complete {
                owner,
                key,
                result
            }),
        ]
    }

    fn domain() -> FailureDomain {
        FailureDomain::new("aws", "us-east-1", "a")
    }

    proptest! {
        #[test]
        fn batches_round_trip(ops in vec((any::<u32>(), any::<u64>(), action()), 1..6)) {
            let ops = ops
                .into_iter()
                .map(|(resource, epoch, action)| Op {
                    resource: ResourceId(resource), epoch: FenceEpoch::new(epoch), action,
                })
                .collect();
            let command = Command::Batch { caller: domain(), ops };
            let raw = command.encode();
            prop_assert_eq!(Command::decode(raw.clone()), Ok(command));
            for cut in 0..raw.len() {
                prop_assert!(Command::decode(raw.slice(..cut)).is_err());
            }
        }

        #[test]
        fn decode_never_panics(kind in 0u8..4, raw in vec(any::<u8>(), 0..120)) {
            let mut whole = vec![VERSION, kind];
            whole.extend(raw);
            let _ = Command::decode(whole.into());
        }
    }

    #[test]
    fn open_round_trips() {
        let spec = |replicas| ResourceSpec {
            name: LogicalResourceName::new("report-requests").unwrap(),
            schema: SchemaId::new("report-command.v1").unwrap(),
            epoch: FenceEpoch::new(3),
            replicas,
            placement: Placement::new([DomainRule {
                provider: "aws".into(),
                region: Some("us-east-1".into()),
                zone: None,
            }])
            .unwrap(),
        };
        for replicas in [ReplicaPolicy::majority(3), ReplicaPolicy::majority(3).across_domains(2)] {
            let (kind, spec) = (ResourceKind::Map, spec(replicas));
            let command = Command::Open { kind, spec, caller: domain() };
            assert_eq!(Command::decode(command.encode()), Ok(command));
        }
    }
}
