//! The answer of a command, as it is kept.
//!
//! ```text
//! reply    offset, log time, digest 16 bytes, then of one sort or the other:
//!          1 done: branch (0 then, 1 otherwise), outcomes: count, each
//!          2 duplicate of a request: offset, log time
//!          3 refused: 1 fenced: epoch            2 not opened: epoch, current    3 no resource: number
//!                     4 elsewhere: domain, name  5 guard: number                 8 reply too long: bytes
//!                     6 by its projection: name, operation, detail
//!                     7 outcome too long: operation, bytes       9 deleted: name, until
//! ```
//! Numbers and byte strings as in `codec`.

use bytes::Bytes;
use palisade_replication::{LogTime, Offset};
use sha2::{Digest, Sha256};

use super::REPLY_BYTES_MAX;
use crate::bounds::BATCH_OPS_MAX;
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::command::BatchCommand;
use crate::outcome::{Branch, Outcome, Stamp};
use crate::projection::{OUTCOME_BYTES_MAX, ProjectionFault, Registry};
use crate::refusal::Refusal;
use crate::resource::{FenceEpoch, LogicalResourceName, ResourceId};
use crate::spec_codec::{put_domain, take_domain};

const DONE: u8 = 1;
const DUPLICATE: u8 = 2;
const REFUSED: u8 = 3;

/// What a command does, by which a repetition of it is known.
pub(super) type CommandDigest = [u8; 16];

/// Guards and operations with their resources; not who does it, from where and by which epoch.
pub(super) fn digest(batch: &BatchCommand) -> CommandDigest {
    let mut hash = Sha256::new();
    hash.update(b"palisade.command.v1\0");
    for parts in [&batch.guards, &batch.then, &batch.otherwise] {
        hash.update((parts.len() as u64).to_le_bytes());
        for part in parts {
            hash.update(part.resource.0.to_le_bytes());
            hash.update((part.body.len() as u64).to_le_bytes());
            hash.update(&part.body);
        }
    }
    *hash.finalize().first_chunk().expect("a hash is longer")
}

/// The first answer of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) stamp: Stamp,
    pub(super) digest: CommandDigest,
    pub(super) outcome: Outcome,
}

/// How long the outcomes are together that a batch answers.
pub(super) fn length(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Applied { outcomes, .. } => outcomes.iter().map(Bytes::len).sum(),
        _ => 0,
    }
}

impl Reply {
    /// Its bytes.
    ///
    /// # Errors
    /// When it is no answer of a batch.
    pub(super) fn encode(&self) -> Result<Bytes, ProjectionFault> {
        let mut out = Vec::with_capacity(64);
        self.stamp.put(&mut out);
        out.extend_from_slice(&self.digest);
        match &self.outcome {
            Outcome::Applied { branch, outcomes } => {
                out.extend_from_slice(&[DONE, u8::from(*branch == Branch::Otherwise)]);
                put_number(&mut out, outcomes.len() as u64);
                outcomes.iter().for_each(|outcome| put_bytes(&mut out, outcome));
            }
            Outcome::Duplicate(first) => {
                out.push(DUPLICATE);
                first.put(&mut out);
            }
            Outcome::Refused(refusal) => {
                out.push(REFUSED);
                put_refusal(&mut out, refusal)?;
            }
            other => return Err(of_no_batch(other)),
        }
        Ok(out.into())
    }

    pub(super) fn decode(raw: Bytes, registry: &Registry) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let stamp = Stamp::take(&mut reader)?;
        let digest = reader.array("digest")?;
        let outcome = match reader.byte("reply")? {
            DONE => {
                let branch = match reader.byte("branch")? {
                    0 => Branch::Then,
                    1 => Branch::Otherwise,
                    _ => return Err(DecodeError { what: "branch" }),
                };
                let count = reader.number("outcome count")?;
                if count > BATCH_OPS_MAX as u64 {
                    return Err(DecodeError { what: "outcome count" });
                }
                let outcomes = (0..count).map(|_| reader.bytes(REPLY_BYTES_MAX, "outcome"));
                Outcome::Applied { branch, outcomes: outcomes.collect::<Result<_, _>>()? }
            }
            DUPLICATE => Outcome::Duplicate(Stamp::take(&mut reader)?),
            REFUSED => Outcome::Refused(take_refusal(&mut reader, registry)?),
            _ => return Err(DecodeError { what: "reply" }),
        };
        reader.end("reply")?;
        Ok(Self { stamp, digest, outcome })
    }
}

