//! Rows and encodings of logs, and the bounds of what one operation does.

use bytes::Bytes;
use palisade_replication::{GroupId, LogTime, Offset};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::header::Header;
use super::read::{entry_value, split_entry};
use super::state::Consumer;
use super::*;
use crate::bounds::VALUE_BYTES_MAX;
use crate::codec::DecodeError;
use crate::page::{Page, SCAN_BYTES_MAX};
use crate::resource::{FenceEpoch, ResourceId};
use crate::store::{Direction, FamilyId, MemoryStore};
use crate::stored::Stored;
use crate::view::View;

const GROUP: GroupId = GroupId::new(1);
const LOG: ResourceId = ResourceId(1);

fn place(offset: u64, index: u16) -> LogPosition {
    LogPosition { offset: Offset::new(offset), index }
}

/// A log by itself.
struct Alone<'v> {
    view: View<'v>,
}

impl<'v> Alone<'v> {
    fn new(store: &'v MemoryStore) -> Self {
        Self { view: View::new(store) }
    }

    fn rows(&mut self) -> Rows<'_, 'v> {
        Rows::new(&mut self.view, FamilyId::LOG, GROUP, LOG)
    }

    /// Does an operation as a record of its own.
    fn apply(&mut self, offset: u64, now: u64, op: LogOp) -> Applied<LogOutcome, LogRefusal> {
        let (offset, log_time) = (Offset::new(offset), LogTime::new(now));
        let at = At { group: GROUP, offset, log_time, index: 0 };
        Log.apply(at, op, &mut self.rows()).unwrap()
    }

    fn append(&mut self, offset: u64, now: u64, lengths: &[usize]) -> LogPosition {
        let payloads = lengths.iter().map(|length| Bytes::from(vec![0; *length])).collect();
        match self.apply(offset, now, LogOp::Append { expected: None, payloads }) {
            Applied::Done(LogOutcome::Appended { first, count }) => {
                assert_eq!(usize::from(count), lengths.len());
                first
            }
            other => panic!("{other:?}"),
        }
    }

    fn trim(&mut self, before: LogPosition) -> LogTrim {
        match self.apply(u64::MAX / 2, 0, LogOp::Trim { before }) {
            Applied::Done(LogOutcome::Trimmed(trim)) => trim,
            other => panic!("{other:?}"),
        }
    }

    fn retain(&mut self, keep_ms: Option<u64>, keep_bytes: Option<u64>) {
        let retention = LogRetention { keep_ms, keep_bytes };
        let done = self.apply(0, 0, LogOp::Retain { retention });
        assert_eq!(done, Applied::Done(LogOutcome::Done));
    }

    fn header(&mut self) -> Header {
        header(&self.rows().read()).unwrap()
    }

    fn scan(
        &mut self,
        from: LogPosition,
        direction: Direction,
        limit: usize,
    ) -> Result<(Vec<LogPosition>, Option<LogPosition>), LogPosition> {
        let found = scan(&self.rows().read(), from, direction, Page::new(limit)).unwrap();
        let places = |rows: Vec<RawEntry>| rows.into_iter().map(|entry| entry.position).collect();
        found
            .map(|found| (places(found.page.rows), found.page.next))
            .map_err(|trimmed| trimmed.first)
    }
}

