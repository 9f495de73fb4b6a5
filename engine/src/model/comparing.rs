//! Marks between the records of any history: what replicas say of themselves is what they come to there.

use super::*;
use crate::comparing::{CompareCommand, StateSums, divergences, own_sums};
use crate::keys;

/// A record about comparing, as an entry of its own at this offset, written when the last one was.
fn entry(offset: u64, log_time: LogTime, command: CompareCommand) -> CommittedEntry {
    CommittedEntry {
        members_index: LogIndex::new(1),
        index: LogIndex::new(offset),
        term: Term::new(1),
        log_time,
        first_offset: Offset::new(offset),
        records: vec![Record {
            id: ProposalId { session: 2, seq: offset },
            payload: Command::Compare(command).encode(),
        }],
    }
}

/// The history, with a mark after so many of its records, and one entry a record.
fn marked(history: &[Step], at: usize, members: u64) -> (Vec<CommittedEntry>, Offset) {
    let mut all = entries(history, &[false]);
    let mark = Offset::new(at as u64 + 1);
    for entry in &mut all[at..] {
        entry.index = entry.index.next();
        entry.first_offset = entry.first_offset.next();
    }
    let log_time = all[at - 1].log_time;
    let members = (1..=members).map(|node| (NodeId::new(node), true)).collect();
    all.insert(at, self::entry(mark.get(), log_time, CompareCommand::Mark { members }));
    (all, mark)
}

fn said(replica: &Replica<MemoryStore>, mark: Offset) -> StateSums {
    let raw = own_sums(&*replica.store, GROUP, mark).unwrap().expect("it noted its sums");
    StateSums::take(&mut crate::codec::Reader::new(raw)).unwrap()
}

fn reported(node: u64, mark: Offset, sums: &StateSums, at: u64) -> CommittedEntry {
    let (node, sums) = (NodeId::new(node), sums.clone());
    entry(at, LogTime::new(u64::MAX >> 8), CompareCommand::Report { node, mark, sums })
}

proptest! {
    /// C2: what is noted at a mark is the state before it, however records are put together in commits, and
    /// wherever it crashes.
    #[test]
    fn at_a_mark_a_replica_notes_the_state_before_it(
        history in any_history(),
        at in any::<Index>(),
        cuts in vec((1_usize..9, any::<bool>()), 0..20),
    ) {
        let at = 1 + at.index(history.len());
        let (entries, mark) = marked(&history, at, 3);
        let mut plain = Replica::open(Arc::new(MemoryStore::default()));
        for entry in &entries[..at] {
            plain.machine.apply(GROUP, std::slice::from_ref(entry)).unwrap();
        }
        let wanted = StateSums::of(&*plain.store, GROUP).unwrap();
        let mut rough = Replica::open(Arc::new(MemoryStore::default()));
        let mut cuts = cuts.into_iter();
        loop {
            let applied = rough.machine.applied(GROUP).index.get() as usize;
            let Some(rest) = entries.get(applied..).filter(|rest| !rest.is_empty()) else { break };
            let (count, crashes) = cuts.next().unwrap_or((rest.len(), false));
            rough.machine.apply(GROUP, &rest[..count.min(rest.len())]).unwrap();
            if crashes {
                rough.store.crash();
                rough = Replica::open(rough.store);
            } else {
                rough.machine.flush().unwrap();
            }
        }
        prop_assert_eq!(said(&rough, mark), wanted);
        assert_sums(&*rough.store, GROUP);
    }
}