/// What so many clients with these answers count as.
#[cfg(test)]
pub(crate) fn counted_bytes(
    clients: usize,
    answers: impl Iterator<Item = (Stamp, Outcome)>,
) -> u64 {
    let answers = answers.map(|(stamp, outcome)| {
        let reply = Reply { stamp, digest: CommandDigest::default(), outcome };
        super::table::ANSWER_BYTES + reply.encode().unwrap().len() as u64
    });
    clients as u64 * super::table::CLIENT_BYTES + answers.sum::<u64>()
}

impl Stamp {
    fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.offset.get());
        put_number(out, self.log_time.get());
    }

    fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let offset = Offset::new(reader.number("offset")?);
        Ok(Self { offset, log_time: LogTime::new(reader.number("log time")?) })
    }
}

const FENCED: u8 = 1;
const NOT_OPENED: u8 = 2;
/// Stands for the name of a projection that is not known here any more.
const UNREGISTERED: &str = "not registered";
const UNKNOWN_RESOURCE: u8 = 3;
const ELSEWHERE: u8 = 4;
const GUARD: u8 = 5;
const BY_PROJECTION: u8 = 6;
const OUTCOME_TOO_LONG: u8 = 7;
const REPLY_TOO_LONG: u8 = 8;
const DELETED: u8 = 9;

fn put_refusal(out: &mut Vec<u8>, refusal: &Refusal) -> Result<(), ProjectionFault> {
    match refusal {
        Refusal::Fenced { current } => {
            out.push(FENCED);
            put_number(out, current.get());
        }
        Refusal::NotOpened { epoch, current } => {
            out.push(NOT_OPENED);
            put_number(out, epoch.get());
            put_number(out, current.get());
        }
        Refusal::UnknownResource { resource } => {
            out.push(UNKNOWN_RESOURCE);
            put_number(out, resource.0.into());
        }
        Refusal::DomainUnavailable { domain, resource } => {
            out.push(ELSEWHERE);
            put_domain(out, domain);
            put_bytes(out, resource.as_str().as_bytes());
        }
        Refusal::GuardFailed { guard } => {
            out.push(GUARD);
            put_number(out, *guard as u64);
        }
        Refusal::ByProjection { projection, op, detail } => {
            out.push(BY_PROJECTION);
            put_bytes(out, projection.as_bytes());
            put_number(out, *op as u64);
            put_bytes(out, detail);
        }
        Refusal::OutcomeTooLong { op, bytes } => {
            out.push(OUTCOME_TOO_LONG);
            put_number(out, *op as u64);
            put_number(out, *bytes as u64);
        }
        Refusal::ReplyTooLong { bytes } => {
            out.push(REPLY_TOO_LONG);
            put_number(out, *bytes as u64);
        }
        Refusal::Deleted { resource, until } => {
            out.push(DELETED);
            put_bytes(out, resource.as_str().as_bytes());
            put_number(out, until.get());
        }
        Refusal::Incompatible { .. }
        | Refusal::AlreadyThere { .. }
        | Refusal::TooManyResources { .. }
        | Refusal::TooManyNames { .. }
        | Refusal::TooManyAffinities { .. }
        | Refusal::RevisionDiffers { .. }
        | Refusal::Unalterable { .. } => return Err(of_no_batch(refusal)),
    }
    Ok(())
}

