use crate::frame::{Encoder, FrameHeader, ItemRef, Link, Write};
use crate::position::{GroupId, LogIndex};
use crate::verdict::RecoveredGroup;

use super::*;

const SEGMENT: SegmentId = SegmentId::new(1);
const FILE_BYTES: u64 = 16 << 10;

/// One segment, frame by frame.
struct File {
    raw: Vec<u8>,
    frames: Vec<std::ops::Range<usize>>,
}

impl File {
    fn new() -> Self {
        Self { raw: vec![0; SEGMENT_HEADER_BYTES as usize], frames: Vec::new() }
    }

    /// Adds a batch of these writes, each with the batch that it names before.
    fn batch(mut self, seq: u64, durable: u64, writes: &[(Write, u64, bool)]) -> Self {
        let header = FrameHeader {
            segment: SEGMENT,
            seq: BatchSeq::new(seq),
            durable: BatchSeq::new(durable),
        };
        let pos = self.raw.len();
        let mut encoder = Encoder::begin(header, &mut self.raw);
        for (write, prev, damaged) in writes {
            let prev = BatchSeq::new(*prev);
            let link = Link { prev, damaged: *damaged, ..Link::default() };
            encoder.item(ItemRef::from(write), link);
        }
        encoder.finish(&Hasher::new(), pos as u64);
        self.frames.push(pos..self.raw.len());
        self
    }

    fn lose(mut self, number: usize) -> Self {
        self.raw[self.frames[number].clone()].fill(0);
        self
    }

    /// Adds a frame that tells that the one before was synced.
    fn mark(mut self, seq: u64) -> Self {
        let header = FrameHeader {
            segment: SEGMENT,
            seq: BatchSeq::new(seq),
            durable: BatchSeq::new(seq - 1),
        };
        let pos = self.raw.len();
        let mut encoder = Encoder::begin(header, &mut self.raw);
        let (group, index) = (GroupId::new(0), LogIndex::ZERO);
        let mark = ItemRef { kind: ItemKind::Mark, group, index, payload: &[] };
        encoder.item(mark, Link::default());
        encoder.finish(&Hasher::new(), pos as u64);
        self
    }

    fn recover(self) -> Outcome {
        self.recover_as(|_| ())
    }

    /// Recovers it with something said otherwise of the segment.
    fn recover_as(mut self, change: impl FnOnce(&mut SegmentBytes<'_>)) -> Outcome {
        self.raw.resize(FILE_BYTES as usize, 0);
        let mut recovery = Recovery::new(Hasher::new(), BatchSeq::ZERO);
        let mut segment = self.bytes();
        change(&mut segment);
        recovery.segment(&segment);
        recovery.finish()
    }

    fn bytes(&self) -> SegmentBytes<'_> {
        let header = SegmentHeader {
            segment: SEGMENT,
            first_seq: BatchSeq::new(1),
            bytes: self.raw.len() as u64,
            after_damage: false,
            unlisted: false,
            prev_first: BatchSeq::ZERO,
            seal: None,
        };
        SegmentBytes {
            id: SEGMENT,
            header: Some(header),
            raw: &self.raw,
            read_from: 0,
            first_told: BatchSeq::ZERO,
            is_followed: false,
            seq_end: BatchSeq::new(u64::MAX),
        }
    }
}

fn append(group: u64, index: u64) -> Write {
    let payload = vec![index as u8; 10].into();
    Write::Append { group: GroupId::new(group), index: LogIndex::new(index), payload }
}

fn state(group: u64) -> Write {
    Write::SetState { group: GroupId::new(group), payload: vec![1].into() }
}

fn group(outcome: &Outcome, group: u64) -> &RecoveredGroup {
    &outcome.recovered.groups[&GroupId::new(group)]
}

/// Group 1 changes in batches 1, 2 and 4, group 2 in 1 and 3.
fn two_groups() -> File {
    File::new()
        .batch(1, 0, &[(append(1, 1), 0, false), (append(2, 1), 0, false)])
        .batch(2, 1, &[(append(1, 2), 1, false)])
        .batch(3, 2, &[(append(2, 2), 1, false)])
        .batch(4, 3, &[(append(1, 3), 2, false)])
}

