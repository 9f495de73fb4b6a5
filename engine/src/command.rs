//! Commands: what a record says, and its bytes.
//!
//! ```text
//! version 1 byte: 2, or 3 and a trace context (`trace.rs`); kind 1 byte (1 open, 2 batch, 3 housekeep, 4 alter,
//!            5 register, 6 compare, 7 claim, 9 rebuild), then
//! open       1 if it must not be there, claim of its name, resource kind, version of its projection, spec,
//!            hash of its policy 32, caller
//! batch      client or 0, and if there is one: number, acked up to; caller,
//!            guards: count, each as an operation; operations: count, each resource, epoch, body;
//!            operations otherwise, in the same way; who registered the client 16, if somebody in particular
//! housekeep  chores: count, each a resource, or 0 for the clients
//! alter      resource, expected revision, node, caller, reason, alteration: `alteration.rs`; for a placement,
//!            the hash of the policy that it makes 32
//! register   milliseconds that the client is known without a command; who registers it 16, if somebody in
//!            particular
//! compare    'm', members: count, each node and 1 for a voter; or 'r', node, mark, sums:
//!            `comparing/folds.rs`
//! rebuild    `projection/rebuild/record.rs`
//! claim      name, affinity, how many data groups there are
//! ```
//! Numbers and byte strings as in `codec`, spec and caller (a domain) as in `spec_codec`. What a body
//! says is the projection's, whose resource it is for. Version 3 is of what callers ask for: 1, 2, 4, 5 and 7.

use bytes::Bytes;
use palisade_replication::{NodeId, Offset};

use crate::alteration::{Alteration, Reason, Revision};
use crate::bounds::{BATCH_OPS_MAX, DATA_GROUPS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::clients::Registrant;
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::comparing::CompareCommand;
use crate::profile::PolicyHash;
use crate::projection::rebuild::RebuildCommand;
use crate::resource::{
    Affinity, FailureDomain, FenceEpoch, LogicalResourceName, ReplicaPolicy, ResourceId,
    ResourceKind, ResourceSpec,
};
use crate::spec_codec::{
    decode_spec, encode_spec, put_domain, put_kind, take_affinity, take_domain, take_kind,
    take_name,
};
use crate::trace::TraceContext;

/// 1 was never released.
const VERSION: u8 = 2;
/// The same with a trace context.
const TRACED: u8 = 3;
/// Longest body of an operation: a key, a value, and what is said about them.
pub(crate) const BODY_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Open(OpenCommand),
    Batch(BatchCommand),
    /// Does what time asks for: `caretaker.rs`.
    Housekeep(Vec<Chore>),
    Alter(AlterCommand),
    /// Makes a client, which is known for so long without a command.
    Register {
        ttl_ms: u64,
        registrant: Option<Registrant>,
    },
    /// What members say about the rebuild of a projection.
    Rebuild(RebuildCommand),
    /// Says which group a name belongs to: `names.rs`.
    Claim(ClaimCommand),
    /// Compares replicas.
    Compare(CompareCommand),
}

/// Where time may ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chore {
    /// Among the clients of the group.
    Clients,
    /// In a resource.
    Resource(ResourceId),
}

/// Makes a resource, or opens it for a writer generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenCommand {
    /// It must not be there.
    pub(crate) anew: bool,
    /// The record of the system group that claimed its name.
    pub(crate) claim: Offset,
    pub(crate) kind: ResourceKind,
    /// Version of its projection at whoever opens it.
    pub(crate) version: u32,
    pub(crate) spec: ResourceSpec,
    /// Of its placement and its replicas, as whoever opens it takes them.
    pub(crate) policy: PolicyHash,
    pub(crate) caller: FailureDomain,
}

/// Asks for the group of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimCommand {
    pub(crate) name: LogicalResourceName,
    pub(crate) affinity: Affinity,
    /// How many groups the node has that asks, beside the system group.
    pub(crate) data_groups: u64,
}

/// Changes what a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AlterCommand {
    pub(crate) resource: ResourceId,
    /// The revision that its maker has seen.
    pub(crate) expected: Revision,
    pub(crate) node: NodeId,
    pub(crate) caller: FailureDomain,
    pub(crate) reason: Reason,
    pub(crate) alteration: Alteration,
    /// For a placement: of it and the replicas, as its maker takes them.
    pub(crate) policy: Option<PolicyHash>,
}

