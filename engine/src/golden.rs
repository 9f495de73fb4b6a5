//! The stored formats of version 2, byte by byte: records as they lie in the log, rows as they lie in
//! the store, and the chain of heads over them. `tests/golden/state-2.txt` is what every later
//! release must still read, and still compute from the same records (G8).
//!
//! A change that is meant gets a new version and a new file. While a version has not been released,
//! `PALISADE_GOLDEN=write cargo test -p palisade golden` writes the file anew.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use palisade_replication::{
    ClusterId, CommittedEntry, GroupId, LogIndex, LogTime, NodeId, Offset, ProposalId, Record,
    StateMachine, Term,
};

use crate::alteration::{Alteration, Reason, Revision};
use crate::clients::Registrant;
use crate::command::{AlterCommand, BatchCommand, Chore, Command, Number, Op, OpenCommand};
use crate::comparing::{CompareCommand, StateSums};
use crate::degradation::{DegradationContract, DegradationMode, DegradationRule, RecoveryAction};
use crate::digest::digest;
use crate::failure::Failure;
use crate::machine::EngineMachine;
use crate::profile::PolicyHash;
use crate::projection::Registry;
use crate::projections::idempotency::{Fingerprint, RequestGuard, RequestOp, RequestWindow};
use crate::projections::log::{ConsumerChange, LogGuard, LogOp, LogPosition, LogRetention};
use crate::projections::map::{History, MapGuard, MapOp, Version};
use crate::resource::{
    DomainRule, FailureDomain, FenceEpoch, Placement, ReplicaPolicy, ResourceId, ResourceKind,
    ResourceSpec, SchemaId,
};
use crate::store::{Direction, MemoryStore, StateRead, Walk};
use crate::stored::Stored;
use crate::trace::TraceContext;

const GROUP: GroupId = GroupId::new(1);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One record of each shape.
fn commands() -> Vec<Command> {
    let mut commands = work();
    // Replicas are compared: what all of it has come to, and what another says.
    let members = (1..=3).map(|node| (NodeId::new(node), node < 3)).collect();
    commands.push(Command::Compare(CompareCommand::Mark { members }));
    let (mark, sums) = (Offset::new(commands.len() as u64), StateSums::default());
    let node = NodeId::new(2);
    commands.push(Command::Compare(CompareCommand::Report { node, mark, sums }));
    commands
}