fn take_refusal(reader: &mut Reader, registry: &Registry) -> Result<Refusal, DecodeError> {
    let size = |reader: &mut Reader, what| {
        usize::try_from(reader.number(what)?).map_err(|_| DecodeError { what })
    };
    Ok(match reader.byte("refusal")? {
        FENCED => Refusal::Fenced { current: FenceEpoch::new(reader.number("epoch")?) },
        NOT_OPENED => {
            let epoch = FenceEpoch::new(reader.number("epoch")?);
            Refusal::NotOpened { epoch, current: FenceEpoch::new(reader.number("epoch")?) }
        }
        UNKNOWN_RESOURCE => {
            let resource = u32::try_from(reader.number("resource")?);
            let resource = resource.map_err(|_| DecodeError { what: "resource" })?;
            Refusal::UnknownResource { resource: ResourceId(resource) }
        }
        ELSEWHERE => {
            let domain = take_domain(reader)?;
            Refusal::DomainUnavailable { domain, resource: take_name(reader)? }
        }
        GUARD => Refusal::GuardFailed { guard: size(reader, "guard")? },
        BY_PROJECTION => {
            let name = reader.bytes(u8::MAX.into(), "projection")?;
            let name = std::str::from_utf8(&name);
            let kind = registry.find(name.map_err(|_| DecodeError { what: "projection" })?);
            // The last resource of a kind may be gone, and the kind with it: the answer stays.
            let projection = kind.map_or(UNREGISTERED, |kind| kind.projection.name());
            let op = size(reader, "operation")?;
            let detail = reader.bytes(OUTCOME_BYTES_MAX, "detail")?;
            Refusal::ByProjection { projection, op, detail }
        }
        OUTCOME_TOO_LONG => {
            let op = size(reader, "operation")?;
            Refusal::OutcomeTooLong { op, bytes: size(reader, "outcome bytes")? }
        }
        REPLY_TOO_LONG => Refusal::ReplyTooLong { bytes: size(reader, "reply bytes")? },
        DELETED => {
            let resource = take_name(reader)?;
            Refusal::Deleted { resource, until: LogTime::new(reader.number("until")?) }
        }
        _ => return Err(DecodeError { what: "refusal" }),
    })
}

fn take_name(reader: &mut Reader) -> Result<LogicalResourceName, DecodeError> {
    let name = reader.text(LogicalResourceName::BYTES_MAX, "resource name")?;
    LogicalResourceName::new(&name).map_err(|_| DecodeError { what: "resource name" })
}