#[test]
fn a_group_whose_chain_holds_is_clean() {
    let outcome = two_groups().lose(1).recover();
    assert_eq!(group(&outcome, 2).verdict, Verdict::Clean);
    let damage = group(&outcome, 1).damage.clone().unwrap();
    assert_eq!(damage.holes, [(LogIndex::new(2), LogIndex::new(2))]);
    assert_eq!(damage.whole_from, Some(LogIndex::new(3)));
    assert!(damage.state_known, "the frame behind the lost one repeats no register");
}

#[test]
fn a_group_without_a_later_item_is_damaged() {
    let outcome = two_groups().lose(2).recover();
    assert_eq!(group(&outcome, 1).verdict, Verdict::Clean, "batch 4 names batch 2");
    let damage = group(&outcome, 2).damage.clone().unwrap();
    assert_eq!((damage.holes, damage.whole_from), (Vec::new(), None));
}

#[test]
fn a_register_is_unsure_when_two_frames_are_lost() {
    let outcome = two_groups().lose(1).lose(2).recover();
    assert!(!group(&outcome, 1).damage.clone().unwrap().state_known);
    let file = two_groups().batch(5, 4, &[(state(1), 4, false)]);
    let outcome = file.lose(1).lose(2).recover();
    assert!(group(&outcome, 1).damage.clone().unwrap().state_known, "it was set since");
}

#[test]
fn the_last_frame_is_torn_until_something_behind_it_tells_that_it_was_synced() {
    let outcome = two_groups().lose(3).recover();
    assert_eq!(outcome.recovered.verdict, Verdict::Clean);
    assert_eq!(outcome.start.next_seq, BatchSeq::new(4));
    let mut half = two_groups();
    let last = half.frames[3].clone();
    half.raw[last.start + 40..].fill(0);
    assert!(matches!(half.recover().recovered.verdict, Verdict::TornTail { .. }));
    let unsynced = two_groups().batch(5, 3, &[(append(2, 3), 3, false)]).lose(3).recover();
    assert!(matches!(unsynced.recovered.verdict, Verdict::TornTail { .. }));
    assert_eq!(group(&unsynced, 2).last, LogIndex::new(2), "batch 5 is cut with it");
    let synced = two_groups().batch(5, 4, &[(append(2, 3), 3, false)]).lose(3).recover();
    assert!(synced.recovered.verdict.is_damaged());
    assert_eq!(synced.start.next_seq, BatchSeq::new(6));
    assert!(synced.start.after_damage);
    assert_eq!(group(&synced, 2).verdict, Verdict::Clean);
}

#[test]
fn damage_that_an_item_tells_of_lasts_until_the_repair() {
    let told = two_groups().batch(5, 4, &[(append(1, 4), 4, true)]);
    let outcome = told.recover();
    assert!(group(&outcome, 1).verdict.is_damaged(), "though its chain holds");
    assert_eq!(group(&outcome, 1).damage.clone().unwrap().whole_from, Some(LogIndex::new(4)));
    let repaired = two_groups().batch(5, 4, &[(append(1, 4), 4, true)]).batch(
        6,
        5,
        &[(Write::Repaired { group: GroupId::new(2) }, 3, false)],
    );
    assert!(group(&repaired.recover(), 1).verdict.is_damaged(), "another's repair");
}

/// What callers store can look like headers of long frames. Where the frame around it is bad, the
/// search must not take a checksum over the rest of the segment at each: that is minutes.
#[test]
fn the_search_passes_once_over_what_looks_like_headers() {
    let file_bytes: usize = 32 << 20;
    let mut file = two_groups();
    let mut recovery = Recovery::new(Hasher::new(), BatchSeq::ZERO);
    // Each is (checksum, length) and the segment, and the next one as batch and durable.
    let middle = file_bytes as u64 / 2;
    let looks_like = [(middle << 32).to_le_bytes(), SEGMENT.get().to_le_bytes()].concat();
    file.raw.extend(looks_like.iter().cycle().take(file_bytes - file.raw.len()));
    recovery.segment(&file.bytes());
    assert!(matches!(recovery.finish().recovered.verdict, Verdict::TornTail { .. }));
}