/// What is done to resources.
fn work() -> Vec<Command> {
    let caller = FailureDomain::new("aws", "us-east-1", "us-east-1a");
    let rule = |provider: &str, region: Option<&str>, zone: Option<&str>| DomainRule {
        provider: provider.to_owned(),
        region: region.map(str::to_owned),
        zone: zone.map(str::to_owned),
    };
    let rules = [
        rule("aws", Some("us-east-1"), Some("us-east-1a")),
        rule("aws", Some("us-west-2"), None),
        rule("gcp", None, None),
    ];
    let spec = |name: &str, epoch, schema: &str| {
        ResourceSpec::new(name, schema)
            .unwrap()
            .epoch(FenceEpoch::new(epoch))
            .replicas(ReplicaPolicy::majority(3))
            .placement(Placement::new(rules.clone()).unwrap())
    };
    let open_as = |kind: ResourceKind, spec| {
        let caller = caller.clone();
        Command::Open(OpenCommand {
            anew: false,
            claim: Offset::ZERO,
            kind,
            version: 1,
            policy: PolicyHash::of_spec(&spec),
            spec,
            caller,
        })
    };
    let open = |kind, name, epoch| open_as(kind, spec(name, epoch, "golden.v1"));
    let slow = RecoveryAction::Throttle { per_second: 300 };
    let contract = DegradationContract::builder()
        .rule(DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk))
        .rule(DegradationRule::new([Failure::Degraded], DegradationMode::DegradedOk).action(slow))
        .build()
        .unwrap();
    let schema = |name: &str| SchemaId::new(name).unwrap();
    let alter = |resource, expected, alteration| {
        Command::Alter(AlterCommand {
            resource: ResourceId(resource),
            expected: Revision::new(expected),
            node: NodeId::new(2),
            caller: caller.clone(),
            reason: Reason::new("a reason").unwrap(),
            policy: AlterCommand::policy(&alteration, ReplicaPolicy::majority(3)),
            alteration,
        })
    };
    let op = |resource, epoch, body: Bytes| Op {
        resource: ResourceId(resource),
        epoch: FenceEpoch::new(epoch),
        body,
    };
    let numbered = |number, guards, then, otherwise| {
        let caller = caller.clone();
        Command::Batch(BatchCommand { number, caller, guards, then, otherwise })
    };
    let branches = |guards, then, otherwise| numbered(None, guards, then, otherwise);
    let command = |seq, acked_up_to, guards, then| {
        let client = Offset::new(35);
        let number = Number { client, seq, acked_up_to, registrant: None };
        numbered(Some(number), guards, then, Vec::new())
    };
    let registrant = Some(Registrant::of("reports"));
    let by = |registrant, then| {
        let number = Number { client: Offset::new(44), seq: 1, acked_up_to: 0, registrant };
        numbered(Some(number), Vec::new(), then, Vec::new())
    };
    let batch = |ops| branches(Vec::new(), ops, Vec::new());
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let owner = FenceEpoch::new(300);
    let fingerprint = Fingerprint::of(b"a request");
    let append = |payload| LogOp::append(bytes(payload)).to_bytes();
    let append_two = |expected| LogOp::Append { expected, payloads: vec![bytes("x"), bytes("y")] };
    let place = |offset, index| LogPosition { offset: Offset::new(offset), index };
    let consumer =
        |name: &str, change| LogOp::Consumer { name: name.to_owned(), owner, change }.to_bytes();
    let retention = LogRetention { keep_ms: Some(86_400_000), keep_bytes: Some(1 << 20) };
    let put = |guard, key, value| {
        MapOp::Put { guard, ttl_ms: None, key: bytes(key), value: bytes(value) }.to_bytes()
    };
    let put_for = |ttl_ms, key, value| {
        let (ttl_ms, key, value) = (Some(ttl_ms), bytes(key), bytes(value));
        MapOp::Put { guard: None, ttl_ms, key, value }.to_bytes()
    };
    let keep =
        |keep_ms, changes_max| MapOp::Keep { history: History { keep_ms, changes_max } }.to_bytes();
    let delete = |guard, key| MapOp::Delete { guard, key: bytes(key) }.to_bytes();
    let reserve =
        |key| RequestOp::Reserve { owner, issued: None, fingerprint, key: bytes(key) }.to_bytes();
    let complete = |key, result| {
        RequestOp::Complete { owner, key: bytes(key), result: bytes(result) }.to_bytes()
    };
    let window = |retention_ms, requests_max| {
        RequestOp::Keep { window: RequestWindow { retention_ms, requests_max } }.to_bytes()
    };
    let version_is = |key, version| MapGuard::VersionIs { key: bytes(key), version }.to_bytes();
    let completed = |key| RequestGuard::Completed { key: bytes(key) }.to_bytes();
    let version = |offset| Version(Offset::new(offset));
    vec![
        open(ResourceKind::LOG, "commands", 1),
        open(ResourceKind::MAP, "states", 1),
        open(ResourceKind::IDEMPOTENCY, "requests", 1),
        batch(vec![
            op(3, 1, reserve("r1")),
            op(1, 1, append("a command")),
            op(2, 1, put(None, "k\0\x01", "a value")),
            op(3, 1, complete("r1", "a result")),
        ]),
        batch(vec![op(3, 1, reserve("r2"))]),
        batch(vec![
            op(2, 1, put(Some(Version::ABSENT), "", "")),
            op(2, 1, delete(Some(version(4)), "k\0\x01")),
        ]),
        // Two at one offset.
        batch(vec![op(1, 1, append("first")), op(1, 1, append("second"))]),
        branches(
            vec![op(2, 1, version_is("", version(6))), op(3, 1, completed("r1"))],
            vec![op(1, 1, append("as demanded"))],
            Vec::new(),
        ),
        branches(
            vec![op(3, 1, completed("r2"))],
            vec![op(1, 1, append("never"))],
            vec![op(2, 1, put(None, "r2", "not completed"))],
        ),
        // All that a log can do beside.
        batch(vec![op(1, 1, append_two(Some(place(8, 1))).to_bytes())]),
        branches(
            vec![op(1, 1, LogGuard::TailIs { position: place(10, 2) }.to_bytes())],
            vec![
                op(1, 1, LogOp::Trim { before: place(7, 1) }.to_bytes()),
                op(1, 1, consumer("c", ConsumerChange::Commit(place(10, 1)))),
                op(1, 1, consumer("d", ConsumerChange::Reset(place(7, 0)))),
                op(1, 1, consumer("gone", ConsumerChange::Commit(LogPosition::START))),
                op(1, 1, consumer("gone", ConsumerChange::Forget)),
            ],
            Vec::new(),
        ),
        batch(vec![op(1, 1, LogOp::Retain { retention }.to_bytes())]),
        batch(vec![op(1, 1, append_two(Some(place(8, 1))).to_bytes())]),
        batch(vec![op(2, 1, put_for(1_000, "ends", "soon"))]),
        batch(vec![op(2, 1, keep(3_600_000, 4))]),
        Command::Housekeep(vec![Chore::Resource(ResourceId(2))]),
        batch(vec![op(3, 1, window(60_000, 9))]),
        // What a resource is, altered.
        open(ResourceKind::MAP, "gone", 1),
        alter(1, 0, Alteration::AddSchema(schema("golden.v2"))),
        alter(1, 1, Alteration::RetireSchema(schema("golden.v1"))),
        alter(2, 0, Alteration::Place(Placement::new(rules[..2].to_vec()).unwrap())),
        alter(4, 0, Alteration::Delete { retain_ms: 0 }),
        Command::Housekeep(vec![Chore::Resource(ResourceId(4))]),
        alter(3, 0, Alteration::Delete { retain_ms: 86_400_000 }),
        alter(3, 1, Alteration::Undelete),
        alter(2, 0, Alteration::Delete { retain_ms: 1_000 }),
        alter(2, 1, Alteration::Delete { retain_ms: 1_000 }),
        // Refused records: they have their place in the chain, and no row.
        branches(vec![op(3, 1, completed("r2"))], vec![op(1, 1, append("never"))], Vec::new()),
        batch(vec![op(1, 0, append("stale"))]),
        open(ResourceKind::LOG, "commands", 2),
        open_as(ResourceKind::LOG, spec("commands", 2, "golden.v2")),
        // What a resource declares for failures.
        open_as(ResourceKind::MAP, spec("orders", 1, "golden.v1").contract(contract.clone())),
        alter(5, 0, Alteration::Declare(None)),
        alter(5, 1, Alteration::Declare(Some(contract))),
        // A client: commands that are done, refused, told again, and not let through.
        Command::Register { ttl_ms: 3_600_000, registrant: None },
        command(1, 0, Vec::new(), vec![op(1, 2, append("once")), op(1, 2, append("and again"))]),
        command(2, 0, vec![op(3, 1, completed("r2"))], vec![op(1, 2, append("never"))]),
        command(2, 0, vec![op(3, 1, completed("r2"))], vec![op(1, 2, append("never"))]),
        command(2, 0, Vec::new(), vec![op(1, 2, append("another"))]),
        command(99, 0, Vec::new(), vec![op(1, 2, append("too far"))]),
        command(3, 1, Vec::new(), vec![op(3, 1, reserve("r1"))]),
        command(4, 1, Vec::new(), vec![op(3, 1, complete("r2", "never"))]),
        command(5, 1, Vec::new(), vec![op(2, 1, put(None, "deleted", ""))]),
        // A client of somebody in particular, and one who is not that.
        Command::Register { ttl_ms: 3_600_000, registrant },
        by(registrant, vec![op(1, 2, append("mine"))]),
        by(None, vec![op(1, 2, append("mine"))]),
        Command::Housekeep(vec![Chore::Clients, Chore::Resource(ResourceId(1))]),
    ]
}