fn of_no_batch(what: &dyn std::fmt::Debug) -> ProjectionFault {
    ProjectionFault::new(format!("no batch answers {what:?}"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Number, Op};
    use crate::projections::map;
    use crate::resource::FailureDomain;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn refusal() -> impl Strategy<Value = Refusal> {
        let epoch = || any::<u64>().prop_map(FenceEpoch::new);
        let size = || (0_u64..1 << 32).prop_map(|size| size as usize);
        let domain = FailureDomain::new("aws", "r", "z");
        let resource = LogicalResourceName::new("a-name").unwrap();
        prop_oneof![
            epoch().prop_map(|current| Refusal::Fenced { current }),
            (epoch(), epoch()).prop_map(|(epoch, current)| Refusal::NotOpened { epoch, current }),
            any::<u32>().prop_map(|id| Refusal::UnknownResource { resource: ResourceId(id) }),
            Just(Refusal::DomainUnavailable { domain, resource: resource.clone() }),
            any::<u64>().prop_map(move |until| Refusal::Deleted {
                resource: resource.clone(),
                until: LogTime::new(until),
            }),
            size().prop_map(|guard| Refusal::GuardFailed { guard }),
            (size(), bytes()).prop_map(|(op, detail)| {
                Refusal::ByProjection { projection: map::NAME, op, detail }
            }),
            (size(), size()).prop_map(|(op, bytes)| Refusal::OutcomeTooLong { op, bytes }),
            size().prop_map(|bytes| Refusal::ReplyTooLong { bytes }),
        ]
    }

    fn stamp() -> impl Strategy<Value = Stamp> {
        any::<(u64, u64)>().prop_map(|(offset, log_time)| Stamp {
            offset: Offset::new(offset),
            log_time: LogTime::new(log_time),
        })
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let branch = prop_oneof![Just(Branch::Then), Just(Branch::Otherwise)];
        let outcome = prop_oneof![
            (branch, vec(bytes(), 0..4))
                .prop_map(|(branch, outcomes)| Outcome::Applied { branch, outcomes }),
            stamp().prop_map(Outcome::Duplicate),
            refusal().prop_map(Outcome::Refused),
        ];
        (stamp(), any::<CommandDigest>(), outcome).prop_map(|(stamp, digest, outcome)| Reply {
            stamp,
            digest,
            outcome,
        })
    }

    proptest! {
        /// E8, and no bytes make it panic.
        #[test]
        fn an_answer_has_one_form(reply in reply(), at: usize, byte: u8) {
            let registry = Registry::new(&[]).unwrap();
            let raw = reply.encode().unwrap();
            prop_assert_eq!(&Reply::decode(raw.clone(), &registry).unwrap(), &reply);
            let mut raw = raw.to_vec();
            let at = at % raw.len();
            raw[at] = byte;
            if let Ok(reply) = Reply::decode(raw.clone().into(), &registry)
                && !is_of_nobody(&reply)
            {
                prop_assert_eq!(reply.encode().unwrap(), raw);
            }
        }

        #[test]
        fn decoding_never_panics(raw in vec(any::<u8>(), 0..60)) {
            let _ = Reply::decode(raw.into(), &Registry::new(&[]).unwrap());
        }
    }

    fn is_of_nobody(reply: &Reply) -> bool {
        let refusal = match &reply.outcome {
            Outcome::Refused(Refusal::ByProjection { projection, .. }) => *projection,
            _ => "",
        };
        refusal == UNREGISTERED
    }

    /// G6: a kind may be gone with its last resource, and what it has answered is still told.
    #[test]
    fn an_answer_outlives_the_kind_that_gave_it() {
        let stamp = Stamp { offset: Offset::new(1), log_time: LogTime::new(1) };
        let detail = Bytes::from("why");
        let refusal = Refusal::ByProjection { projection: "gone", op: 3, detail: detail.clone() };
        let outcome = Outcome::Refused(refusal);
        let raw = Reply { stamp, digest: CommandDigest::default(), outcome }.encode().unwrap();
        let told = Reply::decode(raw, &Registry::new(&[]).unwrap()).unwrap();
        assert!(is_of_nobody(&told));
        let Outcome::Refused(Refusal::ByProjection { op, detail: found, .. }) = told.outcome else {
            panic!("{:?}", told.outcome)
        };
        assert_eq!((op, found), (3, detail));
    }

    #[test]
    fn only_what_a_batch_answers_is_kept() {
        let stamp = Stamp { offset: Offset::new(1), log_time: LogTime::new(1) };
        let digest = CommandDigest::default();
        let (expected, found) = (String::new(), String::new());
        for outcome in [
            Outcome::Registered { client: Offset::new(1) },
            Outcome::Refused(Refusal::Incompatible { expected, found }),
        ] {
            assert!(Reply { stamp, digest, outcome }.encode().is_err());
        }
    }

    /// Who does it, from where and by which epoch, may change; what is done may not.
    #[test]
    fn a_digest_is_of_what_is_done() {
        let op = |resource, body: &'static str| Op {
            resource: ResourceId(resource),
            epoch: FenceEpoch::new(1),
            body: Bytes::from(body),
        };
        let caller = FailureDomain::new("aws", "r", "z");
        let batch = |guards, then, otherwise| {
            let (number, caller) = (None, caller.clone());
            BatchCommand { number, caller, guards, then, otherwise }
        };
        let (a, b) = (op(1, "a"), op(2, "b"));
        let batches = [
            batch(vec![], vec![a.clone(), b.clone()], vec![]),
            batch(vec![], vec![b.clone(), a.clone()], vec![]),
            batch(vec![], vec![op(2, "a"), b.clone()], vec![]),
            batch(vec![], vec![op(1, "c"), b.clone()], vec![]),
            batch(vec![], vec![a.clone()], vec![]),
            batch(vec![a.clone()], vec![b.clone()], vec![]),
            batch(vec![], vec![a.clone()], vec![b.clone()]),
            batch(vec![], vec![op(1, "")], vec![]),
        ];
        for (number, one) in batches.iter().enumerate() {
            for (other_number, other) in batches.iter().enumerate() {
                assert_eq!(digest(one) == digest(other), number == other_number);
            }
        }
        let first = &batches[0];
        let epoch = FenceEpoch::new(2);
        let then = first.then.iter().map(|op| Op { epoch, ..op.clone() }).collect();
        let number =
            Some(Number { client: Offset::new(1), seq: 1, acked_up_to: 0, registrant: None });
        let caller = FailureDomain::new("gcp", "r", "z");
        let again = BatchCommand { number, caller, then, ..first.clone() };
        assert_eq!(digest(&again), digest(first));
    }
}