/// The first item of a group may name a batch of a segment that was freed.
#[test]
fn what_lies_before_the_oldest_segment_is_not_lost() {
    let freed = File::new().batch(1, 0, &[(append(1, 1), 0, false)]).recover();
    assert_eq!(group(&freed, 1).verdict, Verdict::Clean);
    let unknown = File::new().batch(1, 0, &[(append(1, 1), 1, false)]).recover();
    assert!(group(&unknown, 1).verdict.is_damaged(), "batch 1 would have been read");
}

/// The batches that nobody can tell the groups of: the first and the last of each run.
fn lost(outcome: &Outcome) -> Vec<(u64, u64)> {
    let runs = outcome.index.unlisted.iter().flatten();
    runs.map(|(first, last)| (first.get(), last.get())).collect()
}

/// As many frames as a file can hold.
fn full() -> File {
    let write = Write::Truncate { group: GroupId::new(1), after: LogIndex::ZERO };
    let mut file = File::new();
    while file.raw.len() as u64 + FRAME_BYTES_MIN <= FILE_BYTES {
        let seq = file.frames.len() as u64 + 1;
        file = file.batch(seq, seq - 1, &[(write.clone(), seq - 1, false)]);
    }
    file
}

#[test]
fn numbers_that_a_lost_end_may_have_used_are_not_used_again() {
    let count = full().frames.len() as u64;
    assert_eq!(count, (FILE_BYTES - SEGMENT_HEADER_BYTES) / 72);
    let end = full().frames[0].end;
    let outcome = full().recover_as(|segment| segment.raw = &segment.raw[..end]);
    assert!(outcome.recovered.verdict.is_damaged(), "its header says that it was longer");
    // One more, for a frame that had not room enough.
    assert_eq!(outcome.start.next_seq, BatchSeq::new(count + 2));
    assert_eq!(lost(&outcome), [(2, count + 1)]);
    assert!(group(&outcome, 1).verdict.is_damaged());
}

#[test]
fn a_tear_beside_damage_may_have_been_more() {
    let torn = |mut file: File| {
        let last = file.frames[3].clone();
        file.raw[last.start + 40..].fill(0);
        file
    };
    let alone = torn(two_groups()).recover();
    assert_eq!(alone.start.next_seq, BatchSeq::new(4));
    let beside = torn(two_groups().lose(1)).recover();
    let room = (FILE_BYTES - two_groups().frames[3].start as u64) / 72;
    assert_eq!(beside.start.next_seq, BatchSeq::new(3 + room + 2));
    assert_eq!(lost(&beside), [(2, 2), (4, 3 + room + 1)]);
}

#[test]
fn what_cannot_be_read_behind_the_end_may_have_been_more() {
    let end = two_groups().raw.len() as u64;
    let before = two_groups().recover_as(|segment| segment.read_from = end);
    assert_eq!(before.recovered.verdict, Verdict::Clean);
    let behind = two_groups().recover_as(|segment| segment.read_from = end + 1);
    assert!(behind.recovered.verdict.is_damaged());
    assert_eq!(behind.start.next_seq.get(), 4 + (FILE_BYTES - end) / 72 + 2);
}

#[test]
fn a_segment_that_lost_its_header_and_all_frames_may_have_been_full() {
    let outcome = File::new().recover_as(|segment| segment.header = None);
    assert!(outcome.recovered.verdict.is_damaged());
    assert_eq!(outcome.start.next_seq.get(), full().frames.len() as u64 + 2);
    let with_frames = two_groups().recover_as(|segment| segment.header = None);
    assert!(with_frames.recovered.verdict.is_damaged());
    assert_eq!(with_frames.start.next_seq, BatchSeq::new(5), "where they end is sure");
}

/// Batches 100 to 102, of which the last can be read.
fn numbered_from_100() -> File {
    File::new()
        .batch(100, 0, &[(append(1, 1), 0, false), (append(2, 1), 0, false)])
        .batch(101, 100, &[(append(1, 2), 100, false)])
        .batch(102, 101, &[(append(1, 3), 101, false)])
        .lose(0)
        .lose(1)
}

#[test]
fn without_a_header_as_much_is_missing_as_fits_before_the_first_frame() {
    let outcome = numbered_from_100().recover_as(|segment| segment.header = None);
    assert_eq!(lost(&outcome), [(100, 101)]);
    let told = numbered_from_100().recover_as(|segment| {
        segment.header = None;
        segment.first_told = BatchSeq::new(90);
    });
    assert_eq!(lost(&told), [(90, 101)], "the next segment knows better");
}

