//! Damage in the middle of a log (W1, W5), against a model: it is told apart by group, what survives is
//! never wrong where it is said to be whole, and a refilled wal is as good as before.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use palisade_wal::sim::{SimDisk, SimFaults};
use palisade_wal::{
    Disk, Disposition, GroupId, LogIndex, Recovered, Verdict, Wal, WalError, WalIdentity,
    WalOptions, Write,
};
use proptest::collection::vec;
use proptest::prelude::*;

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const GROUPS: u64 = 4;
const BLOCK: usize = 4096;

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

fn flush(wal: &mut Wal) {
    wal.write_queued().unwrap();
    wal.sync().unwrap();
    wal.maintain().unwrap();
}

/// Until nothing is left to be written, the mark included.
fn settle(wal: &mut Wal) {
    for _ in 0..4 {
        flush(wal);
    }
}

fn submit(wal: &mut Wal, batch: &[Write]) {
    loop {
        match wal.submit(batch) {
            Ok(_) => return,
            Err(error) if error.disposition() == Disposition::Retry => flush(wal),
            Err(error) => panic!("{error}: {batch:?}"),
        }
    }
}

/// What a group holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    trimmed: u64,
    entries: BTreeMap<u64, Bytes>,
    last: u64,
    state: Option<Bytes>,
}

type Models = BTreeMap<u64, Model>;

fn apply(models: &mut Models, write: &Write) {
    let model = models.entry(write.group().get()).or_default();
    match write {
        Write::Append { index, payload, .. } => {
            model.entries.split_off(&index.get());
            model.entries.insert(index.get(), payload.clone());
            model.last = index.get();
        }
        Write::Restore { index, payload, .. } => {
            model.entries.insert(index.get(), payload.clone());
        }
        Write::SetState { payload, .. } => model.state = Some(payload.clone()),
        Write::Trim { up_to, .. } => {
            model.trimmed = model.trimmed.max(up_to.get());
            model.entries = model.entries.split_off(&(model.trimmed + 1));
        }
        Write::Reset { up_to, .. } => {
            model.entries.clear();
            model.trimmed = up_to.get();
            model.last = up_to.get();
        }
        Write::Truncate { after, .. } => {
            model.entries.split_off(&(after.get() + 1));
            model.last = after.get();
        }
        Write::Repaired { .. } => {}
    }
}