impl AlterCommand {
    /// What an alteration says of the policy that it makes of a resource with these replicas.
    pub(crate) fn policy(alteration: &Alteration, replicas: ReplicaPolicy) -> Option<PolicyHash> {
        match alteration {
            Alteration::Place(placement) => Some(PolicyHash::of_policy(placement, replicas)),
            _ => None,
        }
    }
}

/// Operations that take effect together (G7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchCommand {
    /// Which command of which client it is.
    pub(crate) number: Option<Number>,
    pub(crate) caller: FailureDomain,
    /// What must be so for `then`. Their bodies are guards.
    pub(crate) guards: Vec<Op>,
    pub(crate) then: Vec<Op>,
    /// What is done if it is not. Nothing: the batch is refused.
    pub(crate) otherwise: Vec<Op>,
}

impl BatchCommand {
    /// Everything that it asks of any resource.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Op> {
        self.guards.iter().chain(&self.then).chain(&self.otherwise)
    }
}

/// Which command of a client of the group: `docs/sessions.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    /// The record that registered the client: never 0.
    pub(crate) client: Offset,
    pub(crate) seq: u64,
    pub(crate) acked_up_to: u64,
    /// Who says so.
    pub(crate) registrant: Option<Registrant>,
}

/// An operation on one resource, or a guard on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) resource: ResourceId,
    pub(crate) epoch: FenceEpoch,
    pub(crate) body: Bytes,
}

const OPEN: u8 = 1;
const BATCH: u8 = 2;
const HOUSEKEEP: u8 = 3;
const ALTER: u8 = 4;
const REGISTER: u8 = 5;
const COMPARE: u8 = 6;
const CLAIM: u8 = 7;
const REBUILD: u8 = 9;
/// Most chores of one record.
pub(crate) const CHORES_MAX: usize = 16;

impl Command {
    /// Whether somebody asked for it, whose trace may go on with it.
    pub(crate) fn is_asked_for(&self) -> bool {
        !matches!(self, Self::Housekeep(_) | Self::Rebuild(_) | Self::Compare(_))
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn encode(&self) -> Bytes {
        self.encode_traced(None)
    }

    /// The same as a part of a trace; that of one which nobody keeps is left out.
    pub(crate) fn encode_traced(&self, trace: Option<&TraceContext>) -> Bytes {
        let mut out = Vec::with_capacity(256);
        match trace.filter(|trace| trace.is_sampled() && self.is_asked_for()) {
            None => out.push(VERSION),
            Some(trace) => {
                out.push(TRACED);
                trace.put(&mut out);
            }
        }
        match self {
            Self::Open(OpenCommand { anew, claim, kind, version, spec, policy, caller }) => {
                out.push(OPEN);
                out.push((*anew).into());
                put_number(&mut out, claim.get());
                put_kind(&mut out, kind);
                put_number(&mut out, (*version).into());
                encode_spec(&mut out, spec);
                out.extend_from_slice(&policy.to_bytes());
                put_domain(&mut out, caller);
            }
            Self::Batch(BatchCommand { number, caller, guards, then, otherwise }) => {
                out.push(BATCH);
                put_command_number(&mut out, *number);
                put_domain(&mut out, caller);
                for ops in [guards, then, otherwise] {
                    put_number(&mut out, ops.len() as u64);
                    ops.iter().for_each(|op| put_op(&mut out, op));
                }
                Registrant::put(number.and_then(|number| number.registrant), &mut out);
            }
            Self::Housekeep(chores) => {
                out.push(HOUSEKEEP);
                put_number(&mut out, chores.len() as u64);
                for chore in chores {
                    let resource = match chore {
                        Chore::Clients => ResourceId(0),
                        Chore::Resource(id) => *id,
                    };
                    put_number(&mut out, resource.0.into());
                }
            }
            Self::Register { ttl_ms, registrant } => {
                out.push(REGISTER);
                put_number(&mut out, *ttl_ms);
                Registrant::put(*registrant, &mut out);
            }
            Self::Claim(ClaimCommand { name, affinity, data_groups }) => {
                out.push(CLAIM);
                put_bytes(&mut out, name.as_str().as_bytes());
                put_bytes(&mut out, affinity.as_str().as_bytes());
                put_number(&mut out, *data_groups);
            }
            Self::Rebuild(command) => {
                out.push(REBUILD);
                command.put(&mut out);
            }
            Self::Compare(command) => {
                out.push(COMPARE);
                command.put(&mut out);
            }
            Self::Alter(command) => {
                let AlterCommand { resource, expected, node, caller, reason, alteration, policy } =
                    command;
                out.push(ALTER);
                put_number(&mut out, resource.0.into());
                put_number(&mut out, expected.get());
                put_number(&mut out, node.get());
                put_domain(&mut out, caller);
                reason.put(&mut out);
                alteration.encode(&mut out);
                out.extend(policy.iter().flat_map(|policy| policy.to_bytes()));
            }
        }
        out.into()
    }

    pub(crate) fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        Self::decode_traced(raw).map(|(command, _)| command)
    }

