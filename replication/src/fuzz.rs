//! What fuzzing calls: every place where this crate reads bytes of a peer or of its own files.
//!
//! As in the wal, each target also tries what it was given with its checksum set right. What has a
//! single encoding must encode to the bytes it was read from.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use palisade_wal::fuzz::Target;
use palisade_wal::{GroupId, LogIndex};

use crate::acquaintances::Acquaintance;
use crate::ages::{Age, History};
use crate::entry::{AppliedPosition, EntryBody, ProposalId, RECORD_HEADER_BYTES, Record};
use crate::frame::Frame;
use crate::greeting::{self, GREETING_BYTES, Speaker};
use crate::identity::{ClusterId, Incarnation, LogTime, NodeId, Offset, Term};
use crate::membership::{MEMBERS_MAX, Member, Membership};
use crate::register::Register;
use crate::snapshot::{ChunkSum, Manifest, SnapshotId};
use crate::wire::{Beat, Body, Envelope, Forward, NotGiven, Want};
use crate::{acquaintances, ceiling, directory, frame, log_store, replica};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "envelope", run: envelope, seeds: envelope_seeds },
    Target { name: "frame", run: frames, seeds: frame_seeds },
    Target { name: "greeting", run: greeting, seeds: greeting_seeds },
    Target { name: "raft_message", run: raft_message, seeds: raft_message_seeds },
    Target { name: "change", run: change, seeds: change_seeds },
    Target { name: "offer", run: offer, seeds: offer_seeds },
    Target { name: "entry", run: entry, seeds: entry_seeds },
    Target { name: "stored_entry", run: stored_entry, seeds: stored_entry_seeds },
    Target { name: "register", run: register, seeds: register_seeds },
    Target { name: "node_file", run: node_file, seeds: node_file_seeds },
    Target { name: "peers_file", run: peers_file, seeds: peers_file_seeds },
    Target { name: "terms_file", run: terms_file, seeds: terms_file_seeds },
    Target { name: "ages_file", run: ages_file, seeds: ages_file_seeds },
    Target { name: "manifest", run: manifest, seeds: manifest_seeds },
];

/// Runs one target of this crate.
pub fn run(name: &str, raw: &[u8]) -> bool {
    palisade_wal::fuzz::find(TARGETS, name)(raw)
}

const ONE: NodeId = NodeId::new(1);
const TWO: NodeId = NodeId::new(2);
const CLUSTER: ClusterId = ClusterId::new(77);
const LIFE: Incarnation = Incarnation::new(5);

