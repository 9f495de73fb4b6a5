use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::WalOptions;
use crate::frame::Write;
use crate::segment::WalIdentity;
use crate::sim::{SimDisk, SimFaults};
use crate::verdict::Verdict;
use crate::wal::Wal;

const GROUPS: u64 = 3;
const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 8 << 10,
        batch_bytes_max: 6 << 10,
        queued_bytes_max: 64 << 10,
        ..WalOptions::default()
    }
}

/// What callers wrote, and still want.
#[derive(Default)]
struct Model {
    entries: BTreeMap<(GroupId, LogIndex), Bytes>,
    last: BTreeMap<GroupId, LogIndex>,
    registers: BTreeMap<GroupId, Bytes>,
}

struct Log {
    disk: SimDisk,
    wal: Wal,
    model: Model,
    written: u64,
}

impl Log {
    /// Some segments with entries, registers, trim marks and moved items of three groups.
    fn new() -> Self {
        Self::with_writes(60)
    }

    fn with_writes(count: u64) -> Self {
        let disk = SimDisk::from_seed(1);
        let (wal, _) = Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap();
        let mut log = Self { disk, wal, model: Model::default(), written: 0 };
        (0..count).for_each(|_| log.write());
        log
    }

    fn commit(&mut self, writes: &[Write]) {
        self.wal.submit(writes).unwrap();
        self.settle();
    }

    fn settle(&mut self) {
        while self.wal.has_queued() {
            self.wal.write_queued().unwrap();
            self.wal.sync().unwrap();
            self.wal.maintain().unwrap();
        }
    }

    fn write(&mut self) {
        self.written += 1;
        let group = GroupId::new(self.written % GROUPS + 1);
        let last = self.model.last.entry(group).or_insert(LogIndex::ZERO);
        *last = last.next();
        let index = *last;
        let payload = Bytes::from(vec![self.written as u8; 100 + 7 * self.written as usize % 500]);
        self.model.entries.insert((group, index), payload.clone());
        let mut writes = vec![Write::Append { group, index, payload }];
        if self.written.is_multiple_of(4) {
            let payload = Bytes::from(format!("register {}", self.written));
            self.model.registers.insert(group, payload.clone());
            writes.push(Write::SetState { group, payload });
        }
        if self.written.is_multiple_of(10) && group != GroupId::new(1) {
            let up_to = LogIndex::new(index.get() - 1);
            self.model.entries.retain(|(of, at), _| *of != group || up_to < *at);
            writes.push(Write::Trim { group, up_to });
        }
        self.commit(&writes);
    }

    fn round(&self) -> Scrubbed {
        Self::round_of(&mut self.wal.scrubber())
    }

    fn round_of(scrubber: &mut WalScrubber) -> Scrubbed {
        let mut all = Scrubbed::default();
        while !all.ends_round {
            let step = scrubber.step(1000).unwrap();
            all.bytes += step.bytes;
            all.entries.extend(step.entries);
            all.registers.extend(step.registers);
            all.ends_round = step.ends_round;
        }
        all
    }

    /// What a replica does with what was found.
    fn heal(&mut self, found: &Scrubbed) {
        for (group, index) in &found.entries {
            let payload = self.model.entries[&(*group, *index)].clone();
            self.commit(&[Write::Restore { group: *group, index: *index, payload }]);
        }
        for group in &found.registers {
            let payload = self.model.registers[group].clone();
            self.commit(&[Write::SetState { group: *group, payload }]);
        }
        (0..8).for_each(|_| self.write());
    }

    /// A start finds nothing amiss, and everything there.
    fn assert_sound(self, what: &str) {
        let Self { disk, wal, model, .. } = self;
        drop(wal);
        let (wal, recovered) = Wal::open(Arc::new(disk), IDENTITY, options()).unwrap();
        assert_eq!(recovered.verdict, Verdict::Clean, "{what}");
        for (group, found) in &recovered.groups {
            assert_eq!(found.damage, None, "{what}: group={group}");
            assert_eq!(found.state.as_ref(), model.registers.get(group), "{what}: group={group}");
        }
        for ((group, index), payload) in &model.entries {
            let read = wal.reader().read(*group, *index, index.next(), 1).unwrap();
            assert_eq!(read[0].1, payload, "{what}: group={group} index={index}");
        }
    }