/// What the records come to, in words.
fn state() -> String {
    let store = Arc::new(MemoryStore::default());
    let shared = Arc::<MemoryStore>::clone(&store);
    let (cluster, node) = (ClusterId::new(7), NodeId::new(1));
    let mut machine =
        EngineMachine::open(shared, Registry::new(&[]).unwrap(), true, cluster, node, &[GROUP])
            .unwrap();
    let mut text = String::new();
    for (at, command) in commands().into_iter().enumerate() {
        let number = at as u64 + 1;
        let payload = command.encode();
        assert_eq!(Command::decode(payload.clone()), Ok(command));
        let entry = CommittedEntry {
            members_index: LogIndex::new(1),
            index: LogIndex::new(number),
            term: Term::new(1),
            log_time: LogTime::new(1_800_000_000_000 + 500 * number),
            first_offset: Offset::new(number),
            records: vec![Record {
                id: ProposalId { session: 1, seq: number },
                payload: payload.clone(),
            }],
        };
        let outcomes = machine.apply(GROUP, &[entry]).unwrap();
        let head = digest(&*store, GROUP).unwrap().head;
        writeln!(text, "record {number}\n  {}", hex(&payload)).unwrap();
        writeln!(text, "  {:?}\n  head {head}", outcomes[0].0).unwrap();
    }
    for family in store.families().ids() {
        let mut each = |key: &[u8], value: &[u8]| {
            writeln!(text, "{} {}\n  {}", store.families().name(family), hex(key), hex(value))
                .unwrap();
            Walk::Next
        };
        store.walk(family, &[], &[0xff; 64], Direction::Forward, &mut each).unwrap();
    }
    for (name, digest) in digest(&*store, GROUP).unwrap().projections {
        writeln!(text, "digest {name} {digest}").unwrap();
    }
    text
}

