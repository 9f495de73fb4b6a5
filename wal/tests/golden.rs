//! Recorded files of every released format version: they are written the same today, and say the same.
//!
//! `PALISADE_GOLDEN=write cargo test -p palisade-wal --test golden` records them anew, which is right
//! only for a version that was never released.

use std::path::PathBuf;
use std::sync::Arc;

use palisade_wal::sim::SimDisk;
use palisade_wal::{
    Disk, GroupId, KeyRing, Keys, LogIndex, Recovered, SeededRandomness, Verdict, Wal, WalError,
    WalIdentity, WalOptions, Write,
};

const IDENTITY: WalIdentity = WalIdentity { cluster: 0xc1, node: 2, incarnation: 0x3a };

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 8 << 10,
        batch_bytes_max: 6 << 10,
        queued_bytes_max: 16 << 10,
        live_multiple_max: 3,
    }
}

fn open(disk: &SimDisk) -> (Wal, Recovered) {
    Wal::open(Arc::new(disk.clone()), IDENTITY, options()).unwrap()
}

fn index(raw: u64) -> LogIndex {
    LogIndex::new(raw)
}

fn append(group: u64, at: u64, bytes: usize) -> Write {
    let payload = vec![b'a' + (at % 26) as u8; bytes].into();
    Write::Append { group: GroupId::new(group), index: index(at), payload }
}

fn state(group: u64, payload: &'static str) -> Write {
    Write::SetState { group: GroupId::new(group), payload: payload.into() }
}

fn submit(wal: &mut Wal, batch: &[Write]) {
    while let Err(error) = wal.submit(batch) {
        assert!(matches!(error, WalError::Backpressure { .. }), "{error}");
        flush(wal);
    }
    wal.write_queued().unwrap();
    wal.sync().unwrap();
}

fn flush(wal: &mut Wal) {
    wal.write_queued().unwrap();
    wal.sync().unwrap();
    wal.maintain().unwrap();
}

/// The segments of a directory, by name.
type Files = Vec<(String, Vec<u8>)>;

fn files(disk: &SimDisk) -> Files {
    let names = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg"));
    names.map(|name| (name.clone(), disk.contents(&name))).collect()
}

/// Appends of two groups, registers, trims and a reset, and the mark behind them.
fn plain() -> Files {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    submit(&mut wal, &[append(1, 1, 10), append(2, 1, 0), state(1, "vote 1")]);
    submit(&mut wal, &[append(1, 2, 20), append(1, 3, 30)]);
    submit(&mut wal, &[append(1, 3, 31), Write::Trim { group: GroupId::new(1), up_to: index(1) }]);
    submit(&mut wal, &[Write::Reset { group: GroupId::new(2), up_to: index(7) }, append(2, 8, 5)]);
    submit(
        &mut wal,
        &[Write::Truncate { group: GroupId::new(1), after: index(2) }, state(2, "vote")],
    );
    flush(&mut wal);
    files(&disk)
}

/// What is left of an old segment was copied to the end, and the segment was freed.
fn moved() -> Files {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    submit(&mut wal, &[append(2, 1, 40), append(2, 2, 41), state(2, "kept")]);
    for at in 1..=40 {
        submit(
            &mut wal,
            &[append(1, at, 700), Write::Trim { group: GroupId::new(1), up_to: index(at) }],
        );
        flush(&mut wal);
    }
    files(&disk)
}

/// A frame went bad, the wal went on behind it, and the groups that it concerned were repaired.
fn repaired() -> Files {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open(&disk);
    submit(&mut wal, &[append(1, 1, 10), state(1, "old")]);
    submit(&mut wal, &[append(1, 2, 10)]);
    submit(&mut wal, &[append(1, 3, 10)]);
    submit(&mut wal, &[append(2, 1, 10)]);
    flush(&mut wal);
    drop(wal);
    // The second frame, behind a header and a frame of 36 + 33 + 10 + 33 + 3 bytes, padded.
    disk.flip_bit("0000000000000001.seg", 96 + 120 + 20, 1);
    let (mut wal, recovered) = open(&disk);
    assert!(recovered.is_damaged(GroupId::new(1)));
    submit(&mut wal, &[state(1, "new")]);
    let restore =
        Write::Restore { group: GroupId::new(1), index: index(2), payload: "again".into() };
    submit(&mut wal, &[restore, Write::Repaired { group: GroupId::new(1) }]);
    submit(&mut wal, &[append(1, 4, 10)]);
    flush(&mut wal);
    files(&disk)
}

/// With keys: two epochs, and a register that was copied from the one to the other.
fn sealed() -> Files {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) = open_sealed(&disk, 1);
    submit(&mut wal, &[append(1, 1, 10), append(2, 1, 0), state(1, "vote 1")]);
    flush(&mut wal);
    drop(wal);
    let (mut wal, _) = open_sealed(&disk, 2);
    submit(&mut wal, &[append(1, 2, 20), Write::Trim { group: GroupId::new(2), up_to: index(1) }]);
    // Before what is live in the first segment moves.
    files(&disk)
}