#[derive(Clone, Debug)]
enum Op {
    Append { group: u64, back: u64, bytes: usize },
    State { group: u64 },
    Trim { group: u64, keep: u64 },
    Reset { group: u64, ahead: u64 },
    Restore { group: u64, back: u64 },
    Truncate { group: u64, back: u64 },
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<Op>),
    Sync,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let group = || prop_oneof![4 => Just(1_u64), 1 => 2..=GROUPS];
    prop_oneof![
        12 => (group(), prop_oneof![6 => Just(0_u64), 1 => 0..4_u64], 0..600_usize)
            .prop_map(|(group, back, bytes)| Op::Append { group, back, bytes }),
        4 => group().prop_map(|group| Op::State { group }),
        3 => (group(), 0..6_u64).prop_map(|(group, keep)| Op::Trim { group, keep }),
        1 => (group(), 0..3_u64).prop_map(|(group, ahead)| Op::Reset { group, ahead }),
        1 => (group(), 0..4_u64).prop_map(|(group, back)| Op::Restore { group, back }),
        1 => (group(), 0..3_u64).prop_map(|(group, back)| Op::Truncate { group, back }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => vec(op(), 1..4).prop_map(Step::Batch),
        5 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

/// Turns an op into a write that is valid for the model.
fn write_of(models: &Models, op: &Op, number: u64) -> Write {
    let model = |group: &u64| models.get(group).cloned().unwrap_or_default();
    let payload = |bytes: usize| -> Bytes {
        // No payload ends in zeros: those are what an unreadable place reads as.
        let mut payload = (number | 1 << 63).to_le_bytes().to_vec();
        payload.resize(8 + bytes, (number % 250 + 1) as u8);
        payload.into()
    };
    match *op {
        Op::Append { group, back, bytes } => {
            let model = model(&group);
            let index = LogIndex::new(model.last + 1 - back.min(model.last - model.trimmed));
            Write::Append { group: GroupId::new(group), index, payload: payload(bytes) }
        }
        Op::State { group } => {
            Write::SetState { group: GroupId::new(group), payload: payload(number as usize % 40) }
        }
        Op::Trim { group, keep } => {
            let model = model(&group);
            let up_to = LogIndex::new(model.last.saturating_sub(keep).max(model.trimmed));
            Write::Trim { group: GroupId::new(group), up_to }
        }
        Op::Reset { group, ahead } => Write::Reset {
            group: GroupId::new(group),
            up_to: LogIndex::new(model(&group).last + ahead),
        },
        Op::Restore { group, back } => {
            let model = model(&group);
            if model.last == model.trimmed {
                return write_of(models, &Op::State { group }, number);
            }
            let index = model.last.saturating_sub(back).max(model.trimmed + 1);
            Write::Restore {
                group: GroupId::new(group),
                index: LogIndex::new(index),
                payload: payload(20),
            }
        }
        Op::Truncate { group, back } => {
            let model = model(&group);
            let after = LogIndex::new(model.last.saturating_sub(back).max(model.trimmed));
            Write::Truncate { group: GroupId::new(group), after }
        }
    }
}

/// Something happens to one place of the stored files.
#[derive(Clone, Debug)]
enum Hurt {
    Flip { at: prop::sample::Index, bit: u8 },
    ZeroSector { at: prop::sample::Index },
    LostWrite { at: prop::sample::Index },
    Misdirected { at: prop::sample::Index },
    Swap { one: prop::sample::Index, other: prop::sample::Index },
    Cut { at: prop::sample::Index },
    Unreadable { at: prop::sample::Index },
    Remove { at: prop::sample::Index },
}

fn hurt() -> impl Strategy<Value = Hurt> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, bit)| Hurt::Flip { at, bit }),
        3 => at().prop_map(|at| Hurt::ZeroSector { at }),
        3 => at().prop_map(|at| Hurt::LostWrite { at }),
        2 => at().prop_map(|at| Hurt::Misdirected { at }),
        2 => (at(), at()).prop_map(|(one, other)| Hurt::Swap { one, other }),
        1 => at().prop_map(|at| Hurt::Cut { at }),
        2 => at().prop_map(|at| Hurt::Unreadable { at }),
        1 => at().prop_map(|at| Hurt::Remove { at }),
    ]
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect()
}

const FRAME_HEADER_BYTES: usize = 36;

/// How far a segment is written, by the lengths in its frames.
fn written(bytes: &[u8]) -> usize {
    let mut pos = 96;
    while let Some(header) = bytes.get(pos..pos + FRAME_HEADER_BYTES) {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap()) as usize;
        if word(4) == 0 || header[8..16] != bytes[56..64] {
            break;
        }
        pos += (FRAME_HEADER_BYTES + word(4)).next_multiple_of(8);
    }
    pos
}

/// Where the frames of a segment lie.
fn frames(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let end = written(bytes);
    let mut pos = 96;
    let mut frames = Vec::new();
    while pos < end {
        let length = u32::from_le_bytes(bytes[pos + 4..pos + 8].try_into().unwrap()) as usize;
        frames.push(pos..pos + FRAME_HEADER_BYTES + length);
        pos += (FRAME_HEADER_BYTES + length).next_multiple_of(8);
    }
    frames
}

