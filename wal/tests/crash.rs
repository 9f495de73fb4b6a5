//! What recovery promises (W1, W2), against a model, over simulated disks that lose and tear.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use palisade_wal::sim::{SimDisk, SimFaults};
use palisade_wal::{
    BatchSeq, GroupId, KeyRing, Keys, LogIndex, SeededRandomness, Verdict, Wal, WalError,
    WalIdentity, WalOptions, Write,
};
use proptest::collection::vec;
use proptest::prelude::*;

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 << 10,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        live_multiple_max: 3,
    }
}

fn open(disk: &SimDisk) -> (Wal, palisade_wal::Recovered) {
    Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap()
}

fn open_with(disk: &SimDisk, keys: &Keys) -> (Wal, palisade_wal::Recovered) {
    Wal::open_with_keys(Arc::new(disk.clone()), IDENTITY, options(), keys.clone()).unwrap()
}

/// Keys that change with every call, or none.
struct Rotating(Option<(KeyRing, Keys)>);

impl Rotating {
    fn new(sealed: bool) -> Self {
        let keys = || Keys::with_randomness(KeyRing::default(), SeededRandomness::new(2));
        Self(sealed.then(|| (KeyRing::default(), keys())))
    }

    fn next(&mut self) -> Keys {
        let Some((ring, keys)) = &mut self.0 else { return Keys::none() };
        ring.rotate(&SeededRandomness::new(ring.epochs().count() as u64)).unwrap();
        keys.replace(ring.clone()).unwrap();
        keys.clone()
    }
}

/// What a group holds, by a model of a few lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    trimmed: u64,
    entries: Vec<Bytes>,
    state: Option<Bytes>,
}

type Models = BTreeMap<u64, Model>;

impl Model {
    fn last(&self) -> u64 {
        self.trimmed + self.entries.len() as u64
    }
}