/// G12: a page ends at its bounds, and says where to go on.
#[test]
fn a_page_is_bounded_by_entries_and_by_bytes() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    let half = SCAN_BYTES_MAX / 2;
    log.append(2, 0, &[half, half]);
    log.append(5, 0, &[17]);
    log.append(7, 0, &[SCAN_BYTES_MAX - 16]);
    log.append(9, 0, &[17]);
    let mut page = |from: (u64, u16), direction, limit| {
        let (places, next) = log.scan(place(from.0, from.1), direction, limit).unwrap();
        let places: Vec<String> = places.iter().map(LogPosition::to_string).collect();
        (places.join(" "), next.map(|at| at.to_string()).unwrap_or_default())
    };
    let found = |places: &str, next: &str| (places.to_owned(), next.to_owned());
    let forth = Direction::Forward;
    assert_eq!(page((0, 0), forth, 9), found("2.0 2.1", "5.0"), "as much as it holds, and no more");
    assert_eq!(page((2, 1), forth, 9), found("2.1 5.0", "7.0"));
    assert_eq!(page((6, 0), forth, 9), found("7.0", "9.0"), "one fills it");
    assert_eq!(page((9, 0), forth, 9), found("9.0", ""));
    assert_eq!(page((9, 0), forth, 1), found("9.0", ""), "there is nothing after it");
    assert_eq!(page((10, 0), forth, 9), found("", ""));
    assert_eq!(page((0, 0), forth, 1), found("2.0", "2.1"));
    assert_eq!(page((0, 0), forth, 0), found("", "2.0"));
    let back = Direction::Backward;
    assert_eq!(page((u64::MAX, u16::MAX), back, 9), found("9.0", "7.1"), "what follows is large");
    assert_eq!(page((7, 1), back, 9), found("7.0", "5.1"));
    assert_eq!(page((7, 0), back, 9), found("5.0 2.1", "2.1"));
    assert_eq!(page((2, 1), back, 9), found("2.0", ""));
    assert_eq!(page((2, 0), back, 9), found("", ""));
    assert_eq!(page((6, 0), back, 0), found("", "5.1"));
}

/// L2: the entries of a record are counted, whichever of its operations adds them.
#[test]
fn positions_go_on_within_a_record() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    assert_eq!(log.append(4, 0, &[1, 1]), place(4, 0));
    assert_eq!(log.append(4, 0, &[1]), place(4, 2));
    assert_eq!(log.header().tail, place(4, 3));
    assert_eq!(log.append(5, 0, &[1]), place(5, 0));
    assert_eq!(place(5, u16::MAX).after(), place(6, 0));
}

/// A trim of the last entry moves `first`, and not the tail: what expects it still does so rightly.
#[test]
fn the_tail_is_no_matter_of_what_is_kept() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    let expect =
        |expected| LogOp::Append { expected: Some(expected), payloads: vec![Bytes::new()] };
    let refused = |expected, found| Applied::Refused(LogRefusal::TailMismatch { expected, found });
    let start = LogPosition::START;
    assert_eq!(log.apply(1, 0, expect(place(1, 0))), refused(place(1, 0), start));
    let done = |offset| Applied::Done(LogOutcome::Appended { first: place(offset, 0), count: 1 });
    assert_eq!(log.apply(2, 0, expect(start)), done(2));
    assert_eq!(log.apply(3, 0, expect(start)), refused(start, place(2, 1)));
    let trim = log.trim(LogPosition::END);
    assert_eq!(trim, LogTrim { first: place(2, 1), removed: 1, complete: true });
    let Header { first, tail, bytes, entries, .. } = log.header();
    assert_eq!((first, tail, bytes, entries), (place(2, 1), place(2, 1), 0, 0));
    assert_eq!(log.apply(4, 0, expect(start)), refused(start, place(2, 1)));
    let holds = |log: &mut Alone<'_>, position| {
        Log.holds(&LogGuard::TailIs { position }, &log.rows().read()).unwrap()
    };
    assert!(holds(&mut log, place(2, 1)) && !holds(&mut log, start));
    assert_eq!(log.apply(5, 0, expect(place(2, 1))), done(5));
}

/// G12: one trim removes 256 entries, and reads 4 MiB of them.
#[test]
fn a_trim_is_bounded_and_says_how_far_it_came() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    log.append(1, 0, &[0; 255]);
    log.append(2, 0, &[0; 3]);
    let trim = |first, removed, complete| LogTrim { first, removed, complete };
    assert_eq!(log.trim(place(1, 3)), trim(place(1, 3), 3, true));
    assert_eq!(log.trim(place(2, 4)), trim(place(2, 3), 255, true), "nothing is left of it");
    log.append(3, 0, &[0; 255]);
    log.append(4, 0, &[0; 2]);
    assert_eq!(log.trim(LogPosition::END), trim(place(4, 1), 256, false));
    assert_eq!(log.trim(place(4, 1)), trim(place(4, 1), 0, true));
    assert_eq!(log.trim(LogPosition::END), trim(place(4, 2), 1, true));
    assert_eq!(log.trim(LogPosition::START), trim(place(4, 2), 0, true), "it never falls");

    (5..15).for_each(|offset| _ = log.append(offset, 0, &[VALUE_BYTES_MAX]));
    assert_eq!(log.trim(LogPosition::END), trim(place(12, 1), 8, false));
}