    /// A command, and which trace it is part of.
    pub(crate) fn decode_traced(raw: Bytes) -> Result<(Self, Option<TraceContext>), DecodeError> {
        let mut reader = Reader::new(raw);
        let trace = match reader.byte("command version")? {
            VERSION => None,
            TRACED => Some(TraceContext::take(&mut reader)?),
            _ => return Err(DecodeError { what: "command version" }),
        };
        let command = match reader.byte("command kind")? {
            OPEN => Self::Open(OpenCommand {
                anew: match reader.byte("open")? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError { what: "open" }),
                },
                claim: Offset::new(reader.number("claim")?),
                kind: take_kind(&mut reader)?,
                version: u32::try_from(reader.number("projection version")?)
                    .map_err(|_| DecodeError { what: "projection version" })?,
                spec: decode_spec(&mut reader)?,
                policy: PolicyHash::from_bytes(reader.array("policy")?),
                caller: take_domain(&mut reader)?,
            }),
            BATCH => {
                let mut number = take_command_number(&mut reader)?;
                let caller = take_domain(&mut reader)?;
                let guards = take_ops(&mut reader)?;
                let then = take_ops(&mut reader)?;
                let otherwise = take_ops(&mut reader)?;
                if then.is_empty() && otherwise.is_empty() {
                    return Err(DecodeError { what: "batch without operations" });
                }
                if let Some(number) = &mut number {
                    number.registrant = Registrant::take(&mut reader)?;
                }
                Self::Batch(BatchCommand { number, caller, guards, then, otherwise })
            }
            HOUSEKEEP => {
                let count = reader.number("chore count")?;
                if !(1..=CHORES_MAX as u64).contains(&count) {
                    return Err(DecodeError { what: "chore count" });
                }
                let chore =
                    |id| if id == ResourceId(0) { Chore::Clients } else { Chore::Resource(id) };
                let chores = (0..count).map(|_| take_resource(&mut reader).map(chore));
                Self::Housekeep(chores.collect::<Result<_, _>>()?)
            }
            ALTER => {
                let resource = take_resource(&mut reader)?;
                let expected = Revision::new(reader.number("revision")?);
                let node = NodeId::new(reader.number("node")?);
                let caller = take_domain(&mut reader)?;
                let reason = Reason::take(&mut reader)?;
                let alteration = Alteration::take(&mut reader)?;
                let policy = match &alteration {
                    Alteration::Place(_) => Some(PolicyHash::from_bytes(reader.array("policy")?)),
                    _ => None,
                };
                Self::Alter(AlterCommand {
                    resource,
                    expected,
                    node,
                    caller,
                    reason,
                    alteration,
                    policy,
                })
            }
            COMPARE => Self::Compare(CompareCommand::take(&mut reader)?),
            REGISTER => Self::Register {
                ttl_ms: reader.number("client ttl")?,
                registrant: Registrant::take(&mut reader)?,
            },
            REBUILD => Self::Rebuild(RebuildCommand::take(&mut reader)?),
            CLAIM => Self::Claim(ClaimCommand {
                name: take_name(&mut reader)?,
                affinity: take_affinity(&mut reader)?,
                data_groups: match reader.number("data groups")? {
                    groups @ 1..=DATA_GROUPS_MAX => groups,
                    _ => return Err(DecodeError { what: "data groups" }),
                },
            }),
            _ => return Err(DecodeError { what: "command kind" }),
        };
        reader.end("command")?;
        if trace.is_some() && !command.is_asked_for() {
            return Err(DecodeError { what: "command version" });
        }
        Ok((command, trace))
    }
}

/// Whether a record, by its bytes, is about the rebuild of a projection: none of those is part of a trace.
pub(crate) fn is_rebuild(payload: &[u8]) -> bool {
    payload.starts_with(&[VERSION, REBUILD])
}

