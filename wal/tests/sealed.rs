//! A log with keys: what is on the disk, which rings it is opened with, and what a rotation leaves wherever
//! power fails. `docs/encryption.md` tells why.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use palisade_wal::sim::SimDisk;
use palisade_wal::{
    Disk, Disposition, FileDisk, GroupId, KeyEpoch, KeyError, KeyRing, Keys, LogIndex, Recovered,
    SeededRandomness, Wal, WalError, WalIdentity, WalOptions, Write, inspect,
};

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const GROUP: GroupId = GroupId::new(1);
const MARK: &[u8] = b"a secret that nobody may find";

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 << 10,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        live_multiple_max: 3,
    }
}

fn epoch(number: u32) -> KeyEpoch {
    KeyEpoch::new(number).unwrap()
}

/// A ring with so many epochs, the last of them active.
fn ring(epochs: u64) -> KeyRing {
    let mut ring = KeyRing::default();
    for seed in 0..epochs {
        ring.rotate(&SeededRandomness::new(seed)).unwrap();
    }
    ring
}

fn keys(ring: KeyRing) -> Keys {
    Keys::with_randomness(ring, SeededRandomness::new(77))
}

fn try_open(disk: &SimDisk, keys: &Keys) -> Result<(Wal, Recovered), WalError> {
    Wal::open_with_keys(Arc::new(disk.clone()), IDENTITY, options(), keys.clone())
}

fn open(disk: &SimDisk, keys: &Keys) -> (Wal, Recovered) {
    try_open(disk, keys).unwrap()
}

fn payload(index: u64) -> Bytes {
    [MARK, &index.to_le_bytes(), &[7; 200]].concat().into()
}

fn write(wal: &mut Wal, batch: &[Write]) {
    while let Err(error) = wal.submit(batch) {
        assert!(matches!(error, WalError::Backpressure { .. }), "{error}");
        flush(wal);
    }
    flush(wal);
}

fn flush(wal: &mut Wal) {
    wal.write_queued().unwrap();
    wal.sync().unwrap();
    wal.maintain().unwrap();
}

fn append(wal: &mut Wal, indexes: impl Iterator<Item = u64>) {
    for index in indexes {
        let (group, index, payload) = (GROUP, LogIndex::new(index), payload(index));
        let state = Write::SetState { group: GroupId::new(2), payload: payload.clone() };
        write(wal, &[Write::Append { group, index, payload }, state]);
    }
}

fn trim(wal: &mut Wal, up_to: u64) {
    write(wal, &[Write::Trim { group: GROUP, up_to: LogIndex::new(up_to) }]);
}

/// Every entry that the group holds is what was written.
fn check(wal: &Wal, last: u64) {
    let (first, end) = wal.reader().range(GROUP).expect("there are entries");
    assert_eq!(end, LogIndex::new(last));
    let read = wal.reader().read(GROUP, first, end.next(), usize::MAX).unwrap();
    assert_eq!(read.len() as u64, last - first.get() + 1);
    assert!(read.iter().all(|(index, found)| *found == payload(index.get())));
}

fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.list().unwrap().into_iter().map(|name| (name.clone(), disk.contents(&name))).collect()
}

fn refusal(disk: &SimDisk, keys: &Keys) -> KeyError {
    let before = files(disk);
    let error = try_open(disk, keys).map(|_| ()).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Reject, "{error}");
    assert_eq!(files(disk), before, "something was written");
    match error {
        WalError::Key(error) => error,
        error => panic!("{error}"),
    }
}

/// Epochs that the files of the log need.
fn needs(disk: &dyn Disk) -> Vec<u32> {
    let found = inspect(disk, None, &Keys::none()).unwrap();
    let mut needs: Vec<u32> = found.needs.iter().map(|(_, epoch)| epoch.get()).collect();
    needs.dedup();
    needs
}

fn holds(raw: &[u8]) -> bool {
    raw.windows(MARK.len()).any(|window| window == MARK)
}