/// An append removes eight for each entry that it adds, the oldest first, and never its own.
#[test]
fn appends_keep_the_bounds_a_few_entries_at_a_time() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    (1..=30).for_each(|offset| _ = log.append(offset, offset, &[4]));
    assert_eq!((log.header().entries, log.header().bytes), (30, 600));
    log.retain(None, Some(100));
    assert_eq!(log.header().entries, 30, "it is the appends that remove");
    log.append(31, 31, &[4]);
    assert_eq!((log.header().first, log.header().entries), (place(8, 1), 23));
    log.append(32, 32, &[4, 4]);
    assert_eq!((log.header().first, log.header().entries), (place(24, 1), 9));
    log.append(33, 33, &[4]);
    assert_eq!(log.header().bytes, 100, "what the bound allows stays");
    log.append(34, 34, &[1000]);
    let Header { first, bytes, entries, .. } = log.header();
    assert_eq!(
        (first, bytes, entries),
        (place(33, 1), 1016, 1),
        "its own stays, whatever its size"
    );

    log.retain(Some(10), None);
    log.append(35, 44, &[4]);
    assert_eq!(log.header().entries, 2, "it is ten milliseconds old, and not older");
    log.append(36, 45, &[4]);
    assert_eq!((log.header().first, log.header().entries), (place(34, 1), 2));
    log.retain(None, None);
    log.append(37, u64::MAX, &[4]);
    assert_eq!(log.header().entries, 3);
}

/// Removal begins at `first`: whatever lies below is not looked at, as the removed rows of a queue.
#[test]
fn nothing_below_first_is_looked_at() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    (1..=4).for_each(|offset| _ = log.append(offset, 0, &[4]));
    log.trim(place(3, 0));
    let below = place(1, 0).row();
    log.rows().put(&below, &b"it is no entry"[..]).unwrap();
    log.trim(place(4, 0));
    log.retain(None, Some(0));
    log.append(5, 0, &[4]);
    assert_eq!((log.header().first, log.header().entries), (place(4, 1), 1));
    assert!(log.rows().get(&below).unwrap().is_some());
    let from = LogPosition::END;
    assert_eq!(log.scan(from, Direction::Backward, 9), Ok((vec![place(5, 0)], None)));
}

#[test]
fn a_log_has_a_bounded_number_of_consumers() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    let change = |number: u64, change| LogOp::Consumer {
        name: format!("c{number}"),
        owner: FenceEpoch::new(1),
        change,
    };
    let commit = |number| change(number, ConsumerChange::Commit(LogPosition::START));
    for number in 0..CONSUMERS_MAX {
        assert_eq!(log.apply(1, 0, commit(number)), Applied::Done(LogOutcome::Done));
    }
    let refused = Applied::Refused(LogRefusal::TooManyConsumers);
    assert_eq!(log.apply(2, 0, commit(CONSUMERS_MAX)), refused);
    let again = change(3, ConsumerChange::Reset(LogPosition::START));
    assert_eq!(log.apply(3, 0, again), Applied::Done(LogOutcome::Done), "it is there already");
    for _ in 0..2 {
        let forget = change(3, ConsumerChange::Forget);
        assert_eq!(log.apply(4, 0, forget), Applied::Done(LogOutcome::Done));
    }
    assert_eq!(log.apply(5, 0, commit(CONSUMERS_MAX)), Applied::Done(LogOutcome::Done));
    assert_eq!(log.apply(6, 0, commit(3)), refused, "one was forgotten, not two");
}