#[test]
fn version_two_stays_what_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state-2.txt");
    let found = state();
    if std::env::var_os("PALISADE_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, &found).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    for (at, (found, kept)) in found.lines().zip(kept.lines()).enumerate() {
        assert_eq!(found, kept, "line {} of {}", at + 1, path.display());
    }
    assert_eq!(found.lines().count(), kept.lines().count());
}

/// Version 3 is version 2 behind a trace context; what is applied is the same.
#[test]
fn version_three_stays_what_it_is() {
    let trace = TraceContext::new(*b"sixteen-of-trace", *b"its-span", 1).unwrap();
    let open = |traced: bool| {
        let (store, registry) = (Arc::new(MemoryStore::default()), Registry::new(&[]).unwrap());
        let mut machine =
            EngineMachine::unclaimed(store.clone(), registry, true, &[GROUP]).unwrap();
        let mut text = String::new();
        let mut outcomes = Vec::new();
        for (at, command) in commands().into_iter().enumerate() {
            let number = at as u64 + 1;
            let payload = command.encode_traced(Some(&trace).filter(|_| traced));
            let is_traced = traced && command.is_asked_for();
            let read = Command::decode_traced(payload.clone());
            assert_eq!(read, Ok((command, is_traced.then_some(trace))));
            writeln!(text, "record {number}\n  {}", hex(&payload)).unwrap();
            let (id, log_time) =
                (ProposalId { session: 1, seq: number }, LogTime::new(500 * number));
            let entry = CommittedEntry {
                members_index: LogIndex::new(1),
                index: LogIndex::new(number),
                term: Term::new(1),
                log_time,
                first_offset: Offset::new(number),
                records: vec![Record { id, payload }],
            };
            outcomes.extend(machine.apply(GROUP, &[entry]).unwrap());
        }
        (text, outcomes, digest(&*store, GROUP).unwrap().projections)
    };
    let (plain, traced) = (open(false), open(true));
    assert_eq!((&plain.1, &plain.2), (&traced.1, &traced.2));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/command-3.txt");
    if std::env::var_os("PALISADE_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, &traced.0).unwrap();
    }
    assert_eq!(traced.0, std::fs::read_to_string(&path).unwrap(), "{}", path.display());
}

/// The chain by hand: a link of offset, log time and payload, and a head over the one before and it.
#[test]
fn the_first_head_can_be_computed_by_anyone() {
    use sha2::{Digest, Sha256};
    let mut raw = vec![0];
    raw.extend_from_slice(&1_u64.to_le_bytes());
    raw.extend_from_slice(&1_800_000_000_500_u64.to_le_bytes());
    raw.extend_from_slice(&commands()[0].encode());
    let mut head = vec![1];
    head.extend_from_slice(&[0; 32]);
    head.extend_from_slice(&Sha256::digest(&raw));
    let head = hex(&Sha256::digest(&head));
    assert!(state().contains(&format!("head {head}\nrecord 2")), "{head}");
}