/// Hurts a place that was written. Returns whether anything was done.
fn inflict(disk: &SimDisk, hurt: &Hurt) -> bool {
    let names = segments(disk);
    let lengths: Vec<usize> = names.iter().map(|name| written(&disk.contents(name))).collect();
    let total: usize = lengths.iter().sum();
    let place = |at: &prop::sample::Index| {
        let mut pos = at.index(total.max(1));
        for (name, length) in names.iter().zip(&lengths) {
            if pos < *length {
                return Some((name.as_str(), pos, *length));
            }
            pos -= length;
        }
        None
    };
    match hurt {
        Hurt::Flip { at, bit } => {
            let Some((name, pos, _)) = place(at) else { return false };
            disk.flip_bit(name, pos, *bit);
        }
        Hurt::ZeroSector { at } => {
            let Some((name, pos, _)) = place(at) else { return false };
            disk.zero_sector(name, pos / 512);
        }
        Hurt::LostWrite { at } => {
            // What the file held before: zeros, or another segment's frames, which read like noise.
            let Some((name, pos, length)) = place(at) else { return false };
            let bytes = disk.contents(name);
            let mut start = 96;
            while start < pos && start < length {
                let word = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap());
                let end = start + (FRAME_HEADER_BYTES + word as usize).next_multiple_of(8);
                if pos < end {
                    let old = vec![(pos % 3) as u8; end - start];
                    disk.overwrite(name, start, &old);
                }
                start = end;
            }
        }
        Hurt::Misdirected { at } => {
            let Some((name, pos, length)) = place(at) else { return false };
            let bytes = disk.contents(name);
            let source = &bytes[96.min(bytes.len())..length.min(96 + 700).min(bytes.len())];
            let target = (pos / 8 * 8).min(bytes.len() - source.len());
            disk.overwrite(name, target, source);
        }
        Hurt::Swap { one, other } => {
            let Some((name, pos, _)) = place(one) else { return false };
            disk.swap_blocks(name, pos / BLOCK, other.index(4));
        }
        Hurt::Cut { at } => {
            let Some((name, pos, _)) = place(at) else { return false };
            disk.truncate(name, pos);
        }
        Hurt::Unreadable { at } => {
            let Some((name, pos, _)) = place(at) else { return false };
            disk.fail_reads(name, pos..pos + 1);
        }
        Hurt::Remove { at } => {
            // Not the oldest: what that held may not be told of by others.
            if names.len() < 2 {
                return false;
            }
            disk.lose_file(&names[1 + at.index(names.len() - 1)]);
        }
    }
    true
}