#[test]
fn a_header_that_miscounts_is_a_fault() {
    let store = MemoryStore::default();
    let mut log = Alone::new(&store);
    log.append(1, 0, &[4]);
    let wrong = Header { bytes: 3, ..log.header() };
    log.rows().put(b"h", wrong.to_bytes()).unwrap();
    let at = At { group: GROUP, offset: Offset::new(2), log_time: LogTime::new(0), index: 0 };
    let trim = LogOp::Trim { before: LogPosition::END };
    let fault = Log.apply(at, trim, &mut log.rows()).unwrap_err();
    assert!(fault.to_string().contains("miscounts"), "{fault}");
}

fn any_place() -> impl Strategy<Value = LogPosition> {
    prop_oneof![
        (0_u64..9, 0_u16..4).prop_map(|(offset, index)| place(offset, index)),
        (any::<u64>(), any::<u16>()).prop_map(|(offset, index)| place(offset, index)),
    ]
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..9).prop_map(Bytes::from)
}

fn any_op() -> impl Strategy<Value = LogOp> {
    let retention = (any::<Option<u64>>(), any::<Option<u64>>())
        .prop_map(|(keep_ms, keep_bytes)| LogRetention { keep_ms, keep_bytes });
    let change = prop_oneof![
        any_place().prop_map(ConsumerChange::Commit),
        any_place().prop_map(ConsumerChange::Reset),
        Just(ConsumerChange::Forget),
    ];
    prop_oneof![
        (proptest::option::of(any_place()), vec(any_bytes(), 1..4))
            .prop_map(|(expected, payloads)| LogOp::Append { expected, payloads }),
        any_place().prop_map(|before| LogOp::Trim { before }),
        retention.prop_map(|retention| LogOp::Retain { retention }),
        ("[a-zé]{1,4}", any::<u64>(), change).prop_map(|(name, owner, change)| {
            LogOp::Consumer { name, owner: FenceEpoch::new(owner), change }
        }),
    ]
}

fn any_outcome() -> impl Strategy<Value = LogOutcome> {
    prop_oneof![
        (any_place(), any::<u16>())
            .prop_map(|(first, count)| LogOutcome::Appended { first, count }),
        (any_place(), any::<u64>(), any::<bool>()).prop_map(|(first, removed, complete)| {
            LogOutcome::Trimmed(LogTrim { first, removed, complete })
        }),
        Just(LogOutcome::Done),
    ]
}

fn any_refusal() -> impl Strategy<Value = LogRefusal> {
    prop_oneof![
        (any_place(), any_place())
            .prop_map(|(expected, found)| LogRefusal::TailMismatch { expected, found }),
        any::<u64>().prop_map(|raw| LogRefusal::Fenced { current: FenceEpoch::new(raw) }),
        any_place().prop_map(|committed| LogRefusal::Falls { committed }),
        any_place().prop_map(|tail| LogRefusal::BeyondTail { tail }),
        Just(LogRefusal::TooManyConsumers),
    ]
}

/// It reads back; what is read of damaged or shortened bytes is written the same again (E8).
fn has_one_form<T: Stored + PartialEq + std::fmt::Debug>(
    value: &T,
    at: &Index,
    byte: u8,
    shorter: bool,
) -> Result<(), TestCaseError> {
    let whole = value.to_bytes();
    let back = T::from_bytes(&whole);
    prop_assert_eq!(back.as_ref(), Ok(value));
    let mut raw = whole.to_vec();
    let at = at.index(raw.len());
    raw[at] = byte;
    if shorter {
        raw.truncate(at);
    }
    let raw = Bytes::from(raw);
    if let Ok(value) = T::from_bytes(&raw) {
        prop_assert_eq!(value.to_bytes(), raw);
    }
    let longer = Bytes::from([&whole[..], &[byte]].concat());
    prop_assert!(T::from_bytes(&longer).is_err());
    Ok(())
}