    fn holds_nothing_condemned(&self) -> bool {
        let commit = self.wal.shared.commit();
        !commit.segments.iter().any(|segment| commit.is_condemned(*segment))
    }

    fn segments(&self) -> Vec<(SegmentId, u64)> {
        let commit = self.wal.shared.commit();
        let ends = commit.segments.iter();
        ends.filter_map(|segment| Some((*segment, commit.written_end(*segment)?))).collect()
    }
}

#[test]
fn a_sound_log_is_read_whole_and_nothing_is_found() {
    let log = Log::new();
    let segments = log.segments();
    assert!(segments.len() > 2);
    let found = log.round();
    assert!(found.is_sound());
    assert_eq!(log.wal.stats().segments_condemned, 0);
    let written: u64 = segments.iter().map(|(_, end)| end).sum();
    // What is written of them, in one read each: they are short.
    assert_eq!(found.bytes, written);
    let reads = log.disk.counts().reads;
    log.round();
    assert_eq!(log.disk.counts().reads - reads, segments.len() as u64);
    log.assert_sound("nothing happened");
}

/// Every flip is found in the first round that comes after it, and once what was found is put right, no
/// start finds anything of it.
#[test]
fn whatever_bit_flips_is_found_in_one_round() {
    let segments = Log::new().segments();
    let mut found_count = 0;
    for (segment, end) in segments {
        let step = if cfg!(debug_assertions) { 13 } else { 3 };
        for at in (0..end).step_by(step) {
            let what = format!("{segment} at {at}");
            let mut log = Log::new();
            let mut scrubber = log.wal.scrubber();
            assert!(Log::round_of(&mut scrubber).is_sound());
            log.disk.flip_bit(&segment::file_name(segment), at as usize, (at % 8) as u8);
            let found = Log::round_of(&mut scrubber);
            for (group, index) in &found.entries {
                let read = log.wal.reader().read(*group, *index, index.next(), 1);
                assert!(matches!(read, Err(WalError::Corrupt { .. })), "{what}: {read:?}");
            }
            found_count += log.wal.stats().segments_condemned;
            log.heal(&found);
            assert!(log.holds_nothing_condemned(), "{what}");
            log.assert_sound(&what);
        }
    }
    assert!(found_count > 500, "{found_count}");
}

/// Where the medium refuses, as where it lies.
#[test]
fn a_place_that_cannot_be_read_is_found() {
    let segments = Log::new().segments();
    for (segment, end) in segments {
        for sector in 0..end as usize / 512 {
            let mut log = Log::new();
            let name = segment::file_name(segment);
            log.disk.fail_reads(&name, sector * 512..sector * 512 + 1);
            let found = log.round();
            log.heal(&found);
            assert!(log.holds_nothing_condemned(), "{segment} sector {sector}");
            log.assert_sound(&format!("{segment} sector {sector}"));
        }
    }
}

#[test]
fn a_read_that_goes_wrong_once_condemns_nothing() {
    let log = Log::new();
    let mut scrubber = log.wal.scrubber();
    for read in 1..200 {
        let (failing_read, altered_read) =
            if read % 2 == 0 { (None, Some(1)) } else { (Some(1), None) };
        let at = |count: Option<u64>| count.map(|count| log.disk.counts().reads + count);
        let faults = SimFaults {
            failing_read: at(failing_read),
            altered_read: at(altered_read),
            ..SimFaults::default()
        };
        log.disk.set_faults(faults);
        for _ in 0..4 {
            assert!(scrubber.step(1).unwrap().is_sound());
        }
    }
    assert_eq!(log.wal.stats().segments_condemned, 0);
}