fn apply(models: &mut Models, write: &Write) {
    let model = models.entry(write.group().get()).or_default();
    match write {
        Write::Append { index, payload, .. } => {
            model.entries.truncate((index.get() - model.trimmed - 1) as usize);
            model.entries.push(payload.clone());
        }
        Write::SetState { payload, .. } => model.state = Some(payload.clone()),
        Write::Trim { up_to, .. } => {
            let count = up_to.get().saturating_sub(model.trimmed) as usize;
            model.entries.drain(..count);
            model.trimmed = model.trimmed.max(up_to.get());
        }
        Write::Reset { up_to, .. } => {
            model.entries.clear();
            model.trimmed = up_to.get();
        }
        Write::Restore { .. } | Write::Truncate { .. } | Write::Repaired { .. } => {
            unreachable!("these tests repair nothing")
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Append { group: u64, back: u64, bytes: usize },
    State { group: u64 },
    Trim { group: u64, keep: u64 },
    Reset { group: u64, ahead: u64 },
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<Op>),
    Write,
    Sync,
    /// While batches wait that are not durable, as the writer's thread does.
    Maintain,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let group = || prop_oneof![4 => Just(1_u64), 1 => Just(2_u64), 1 => Just(3_u64)];
    prop_oneof![
        12 => (group(), prop_oneof![8 => Just(0_u64), 1 => 0..4_u64], 0..900_usize)
            .prop_map(|(group, back, bytes)| Op::Append { group, back, bytes }),
        3 => group().prop_map(|group| Op::State { group }),
        3 => (group(), 0..5_u64).prop_map(|(group, keep)| Op::Trim { group, keep }),
        1 => (group(), 0..3_u64).prop_map(|(group, ahead)| Op::Reset { group, ahead }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(op(), 1..5).prop_map(Step::Batch),
        4 => Just(Step::Write),
        4 => Just(Step::Sync),
        2 => Just(Step::Maintain),
        1 => Just(Step::Crash),
    ]
}

/// Turns an op into a write that is valid for the model.
fn write_of(models: &Models, op: &Op, number: u64) -> Write {
    let model = |group: &u64| models.get(group).cloned().unwrap_or_default();
    match op {
        Op::Append { group, back, bytes } => {
            let model = model(group);
            let index = (model.last() + 1 - (*back).min(model.entries.len() as u64)).max(1);
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(8 + bytes, (number % 251) as u8);
            Write::Append {
                group: GroupId::new(*group),
                index: LogIndex::new(index),
                payload: payload.into(),
            }
        }
        Op::State { group } => Write::SetState {
            group: GroupId::new(*group),
            payload: Bytes::copy_from_slice(&number.to_le_bytes()),
        },
        Op::Trim { group, keep } => {
            let model = model(group);
            let up_to = model.last().saturating_sub(*keep).max(model.trimmed);
            Write::Trim { group: GroupId::new(*group), up_to: LogIndex::new(up_to) }
        }
        Op::Reset { group, ahead } => Write::Reset {
            group: GroupId::new(*group),
            up_to: LogIndex::new(model(group).last() + ahead),
        },
    }
}

fn read_back(wal: &Wal, recovered: &palisade_wal::Recovered) -> Models {
    recovered
        .groups
        .iter()
        .map(|(group, found)| {
            let end = found.last.next();
            let mut entries = Vec::new();
            let mut next = found.first;
            while next < end {
                let read = wal.reader().read(*group, next, end, 2_000).unwrap();
                next = read.last().unwrap().0.next();
                entries.extend(read.into_iter().map(|(_, payload)| payload));
            }
            let model =
                Model { trimmed: found.first.get() - 1, entries, state: found.state.clone() };
            (group.get(), model)
        })
        .collect()
}

/// As many as the simulators take seeds, if that is set.
fn cases() -> u32 {
    let set = std::env::var("PALISADE_SIM_SEEDS").ok();
    set.map_or(300, |raw| raw.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// After any crash, recovery finds the state after some batch, at or after the last that was
    /// reported durable and at most the last submitted: a prefix, whole batches, nothing lost.
    #[test]
    fn recovery_finds_a_prefix_that_covers_every_ack(
        seed: u64,
        steps in vec(step(), 1..120),
        sealed: bool,
    ) {
        let disk = SimDisk::from_seed(seed);
        let mut keys = Rotating::new(sealed);
        let (mut wal, _) = open_with(&disk, &keys.next());
        // The state after each batch since the last crash, from the durable one on.
        let mut history: BTreeMap<BatchSeq, Models> = BTreeMap::new();
        let mut current = Models::new();
        let mut durable = BatchSeq::ZERO;
        history.insert(durable, current.clone());
        let mut number = 0;
        for step in steps.iter().chain([&Step::Crash]) {
            match step {
                Step::Batch(ops) => {
                    let mut after = current.clone();
                    let mut batch = Vec::new();
                    for op in ops {
                        number += 1;
                        let write = write_of(&after, op, number);
                        apply(&mut after, &write);
                        batch.push(write);
                    }
                    match wal.submit(&batch) {
                        Ok(seq) => {
                            history.insert(seq, after.clone());
                            current = after;
                        }
                        Err(WalError::Backpressure { .. }) => {
                            wal.write_queued().unwrap();
                            durable = wal.sync().unwrap();
                            wal.maintain().unwrap();
                        }
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                }
                Step::Write => {
                    wal.write_queued().unwrap();
                }
                Step::Sync => {
                    wal.write_queued().unwrap();
                    durable = wal.sync().unwrap();
                    wal.maintain().unwrap();
                }
                Step::Maintain => {
                    wal.maintain().unwrap();
                    keys.next();
                }
                Step::Crash => {
                    drop(wal);
                    disk.crash();
                    let (reopened, recovered) = open_with(&disk, &keys.next());
                    let torn_or_clean = !matches!(recovered.verdict, Verdict::Damaged { .. });
                    prop_assert!(torn_or_clean, "a crash is not damage: {:?}", recovered.verdict);
                    let found = read_back(&reopened, &recovered);
                    // The wal's own batches of moved entries have numbers too, but change nothing.
                    let acked = *history.range(..=durable).next_back().unwrap().0;
                    let matching = history.range(acked..).any(|(_, models)| *models == found);
                    let ends: Vec<_> = found.iter().map(|(g, m)| (g, m.trimmed, m.last())).collect();
                    prop_assert!(matching, "durable={durable:?} found={ends:?}");
                    wal = reopened;
                    durable = wal.durable();
                    current = found;
                    history = BTreeMap::from([(durable, current.clone())]);
                }
            }
        }
        drop(wal);
    }

    /// One flipped bit in synced data is noticed, whatever it hit: never wrong bytes, never a
    /// panic, and never taken for the harmless end of the log if batches after it are there.
    #[test]
    fn a_flipped_bit_is_never_served(seed: u64, at: prop::sample::Index, bit in 0u8..8, batches in 4u64..40) {
        let disk = SimDisk::from_seed(seed);
        let (mut wal, _) = open(&disk);
        let group = GroupId::new(1);
        let mut models = Models::new();
        for number in 0..batches {
            let write = write_of(&models, &Op::Append { group: 1, back: 0, bytes: 300 }, number);
            apply(&mut models, &write);
            wal.submit(&[write]).unwrap();
            wal.write_queued().unwrap();
            wal.sync().unwrap();
            wal.maintain().unwrap();
        }
        let stats = wal.stats();
        drop(wal);
        // A frame holds a header of 36 bytes, one item header of 33 and 308 bytes, padded, and a mark
        // follows it.
        let frame = 384 + 72;
        let first_frame = 96;
        let in_first = ((16 << 10) - first_frame) / frame;
        let count = (batches as usize).min(in_first);
        let pos = at.index(first_frame + count * frame);
        disk.flip_bit("0000000000000001.seg", pos, bit);
        let (wal, recovered) = open(&disk);
        let expected = &models[&1].entries;
        let readable = recovered.groups.get(&group).map(|found| {
            wal.reader().read(group, found.first, found.last.next(), usize::MAX).unwrap_or_default()
        });
        for (index, payload) in readable.unwrap_or_default() {
            prop_assert_eq!(&payload, &expected[index.get() as usize - 1]);
        }
        let whole = recovered.groups.get(&group).is_some_and(|found| found.last.get() == batches);
        let damaged = recovered.verdict.is_damaged();
        // The last mark may be taken for a torn tail: nothing after it says otherwise.
        let last_mark = stats.segments == 1 && pos >= first_frame + count * frame - 72;
        let padding = pos >= first_frame && (384 - 7..384).contains(&((pos - first_frame) % frame));
        let in_mark = pos >= first_frame && (pos - first_frame) % frame >= 384;
        prop_assert!(damaged || (whole && (last_mark || padding || in_mark)), "{:?}", recovered.verdict);
    }

    /// Whatever the files hold, opening ends, and without a panic.
    #[test]
    fn garbage_opens_or_is_refused(seed: u64, flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..200)) {
        let disk = SimDisk::from_seed(seed);
        let (mut wal, _) = open(&disk);
        for number in 0..60 {
            let op = Op::Append { group: 1 + number % 2, back: 0, bytes: 500 };
            let mut models = Models::new();
            models.insert(1 + number % 2, Model { trimmed: 0, entries: vec![Bytes::new(); (number / 2) as usize], state: None });
            wal.submit(&[write_of(&models, &op, number)]).unwrap();
            wal.write_queued().unwrap();
            wal.sync().unwrap();
            wal.maintain().unwrap();
        }
        drop(wal);
        for (at, bit) in flips {
            let name = if bit % 2 == 0 { "0000000000000001.seg" } else { "0000000000000002.seg" };
            disk.flip_bit(name, at.index(16 << 10), bit);
        }
        if let Ok((mut wal, _)) = Wal::open(Arc::new(disk), IDENTITY, options()) {
            wal.submit(&[Write::SetState { group: GroupId::new(1), payload: Bytes::new() }]).unwrap();
            flush(&mut wal);
        }
    }
}

fn append(group: u64, index: u64, bytes: usize) -> Write {
    Write::Append {
        group: GroupId::new(group),
        index: LogIndex::new(index),
        payload: vec![index as u8; bytes].into(),
    }
}

fn flush(wal: &mut Wal) {
    wal.write_queued().unwrap();
    wal.sync().unwrap();
    wal.maintain().unwrap();
}

/// An idle group beside a busy one does not keep the busy one's segments.
#[test]
fn a_cold_group_pins_nothing() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    let state = Write::SetState { group: GroupId::new(2), payload: Bytes::from_static(b"vote") };
    wal.submit(&[append(2, 1, 100), append(2, 2, 100), state]).unwrap();
    flush(&mut wal);
    for index in 1..=2_000 {
        let mut batch = vec![append(1, index, 700)];
        if index % 10 == 0 {
            batch.push(Write::Trim { group: GroupId::new(1), up_to: LogIndex::new(index - 5) });
        }
        while let Err(WalError::Backpressure { .. }) = wal.submit(&batch) {
            flush(&mut wal);
        }
        flush(&mut wal);
        let stats = wal.stats();
        let live_segments = stats.live_bytes / options().segment_bytes + 1;
        // The multiple, one more being moved, and one being filled.
        let bound = live_segments * options().live_multiple_max + 2;
        assert!(stats.segments <= bound, "index={index} {stats:?}");
    }
    drop(wal);
    disk.crash();
    let (wal, recovered) = open(&disk);
    let cold = &recovered.groups[&GroupId::new(2)];
    assert_eq!((cold.first.get(), cold.last.get()), (1, 2));
    assert_eq!(cold.state.as_deref(), Some(&b"vote"[..]));
    let entries =
        wal.reader().read(GroupId::new(2), LogIndex::new(1), LogIndex::new(3), 1 << 20).unwrap();
    assert_eq!(entries[1].1, vec![2_u8; 100]);
}

/// W3: what a failed sync covered is never reported durable, also when a later sync would succeed.
#[test]
fn a_failed_sync_is_final() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    wal.submit(&[append(1, 1, 10)]).unwrap();
    flush(&mut wal);
    let durable = wal.durable();
    wal.submit(&[append(1, 2, 10)]).unwrap();
    wal.write_queued().unwrap();
    disk.set_faults(SimFaults { failing_sync: Some(disk.syncs() + 1), ..SimFaults::default() });
    assert!(matches!(wal.sync(), Err(WalError::SyncFailed { .. })));
    assert!(matches!(wal.sync(), Err(WalError::Poisoned { .. })));
    assert!(matches!(wal.submit(&[append(1, 3, 10)]), Err(WalError::Poisoned { .. })));
    assert_eq!(wal.durable(), durable);
}

/// A full disk refuses before anything is promised, and the wal goes on when there is room.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    disk.set_faults(SimFaults { capacity_bytes: Some(4 * (16 << 10)), ..SimFaults::default() });
    let mut index = 0;
    let refused = loop {
        match wal.submit(&[append(1, index + 1, 2_000)]) {
            Ok(_) => index += 1,
            Err(error) => break error,
        }
        flush(&mut wal);
        assert!(index < 1_000, "a disk of three segments takes no thousand entries");
    };
    assert!(matches!(refused, WalError::NoSpace), "{refused}");
    disk.set_faults(SimFaults::default());
    // The longer it was full, the longer it takes to be noticed, up to 64 calls.
    (0..=64).for_each(|_| wal.maintain().unwrap());
    wal.submit(&[append(1, index + 1, 2_000)]).unwrap();
    flush(&mut wal);
    drop(wal);
    disk.crash();
    assert_eq!(open(&disk).1.groups[&GroupId::new(1)].last.get(), index + 1);
}