#[test]
fn an_append_has_entries_and_a_consumer_a_name() {
    let malformed = |what| Err(DecodeError { what });
    let append = |count: usize| {
        let payloads = vec![Bytes::new(); count];
        LogOp::from_bytes(&LogOp::Append { expected: None, payloads }.to_bytes()).map(|_| ())
    };
    assert_eq!(append(0), malformed("payload count"));
    assert_eq!(append(APPEND_ENTRIES_MAX), Ok(()));
    assert_eq!(append(APPEND_ENTRIES_MAX + 1), malformed("payload count"));
    let named = |length: usize| {
        let (name, owner) = ("n".repeat(length), FenceEpoch::new(1));
        let op = LogOp::Consumer { name, owner, change: ConsumerChange::Forget };
        LogOp::from_bytes(&op.to_bytes()).map(|_| ())
    };
    assert_eq!(named(0), malformed("consumer"));
    assert_eq!(named(CONSUMER_NAME_BYTES_MAX), Ok(()));
    assert_eq!(named(CONSUMER_NAME_BYTES_MAX + 1), malformed("consumer"));
}

proptest! {
    #[test]
    fn encodings_have_one_form(
        op in any_op(),
        outcome in any_outcome(),
        refusal in any_refusal(),
        at in any::<Index>(),
        byte: u8,
        shorter: bool,
    ) {
        has_one_form(&op, &at, byte, shorter)?;
        has_one_form(&outcome, &at, byte, shorter)?;
        has_one_form(&refusal, &at, byte, shorter)?;
    }

    #[test]
    fn rows_have_one_form(
        first in any_place(),
        tail in any_place(),
        numbers: [u64; 4],
        keep: [Option<u64>; 2],
        payload in any_bytes(),
        at in any::<Index>(),
        byte: u8,
        shorter: bool,
    ) {
        let [bytes, entries, consumers, time] = numbers;
        let retention = LogRetention { keep_ms: keep[0], keep_bytes: keep[1] };
        let header = Header { first, tail, bytes, entries, consumers, retention };
        has_one_form(&header, &at, byte, shorter)?;
        has_one_form(&first, &at, byte, shorter)?;
        has_one_form(&LogGuard::TailIs { position: tail }, &at, byte, shorter)?;
        let log_time = LogTime::new(time);
        let owner = FenceEpoch::new(entries);
        has_one_form(&Consumer { position: first, owner, log_time }, &at, byte, shorter)?;
        let value = entry_value(log_time, &payload);
        let split = split_entry(&first.row(), &value).unwrap();
        prop_assert_eq!(split, (first, log_time, &payload[..]));
        prop_assert!(split_entry(&first.row()[1..], &value).is_err());
        prop_assert!(split_entry(&first.row(), &value[..7]).is_err());
        prop_assert_eq!(first.row().cmp(&tail.row()), first.cmp(&tail));
    }

    /// Both ways, from any place, in pages of any size: as a list of the places says.
    #[test]
    fn scans_are_those_of_a_list(
        records in vec((1_u64..4, 1_usize..4), 0..12),
        trim in any_place(),
        from in any_place(),
        limit in 1_usize..5,
    ) {
        let store = MemoryStore::default();
        let mut log = Alone::new(&store);
        let (mut offset, mut all) = (0, Vec::new());
        for (gap, count) in records {
            offset += gap;
            log.append(offset, 0, &vec![1; count]);
            all.extend((0..count as u16).map(|index| place(offset, index)));
        }
        log.trim(trim);
        let gone: Vec<_> = all.iter().copied().filter(|at| *at < trim).collect();
        let kept: Vec<_> = all.iter().copied().filter(|at| *at >= trim).collect();
        let first = gone.last().map_or(LogPosition::START, |at| at.after());

        for direction in [Direction::Forward, Direction::Backward] {
            let forth = direction == Direction::Forward;
            // Something that belongs to what is asked for is gone, or all of it may be.
            let trimmed = if forth { from < first } else { from <= first && !gone.is_empty() };
            let mut wanted: Vec<_> =
                kept.iter().copied().filter(|at| (*at >= from) == forth).collect();
            if !forth {
                wanted.reverse();
            }
            if trimmed {
                prop_assert_eq!(log.scan(from, direction, limit), Err(first));
                continue;
            }
            let (mut found, mut next) = (Vec::new(), Some(from));
            while let Some(from) = next {
                let page = log.scan(from, direction, limit).unwrap();
                prop_assert_eq!(page.0.len(), limit.min(wanted.len() - found.len()));
                found.extend(page.0);
                next = page.1;
            }
            prop_assert_eq!(found, wanted);
        }
    }
}