/// A replica of node 1 that has come to a mark with a row that is not what it should be, and what the others
/// say of the mark.
fn strayed(members: u64) -> (Replica<MemoryStore>, Offset, StateSums, u64) {
    let history: Vec<Step> = opened()
        .into_iter()
        .chain([Step { later_ms: 1, said: batch(vec![put_if("k", "v", Version::ABSENT)]) }])
        .collect();
    let (entries, mark) = marked(&history, history.len(), members);
    let mut healthy = Replica::open(Arc::new(MemoryStore::default()));
    healthy.machine.apply(GROUP, &entries).unwrap();
    let mut replica = Replica::open(Arc::new(MemoryStore::default()));
    let (before, last) = entries.split_at(entries.len() - 1);
    replica.machine.apply(GROUP, before).unwrap();
    let key = [&keys::of_resource(GROUP, ResourceId(2))[..], b"odd"].concat();
    let odd = vec![(FamilyId::MAP, key, Some(Bytes::from_static(b"row")))];
    crate::comparing::spans::commit(&*replica.store, GROUP, WriteSet::rows(odd)).unwrap();
    replica.machine.apply(GROUP, last).unwrap();
    (replica, mark, said(&healthy, mark), mark.get() + 1)
}

/// C3: it halts with its own report, once a majority has said something else, and never takes itself up again.
#[test]
fn a_replica_halts_once_a_majority_differs_from_it() {
    for order in [[1, 2, 3], [2, 1, 3], [2, 3, 1]] {
        let (mut replica, mark, others, next) = strayed(3);
        let own = said(&replica, mark);
        let mut halted = None;
        for (node, at) in order.into_iter().zip(next..) {
            let sums = if node == 1 { &own } else { &others };
            let applied = replica.machine.apply(GROUP, &[reported(node, mark, sums, at)]);
            if let Err(cause) = applied {
                halted = Some((at - next, cause));
                break;
            }
        }
        let (count, cause) = halted.expect("it halts");
        assert_eq!(count, 2, "two of three are a majority, and it has said something itself");
        let what = cause.to_string();
        assert!(what.contains("projection=map resource=map keys from="), "{what}");
        assert_eq!(cause.scope, palisade_replication::HaltScope::Group);
        replica.store.crash();
        let again = Replica::open(replica.store);
        assert!(again.machine.halted(GROUP).unwrap().to_string().contains("projection=map"));
    }
}

/// Those who agree with the majority go on, and can say who does not, and where.
#[test]
fn the_others_tell_where_it_differs() {
    let (strayed, mark, others, next) = strayed(3);
    let own = said(&strayed, mark);
    let mut healthy = Replica::open(Arc::new(MemoryStore::default()));
    let history: Vec<Step> = opened()
        .into_iter()
        .chain([Step { later_ms: 1, said: batch(vec![put_if("k", "v", Version::ABSENT)]) }])
        .collect();
    healthy.machine.apply(GROUP, &marked(&history, history.len(), 3).0).unwrap();
    assert_eq!(said(&healthy, mark), others);
    // Node 1 is another one here. A report of another mark, or a second one, counts for nothing.
    for (at, (node, of, sums)) in (next..).zip([
        (2, mark.next(), &others),
        (3, mark, &own),
        (3, mark, &others),
        (1, mark, &others),
        (7, mark, &own),
        (2, mark, &others),
    ]) {
        assert_eq!(divergences(&*healthy.store, GROUP).unwrap(), []);
        healthy.machine.apply(GROUP, &[reported(node, of, sums, at)]).unwrap();
    }
    let [found] = &divergences(&*healthy.store, GROUP).unwrap()[..] else { panic!("one differs") };
    assert_eq!((found.node, found.has_majority), (NodeId::new(3), true));
    assert_eq!(found.compared.next(), mark);
    assert_eq!(found.found.get(), next + 5);
    assert_eq!((&*found.projection, found.resource.as_ref().unwrap().as_str()), ("map", "map"));
    let key = [&2_u32.to_be_bytes()[..], b"odd"].concat();
    assert!(found.from <= key && found.end.as_ref().is_none_or(|end| key < *end));
}

/// Where nobody has a majority, nobody can be right: both halt.
#[test]
fn two_that_differ_halt_both() {
    let (mut replica, mark, others, next) = strayed(2);
    let own = said(&replica, mark);
    replica.machine.apply(GROUP, &[reported(2, mark, &others, next)]).unwrap();
    let halted = replica.machine.apply(GROUP, &[reported(1, mark, &own, next + 1)]).unwrap_err();
    assert!(halted.to_string().contains("none is agreed on"), "{halted}");
}