fn open_sealed(disk: &SimDisk, epochs: u64) -> (Wal, Recovered) {
    let mut ring = KeyRing::default();
    for seed in 0..epochs {
        ring.rotate(&SeededRandomness::new(seed)).unwrap();
    }
    let keys = Keys::with_randomness(ring, SeededRandomness::new(9));
    let options = WalOptions { segment_bytes: 10 << 10, batch_bytes_max: 4200, ..options() };
    Wal::open_with_keys(Arc::new(disk.clone()), IDENTITY, options, keys).unwrap()
}

fn entries(wal: &Wal, group: u64) -> Vec<(u64, Vec<u8>)> {
    let Some((first, last)) = wal.reader().range(GroupId::new(group)) else { return Vec::new() };
    let read = wal.reader().read(GroupId::new(group), first, last.next(), usize::MAX).unwrap();
    read.into_iter().map(|(at, payload)| (at.get(), payload.to_vec())).collect()
}

fn check(name: &str, made: &Files, says: impl Fn(&Wal, &Recovered)) {
    check_opened(&format!("v1/{name}"), made, open, says);
}

fn check_opened(
    name: &str,
    made: &Files,
    open: impl Fn(&SimDisk) -> (Wal, Recovered),
    says: impl Fn(&Wal, &Recovered),
) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("PALISADE_GOLDEN").is_ok_and(|mode| mode == "write") {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for (file, bytes) in made {
            // The rest is zeros, or what the file held in a former life.
            std::fs::write(dir.join(file), bytes).unwrap();
        }
    }
    let disk = SimDisk::from_seed(1);
    let mut stored = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        stored.push((
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            std::fs::read(&path).unwrap(),
        ));
    }
    stored.sort();
    for (file, bytes) in &stored {
        disk.create(file, bytes.len() as u64).unwrap();
        disk.write_at(file, 0, bytes).unwrap();
    }
    let (wal, recovered) = open(&disk);
    assert_eq!(recovered.verdict, Verdict::Clean, "{name}");
    says(&wal, &recovered);
    let names = |files: &Files| files.iter().map(|(file, _)| file.clone()).collect::<Vec<_>>();
    assert_eq!(names(&stored), names(made), "{name}");
    for ((file, stored), (_, made)) in stored.iter().zip(made) {
        let differs = stored.iter().zip(made).position(|(stored, made)| stored != made);
        assert_eq!(differs, None, "{name}/{file} is written differently");
        assert_eq!(stored.len(), made.len(), "{name}/{file}");
    }
}

#[test]
fn version_1_plain() {
    check("plain", &plain(), |wal, recovered| {
        assert_eq!(entries(wal, 1), [(2, vec![b'c'; 20])]);
        assert_eq!(entries(wal, 2), [(8, vec![b'i'; 5])]);
        assert_eq!(recovered.groups[&GroupId::new(1)].state.as_deref(), Some(&b"vote 1"[..]));
        assert_eq!(recovered.groups[&GroupId::new(2)].state.as_deref(), Some(&b"vote"[..]));
    });
}

#[test]
fn version_2_sealed() {
    let open = |disk: &SimDisk| open_sealed(disk, 2);
    check_opened("v2/sealed", &sealed(), open, |wal, recovered| {
        assert_eq!(entries(wal, 1), [(1, vec![b'b'; 10]), (2, vec![b'c'; 20])]);
        assert_eq!(recovered.groups[&GroupId::new(1)].state.as_deref(), Some(&b"vote 1"[..]));
        assert_eq!(recovered.groups[&GroupId::new(2)].first, index(2));
    });
}

#[test]
fn version_1_moved() {
    let made = moved();
    assert_ne!(made[0].0, "0000000000000001.seg", "the first segment was freed");
    check("moved", &made, |wal, recovered| {
        assert_eq!(entries(wal, 2), [(1, vec![b'b'; 40]), (2, vec![b'c'; 41])]);
        assert_eq!(recovered.groups[&GroupId::new(2)].state.as_deref(), Some(&b"kept"[..]));
        assert_eq!(recovered.groups[&GroupId::new(1)].first, index(41));
    });
}

#[test]
fn version_1_repaired() {
    check("repaired", &repaired(), |wal, recovered| {
        let texts: Vec<_> = entries(wal, 1).into_iter().map(|(_, payload)| payload).collect();
        assert_eq!(texts[0], vec![b'b'; 10]);
        assert_eq!(texts[1], b"again");
        assert_eq!(texts[2..], [vec![b'd'; 10], vec![b'e'; 10]]);
        assert_eq!(recovered.groups[&GroupId::new(1)].state.as_deref(), Some(&b"new"[..]));
        assert_eq!(entries(wal, 2).len(), 1);
        assert!(recovered.unlisted_damaged, "the damaged frame is still there");
    });
}