/// Real files, over starts, a rotation, moved items and trims: what was handed in is read back, and is
/// nowhere on the disk.
#[test]
fn what_is_sealed_is_read_back_and_is_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for epochs in 1..=3 {
        let keys = Keys::new(ring(epochs));
        let disk = Arc::new(FileDisk::open(dir.path()).unwrap());
        let (mut wal, recovered) = Wal::open_with_keys(disk, IDENTITY, options(), keys).unwrap();
        if last > 0 {
            let state = &recovered.groups[&GroupId::new(2)].state;
            assert_eq!(state.as_ref(), Some(&payload(last)), "a register");
            check(&wal, last);
        }
        append(&mut wal, last + 1..=last + 300);
        last += 300;
        trim(&mut wal, last - 10);
        check(&wal, last);
        assert!(wal.stats().bytes_moved > 0, "registers moved");
    }
    let raw: Vec<Vec<u8>> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(raw.len() > 3);
    assert!(!raw.iter().any(|raw| holds(raw)));
    assert!(!plain_is_hidden(), "the search finds what is there");
}

/// The same without keys.
fn plain_is_hidden() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FileDisk::open(dir.path()).unwrap());
    let (mut wal, _) = Wal::open(disk, IDENTITY, options()).unwrap();
    append(&mut wal, 1..=3);
    let found = |path: &Path| holds(&std::fs::read(path).unwrap());
    !std::fs::read_dir(dir.path()).unwrap().any(|entry| found(&entry.unwrap().path()))
}

#[test]
fn a_ring_that_does_not_open_it_is_refused_by_epoch_and_file() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk, &keys(ring(2)));
    append(&mut wal, 1..=5);
    drop(wal);
    let named = |error: &KeyError| {
        let text = error.to_string();
        assert!(text.contains("epoch=2") && text.contains("0000000000000001.seg"), "{text}");
    };
    let none = refusal(&disk, &Keys::none());
    assert!(matches!(none, KeyError::NotGiven { .. }));
    let missing = refusal(&disk, &keys(ring(1)));
    assert!(matches!(missing, KeyError::Missing { .. }));
    let mut retired = ring(3);
    retired.retire(epoch(2)).unwrap();
    let retired = refusal(&disk, &keys(retired));
    assert!(matches!(retired, KeyError::Retired { .. }));
    let mut other = KeyRing::default();
    for seed in 100..103 {
        other.rotate(&SeededRandomness::new(seed)).unwrap();
    }
    let wrong = refusal(&disk, &keys(other));
    assert!(matches!(wrong, KeyError::Wrong { .. }));
    [none, missing, retired, wrong].iter().for_each(named);
    let (wal, _) = open(&disk, &keys(ring(2)));
    check(&wal, 5);
}

/// Verdicts need no key; and what a segment is sealed with is known without its header.
#[test]
fn damage_is_told_without_keys_and_a_lost_header_loses_nothing() {
    let disk = SimDisk::from_seed(1);
    let ring = ring(1);
    let (mut wal, _) = open(&disk, &keys(ring.clone()));
    append(&mut wal, 1..=60);
    drop(wal);
    assert!(!inspect(&disk, Some(IDENTITY), &Keys::none()).unwrap().recovered.verdict.is_damaged());
    disk.zero_sector("0000000000000002.seg", 0);
    let found = inspect(&disk, Some(IDENTITY), &Keys::none()).unwrap();
    assert!(found.recovered.verdict.is_damaged());
    assert!(matches!(found.refused, Some(KeyError::NotGiven { .. })));
    let second = palisade_wal::SegmentId::new(2);
    assert!(found.needs.contains(&(second, epoch(1))), "by its items");
    let register = |keys: &Keys| {
        let found = inspect(&disk, Some(IDENTITY), keys).unwrap();
        found.recovered.groups[&GroupId::new(2)].state.clone()
    };
    assert_eq!(register(&Keys::none()), None);
    assert_eq!(register(&keys(ring.clone())), Some(payload(60)));
    let (wal, recovered) = open(&disk, &keys(ring));
    assert!(recovered.groups[&GROUP].verdict.is_damaged());
    let entry = wal.reader().read(GROUP, LogIndex::new(60), LogIndex::new(61), 1).unwrap();
    assert_eq!(entry[0].1, payload(60));
}

