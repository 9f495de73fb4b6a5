//! Histories: few names, keys, owners and epochs, so that they meet often.

use bytes::Bytes;
use palisade_replication::{LogTime, NodeId, Offset};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::naive::{Action, Batch, Demand, Here, Model, On, Said};
use super::{KINDS, Step};
use crate::alteration::{Alteration, Reason, Revision};
use crate::clients::Registrant;
use crate::command::{AlterCommand, Chore, Number, OpenCommand};
use crate::degradation::DegradationContract;
use crate::profile::PolicyHash;
use crate::projections::idempotency::{Fingerprint, RequestGuard, RequestOp, RequestWindow};
use crate::projections::log::{ConsumerChange, LogGuard, LogOp, LogPosition, LogRetention};
use crate::projections::map::{History, MapGuard, MapOp, Version};
use crate::resource::{
    FailureDomain, FenceEpoch, Placement, ResourceId, ResourceKind, ResourceSpec, SchemaId,
};

pub(super) const DAY_MS: u64 = 86_400_000;

fn domain(allowed: bool) -> FailureDomain {
    FailureDomain::new(if allowed { "aws" } else { "gcp" }, "r", "z")
}

fn spec(kind: &ResourceKind, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(&kind.to_string(), "model.v1")
        .unwrap()
        .epoch(FenceEpoch::new(epoch))
        .placement(Placement::providers(["aws"]).unwrap())
}

fn open(kind: ResourceKind, spec: ResourceSpec, caller: FailureDomain) -> Said {
    let (anew, claim, policy) = (false, Offset::ZERO, PolicyHash::of_spec(&spec));
    Said::Open(OpenCommand { anew, claim, kind, version: 1, spec, policy, caller })
}

/// Another one than any policy has.
fn mistaken(policy: PolicyHash) -> PolicyHash {
    PolicyHash::from_bytes(policy.to_bytes().map(|byte| !byte))
}

/// The three resources, numbers 1 to 3, epoch 1.
pub(super) fn opened() -> Vec<Step> {
    let said = |kind: ResourceKind| open(kind.clone(), spec(&kind, 1), domain(true));
    KINDS.map(|kind| Step { later_ms: 0, said: said(kind) }).into()
}

pub(super) fn batch(then: Vec<On<Action>>) -> Said {
    let (guards, otherwise) = (Vec::new(), Vec::new());
    Said::Batch(Batch { number: None, caller: domain(true), guards, then, otherwise })
}

fn on<T>(resource: u32, what: T) -> On<T> {
    On { resource: ResourceId(resource), epoch: FenceEpoch::new(1), what }
}

pub(super) fn reserve(key: &'static str, owner: u64, fingerprint: u8) -> On<Action> {
    let (owner, fingerprint) = (FenceEpoch::new(owner), Fingerprint([fingerprint; 32]));
    on(
        3,
        Action::Request(RequestOp::Reserve {
            owner,
            issued: None,
            fingerprint,
            key: Bytes::from(key),
        }),
    )
}

pub(super) fn complete(key: &'static str, owner: u64, result: &'static str) -> On<Action> {
    let (owner, result) = (FenceEpoch::new(owner), Bytes::from(result));
    on(3, Action::Request(RequestOp::Complete { owner, key: Bytes::from(key), result }))
}

pub(super) fn append(payload: &'static str) -> On<Action> {
    on(1, Action::Log(LogOp::append(Bytes::from(payload))))
}

pub(super) fn put_if(key: &'static str, value: &'static str, version: Version) -> On<Action> {
    let (key, value) = (Bytes::from(key), Bytes::from(value));
    on(2, Action::Map(MapOp::Put { guard: Some(version), ttl_ms: None, key, value }))
}

fn any_key() -> impl Strategy<Value = Bytes> {
    proptest::sample::select(vec!["", "a", "a\0", "a\0b", "ab", "b"]).prop_map(Bytes::from)
}

fn any_version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(0_u64), 0_u64..40].prop_map(|raw| Version(Offset::new(raw)))
}