/// Good ones, and for each what a cut and what bytes behind it make of it.
fn with_broken(good: Vec<(&str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let broken = good.iter().flat_map(|(name, raw)| {
        let cut = raw[..raw.len() * 2 / 3].to_vec();
        let long = [&raw[..], &[0; 3]].concat();
        [(format!("cut-{name}"), cut), (format!("long-{name}"), long)]
    });
    let broken: Vec<_> = broken.collect();
    good.into_iter().map(|(name, raw)| (format!("good-{name}"), raw)).chain(broken).collect()
}

/// The bytes with their last four the checksum of the others.
fn sealed(raw: &[u8]) -> Vec<u8> {
    let body = raw.len().saturating_sub(4);
    let crc = crc32fast::hash(&raw[..body]);
    [&raw[..body], &crc.to_le_bytes()].concat()
}

fn envelopes() -> Vec<(&'static str, Envelope)> {
    let envelope = |body| Envelope { group: GroupId::new(3), from: ONE, to: TWO, body };
    let forward = |records: Vec<(u64, Bytes)>| {
        Body::Forward(Forward { term: Term::new(4), session: 5, resolved_up_to: 6, records })
    };
    let beat = Beat {
        group: GroupId::new(3),
        term: Term::new(4),
        commit: LogIndex::new(5),
        answer: false,
    };
    let bytes = Bytes::from_static(b"rows");
    let chunk = Body::Chunk { snapshot: SnapshotId([7; 16]), chunk: 8, bytes };
    let recounted = Body::Recounted { stand: 6, term: Term::new(2), last: LogIndex::new(3) };
    let confirm = log_store::fuzz::append_message();
    let want = Want { first: LogIndex::new(4), anchor: LogIndex::new(9), term: Term::new(2) };
    let records = (7..10).map(|seq| (seq, Bytes::from(vec![seq as u8; seq as usize]))).collect();
    vec![
        ("raft", envelope(Body::Raft(Bytes::from(log_store::fuzz::append_message())))),
        ("forward", envelope(forward(records))),
        ("forward-nothing", envelope(forward(Vec::new()))),
        ("flushed", envelope(Body::Flushed { index: LogIndex::new(8) })),
        ("beats", envelope(Body::Beats(vec![beat, Beat { answer: true, ..beat }, beat]))),
        ("fetch", envelope(Body::Fetch { snapshot: SnapshotId([7; 16]), chunk: 8 })),
        ("chunk", envelope(chunk)),
        ("want", envelope(Body::Want(want))),
        ("given", envelope(Body::Given { want, entries: Ok(vec![Bytes::from(entry_body(3))]) })),
        ("not-given", envelope(Body::Given { want, entries: Err(NotGiven::Trimmed) })),
        ("recount", envelope(Body::Recount { stand: 6 })),
        ("confirm", envelope(Body::Confirm { stand: 6, message: Bytes::from(confirm) })),
        ("demand", envelope(Body::Demand)),
        ("recounted", envelope(recounted)),
    ]
}

fn encoded(envelope: &Envelope) -> Vec<u8> {
    let mut out = BytesMut::new();
    envelope.encode(&mut out);
    out.to_vec()
}

fn envelope(raw: &[u8]) -> bool {
    let Ok(envelope) = Envelope::decode(Bytes::copy_from_slice(raw)) else { return false };
    assert_eq!(envelope.encoded_bytes(), raw.len());
    assert_eq!(encoded(&envelope), raw);
    if let Body::Forward(forward) = &envelope.body {
        assert!(forward.records.capacity() <= raw.len(), "made room for more than there is");
    }
    true
}

fn envelope_seeds() -> Vec<(String, Vec<u8>)> {
    let good: Vec<_> =
        envelopes().iter().map(|(name, envelope)| (*name, encoded(envelope))).collect();
    let mut seeds = with_broken(good);
    // Any bytes at all are a raft message or a chunk as far as the envelope goes.
    let opaque =
        ["cut-raft", "long-raft", "cut-chunk", "long-chunk", "cut-confirm", "long-confirm"];
    seeds.retain(|(name, _)| !opaque.contains(&name.as_str()));
    seeds.push(("unknown-kind".to_owned(), vec![99; 33]));
    seeds
}

/// Well-formed is a run of whole frames.
fn frames(raw: &[u8]) -> bool {
    let mut sealed = raw.to_vec();
    let mut start = 0;
    while let Some(body) = sealed.get(start + 8..) {
        let word: [u8; 4] = sealed[start..start + 4].try_into().expect("four bytes");
        let length = u32::from_le_bytes(word) as usize;
        let Some(body) = body.get(..length) else { break };
        let crc = crc32fast::hash(body);
        sealed[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        start += 8 + length;
    }
    take_frames(&sealed);
    take_frames(raw)
}

fn take_frames(raw: &[u8]) -> bool {
    let mut buffer = BytesMut::from(raw);
    let mut start = 0;
    loop {
        match frame::take_frame(&mut buffer) {
            Ok(Some(found)) => {
                let mut again = BytesMut::new();
                match found {
                    Frame::Message(envelope) => frame::put_frame(&mut again, &envelope),
                    Frame::Age(age) => frame::put_age(&mut again, age),
                }
                let end = raw.len() - buffer.len();
                assert_eq!(again, raw[start..end]);
                start = end;
            }
            Ok(None) => {
                assert_eq!(buffer, raw[start..], "what is not yet whole was touched");
                return buffer.is_empty() && !raw.is_empty();
            }
            Err(_) => return false,
        }
    }
}

fn frame_seeds() -> Vec<(String, Vec<u8>)> {
    let mut all = BytesMut::new();
    let mut good = Vec::new();
    for (name, envelope) in envelopes() {
        let mut out = BytesMut::new();
        frame::put_frame(&mut out, &envelope);
        frame::put_frame(&mut all, &envelope);
        good.push((name, out.to_vec()));
    }
    let mut age = BytesMut::new();
    frame::put_age(&mut age, Age { count: 3, draw: 1 << 50 });
    all.extend_from_slice(&age);
    good.extend([("age", age.to_vec()), ("several", all.to_vec())]);
    let mut seeds = with_broken(good);
    seeds.push(("endless".to_owned(), vec![0xff; 16]));
    seeds
}

fn speaker(node: NodeId) -> Speaker {
    let listens_at = Some(([127, 0, 0, 1], 4000).into());
    Speaker { cluster: CLUSTER, node, incarnation: LIFE, listens_at }
}

fn greeting(raw: &[u8]) -> bool {
    let judge = |raw: &[u8]| {
        let Ok(raw) = <&[u8; GREETING_BYTES]>::try_from(raw) else { return false };
        let Ok(greeter) = greeting::judge_greeting(speaker(TWO), raw) else {
            return false;
        };
        assert_ne!(greeter.node, TWO, "greeted by itself");
        // There are several ways to listen nowhere, and to write an address.
        let again = greeting::encode_greeting(greeter, TWO);
        assert_eq!(greeting::judge_greeting(speaker(TWO), &again), Ok(greeter));
        true
    };
    judge(&sealed(raw));
    judge(raw)
}

fn greeting_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds =
        with_broken(vec![("from-one", greeting::encode_greeting(speaker(ONE), TWO).to_vec())]);
    let itself = greeting::encode_greeting(speaker(TWO), TWO).to_vec();
    let another = greeting::encode_greeting(speaker(ONE), NodeId::new(3)).to_vec();
    seeds.extend([("from-itself".to_owned(), itself), ("to-another".to_owned(), another)]);
    seeds
}

fn raft_message(raw: &[u8]) -> bool {
    log_store::fuzz::raft_message(raw)
}

fn raft_message_seeds() -> Vec<(String, Vec<u8>)> {
    let good = log_store::fuzz::append_message();
    let cut = good[..good.len() - 1].to_vec();
    // Groups in groups: without end for a codec that counts no levels.
    let groups = [0xa3, 1].repeat(512);
    let in_entry = [&[0x3a, 0x80, 8][..], &groups].concat();
    vec![
        ("good-append".to_owned(), good),
        ("cut-append".to_owned(), cut),
        ("groups".to_owned(), groups),
        ("groups-in-entry".to_owned(), in_entry),
    ]
}

fn change(raw: &[u8]) -> bool {
    replica::fuzz::change(raw)
}

fn change_seeds() -> Vec<(String, Vec<u8>)> {
    with_broken(replica::fuzz::changes())
}

fn offer(raw: &[u8]) -> bool {
    replica::fuzz::offer(raw)
}

fn offer_seeds() -> Vec<(String, Vec<u8>)> {
    let of = |count| replica::fuzz::offer_of(&voters(count), &manifest_of(&[b"one", b"two"]));
    with_broken(vec![("one", of(1)), ("many", of(MEMBERS_MAX as u64))])
}

fn entry(raw: &[u8]) -> bool {
    // The tail is read without the records, from what only looks like an entry, too.
    let tail = EntryBody::decode_tail(raw);
    let Ok(body) = EntryBody::decode(Bytes::copy_from_slice(raw)) else { return false };
    assert_eq!(tail, Ok((body.last_offset(), body.log_time)));
    assert!(body.records.capacity() <= raw.len() / RECORD_HEADER_BYTES);
    assert_eq!(body.encode(), raw);
    true
}

fn entry_body(count: u64) -> Vec<u8> {
    let record = |seq| Record {
        id: ProposalId { session: 5, seq },
        payload: Bytes::from(vec![seq as u8; seq as usize % 40]),
    };
    let records = (1..=count).map(record).collect();
    let body = EntryBody { first_offset: Offset::new(9), log_time: LogTime::new(10), records };
    body.encode().to_vec()
}

fn entry_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = with_broken(vec![("one", entry_body(1)), ("many", entry_body(20))]);
    seeds.push(("last-offset-over".to_owned(), {
        let mut raw = entry_body(2);
        raw[1..9].fill(0xff);
        raw
    }));
    seeds
}