/// Turned on, rotated, turned off: each time the next batch begins a segment, and the former epochs leave as
/// their segments are freed.
#[test]
fn an_epoch_leaves_the_log_with_its_segments() {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk, &Keys::none());
    append(&mut wal, 1..=3);
    drop(wal);
    let mut held = ring(1);
    let given = keys(held.clone());
    let (mut wal, _) = open(&disk, &given);
    append(&mut wal, 4..=6);
    assert_eq!(needs(&disk), [1]);
    held.rotate(&SeededRandomness::new(1)).unwrap();
    given.replace(held.clone()).unwrap();
    // Written, and nothing is moved yet.
    let (at, payload) = (LogIndex::new(7), payload(7));
    wal.submit(&[Write::Append { group: GROUP, index: at, payload }]).unwrap();
    wal.write_queued().unwrap();
    wal.sync().unwrap();
    check(&wal, 7);
    assert_eq!(needs(&disk), [1, 2]);
    assert_eq!(given.held().keys().copied().collect::<Vec<_>>(), [epoch(1), epoch(2)]);
    let mut without = held.clone();
    without.retire(epoch(1)).unwrap();
    assert_eq!(given.replace(without.clone()), Err(KeyError::InUse { epoch: epoch(1) }));
    drop(wal);
    assert!(matches!(refusal(&disk, &keys(without.clone())), KeyError::Retired { .. }));

    // What is live in segments of a former epoch, or clear ones, moves as others write, however few these are.
    let (mut wal, _) = open(&disk, &given);
    check(&wal, 7);
    append(&mut wal, 8..=20);
    (0..4).for_each(|_| flush(&mut wal));
    assert_eq!(needs(&disk), [2]);
    assert!(!disk.list().unwrap().contains(&"0000000000000001.seg".to_owned()), "the clear one");
    given.replace(without.clone()).unwrap();
    drop(wal);
    let given = keys(without.clone());
    let (mut wal, _) = open(&disk, &given);
    check(&wal, 20);

    without.seal_no_more();
    given.replace(without).unwrap();
    append(&mut wal, 21..=40);
    (0..4).for_each(|_| flush(&mut wal));
    check(&wal, 40);
    assert_eq!(needs(&disk), [0; 0]);
    drop(wal);
    let (wal, _) = open(&disk, &Keys::none());
    check(&wal, 40);
}

/// One step of a rotation, its crash, and a start with either ring.
#[test]
fn power_may_fail_at_every_step_of_a_rotation() {
    let mut cut = 0;
    for seed in 0..4 {
        for changes in 0..60 {
            let disk = SimDisk::from_seed(seed);
            let held = ring(1);
            let given = keys(held.clone());
            let (mut wal, _) = open(&disk, &given);
            append(&mut wal, 1..=5);
            disk.fail_power_after(changes);
            given.replace(ring(2)).unwrap();
            let mut acked = 5;
            for index in 6..=9 {
                let (at, payload) = (LogIndex::new(index), payload(index));
                let append = Write::Append { group: GROUP, index: at, payload };
                let done = wal
                    .submit(&[append])
                    .and_then(|_| wal.write_queued())
                    .and_then(|_| wal.sync())
                    .and_then(|_| {
                        acked = index;
                        wal.maintain()
                    });
                if done.is_err() {
                    cut += 1;
                    break;
                }
            }
            drop(wal);
            disk.crash();
            // Whoever lost the new ring again is told so, or needs none of it yet.
            let former = keys(held);
            match try_open(&disk, &former) {
                Ok((wal, _)) => check(&wal, 5),
                Err(error) => {
                    let WalError::Key(KeyError::Missing { epoch: named, .. }) = &error else {
                        panic!("{error}")
                    };
                    assert_eq!(*named, epoch(2));
                }
            }
            let (mut wal, recovered) = open(&disk, &keys(ring(2)));
            assert!(!recovered.verdict.is_damaged(), "seed={seed} changes={changes}");
            let last = recovered.groups[&GROUP].last.get();
            assert!(acked <= last, "seed={seed} changes={changes}");
            append(&mut wal, last + 1..=last + 3);
            check(&wal, last + 3);
        }
    }
    assert!(cut > 20, "power failed in {cut} of them only");
}