/// One entry, if it is there and can be read.
fn entry(wal: &Wal, group: u64, index: u64) -> Option<Bytes> {
    let (from, end) = (LogIndex::new(index), LogIndex::new(index + 1));
    match wal.reader().read(GroupId::new(group), from, end, usize::MAX) {
        Ok(entries) => Some(entries[0].1.clone()),
        Err(WalError::Missing { .. } | WalError::Corrupt { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn is_hole(recovered: &Recovered, group: u64, index: u64) -> bool {
    let damage = recovered.groups[&GroupId::new(group)].damage.as_ref();
    let index = LogIndex::new(index);
    damage.is_some_and(|damage| {
        damage.holes.iter().any(|(first, last)| *first <= index && index <= *last)
    })
}

/// Holds what recovery says against the truth.
fn judge(wal: &Wal, recovered: &Recovered, truth: &Models) -> Result<(), TestCaseError> {
    judge_contents(wal, recovered, truth, true)
}

/// The same; a refill that is under way may not have reached the last entry yet.
fn judge_contents(
    wal: &Wal,
    recovered: &Recovered,
    truth: &Models,
    is_refilled: bool,
) -> Result<(), TestCaseError> {
    for (group, model) in truth {
        let Some(found) = recovered.groups.get(&GroupId::new(*group)) else {
            // Of a group that holds nothing, nothing is kept.
            let is_nothing = *model == Model::default();
            let is_told = recovered.unlisted_damaged || is_nothing;
            prop_assert!(is_told, "group={} is silently missing", group);
            continue;
        };
        let whole_from = match &found.damage {
            None => {
                prop_assert!(!found.verdict.is_damaged());
                prop_assert_eq!(found.first.get(), model.trimmed + 1, "group={}", group);
                prop_assert_eq!(found.last.get(), model.last, "group={}", group);
                prop_assert_eq!(&found.state, &model.state, "group={}", group);
                Some(found.first.get())
            }
            Some(damage) => {
                prop_assert!(found.verdict.is_damaged());
                prop_assert!(recovered.verdict.is_damaged());
                if damage.state_known {
                    prop_assert_eq!(&found.state, &model.state, "group={}", group);
                }
                damage.whole_from.map(LogIndex::get)
            }
        };
        if let Some(from) = whole_from
            && is_refilled
        {
            prop_assert_eq!(found.last.get(), model.last, "group={} from={}", group, from);
        }
        for index in found.first.get()..=found.last.get() {
            let held = entry(wal, *group, index);
            prop_assert_eq!(held.is_none(), is_hole(recovered, *group, index), "group={}", group);
            if whole_from.is_some_and(|from| from <= index) {
                prop_assert_eq!(held.as_ref(), model.entries.get(&index), "group={}", group);
            }
        }
    }
    Ok(())
}

/// What the layer above would write to bring a damaged group to the truth.
fn refill(wal: &Wal, recovered: &Recovered, truth: &Models) -> Vec<Vec<Write>> {
    let mut batches = Vec::new();
    for (number, model) in truth {
        let group = GroupId::new(*number);
        if !recovered.is_damaged(group) {
            continue;
        }
        let (mut first, mut last) = (1, 0);
        if let Some(found) = recovered.groups.get(&group) {
            (first, last) = (found.first.get(), found.last.get());
        }
        let append = |index: &u64| Write::Append {
            group,
            index: LogIndex::new(*index),
            payload: model.entries[index].clone(),
        };
        if first <= model.trimmed + 1 && model.trimmed <= last {
            if model.last < last {
                batches.push(vec![Write::Truncate { group, after: LogIndex::new(model.last) }]);
                last = model.last;
            }
            if model.trimmed + 1 != first {
                batches.push(vec![Write::Trim { group, up_to: LogIndex::new(model.trimmed) }]);
            }
            for (index, payload) in model.entries.range(..=last) {
                if entry(wal, *number, *index).as_ref() != Some(payload) {
                    let (index, payload) = (LogIndex::new(*index), payload.clone());
                    batches.push(vec![Write::Restore { group, index, payload }]);
                }
            }
            batches.extend(model.entries.range(last + 1..).map(|(index, _)| vec![append(index)]));
        } else {
            batches.push(vec![Write::Reset { group, up_to: LogIndex::new(model.trimmed) }]);
            batches.extend(model.entries.keys().map(|index| vec![append(index)]));
        }
        let mut end = Vec::new();
        if let Some(payload) = &model.state {
            end.push(Write::SetState { group, payload: payload.clone() });
        }
        end.push(Write::Repaired { group });
        batches.push(end);
    }
    if batches.is_empty()
        && recovered.verdict.is_damaged()
        && let Some(group) = truth.keys().next()
    {
        // Nobody lost anything. The next write begins the segment that says so.
        batches.push(vec![Write::Repaired { group: GroupId::new(*group) }]);
    }
    batches
}

fn is_whole(wal: &Wal, recovered: &Recovered, truth: &Models) -> Result<(), TestCaseError> {
    judge(wal, recovered, truth)?;
    for (group, model) in truth {
        let found = recovered.groups.get(&GroupId::new(*group));
        prop_assert!(found.is_some() || *model == Model::default(), "group={}", group);
        prop_assert!(found.is_none_or(|found| found.damage.is_none()), "group={}", group);
    }
    prop_assert!(!recovered.verdict.is_damaged(), "{:?}", recovered.verdict);
    Ok(())
}

/// Writes random steps and ends with everything synced and marked.
fn build(disk: &SimDisk, steps: &[Step]) -> Models {
    let (mut wal, _) = open(disk);
    let mut truth = Models::new();
    let mut number = 0;
    for step in steps {
        match step {
            Step::Batch(ops) => {
                let mut batch = Vec::new();
                for op in ops {
                    number += 1;
                    let write = write_of(&truth, op, number);
                    apply(&mut truth, &write);
                    batch.push(write);
                }
                submit(&mut wal, &batch);
            }
            Step::Sync => flush(&mut wal),
            Step::Reopen => {
                flush(&mut wal);
                wal = open(disk).0;
            }
        }
    }
    settle(&mut wal);
    wal.write_queued().unwrap();
    truth
}

/// As many as the simulators take seeds, if that is set.
fn cases() -> u32 {
    let set = std::env::var("PALISADE_SIM_SEEDS").ok();
    set.map_or(256, |raw| raw.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// One damaged place: (a) to (e) of the promises above.
    #[test]
    fn damage_is_told_apart_and_repaired(
        seed: u64,
        steps in vec(step(), 1..80),
        hurt in hurt(),
        restarts in 0..3_usize,
        again in vec(step(), 0..20),
        second in prop::option::of(hurt()),
    ) {
        let disk = SimDisk::from_seed(seed);
        let mut truth = build(&disk, &steps);
        let is_hurt = inflict(&disk, &hurt);
        let (mut wal, mut recovered) = open(&disk);
        judge(&wal, &recovered, &truth)?;
        if !is_hurt {
            is_whole(&wal, &recovered, &truth)?;
        }
        // What was found stays found over restarts, with and without writes in between.
        let damaged: Vec<u64> = (1..=GROUPS)
            .filter(|group| truth.contains_key(group) && recovered.is_damaged(GroupId::new(*group)))
            .collect();
        for restart in 0..restarts {
            if restart == 1 {
                for group in truth.keys() {
                    let state = truth[group].state.clone();
                    if let (true, Some(payload)) = (group % 2 == 0, state) {
                        submit(&mut wal, &[Write::SetState { group: GroupId::new(*group), payload }]);
                    }
                }
                settle(&mut wal);
            }
            (wal, recovered) = open(&disk);
            judge(&wal, &recovered, &truth)?;
            for group in &damaged {
                prop_assert!(recovered.is_damaged(GroupId::new(*group)), "group={} forgot", group);
            }
        }
        // A refill that power cuts off is begun again.
        let batches = refill(&wal, &recovered, &truth);
        for batch in &batches[..batches.len() / 2] {
            submit(&mut wal, batch);
        }
        wal.write_queued().unwrap();
        drop(wal);
        disk.crash();
        let (mut wal, recovered) = open(&disk);
        judge_contents(&wal, &recovered, &truth, false)?;
        for batch in refill(&wal, &recovered, &truth) {
            submit(&mut wal, &batch);
        }
        settle(&mut wal);
        drop(wal);
        disk.crash();
        let (mut wal, recovered) = open(&disk);
        is_whole(&wal, &recovered, &truth)?;
        // It is as good as any other, also at the next damage.
        if recovered.unlisted_damaged {
            for group in 1..=GROUPS {
                if !recovered.groups.contains_key(&GroupId::new(group)) {
                    truth.insert(group, Model::default());
                    submit(&mut wal, &[Write::Repaired { group: GroupId::new(group) }]);
                }
            }
        }
        let mut number = 1_000;
        for step in &again {
            if let Step::Batch(ops) = step {
                for op in ops {
                    number += 1;
                    let write = write_of(&truth, op, number);
                    apply(&mut truth, &write);
                    submit(&mut wal, &[write]);
                }
            }
            flush(&mut wal);
        }
        settle(&mut wal);
        drop(wal);
        let (wal, recovered) = open(&disk);
        is_whole(&wal, &recovered, &truth)?;
        drop(wal);
        if let Some(second) = second {
            inflict(&disk, &second);
            let (wal, recovered) = open(&disk);
            judge(&wal, &recovered, &truth)?;
            let batches = refill(&wal, &recovered, &truth);
            let mut wal = wal;
            for batch in &batches {
                submit(&mut wal, batch);
            }
            settle(&mut wal);
            drop(wal);
            disk.crash();
            let (wal, recovered) = open(&disk);
            is_whole(&wal, &recovered, &truth)?;
        }
    }
}

/// Whichever one frame goes bad, it is noticed or superseded, and no register is lost: the next frame
/// repeats it. That holds for the last batch too, since a mark stands behind it.
#[test]
fn no_single_frame_loses_a_register_or_goes_unnoticed() {
    let steps: Vec<Step> = (0..60_u64)
        .map(|number| {
            let group = number % GROUPS + 1;
            let mut ops =
                vec![Op::Append { group: group % GROUPS + 1, back: number % 2, bytes: 90 }];
            if number % 3 != 0 {
                ops.push(Op::State { group });
            }
            if number % 11 == 0 {
                ops.push(Op::Trim { group: 1, keep: 2 });
            }
            Step::Batch(ops)
        })
        .flat_map(|batch| [batch, Step::Sync])
        .collect();
    let whole = SimDisk::from_seed(1);
    let frames_in = |disk: &SimDisk| {
        let mut found = Vec::new();
        for name in segments(disk) {
            let frames = frames(&disk.contents(&name));
            found.extend(frames.into_iter().map(|frame| (name.clone(), frame)));
        }
        found
    };
    build(&whole, &steps);
    let count = frames_in(&whole).len();
    assert!(count > 100, "every batch has its mark: {count}");
    for number in 0..count {
        let disk = SimDisk::from_seed(1);
        let truth = build(&disk, &steps);
        let (name, frame) = frames_in(&disk).swap_remove(number);
        disk.overwrite(&name, frame.start, &vec![0; frame.len()]);
        let (wal, recovered) = open(&disk);
        judge(&wal, &recovered, &truth).unwrap();
        assert!(recovered.verdict.is_damaged() || number + 1 == count, "frame {number}");
        for (group, model) in &truth {
            let Some(found) = recovered.groups.get(&GroupId::new(*group)) else {
                assert_eq!(model.state, None);
                continue;
            };
            assert_eq!(found.state, model.state, "frame {number} group {group}");
            assert!(found.damage.as_ref().is_none_or(|damage| damage.state_known));
        }
    }
}

fn append(group: u64, index: u64) -> Write {
    Write::Append {
        group: GroupId::new(group),
        index: LogIndex::new(index),
        payload: vec![index as u8; 100].into(),
    }
}

/// Damage of one group's batch is no affair of a group that wrote after it.
#[test]
fn a_group_that_lost_nothing_is_clean() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    for index in 1..=10 {
        for group in 1..=2 {
            submit(&mut wal, &[append(group, index)]);
        }
    }
    settle(&mut wal);
    drop(wal);
    let name = segments(&disk).remove(0);
    // The tenth batch: entry 5 of group 2.
    let frame = frames(&disk.contents(&name))[9].clone();
    disk.flip_bit(&name, frame.start + 60, 3);
    let (mut wal, recovered) = open(&disk);
    let (clean, damaged) =
        (&recovered.groups[&GroupId::new(1)], &recovered.groups[&GroupId::new(2)]);
    assert_eq!(clean.verdict, Verdict::Clean);
    assert!(!recovered.is_damaged(GroupId::new(1)));
    assert!(recovered.is_damaged(GroupId::new(2)));
    assert!(recovered.is_damaged(GroupId::new(3)), "what is not listed may have lost everything");
    let index = LogIndex::new;
    let damage = damaged.damage.clone().unwrap();
    assert!(damage.state_known);
    assert_eq!(damage.holes, [(index(5), index(5))]);
    assert_eq!(damage.whole_from, Some(index(6)));
    let read =
        |wal: &Wal, from, end| wal.reader().read(GroupId::new(2), index(from), index(end), 9_999);
    assert!(matches!(read(&wal, 5, 6), Err(WalError::Missing { .. })));
    assert_eq!(read(&wal, 3, 9).unwrap().len(), 2, "up to the hole");
    let repaired = Write::Repaired { group: GroupId::new(2) };
    let refused = wal.submit(std::slice::from_ref(&repaired));
    assert!(matches!(refused, Err(WalError::InvalidArgument { .. })), "a hole is left");
    let payload = vec![5; 100].into();
    let restore = Write::Restore { group: GroupId::new(2), index: index(5), payload };
    submit(&mut wal, &[restore, repaired]);
    submit(&mut wal, &[append(2, 11)]);
    settle(&mut wal);
    drop(wal);
    let (wal, recovered) = open(&disk);
    assert_eq!(recovered.verdict, Verdict::Clean);
    assert_eq!(read(&wal, 1, 12).unwrap().len(), 11);
}

/// A repair answers for what was lost before it, and not for what is lost later.
#[test]
fn a_repair_does_not_cover_later_damage() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    submit(&mut wal, &[append(1, 1)]);
    submit(&mut wal, &[append(1, 2)]);
    // Takes the place of the one before.
    let payload: Bytes = vec![9; 100].into();
    submit(&mut wal, &[Write::Append { group: GroupId::new(1), index: LogIndex::new(2), payload }]);
    submit(&mut wal, &[append(1, 3)]);
    settle(&mut wal);
    drop(wal);
    let name = segments(&disk).remove(0);
    let frames = frames(&disk.contents(&name));
    disk.flip_bit(&name, frames[0].start + 60, 3);
    let (mut wal, recovered) = open(&disk);
    assert!(recovered.is_damaged(GroupId::new(1)));
    let restore = Write::Restore {
        group: GroupId::new(1),
        index: LogIndex::new(1),
        payload: vec![1; 100].into(),
    };
    submit(&mut wal, &[restore, Write::Repaired { group: GroupId::new(1) }]);
    settle(&mut wal);
    drop(wal);
    assert_eq!(open(&disk).1.verdict, Verdict::Clean);
    disk.flip_bit(&name, frames[2].start + 60, 3);
    let (_, recovered) = open(&disk);
    let damage = recovered.groups[&GroupId::new(1)].damage.clone().unwrap();
    assert_eq!(damage.whole_from, Some(LogIndex::new(3)), "entry 2 is the one that was replaced");
}

/// A payload that went bad, or that the disk gives up, is named by group and index.
#[test]
fn a_bad_read_names_the_entry() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    submit(&mut wal, &[append(1, 1)]);
    submit(&mut wal, &[append(1, 2)]);
    settle(&mut wal);
    let name = segments(&disk).remove(0);
    let frames = frames(&disk.contents(&name));
    disk.flip_bit(&name, frames[0].end - 1, 3);
    disk.fail_reads(&name, frames[1].clone());
    for at in 1..=2 {
        let (from, end) = (LogIndex::new(at), LogIndex::new(at + 1));
        let error = wal.reader().read(GroupId::new(1), from, end, 9_999).unwrap_err();
        let WalError::Corrupt { group, index, source, .. } = error else { panic!("{error}") };
        assert_eq!((group.get(), index.get(), source.is_some()), (1, at, at == 2));
    }
    // Filled in by its owner while the wal runs.
    let payload: Bytes = vec![1; 100].into();
    submit(
        &mut wal,
        &[Write::Restore { group: GroupId::new(1), index: LogIndex::new(1), payload }],
    );
    flush(&mut wal);
    let (from, end) = (LogIndex::new(1), LogIndex::new(2));
    assert_eq!(wal.reader().read(GroupId::new(1), from, end, 9_999).unwrap()[0].1, vec![1; 100]);
}

/// Writes that the disk lies about are found at the next start, wherever they went.
#[test]
fn a_lost_or_misdirected_write_is_found() {
    for number in 1..12 {
        for misdirected in [false, true] {
            let disk = SimDisk::from_seed(number);
            let (mut wal, _) = open(&disk);
            submit(&mut wal, &[append(1, 1), append(2, 1)]);
            settle(&mut wal);
            let write = Some(disk.counts().writes + number);
            let mut faults = SimFaults::default();
            *(if misdirected { &mut faults.misdirected_write } else { &mut faults.lost_write }) =
                write;
            disk.set_faults(faults);
            let mut truth = Models::new();
            apply(&mut truth, &append(1, 1));
            apply(&mut truth, &append(2, 1));
            for index in 2..=20 {
                let write = append(1 + index % 2, index / 2 + 1);
                let is_next = truth[&(1 + index % 2)].last + 1 == index / 2 + 1;
                if is_next {
                    apply(&mut truth, &write);
                    submit(&mut wal, &[write]);
                    settle(&mut wal);
                }
            }
            disk.set_faults(SimFaults::default());
            drop(wal);
            disk.crash();
            let (wal, recovered) = open(&disk);
            judge(&wal, &recovered, &truth).unwrap();
        }
    }
}

/// Whatever fails, the wal stops with the cause, and what was synced before is there.
#[test]
fn failing_operations_stop_the_wal_and_lose_nothing() {
    type Choose = fn(&mut SimFaults, u64);
    let kinds: [Choose; 5] = [
        |faults, number| faults.short_write = Some(number),
        |faults, number| faults.failing_write = Some(number),
        |faults, number| faults.failing_create = Some(number),
        |faults, number| faults.failing_rename = Some(number),
        |faults, number| faults.failing_sync_dir = Some(number),
    ];
    for (choose, number) in kinds.iter().flat_map(|kind| (1..30).map(move |number| (kind, number)))
    {
        let disk = SimDisk::from_seed(number);
        let mut faults = SimFaults::default();
        choose(&mut faults, number);
        disk.set_faults(faults);
        let mut durable = 0;
        if let Ok((mut wal, _)) = Wal::open(Arc::new(disk.clone()), IDENTITY, options()) {
            for index in 1..200 {
                let result = wal.submit(&[append(1, index)]).and_then(|_| {
                    wal.write_queued()?;
                    wal.sync()?;
                    durable = index;
                    wal.maintain()
                });
                if result.is_err() {
                    break;
                }
            }
        }
        disk.set_faults(SimFaults::default());
        disk.crash();
        let (_, recovered) = open(&disk);
        assert!(!recovered.verdict.is_damaged());
        let last = recovered.groups.get(&GroupId::new(1)).map_or(0, |found| found.last.get());
        assert!(durable <= last, "durable={durable} last={last}");
    }
}

/// Whatever goes at the very end, with its mark, or goes altogether: the note beside the segments tells.
/// Without the note it looks as if it had never been written, and after power failed that is so.
#[test]
fn what_is_gone_from_the_end_is_missed() {
    type Lose = fn(&SimDisk, &[String]);
    let loses: [Lose; 4] = [
        |disk, names| {
            let name = names.last().unwrap();
            let frames = frames(&disk.contents(name));
            let from = frames[frames.len() - 2].start;
            disk.overwrite(name, from, &vec![0; frames.last().unwrap().end - from]);
        },
        |disk, names| {
            let name = names.last().unwrap();
            disk.overwrite(name, 96, &vec![0; disk.contents(name).len() - 96]);
        },
        |disk, names| disk.lose_file(names.last().unwrap()),
        |disk, names| names.iter().for_each(|name| disk.lose_file(name)),
    ];
    for (number, lose) in loses.iter().enumerate() {
        let disk = SimDisk::from_seed(1);
        let (mut wal, _) = open(&disk);
        for index in 1..=400 {
            submit(&mut wal, &[append(1, index)]);
            flush(&mut wal);
        }
        settle(&mut wal);
        drop(wal);
        assert!(segments(&disk).len() > 1);
        lose(&disk, &segments(&disk));
        for index in 1..=3 {
            let (mut wal, recovered) = open(&disk);
            assert!(recovered.is_damaged(GroupId::new(1)), "number={number} index={index}");
            // It goes on behind it, and forgets nothing.
            submit(&mut wal, &[append(2, index)]);
            settle(&mut wal);
        }
    }
}

/// What is synced behind a place shows that it was synced: then power takes nothing from it that recovery
/// would not notice. The other way round it may, and only then.
#[test]
fn what_shows_that_a_place_was_synced_makes_its_damage_known() {
    const SECTOR: usize = 512;
    let segment = "0000000000000001.seg";
    let (mut shown, mut silent) = (0, 0);
    for seed in 0..400_u64 {
        let disk = SimDisk::from_seed(seed);
        let (mut wal, _) = open(&disk);
        let last = 3 + seed % 3;
        for index in 1..=last {
            let payload =
                Bytes::from(vec![7; (seed as usize * 131 + index as usize * 977) % 2600 + 1]);
            let index = LogIndex::new(index);
            submit(&mut wal, &[Write::Append { group: GroupId::new(1), index, payload }]);
            // The last two are on their way together, as with a pipeline.
            wal.write_queued().unwrap();
            if index.get() + 2 <= last {
                wal.sync().unwrap();
            }
        }
        wal.sync().unwrap();
        wal.maintain().unwrap();
        drop(wal);
        let written = disk.contents(segment).iter().rposition(|byte| *byte != 0).unwrap();
        let sector = seed as usize % (written / SECTOR);
        let is_shown = disk.shows_synced(segment, sector * SECTOR..(sector + 1) * SECTOR);
        disk.zero_sector(segment, sector);
        disk.crash();
        let (_, recovered) = open(&disk);
        let is_known = recovered.is_damaged(GroupId::new(1));
        assert!(is_known || !is_shown, "seed={seed}: damage of a synced place went unnoticed");
        shown += u32::from(is_shown);
        silent += u32::from(!is_known);
    }
    assert!(shown > 100 && silent > 10, "shown={shown} silent={silent}");
}