#[test]
fn what_leaves_a_gap_is_refused_and_changes_nothing() {
    let (mut wal, _) = open(&SimDisk::from_seed(1));
    let bad = |wal: &mut Wal, batch: &[Write]| {
        assert!(matches!(wal.submit(batch), Err(WalError::InvalidArgument { .. })), "{batch:?}");
    };
    bad(&mut wal, &[append(1, 2, 1)]);
    bad(&mut wal, &[append(1, 1, 1), append(1, 3, 1)]);
    bad(&mut wal, &[append(1, 0, 1)]);
    bad(&mut wal, &[]);
    bad(&mut wal, &[Write::Trim { group: GroupId::new(1), up_to: LogIndex::new(1) }]);
    bad(&mut wal, &[append(1, 1, 9_000)]);
    let large = vec![0; palisade_wal::STATE_BYTES_MAX + 1].into();
    bad(&mut wal, &[Write::SetState { group: GroupId::new(1), payload: large }]);
    wal.submit(&[append(1, 1, 1)]).unwrap();
}

/// Behind a mark that was lost, the first batch cannot tell, since nothing was synced with it yet. The
/// second one does, though it was made while the first was being synced: it is written behind that.
#[test]
fn the_second_batch_behind_a_lost_mark_tells_of_it() {
    let append = |wal: &mut Wal, index| {
        let (group, index) = (GroupId::new(1), LogIndex::new(index));
        wal.submit(&[Write::Append { group, index, payload: Bytes::from_static(b"x") }]).unwrap();
    };
    for seed in 0..50 {
        let disk = SimDisk::from_seed(seed);
        let (mut wal, _) = open(&disk);
        append(&mut wal, 1);
        wal.write_queued().unwrap();
        wal.sync().unwrap();
        let lost_write = Some(disk.counts().writes + 1);
        disk.set_faults(SimFaults { lost_write, ..SimFaults::default() });
        wal.maintain().unwrap();
        append(&mut wal, 2);
        wal.write_queued().unwrap();
        append(&mut wal, 3);
        wal.sync().unwrap();
        assert!(disk.hides_a_loss(), "what was synced so far is the loss and what is with it");
        wal.write_queued().unwrap();
        wal.sync().unwrap();
        assert!(!disk.hides_a_loss());
        drop(wal);
        disk.crash();
        let (_, recovered) = open(&disk);
        assert!(recovered.verdict.is_damaged(), "seed={seed}: {recovered:?}");
    }
}