#[test]
fn a_header_counts_in_its_own_segment_only() {
    let outcome = two_groups().recover_as(|segment| {
        let header = segment.header.as_mut().unwrap();
        header.segment = SEGMENT.next();
        header.first_seq = BatchSeq::new(3);
    });
    assert!(outcome.recovered.verdict.is_damaged());
    assert_eq!(lost(&outcome), []);
    assert_eq!(group(&outcome, 1).last, LogIndex::new(3));
}

#[test]
fn a_frame_with_a_number_of_the_next_segment_is_not_taken() {
    let outcome = two_groups().recover_as(|segment| {
        segment.is_followed = true;
        segment.seq_end = BatchSeq::new(4);
    });
    assert_eq!(group(&outcome, 1).last, LogIndex::new(2));
    assert_eq!(outcome.start.next_seq, BatchSeq::new(4));
}

/// Both happen only when nothing was lost: a damaged wal goes on in a new segment.
#[test]
fn the_tail_is_zeroed_and_marked_where_it_is_due() {
    let end = two_groups().raw.len() as u64;
    let clean = two_groups().recover();
    assert!(!clean.zero_tail, "there is nothing behind the end");
    assert!(clean.start.mark_due);
    assert_eq!(clean.start.tail, Some((SEGMENT, end)));

    let former_life = || {
        let mut file = two_groups();
        file.raw.extend([7; 64]);
        file
    };
    let recycled = former_life().recover();
    assert_eq!(recycled.recovered.verdict, Verdict::Clean, "it names another segment");
    assert!(recycled.zero_tail);

    let damaged = former_life().lose(1).recover();
    assert!(damaged.start.after_damage);
    assert!(!damaged.zero_tail);
    assert!(!damaged.start.mark_due);
    assert_eq!(damaged.start.tail, None);

    let marked = two_groups().mark(5).recover();
    assert!(!marked.start.mark_due);
    assert_eq!(marked.start.next_seq, BatchSeq::new(6));
}

#[test]
fn registers_of_the_last_frame_are_to_be_repeated_unless_a_mark_did() {
    let file = || two_groups().batch(5, 4, &[(state(1), 4, false), (state(2), 3, false)]);
    let copies = |outcome: &Outcome| {
        let copies = outcome.start.copies.iter();
        copies.map(|(group, payload)| (group.get(), payload.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(copies(&file().recover()), [(1, vec![1]), (2, vec![1])]);
    assert_eq!(copies(&file().mark(6).recover()), []);
    let later = file().batch(6, 5, &[(append(1, 4), 5, false)]);
    assert_eq!(copies(&later.recover()), [], "the frame behind repeated them");
}

#[test]
fn without_any_segment_a_wal_begins_at_one() {
    let outcome = Recovery::new(Hasher::new(), BatchSeq::ZERO).finish();
    assert_eq!(outcome.recovered.verdict, Verdict::Clean);
    assert_eq!(outcome.start.next_seq, BatchSeq::new(1));
    assert_eq!(outcome.start.tail, None);
    assert!(!outcome.start.mark_due);
    assert!(!outcome.recovered.unlisted_damaged);
}

/// Three things tell that a missing frame had been synced, each of them alone.
#[test]
fn a_missing_frame_is_damage_as_soon_as_anything_tells_of_it() {
    let unsynced = || two_groups().batch(5, 3, &[(append(2, 3), 3, false)]).lose(3);
    let alone = unsynced().recover();
    assert_eq!(group(&alone, 2).last, LogIndex::new(2), "nothing tells of batch 4: cut");
    let followed = unsynced().recover_as(|segment| segment.is_followed = true);
    assert_eq!(group(&followed, 2).last, LogIndex::new(3), "a later segment does");
    assert_eq!(lost(&followed), [(4, 4)]);
    let beside_damage = unsynced().recover_as(|segment| segment.header = None);
    assert_eq!(group(&beside_damage, 2).last, LogIndex::new(3), "what is damaged is not cut");
    assert_eq!(lost(&beside_damage), [(4, 4)]);
    let synced = two_groups().batch(5, 4, &[(append(2, 3), 3, false)]).lose(3).recover();
    assert_eq!(lost(&synced), [(4, 4)], "the frame behind does");
}
