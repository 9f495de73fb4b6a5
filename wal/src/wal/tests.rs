use bytes::Bytes;

use crate::position::{GroupId, LogIndex};
use crate::sim::{SimDisk, SimFaults};

use super::*;

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const GROUP: GroupId = GroupId::new(1);

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 << 10,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        live_multiple_max: 3,
    }
}

fn open(disk: &SimDisk) -> (Wal, Recovered) {
    Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap()
}

fn append(index: u64) -> Write {
    let payload = Bytes::from(vec![1; 1000]);
    Write::Append { group: GROUP, index: LogIndex::new(index), payload }
}

/// Writes entries until so many segments were begun. Returns the last entry.
fn fill(wal: &mut Wal, segments: u64) -> u64 {
    for index in 1.. {
        wal.submit(&[append(index)]).unwrap();
        wal.write_queued().unwrap();
        wal.sync().unwrap();
        while wal.prepare_spare().unwrap() {}
        if wal.shared.commit().segments.len() as u64 == segments {
            return index;
        }
    }
    unreachable!("entries never end")
}

/// Lets go of all entries: every segment but the last can be freed.
fn trim(wal: &mut Wal, up_to: u64) {
    wal.submit(&[Write::Trim { group: GROUP, up_to: LogIndex::new(up_to) }]).unwrap();
    wal.write_queued().unwrap();
    wal.sync().unwrap();
}

fn named(disk: &SimDisk, end: &str) -> BTreeSet<String> {
    disk.list().unwrap().into_iter().filter(|name| name.ends_with(end)).collect()
}

/// Whoever panicked with the log in his hands: it can be looked at, and takes nothing in.
#[test]
fn what_was_left_half_changed_is_not_gone_on_with() {
    let (mut wal, _) = open(&SimDisk::from_seed(1));
    wal.submit(&[append(1)]).unwrap();
    let shared = Arc::clone(&wal.shared);
    let left = crate::panic::guarded(|| {
        let _commit = shared.commit();
        panic!("a bug");
    });
    assert_eq!(left, Err("a bug".to_owned()));
    assert_eq!(wal.reader().stats().queued_batches, 1);
    for _ in 0..2 {
        let refused = wal.submit(&[append(2)]).unwrap_err();
        assert!(refused.to_string().contains("half changed"), "{refused}");
    }
}

/// Files that were found with damage among them are not used again, nor more than are kept ready.
#[test]
fn freed_files_become_spares_unless_they_are_suspect_or_too_many() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    let last = fill(&mut wal, 7);
    while wal.prepare_spare().unwrap() {}
    trim(&mut wal, last);
    let before = wal.spares.len();
    wal.suspect_up_to = SegmentId::new(2);
    let mut spares = Vec::new();
    for _ in 0..4 {
        wal.free_oldest(1).unwrap();
        spares.push(wal.spares.len() - before);
    }
    let room = room::spares_max(&wal.options) - before;
    assert_eq!(spares, [0, 0, 1.min(room), 2.min(room)]);
    assert_eq!(wal.shared.commit().segments.first(), Some(&SegmentId::new(5)));
    let held: BTreeSet<String> = wal.spares.iter().cloned().collect();
    assert_eq!(held.len(), wal.spares.len(), "each has a name of its own");
    assert_eq!(held, named(&disk, ".spare"));
    assert!(!held.contains(&segment::spare_name(wal.next_spare)), "nor is the next one taken");
}

#[test]
fn a_spare_that_was_not_finished_is_made_again() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    fill(&mut wal, 1);
    drop(wal);
    let finished = named(&disk, ".spare");
    let short = segment::spare_name(77);
    disk.create(&short, 100).unwrap();
    let (wal, _) = open(&disk);
    let spares = named(&disk, ".spare");
    assert!(!spares.contains(&short));
    assert!(finished.is_subset(&spares), "the others are kept");
    assert_eq!(spares, wal.spares.iter().cloned().collect());
}