fn stored_entry(raw: &[u8]) -> bool {
    log_store::fuzz::stored_entry(LogIndex::new(8), Bytes::copy_from_slice(raw))
}

fn stored_entry_seeds() -> Vec<(String, Vec<u8>)> {
    let normal = [&4_u64.to_le_bytes()[..], &[0], &entry_body(2)].concat();
    let empty = [&4_u64.to_le_bytes()[..], &[0]].concat();
    let unknown = [&4_u64.to_le_bytes()[..], &[9, 1, 2]].concat();
    vec![
        ("good-normal".to_owned(), normal),
        ("good-empty".to_owned(), empty.clone()),
        ("cut-empty".to_owned(), empty[..8].to_vec()),
        ("unknown-kind".to_owned(), unknown),
    ]
}

fn register(raw: &[u8]) -> bool {
    let Ok(register) = Register::decode(raw) else { return false };
    assert!(register.members.members.len() <= MEMBERS_MAX);
    assert_eq!(register.encode(), raw);
    true
}

fn voters(count: u64) -> Membership {
    let member = |id: u64| Member {
        incarnation: Some(Incarnation::new(u128::from(id) << 70)),
        address: Some(([127, 0, 0, 1], 4000 + id as u16).into()),
        domain: format!("zone-{id}"),
    };
    Membership::of_voters((1..=count).map(|id| (NodeId::new(id), member(id))).collect())
}