/// The names of consumers.
pub(super) const CONSUMERS: [&str; 3] = ["", "a", "b"];

/// Offsets and indices that entries are at, and the places right before and after them.
fn any_position() -> impl Strategy<Value = LogPosition> {
    let place = |(offset, index)| LogPosition { offset: Offset::new(offset), index };
    prop_oneof![
        1 => Just(LogPosition::START),
        9 => (0_u64..40, 0_u16..4).prop_map(place),
    ]
}

fn any_log_op() -> impl Strategy<Value = LogOp> {
    let payload = || proptest::sample::select(vec!["", "x", "entry"]).prop_map(Bytes::from);
    let expected = proptest::option::weighted(0.2, any_position());
    let append = (expected, vec(payload(), 1..4))
        .prop_map(|(expected, payloads)| LogOp::Append { expected, payloads });
    let keep = (proptest::option::of(0_u64..1_000), proptest::option::of(0_u64..200));
    let retain = keep.prop_map(|(keep_ms, keep_bytes)| LogOp::Retain {
        retention: LogRetention { keep_ms, keep_bytes },
    });
    let change = prop_oneof![
        4 => any_position().prop_map(ConsumerChange::Commit),
        2 => any_position().prop_map(ConsumerChange::Reset),
        1 => Just(ConsumerChange::Forget),
    ];
    let name = proptest::sample::select(&CONSUMERS[1..]).prop_map(str::to_owned);
    let consumer = (name, 1_u64..4, change).prop_map(|(name, owner, change)| LogOp::Consumer {
        name,
        owner: FenceEpoch::new(owner),
        change,
    });
    prop_oneof![
        6 => payload().prop_map(LogOp::append),
        4 => append,
        1 => any_position().prop_map(|before| LogOp::Trim { before }),
        1 => retain,
        3 => consumer,
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    let value = || proptest::sample::select(vec!["", "x", "y"]).prop_map(Bytes::from);
    let owner = || (1_u64..4).prop_map(FenceEpoch::new);
    let guard = || proptest::option::weighted(0.4, any_version());
    let issued = proptest::option::weighted(0.4, prop_oneof![Just(0_u64), 900_u64..3_000]);
    let ttl = || proptest::option::weighted(0.4, 1_u64..2_000);
    prop_oneof![
        6 => any_log_op().prop_map(Action::Log),
        4 => (guard(), ttl(), any_key(), value()).prop_map(|(guard, ttl_ms, key, value)| {
            Action::Map(MapOp::Put { guard, ttl_ms, key, value })
        }),
        1 => (0_u64..3, 0_u64..9).prop_map(|(keep, changes_max)| {
            let keep_ms = [0, 700, DAY_MS][keep as usize];
            Action::Map(MapOp::Keep { history: History { keep_ms, changes_max } })
        }),
        1 => (guard(), any_key())
            .prop_map(|(guard, key)| Action::Map(MapOp::Delete { guard, key })),
        4 => (owner(), issued, any_key(), 0_u8..2).prop_map(|(owner, issued, key, raw)| {
            let (issued, fingerprint) = (issued.map(LogTime::new), Fingerprint([raw; 32]));
            Action::Request(RequestOp::Reserve { owner, issued, fingerprint, key })
        }),
        1 => (0_usize..3, 0_u64..6).prop_map(|(retention, requests_max)| {
            let retention_ms = [0, 700, DAY_MS][retention];
            let window = RequestWindow { retention_ms, requests_max };
            Action::Request(RequestOp::Keep { window })
        }),
        4 => (owner(), any_key(), value()).prop_map(|(owner, key, result)| {
            Action::Request(RequestOp::Complete { owner, key, result })
        }),
    ]
}

fn any_demand() -> impl Strategy<Value = Demand> {
    prop_oneof![
        2 => any_position().prop_map(|position| Demand::Log(LogGuard::TailIs { position })),
        3 => (any_key(), any_version())
            .prop_map(|(key, version)| Demand::Map(MapGuard::VersionIs { key, version })),
        1 => any_key().prop_map(|key| Demand::Request(RequestGuard::Completed { key })),
    ]
}

/// On the resource of its kind, mostly by the first writer; seldom on one that is not there.
fn on_its_own<T: Clone + std::fmt::Debug>(
    what: impl Strategy<Value = T>,
    resource: fn(&T) -> u32,
) -> impl Strategy<Value = On<T>> {
    let epoch = prop_oneof![8 => Just(1_u64), 2 => 0_u64..4].prop_map(FenceEpoch::new);
    let other = proptest::option::weighted(0.03, prop_oneof![Just(0_u32), 4_u32..6]);
    (what, other, epoch).prop_map(move |(what, other, epoch)| {
        let usual = resource(&what);
        On { resource: ResourceId(other.unwrap_or(usual)), epoch, what }
    })
}

fn any_op() -> impl Strategy<Value = On<Action>> {
    on_its_own(any_action(), |action| match action {
        Action::Log(_) => 1,
        Action::Map(_) => 2,
        Action::Request(_) => 3,
    })
}

fn any_guard() -> impl Strategy<Value = On<Demand>> {
    on_its_own(any_demand(), |demand| match demand {
        Demand::Log(_) => 1,
        Demand::Map(_) => 2,
        Demand::Request(_) => 3,
    })
}

fn any_batch() -> impl Strategy<Value = Said> {
    let allowed = prop::bool::weighted(0.95).prop_map(domain);
    let plain = (Just(Vec::new()), vec(any_op(), 1..6), Just(Vec::new()));
    let guarded = (vec(any_guard(), 1..4), vec(any_op(), 0..4), vec(any_op(), 0..4));
    let number = proptest::option::weighted(0.4, any_number());
    (number, allowed, prop_oneof![3 => plain, 2 => guarded])
        .prop_filter("it does something", |(_, _, (_, then, otherwise))| {
            !then.is_empty() || !otherwise.is_empty()
        })
        .prop_map(|(number, caller, (guards, then, otherwise))| {
            Said::Batch(Batch { number, caller, guards, then, otherwise })
        })
}

/// Mostly of the clients that a history begins with, and in order.
fn any_number() -> impl Strategy<Value = Number> {
    let client = prop_oneof![8 => 4_u64..6, 1 => 1_u64..40].prop_map(Offset::new);
    let seq = prop_oneof![8 => 1_u64..6, 1 => 0_u64..70];
    let acked = prop_oneof![4 => Just(0), 2 => 0_u64..4, 1 => 0_u64..70];
    (client, seq, acked, any_registrant()).prop_map(|(client, seq, acked_up_to, registrant)| {
        Number { client, seq, acked_up_to, registrant }
    })
}

/// Mostly the one that a history begins with.
fn any_registrant() -> impl Strategy<Value = Option<Registrant>> {
    prop_oneof![8 => Just(None), 1 => Just(Some(Registrant::of("one")))]
}

/// The same command once more: perhaps with more answers taken, from elsewhere, or by another epoch.
fn again(batch: &Batch, acked: Option<u64>, allowed: bool, epoch: Option<u64>) -> Batch {
    let mut batch = Batch { caller: domain(allowed), ..batch.clone() };
    if let (Some(number), Some(acked)) = (&mut batch.number, acked) {
        number.acked_up_to = acked;
    }
    if let Some(epoch) = epoch {
        let ops = batch.then.iter_mut().chain(&mut batch.otherwise);
        ops.for_each(|op| op.epoch = FenceEpoch::new(epoch));
    }
    batch
}

/// Mostly of the kind that the name says, since what was made as another is in the way of everybody.
fn any_open() -> impl Strategy<Value = Said> {
    let allowed = prop::bool::weighted(0.95).prop_map(domain);
    let kind = prop_oneof![8 => Just(None), 2 => (0_usize..3).prop_map(Some)];
    let anew = prop::bool::weighted(0.1);
    let declared = prop_oneof![9 => Just(None), 1 => any_declared()];
    let hashed = prop::bool::weighted(0.95);
    (allowed, anew, kind, 0_usize..3, 1_u64..4, any_schema(), declared, hashed).prop_map(
        |(caller, anew, kind, name, epoch, schema, contract, hashed)| {
            let spec = ResourceSpec { schema, contract, ..spec(&KINDS[name], epoch) };
            let kind = KINDS[kind.unwrap_or(name)].clone();
            let policy = PolicyHash::of_spec(&spec);
            let policy = if hashed { policy } else { mistaken(policy) };
            let claim = Offset::ZERO;
            Said::Open(OpenCommand { anew, claim, kind, version: 1, spec, policy, caller })
        },
    )
}

fn any_schema() -> impl Strategy<Value = SchemaId> {
    let schemas = [3, 1, 1].into_iter().zip(["model.v1", "model.v2", "model.v3"]);
    let schemas = schemas.map(|(weight, name)| (weight, Just(SchemaId::new(name).unwrap())));
    prop::strategy::Union::new_weighted(
        schemas.map(|(weight, just)| (weight, just.boxed())).collect(),
    )
}

fn any_declared() -> impl Strategy<Value = Option<DegradationContract>> {
    prop_oneof![2 => Just(None), 1 => Just(Some(DegradationContract::default()))]
}

fn any_alteration() -> impl Strategy<Value = Alteration> {
    let placed = |providers: &[&str]| {
        Just(Alteration::Place(Placement::providers(providers.iter().copied()).unwrap()))
    };
    prop_oneof![
        3 => any_schema().prop_map(Alteration::AddSchema),
        2 => any_schema().prop_map(Alteration::RetireSchema),
        1 => placed(&["aws", "gcp"]),
        1 => placed(&["aws"]),
        1 => any_declared().prop_map(Alteration::Declare),
        4 => (0_usize..3)
            .prop_map(|at| Alteration::Delete { retain_ms: [0, 700, DAY_MS][at] }),
        2 => Just(Alteration::Undelete),
    ]
}

/// At the revision that the resource has; at the first if it is not to be the right one.
fn any_alter() -> impl Strategy<Value = Said> {
    let allowed = prop::bool::weighted(0.95).prop_map(domain);
    let (right, hashed) = (prop::bool::weighted(0.9), prop::bool::weighted(0.8));
    let said = (allowed, right, hashed, 1_u32..5, any_alteration());
    said.prop_map(|(caller, right, hashed, id, alteration)| {
        // Each of the model's resources has the replicas that a spec has of itself.
        let policy = AlterCommand::policy(&alteration, spec(&KINDS[0], 1).replicas);
        let policy = policy.map(|policy| if hashed { policy } else { mistaken(policy) });
        Said::Alter(AlterCommand {
            policy,
            resource: ResourceId(id),
            expected: Revision::new(if right { u64::MAX } else { 0 }),
            node: NodeId::new(1),
            caller,
            reason: Reason::new("because").unwrap(),
            alteration,
        })
    })
}

fn any_housekeeping() -> impl Strategy<Value = Said> {
    let chore = |id| match id {
        0 => Chore::Clients,
        id => Chore::Resource(ResourceId(id)),
    };
    vec((0_u32..5).prop_map(chore), 1..4).prop_map(Said::Housekeep)
}

pub(super) fn any_registration() -> impl Strategy<Value = Said> {
    let ttl_ms = proptest::sample::select(vec![1_000, 90_000, DAY_MS]);
    (ttl_ms, any_registrant())
        .prop_map(|(ttl_ms, registrant)| Said::Register { ttl_ms, registrant })
}

/// What was said of the first, second and third kind is said of the newest resource of that kind, as the
/// model has it; what names another number names one that never is.
pub(super) fn settle(model: &Model, said: &mut Said) {
    let newest = |id: &mut ResourceId| {
        let kind = (id.0 as usize).checked_sub(1).and_then(|at| KINDS.get(at));
        let newest = kind.and_then(|kind| model.table.newest(kind));
        // Of a kind that is gone, its first: the number names nothing any more.
        id.0 = newest.unwrap_or(if kind.is_some() { id.0 } else { 1_000 });
    };
    match said {
        Said::Open(_) | Said::Register { .. } => {}
        Said::Housekeep(chores) => {
            let resources = chores.iter_mut().filter_map(|chore| match chore {
                Chore::Clients => None,
                Chore::Resource(id) => Some(id),
            });
            resources.for_each(newest);
        }
        Said::Batch(batch) => {
            batch.guards.iter_mut().map(|on| &mut on.resource).for_each(newest);
            let ops = batch.then.iter_mut().chain(&mut batch.otherwise);
            ops.map(|on| &mut on.resource).for_each(newest);
        }
        Said::Alter(command) => {
            newest(&mut command.resource);
            if let Some(found) = model.table.resources.get(&command.resource.0)
                && command.expected != Revision::MADE
            {
                command.expected = found.revision();
            }
        }
    }
}

fn settle_all(steps: Vec<Step>) -> Vec<Step> {
    let (mut model, mut here) = (Model::default(), Here::BEGIN);
    let mut settled = Vec::with_capacity(steps.len());
    for mut step in steps {
        settle(&model, &mut step.said);
        here = here.next(step.later_ms);
        model.apply(here, &step.said);
        settled.push(step);
    }
    settled
}

/// Anything that a record can say.
pub(super) fn any_said() -> impl Strategy<Value = Said> {
    prop_oneof![
        20 => any_batch(),
        2 => any_open(),
        2 => any_alter(),
        3 => any_housekeeping(),
        1 => any_registration(),
    ]
}

/// Says a numbered command once more: which of them, and what [`again`] changes of it.
#[derive(Clone, Debug)]
pub(super) struct Repetition {
    which: Index,
    acked: Option<u64>,
    allowed: bool,
    epoch: Option<u64>,
}

impl Repetition {
    /// One of these, if there is one.
    pub(super) fn of(&self, numbered: &[&Batch]) -> Option<Said> {
        let first = numbered.get(self.which.index(numbered.len().max(1)))?;
        Some(Said::Batch(again(first, self.acked, self.allowed, self.epoch)))
    }
}

/// One of four.
pub(super) fn any_repetition() -> impl Strategy<Value = Option<Repetition>> {
    let acked = proptest::option::weighted(0.2, 0_u64..4);
    let epoch = proptest::option::weighted(0.2, 1_u64..4);
    let repeats = (any::<Index>(), acked, prop::bool::weighted(0.8), epoch);
    let repeats = repeats.prop_map(|(which, acked, allowed, epoch)| Repetition {
        which,
        acked,
        allowed,
        epoch,
    });
    proptest::option::weighted(0.25, repeats)
}

pub(super) fn any_history() -> impl Strategy<Value = Vec<Step>> {
    let later = prop_oneof![
        12 => Just(0),
        6 => 1..1_000_u64,
        2 => 20_000..90_000_u64,
        1 => Just(DAY_MS / 2 + 1),
    ];
    let step = (later, any_said()).prop_map(|(later_ms, said)| Step { later_ms, said });
    let clients = vec(any_registration(), 2);
    (clients, vec((step, any_repetition()), 0..60)).prop_map(|(clients, steps)| {
        let mut history = opened();
        history.extend(clients.into_iter().map(|said| Step { later_ms: 0, said }));
        for (mut step, repeats) in steps {
            let numbered = history.iter().filter_map(|step| match &step.said {
                Said::Batch(batch) => batch.number.map(|_| batch),
                _ => None,
            });
            let numbered: Vec<&Batch> = numbered.collect();
            if let Some(said) = repeats.and_then(|repetition| repetition.of(&numbered)) {
                step.said = said;
            }
            history.push(step);
        }
        settle_all(history)
    })
}