#[test]
fn files_are_suspect_as_long_as_damage_is_among_them() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    assert_eq!(wal.suspect_up_to, SegmentId::new(0));
    fill(&mut wal, 2);
    drop(wal);
    assert_eq!(open(&disk).0.suspect_up_to, SegmentId::new(0), "all is well");
    // The header alone: nothing is missing, but the file is not to be trusted.
    disk.flip_bit(&segment::file_name(SegmentId::new(1)), 5, 0);
    let (mut wal, recovered) = open(&disk);
    assert!(!recovered.unlisted_damaged);
    assert_eq!(wal.suspect_up_to, SegmentId::new(2));
    // A frame, and a segment behind it that knows.
    disk.flip_bit(&segment::file_name(SegmentId::new(1)), 200, 0);
    let index = recovered.groups[&GROUP].last.get() + 1;
    wal.submit(&[append(index)]).unwrap();
    wal.write_queued().unwrap();
    drop(wal);
    let (wal, recovered) = open(&disk);
    assert!(recovered.unlisted_damaged);
    assert_eq!(wal.suspect_up_to, SegmentId::new(3));
}

/// The header of the oldest segment is gone, and its first frames with it: the next one tells with
/// which batch it began.
#[test]
fn the_next_segment_tells_where_the_one_before_began() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    fill(&mut wal, 4);
    trim(&mut wal, 20);
    wal.free_oldest(1).unwrap();
    drop(wal);
    let oldest = named(&disk, ".seg").pop_first().unwrap();
    let raw = disk.contents(&oldest);
    let first = decode_header(&IDENTITY, &oldest, &raw).unwrap().unwrap().first_seq;
    assert!(BatchSeq::new(1) < first);
    disk.overwrite(&oldest, 0, &[0; 3000]);
    let (wal, _) = open(&disk);
    let commit = wal.shared.commit();
    let lost = commit.index.unlisted.as_ref().unwrap();
    assert_eq!(lost[0], (first, BatchSeq::new(first.get() + 2)));
}

#[test]
fn a_range_is_zeroed_and_nothing_beside_it() {
    let disk = SimDisk::from_seed(1);
    let length = 3 * ZEROS;
    disk.create("f", length as u64).unwrap();
    disk.write_at("f", 0, &vec![7; length]).unwrap();
    let (from, end) = (ZEROS / 2, 2 * ZEROS + ZEROS / 4);
    zero(&disk, "f", from as u64, end as u64).unwrap();
    let bytes = disk.contents("f");
    assert_eq!(bytes.len(), length);
    let is_zeroed = |at: usize| (from..end).contains(&at);
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == if is_zeroed(at) { 0 } else { 7 }));
}

#[test]
fn only_a_full_disk_lets_a_spare_wait() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    let creates = disk.counts().creates;
    disk.set_faults(SimFaults { failing_create: Some(creates + 1), ..SimFaults::default() });
    while wal.shared.commit().room.take_spare(Need::Urgent) {}
    let error = wal.prepare_spare().unwrap_err();
    assert!(matches!(error, WalError::Io { .. }), "{error}");
}

/// What is not listed may have lost everything, until whoever knows says that it has not.
#[test]
fn a_group_that_nobody_knows_is_damaged_until_that_is_forgotten() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    fill(&mut wal, 2);
    drop(wal);
    disk.flip_bit(&segment::file_name(SegmentId::new(1)), 200, 0);
    let write = |group: u64| {
        let payload = Bytes::from_static(b"register");
        [Write::SetState { group: GroupId::new(group), payload }]
    };
    let (mut wal, _) = open(&disk);
    wal.submit(&write(2)).unwrap();
    wal.forget_unlisted();
    wal.submit(&write(3)).unwrap();
    wal.write_queued().unwrap();
    drop(wal);
    let (_, recovered) = open(&disk);
    assert!(recovered.is_damaged(GroupId::new(2)));
    assert!(!recovered.is_damaged(GroupId::new(3)));
}

#[test]
fn a_wal_tells_what_it_has_taken_written_and_synced() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    assert!(!wal.has_queued());
    let seq = wal.submit(&[append(1)]).unwrap();
    assert!(wal.has_queued());
    assert_eq!(wal.durable(), BatchSeq::ZERO);
    assert_eq!(wal.write_queued().unwrap(), Some(seq));
    assert!(!wal.has_queued());
    assert_eq!(wal.durable(), BatchSeq::ZERO, "written is not synced");
    assert_eq!(wal.sync().unwrap(), seq);
    assert_eq!(wal.durable(), seq);
    let stats = wal.stats();
    assert_eq!((stats.segments, stats.syncs), (1, 1));
    assert!(1000 < stats.live_bytes, "the payload and what it is stored with");
}