fn put_op(out: &mut Vec<u8>, op: &Op) {
    put_number(out, op.resource.0.into());
    put_number(out, op.epoch.get());
    put_bytes(out, &op.body);
}

fn take_ops(reader: &mut Reader) -> Result<Vec<Op>, DecodeError> {
    let count = reader.number("operation count")?;
    if count > BATCH_OPS_MAX as u64 {
        return Err(DecodeError { what: "operation count" });
    }
    (0..count).map(|_| take_op(reader)).collect()
}

fn put_command_number(out: &mut Vec<u8>, number: Option<Number>) {
    match number {
        None => put_number(out, 0),
        Some(Number { client, seq, acked_up_to, registrant: _ }) => {
            put_number(out, client.get());
            put_number(out, seq);
            put_number(out, acked_up_to);
        }
    }
}

fn take_command_number(reader: &mut Reader) -> Result<Option<Number>, DecodeError> {
    let client = Offset::new(reader.number("client")?);
    if client == Offset::ZERO {
        return Ok(None);
    }
    let seq = reader.number("command number")?;
    let acked_up_to = reader.number("acked up to")?;
    Ok(Some(Number { client, seq, acked_up_to, registrant: None }))
}

fn take_resource(reader: &mut Reader) -> Result<ResourceId, DecodeError> {
    let id = u32::try_from(reader.number("resource")?);
    id.map(ResourceId).map_err(|_| DecodeError { what: "resource" })
}