/// A round that begins where the last one ended goes by what lies there now.
#[test]
fn a_log_of_one_segment_is_read_anew_in_each_round() {
    let mut log = Log::with_writes(8);
    let [(segment, _)] = log.segments()[..] else { panic!("{:?}", log.segments()) };
    let mut scrubber = log.wal.scrubber();
    Log::round_of(&mut scrubber);
    assert_eq!(log.wal.stats().segments_condemned, 0);
    log.disk.flip_bit(&segment::file_name(segment), 8, 1);
    let found = Log::round_of(&mut scrubber);
    assert_eq!(log.wal.stats().segments_condemned, 1);
    log.heal(&found);
    log.assert_sound("one segment");
}

/// What is written behind damage would have to be moved at once.
#[test]
fn a_condemned_segment_is_written_on_no_more() {
    let mut log = Log::new();
    let (tail, end) = *log.segments().last().unwrap();
    assert!(end + 2048 < options().segment_bytes, "the next write would not have gone there");
    log.disk.flip_bit(&segment::file_name(tail), 8, 1);
    let found = log.round();
    assert_eq!(log.wal.stats().segments_condemned, 1);
    log.wal.submit(&[Write::SetState { group: GroupId::new(1), payload: "vote".into() }]).unwrap();
    let last = *log.wal.shared.commit().segments.last().unwrap();
    assert!(tail < last, "it goes to {last}, behind what is damaged");
    log.settle();
    log.model.registers.insert(GroupId::new(1), "vote".into());
    log.heal(&found);
    log.assert_sound("written elsewhere");
}

/// On a full disk what is left of the last segment is all there is for trims and votes.
#[test]
fn a_condemned_segment_is_written_on_if_there_is_no_other() {
    let mut log = Log::new();
    let (last, _) = *log.segments().last().unwrap();
    let faults = SimFaults { capacity_bytes: Some(0), ..SimFaults::default() };
    log.disk.set_faults(faults);
    // Until the reserve is in use.
    let group = GroupId::new(1);
    loop {
        let index = log.model.last[&group].next();
        let payload = Bytes::from(vec![7; 1000]);
        if log.wal.submit(&[Write::Append { group, index, payload }]).is_err() {
            break;
        }
        log.model.last.insert(group, index);
        log.settle();
    }
    let payload = Bytes::from(vec![7; 2000]);
    log.commit(&[Write::SetState { group, payload: payload.clone() }]);
    log.commit(&[Write::SetState { group, payload }]);
    let (tail, end) = *log.segments().last().unwrap();
    assert!(last < tail);
    log.disk.flip_bit(&segment::file_name(tail), end as usize - 1500, 1);
    log.round();
    assert_eq!(log.wal.stats().segments_condemned, 1);
    let payload = Bytes::from_static(b"vote");
    log.commit(&[Write::SetState { group, payload }]);
}

/// What is freed under it is no damage, nor what is written meanwhile.
#[test]
fn a_log_that_moves_on_is_no_damage() {
    let mut log = Log::new();
    let mut scrubber = log.wal.scrubber();
    let mut rounds = 0;
    while rounds < 20 {
        let found = scrubber.step(700).unwrap();
        assert!(found.is_sound());
        rounds += u32::from(found.ends_round);
        log.write();
        for group in 1..=GROUPS {
            let group = GroupId::new(group);
            let up_to = log.model.last.get(&group).copied().unwrap_or(LogIndex::ZERO);
            log.model.entries.retain(|(of, _), _| *of != group);
            log.commit(&[Write::Trim { group, up_to }]);
        }
    }
    assert_eq!(log.wal.stats().segments_condemned, 0);
    assert!(log.segments()[0].0 > SegmentId::new(3), "nothing was freed");
}

/// A missing file is told, and the rest is looked at all the same.
#[test]
fn a_missing_file_is_an_error_and_no_end() {
    let log = Log::new();
    let (first, _) = log.segments()[0];
    log.disk.lose_file(&segment::file_name(first));
    let mut scrubber = log.wal.scrubber();
    assert!(matches!(scrubber.step(usize::MAX), Err(WalError::Io { .. })));
    let rest = scrubber.step(usize::MAX).unwrap();
    assert!(rest.ends_round && rest.is_sound() && rest.bytes > 0);
}