#[test]
fn options_without_room_for_what_sealing_adds_are_refused() {
    let narrow = WalOptions { batch_bytes_max: 9 << 10, ..options() };
    let disk = || Arc::new(SimDisk::from_seed(1));
    assert!(Wal::open(disk(), IDENTITY, narrow.clone()).is_ok());
    let refused = Wal::open_with_keys(disk(), IDENTITY, narrow, keys(ring(1))).map(|_| ());
    assert!(matches!(refused, Err(WalError::InvalidArgument { .. })), "{refused:?}");
    WalOptions::default().validate_sealed().unwrap();
    // As many empty entries as a batch takes, and their registers.
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk, &keys(ring(1)));
    let batch: Vec<Write> = (1..=240)
        .map(|index| Write::Append {
            group: GROUP,
            index: LogIndex::new(index),
            payload: Bytes::new(),
        })
        .collect();
    write(&mut wal, &batch);
    let registers = (1..=240)
        .map(|group| Write::SetState { group: GroupId::new(group), payload: Bytes::new() });
    write(&mut wal, &registers.collect::<Vec<_>>());
    flush(&mut wal);
    drop(wal);
    let (wal, _) = open(&disk, &keys(ring(1)));
    assert_eq!(wal.reader().range(GROUP), Some((LogIndex::new(1), LogIndex::new(240))));
}

/// One bad frame never loses a register, wherever it is: what was set at the end of a segment is repeated at the
/// beginning of the next, and a start keeps both.
#[test]
fn one_bad_frame_loses_no_register_that_is_sealed() {
    let register = Bytes::from_static(b"a vote");
    // A register at the end of a segment, its copy in the next, and a start; then whatever can be freed is.
    let begun = || {
        let (disk, keys) = (SimDisk::from_seed(1), keys(ring(1)));
        let (mut wal, _) = open(&disk, &keys);
        let filler = |index| Write::Append {
            group: GROUP,
            index: LogIndex::new(index),
            payload: Bytes::from(vec![3; 7_000]),
        };
        write(&mut wal, &[filler(1)]);
        write(&mut wal, &[filler(2)]);
        let state = Write::SetState { group: GroupId::new(2), payload: register.clone() };
        // Without a mark between them, which would repeat it in the same segment.
        wal.submit(&[state]).unwrap();
        assert_eq!(wal.stats().segments, 1);
        write(&mut wal, &[filler(3)]);
        assert_eq!(wal.stats().segments, 2);
        drop(wal);
        let (mut wal, _) = open(&disk, &keys);
        trim(&mut wal, 3);
        for _ in 0..4 {
            flush(&mut wal);
        }
        drop(wal);
        (disk, keys)
    };
    let frames = |disk: &SimDisk| {
        let mut frames = Vec::new();
        for name in disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")) {
            let raw = disk.contents(&name);
            let mut at = 96;
            while let Some(length) = raw.get(at + 4..at + 8) {
                let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
                if length == 0 {
                    break;
                }
                let end = at + (36 + length).next_multiple_of(8);
                frames.push((name.clone(), at, end));
                at = end;
            }
        }
        frames
    };
    let count = frames(&begun().0).len();
    assert!(count >= 4, "{count}");
    for number in 0..count {
        let (disk, keys) = begun();
        let (name, from, end) = frames(&disk)[number].clone();
        disk.overwrite(&name, from, &vec![0; end - from]);
        let (_, recovered) = open(&disk, &keys);
        let found = &recovered.groups[&GroupId::new(2)];
        assert_eq!(found.state, Some(register.clone()), "frame={number} {found:?}");
    }
}