fn take_op(reader: &mut Reader) -> Result<Op, DecodeError> {
    let resource = take_resource(reader)?;
    let epoch = FenceEpoch::new(reader.number("epoch")?);
    Ok(Op { resource, epoch, body: reader.bytes(BODY_BYTES_MAX, "operation")? })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::degradation::{DegradationContract, any_contract};
    use crate::profile::PlacementProfile;
    use crate::projection::rebuild::any_rebuild;
    use crate::resource::{DomainRule, Placement, ReplicaPolicy, SchemaId};
    use crate::trace::any_trace;

    fn domain() -> FailureDomain {
        FailureDomain::new("aws", "us-east-1", "us-east-1a")
    }

    fn op() -> impl Strategy<Value = Op> {
        let body = vec(any::<u8>(), 0..9);
        (any::<u32>(), any::<u64>(), body).prop_map(|(resource, epoch, body)| Op {
            resource: ResourceId(resource),
            epoch: FenceEpoch::new(epoch),
            body: body.into(),
        })
    }

    fn registrant() -> impl Strategy<Value = Option<Registrant>> {
        proptest::option::of(any::<u8>().prop_map(|name| Registrant::of(&name.to_string())))
    }

    fn batch() -> impl Strategy<Value = Command> {
        let ops = || vec(op(), 0..4);
        let number = (1_u64.., any::<u64>(), any::<u64>(), registrant()).prop_map(
            |(client, seq, acked_up_to, registrant)| Number {
                client: Offset::new(client),
                seq,
                acked_up_to,
                registrant,
            },
        );
        let number = proptest::option::of(number);
        (number, ops(), op(), ops(), ops()).prop_map(|(number, guards, first, rest, otherwise)| {
            let then = std::iter::once(first).chain(rest).collect();
            let caller = domain();
            Command::Batch(BatchCommand { number, caller, guards, then, otherwise })
        })
    }

    fn register() -> impl Strategy<Value = Command> {
        (any::<u64>(), registrant())
            .prop_map(|(ttl_ms, registrant)| Command::Register { ttl_ms, registrant })
    }

    fn alteration() -> impl Strategy<Value = Alteration> {
        let schema = |name: String| SchemaId::new(&name).unwrap();
        let placement = || Placement::providers(["aws", "gcp"]).unwrap();
        prop_oneof![
            "[a-z]{1,9}".prop_map(move |name| Alteration::AddSchema(schema(name))),
            "[a-z]{1,9}".prop_map(move |name| Alteration::RetireSchema(schema(name))),
            Just(Alteration::Place(placement())),
            (0..=Alteration::RETAIN_MS_MAX).prop_map(|retain_ms| Alteration::Delete { retain_ms }),
            Just(Alteration::Undelete),
            proptest::option::of(any_contract()).prop_map(Alteration::Declare),
        ]
    }

    fn alter() -> impl Strategy<Value = Command> {
        (any::<u32>(), any::<u64>(), any::<u64>(), ".{1,60}", alteration()).prop_map(
            |(resource, expected, node, reason, alteration)| {
                Command::Alter(AlterCommand {
                    resource: ResourceId(resource),
                    expected: Revision::new(expected),
                    node: NodeId::new(node),
                    caller: domain(),
                    reason: Reason::new(&reason).unwrap(),
                    policy: AlterCommand::policy(&alteration, ReplicaPolicy::majority(3)),
                    alteration,
                })
            },
        )
    }

    fn claim() -> impl Strategy<Value = Command> {
        ("[a-z]{1,9}", "[a-z]{0,9}", 1..=DATA_GROUPS_MAX).prop_map(
            |(name, affinity, data_groups)| {
                let name = LogicalResourceName::new(&name).unwrap();
                let affinity = Affinity::new(&affinity).unwrap();
                Command::Claim(ClaimCommand { name, affinity, data_groups })
            },
        )
    }

    proptest! {
        #[test]
        fn commands_round_trip(command in prop_oneof![batch(), alter(), claim(), any_rebuild().prop_map(Command::Rebuild)]) {
            prop_assert_eq!(Command::decode(command.encode()), Ok(command));
        }

        #[test]
        fn chores_and_clients_round_trip(chores in vec(0_u32..3, 1..CHORES_MAX), ttl_ms: u64, registrant in registrant()) {
            let chore = |id| match id {
                0 => Chore::Clients,
                id => Chore::Resource(ResourceId(id)),
            };
            let chores = Command::Housekeep(chores.into_iter().map(chore).collect());
            for command in [chores, Command::Register { ttl_ms, registrant }] {
                prop_assert_eq!(Command::decode(command.encode()), Ok(command));
            }
        }

        #[test]
        fn a_trace_context_is_stored_in_front_of_what_it_is_with(command in prop_oneof![batch(), register(), alter(), claim()], trace in any_trace()) {
            let (plain, traced) = (command.encode(), command.encode_traced(Some(&trace)));
            prop_assert_eq!(traced.len(), plain.len() + 26);
            prop_assert_eq!(&traced[27..], &plain[1..]);
            prop_assert_eq!(Command::decode_traced(plain), Ok((command.clone(), None)));
            prop_assert_eq!(Command::decode_traced(traced), Ok((command, Some(trace))));
        }

        /// What nobody asked for is part of no trace.
        #[test]
        fn own_records_have_no_trace(rebuild in any_rebuild(), trace in any_trace()) {
            for command in [Command::Rebuild(rebuild), Command::Housekeep(vec![Chore::Clients])] {
                let plain = command.encode();
                prop_assert_eq!(command.encode_traced(Some(&trace)), plain.clone());
                let mut forged = vec![TRACED];
                trace.put(&mut forged);
                forged.extend_from_slice(&plain[1..]);
                prop_assert!(Command::decode(forged.into()).is_err());
            }
        }

        /// E8: whatever is read is written the same again, so a record has one form.
        #[test]
        fn what_is_read_has_one_form(command in prop_oneof![batch(), register(), alter(), claim(), any_rebuild().prop_map(Command::Rebuild)], trace in proptest::option::of(any_trace()), changes in vec((any::<usize>(), any::<u8>()), 1..4)) {
            let mut raw = command.encode_traced(trace.as_ref()).to_vec();
            for (at, byte) in changes {
                let at = at % raw.len();
                raw[at] = byte;
            }
            let raw = Bytes::from(raw);
            if let Ok((command, trace)) = Command::decode_traced(raw.clone()) {
                prop_assert_eq!(command.encode_traced(trace.as_ref()), raw);
            }
        }

        #[test]
        fn decoding_never_panics(kind in 0u8..10, trace in proptest::option::of(any_trace()), raw in vec(any::<u8>(), 0..120)) {
            let mut whole = vec![if trace.is_some() { TRACED } else { VERSION }];
            trace.inspect(|trace| trace.put(&mut whole));
            whole.push(kind);
            whole.extend(raw);
            let _ = Command::decode(whole.into());
        }
    }

    #[test]
    fn housekeeping_has_some_chores_and_not_too_many() {
        let command = |count| Command::Housekeep(vec![Chore::Resource(ResourceId(7)); count]);
        for count in [1, CHORES_MAX] {
            assert_eq!(Command::decode(command(count).encode()), Ok(command(count)));
        }
        for count in [0, CHORES_MAX + 1] {
            assert_eq!(Command::decode(command(count).encode()).unwrap_err().what, "chore count");
        }
    }

    #[test]
    fn a_batch_does_something_and_not_too_much() {
        let op = Op { resource: ResourceId(1), epoch: FenceEpoch::new(1), body: Bytes::new() };
        let refused = |guards: usize, then: usize, otherwise: usize| {
            let [guards, then, otherwise] =
                [guards, then, otherwise].map(|count| vec![op.clone(); count]);
            let (number, caller) = (None, domain());
            let batch = BatchCommand { number, caller, guards, then, otherwise };
            Command::decode(Command::Batch(batch).encode()).map_err(|error| error.what).err()
        };
        assert_eq!(refused(0, 1, 0), None);
        assert_eq!(refused(1, 0, 1), None);
        assert_eq!(refused(BATCH_OPS_MAX, BATCH_OPS_MAX, BATCH_OPS_MAX), None);
        assert_eq!(refused(1, 0, 0), Some("batch without operations"));
        for (guards, then, otherwise) in [(257, 1, 0), (0, 257, 0), (0, 1, 257)] {
            assert_eq!(refused(guards, then, otherwise), Some("operation count"));
        }
    }

    #[test]
    fn a_placement_out_of_order_is_no_record() {
        let rules = ["gcp", "aws"].map(|provider| DomainRule {
            provider: provider.into(),
            region: None,
            zone: None,
        });
        let spec =
            ResourceSpec::new("n", "s").unwrap().placement(Placement { rules: rules.into() });
        let open = OpenCommand {
            anew: false,
            claim: Offset::ZERO,
            kind: ResourceKind::MAP,
            version: 1,
            policy: PolicyHash::of_spec(&spec),
            spec,
            caller: domain(),
        };
        let refused = Command::decode(Command::Open(open).encode()).unwrap_err();
        assert_eq!(refused.what, "placement");
    }

    #[test]
    fn open_round_trips() {
        let profile = PlacementProfile::multi_az("aws", "us-east-1").unwrap();
        let spec = ResourceSpec::new("report-requests", "report-command.v1").unwrap();
        let spec = spec.epoch(FenceEpoch::new(3)).profile(&profile);
        for replicas in [ReplicaPolicy::majority(3), ReplicaPolicy::majority(3).across_domains(2)] {
            let (kind, spec) = (ResourceKind::MAP, spec.clone().replicas(replicas));
            let command = Command::Open(OpenCommand {
                anew: false,
                claim: Offset::new(300),
                kind,
                version: 1,
                policy: PolicyHash::of_spec(&spec),
                spec,
                caller: domain(),
            });
            assert_eq!(Command::decode(command.encode()), Ok(command));
        }
    }

    fn open_under(contract: Option<DegradationContract>) -> Command {
        let spec = ResourceSpec::new("orders", "order.v1").unwrap();
        let spec = ResourceSpec { contract, ..spec };
        let (anew, kind, version, caller) = (false, ResourceKind::LOG, 1, domain());
        let (claim, policy) = (Offset::ZERO, PolicyHash::of_spec(&spec));
        Command::Open(OpenCommand { anew, claim, kind, version, spec, policy, caller })
    }

    /// No contract is another thing than one without rules, which closes the resource under any failure.
    #[test]
    fn no_contract_is_not_one_without_rules() {
        let [none, closed] = [None, Some(DegradationContract::default())].map(open_under);
        assert_ne!(none.encode(), closed.encode());
        for command in [none, closed] {
            assert_eq!(Command::decode(command.encode()), Ok(command));
        }
    }

    proptest! {
        /// E8, of the contract: what `build` would refuse, or spells it otherwise, is no record.
        #[test]
        fn a_contract_in_a_record_has_one_form(contract in any_contract(), at: usize, byte: u8) {
            let command = open_under(Some(contract.clone()));
            let raw = command.encode();
            prop_assert_eq!(Command::decode(raw.clone()), Ok(command));
            let stored = contract.to_bytes();
            let from = raw.windows(stored.len()).position(|part| part == stored).unwrap();
            let mut other = raw.to_vec();
            other[from + at % stored.len()] = byte;
            if let Ok(read) = Command::decode(other.clone().into()) {
                prop_assert_eq!(read.encode(), other);
            }
        }
    }
}