fn register_seeds() -> Vec<(String, Vec<u8>)> {
    let used = Register {
        term: Term::new(7),
        vote: 2,
        commit: LogIndex::new(90),
        base: AppliedPosition {
            index: LogIndex::new(40),
            term: Term::new(5),
            members_index: LogIndex::new(33),
            offset: Offset::new(1000),
            log_time: LogTime::new(12),
        },
        members_index: LogIndex::new(33),
        probation: true,
        members: voters(MEMBERS_MAX as u64),
    };
    with_broken(vec![
        ("joining", Register::joining().encode().to_vec()),
        ("fresh", Register::genesis(voters(3)).encode().to_vec()),
        ("used", used.encode().to_vec()),
    ])
}

fn node_file(raw: &[u8]) -> bool {
    let read = |raw: &[u8]| {
        let found = directory::decode(raw).ok();
        found.is_some_and(|(cluster, node, incarnation)| {
            assert_eq!(directory::encode(cluster, node, incarnation)[..], *raw);
            true
        })
    };
    read(&sealed(raw));
    read(raw)
}

fn node_file_seeds() -> Vec<(String, Vec<u8>)> {
    with_broken(vec![("node", directory::encode(CLUSTER, ONE, LIFE))])
}

fn peers_file(raw: &[u8]) -> bool {
    let read = |raw: &[u8]| {
        acquaintances::decode(raw).is_ok_and(|known| {
            // A file in another order is read as well; it is never written.
            assert_eq!(acquaintances::decode(&acquaintances::encode(&known)), Ok(known));
            true
        })
    };
    read(&sealed(raw));
    read(raw)
}

fn peers_file_seeds() -> Vec<(String, Vec<u8>)> {
    let known = |count: u64| {
        let one = |node: u64| {
            let life = Incarnation::new(u128::from(node) << 70);
            let age = Age { count: node, draw: !node };
            let later = (node % 2 == 1).then_some((Incarnation::new(1 + u128::from(node)), age));
            (NodeId::new(node), Acquaintance { life, age, later })
        };
        acquaintances::encode(&(1..=count).map(one).collect::<BTreeMap<_, _>>())
    };
    with_broken(vec![("nobody", known(0)), ("three", known(3))])
}

fn ages_file(raw: &[u8]) -> bool {
    let read = |raw: &[u8]| {
        History::decode(raw).is_ok_and(|history| {
            assert_eq!(history.encode(), raw);
            assert!(history.holds(history.age()));
            true
        })
    };
    read(&sealed(raw));
    read(raw)
}

fn ages_file_seeds() -> Vec<(String, Vec<u8>)> {
    let lived = |starts: u64| {
        let mut history = History::default();
        for seed in 1..=starts {
            history.begin(seed << 50);
            history.grow();
        }
        history.encode()
    };
    with_broken(vec![("unborn", lived(0)), ("three", lived(3)), ("many", lived(2000))])
}

fn terms_file(raw: &[u8]) -> bool {
    let read = |raw: &[u8]| {
        ceiling::decode(raw).is_ok_and(|term| {
            assert_eq!(ceiling::encode(term), raw);
            true
        })
    };
    read(&sealed(raw));
    read(raw)
}

fn terms_file_seeds() -> Vec<(String, Vec<u8>)> {
    with_broken(vec![("terms", ceiling::encode(Term::new(1024)))])
}

fn manifest(raw: &[u8]) -> bool {
    let Some(manifest) = Manifest::decode(raw) else { return false };
    assert!(manifest.chunks.capacity() <= raw.len());
    assert_eq!(manifest.encode(), raw);
    true
}

fn manifest_of(chunks: &[&[u8]]) -> Manifest {
    Manifest {
        group: GroupId::new(3),
        position: AppliedPosition::GENESIS,
        chunks: chunks.iter().map(|chunk| ChunkSum::of(chunk)).collect(),
    }
}

fn manifest_seeds() -> Vec<(String, Vec<u8>)> {
    let of = |chunks: &[&[u8]]| manifest_of(chunks).encode().to_vec();
    with_broken(vec![("empty", of(&[])), ("chunks", of(&[b"one", b"two"]))])
}
