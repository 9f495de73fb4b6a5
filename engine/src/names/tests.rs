use std::collections::BTreeMap;
use std::sync::Arc;

use palisade_replication::{
    CommittedEntry, LogIndex, LogTime, ProposalId, Record, StateMachine, Term,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::command::Command;
use crate::digest::{StateDigest, digest};
use crate::machine::EngineMachine;
use crate::projection::Registry;
use crate::store::MemoryStore;

/// A machine of the system group, which loses what it has not flushed when it crashes.
struct Replica {
    store: MemoryStore,
    machine: EngineMachine,
}

impl Replica {
    fn new() -> Self {
        let store = MemoryStore::default();
        Self { machine: Self::open(&store), store }
    }

    fn open(store: &MemoryStore) -> EngineMachine {
        let registry = Registry::new(&[]).unwrap();
        let shared = Arc::new(store.clone());
        EngineMachine::unclaimed(shared, registry, true, &[SYSTEM_GROUP]).unwrap()
    }

    /// Applies what it has not applied, so many records at once.
    fn catch_up(&mut self, all: &[ClaimCommand], at_once: usize) -> Vec<Outcome> {
        let applied = self.machine.applied(SYSTEM_GROUP).index.get() as usize;
        let entries: Vec<_> = all.iter().enumerate().skip(applied).map(entry).collect();
        let runs = entries.chunks(at_once);
        let outcomes = runs.flat_map(|run| self.machine.apply(SYSTEM_GROUP, run).unwrap());
        outcomes.map(|outcome| outcome.0).collect()
    }

    fn crash(&mut self) {
        self.store.crash();
        self.machine = Self::open(&self.store);
    }

    fn digest(&self) -> StateDigest {
        digest(&self.store, SYSTEM_GROUP).unwrap()
    }
}

fn entry((at, claim): (usize, &ClaimCommand)) -> CommittedEntry {
    let number = at as u64 + 1;
    let payload = Command::Claim(claim.clone()).encode();
    CommittedEntry {
        members_index: LogIndex::new(1),
        index: LogIndex::new(number),
        term: Term::new(1),
        log_time: LogTime::new(number),
        first_offset: Offset::new(number),
        records: vec![Record { id: ProposalId { session: 1, seq: number }, payload }],
    }
}

/// What is promised, in the plainest words.
#[derive(Default)]
struct Naive {
    data_groups: Option<u64>,
    names: BTreeMap<LogicalResourceName, (GroupId, Offset, Affinity)>,
    groups: BTreeMap<Affinity, GroupId>,
}

impl Naive {
    fn claim(&mut self, claim: &ClaimCommand, at: Offset) -> Option<Outcome> {
        if *self.data_groups.get_or_insert(claim.data_groups) != claim.data_groups {
            return None;
        }
        if let Some((group, by, affinity)) = self.names.get(&claim.name) {
            let (group, by) = (*group, *by);
            return (*affinity == claim.affinity).then_some(Outcome::Claimed { group, by });
        }
        let load = |group: u64| {
            let group = GroupId::new(group);
            (self.groups.values().filter(|found| **found == group).count(), group)
        };
        let (_, fewest) = (1..=claim.data_groups).map(load).min().unwrap();
        let group = *self.groups.entry(claim.affinity.clone()).or_insert(fewest);
        self.names.insert(claim.name.clone(), (group, at, claim.affinity.clone()));
        Some(Outcome::Claimed { group, by: at })
    }
}

fn claims() -> impl Strategy<Value = Vec<ClaimCommand>> {
    let claim = |groups: u64| {
        let groups = prop_oneof![20 => Just(groups), 1 => 1..=5_u64];
        (0..12_u64, 0..7_u64, groups).prop_map(|(name, affinity, data_groups)| {
            let affinity = if affinity == 0 { String::new() } else { format!("a{affinity}") };
            ClaimCommand {
                name: LogicalResourceName::new(&format!("n{name}")).unwrap(),
                affinity: Affinity::new(&affinity).unwrap(),
                data_groups,
            }
        })
    };
    (1..=5_u64).prop_flat_map(move |groups| vec(claim(groups), 1..60))
}

proptest! {
    /// D6: a name has one group for ever, whoever claims it however often, and all of one affinity have the
    /// same; also of a replica that crashes anywhere, and takes records in any portions.
    #[test]
    fn a_name_has_one_group_for_ever(
        all in claims(),
        steps in vec((any::<bool>(), any::<bool>(), 1..7_usize), 1..12),
    ) {
        let mut naive = Naive::default();
        let numbers = (1..).map(Offset::new);
        let expected: Vec<_> =
            all.iter().zip(numbers).map(|(claim, at)| naive.claim(claim, at)).collect();
        let mut plain = Replica::new();
        for (found, expected) in plain.catch_up(&all, 1).into_iter().zip(&expected) {
            match expected {
                Some(expected) => prop_assert_eq!(&found, expected),
                None => prop_assert!(matches!(found, Outcome::Refused(_)), "{found:?}"),
            }
        }
        let mut rough = Replica::new();
        for (at, (flushes, crashes, at_once)) in steps.iter().enumerate() {
            rough.catch_up(&all[..all.len() * (at + 1) / steps.len()], *at_once);
            if *flushes {
                rough.machine.flush().unwrap();
            }
            if *crashes {
                rough.crash();
            }
        }
        rough.catch_up(&all, 3);
        prop_assert_eq!(rough.digest(), plain.digest());
        for (name, (group, by, affinity)) in naive.names {
            let claimed = Claimed { group, by, affinity };
            prop_assert_eq!(find(&plain.store, &name).unwrap(), Some(claimed));
        }
        prop_assert_eq!(data_groups(&plain.store).unwrap(), naive.data_groups);
    }

    #[test]
    fn rows_have_one_form(
        group: u64, by: u64, affinity in "[a-z]{0,5}", names: u64, counts in vec(any::<u64>(), 1..9),
        at: usize, byte: u8,
    ) {
        let affinity = Affinity::new(&affinity).unwrap();
        let claimed = Claimed { group: GroupId::new(group), by: Offset::new(by), affinity };
        let counts = Counts { names, affinities: counts };
        prop_assert_eq!(Claimed::decode(claimed.encode()), Ok(claimed.clone()));
        prop_assert_eq!(Counts::decode(counts.encode()), Ok(counts.clone()));
        for raw in [claimed.encode(), counts.encode()] {
            let mut raw = raw.to_vec();
            let at = at % raw.len();
            raw[at] = byte;
            let raw = Bytes::from(raw);
            if let Ok(found) = Claimed::decode(raw.clone()) {
                prop_assert_eq!(found.encode(), raw.clone());
            }
            if let Ok(found) = Counts::decode(raw.clone()) {
                prop_assert_eq!(found.encode(), raw);
            }
        }
    }
}

#[test]
fn names_and_affinities_are_bounded() {
    let store = MemoryStore::default();
    let claim = |counts: Counts, name: &str, affinity: &str| {
        let mut view = View::new(&store);
        view.put(FamilyId::RESOURCES, keys::name_counts(), counts.encode());
        let (offset, log_time) = (Offset::new(9), LogTime::new(9));
        let at = At { group: SYSTEM_GROUP, offset, log_time, index: 0 };
        let name = LogicalResourceName::new(name).unwrap();
        let affinity = Affinity::new(affinity).unwrap();
        super::claim(&mut view, at, ClaimCommand { name, affinity, data_groups: 2 }).unwrap()
    };
    let counts = |names, affinities: [u64; 2]| Counts { names, affinities: affinities.to_vec() };
    let half = AFFINITIES_MAX / 2;
    let given = |group| Outcome::Claimed { group: GroupId::new(group), by: Offset::new(9) };
    assert_eq!(claim(counts(NAMES_MAX - 1, [half, half - 1]), "n", "a"), given(2));
    let full = Outcome::Refused(Refusal::TooManyNames { most: NAMES_MAX });
    assert_eq!(claim(counts(NAMES_MAX, [1, 1]), "n", "a"), full);
    let full = Outcome::Refused(Refusal::TooManyAffinities { most: AFFINITIES_MAX });
    assert_eq!(claim(counts(1, [half, half]), "n", "a"), full);
    let elsewhere =
        At { group: GroupId::new(1), offset: Offset::new(1), log_time: LogTime::new(1), index: 0 };
    let name = LogicalResourceName::new("n").unwrap();
    let command = ClaimCommand { name, affinity: Affinity::default(), data_groups: 1 };
    let refused = super::claim(&mut View::new(&store), elsewhere, command).unwrap();
    assert!(matches!(refused, Outcome::Refused(_)), "only the system group knows names");
}

/// Byte by byte, as they lie in the log and in the store.
#[test]
fn records_and_rows_stay_what_they_are() {
    let affinity = Affinity::new("ab").unwrap();
    let name = LogicalResourceName::new("n").unwrap();
    let command = ClaimCommand { name, affinity: affinity.clone(), data_groups: 4 };
    assert_eq!(Command::Claim(command).encode(), &b"\x02\x07\x01n\x02ab\x04"[..]);
    let claimed = Claimed { group: GroupId::new(2), by: Offset::new(300), affinity };
    assert_eq!(claimed.encode(), &b"\x02\xac\x02\x02ab"[..]);
    let counts = Counts { names: 3, affinities: vec![1, 2] };
    assert_eq!(counts.encode(), &b"\x02\x03\x01\x02"[..]);
    assert_eq!(encode_group(GroupId::new(2)), &b"\x02"[..]);
    assert_eq!(keys::claimed_name("n"), b"\0\0\0\0\0\0\0\0kn");
    assert_eq!(keys::affinity(&Affinity::new("ab").unwrap()), b"\0\0\0\0\0\0\0\0lab");
    assert_eq!(keys::name_counts(), b"\0\0\0\0\0\0\0\0g");
    assert_eq!(keys::highest_claim(GroupId::new(1)), b"\0\0\0\0\0\0\0\x01h");
}
