//! An install that is cut short at each of its writes: what is left stands where it stood, nowhere, or where the
//! snapshot does, and the same install makes it whole.

use std::sync::Arc;

use palisade_replication::{LogIndex, Offset, StateMachine};

use super::*;
use crate::chain::ChainHead;
use crate::comparing::spans::check::assert_sums;
use crate::digest::digest;
use crate::machine::{EngineMachine, encode_position};
use crate::projection::Registry;
use crate::store::{FaultyStore, MemoryStore};

const GROUP: GroupId = GroupId::new(1);

fn at(offset: u64) -> AppliedPosition {
    AppliedPosition {
        offset: Offset::new(offset),
        index: LogIndex::new(offset),
        ..AppliedPosition::ZERO
    }
}

/// Puts a state there that stands at this offset, of so many rows of a third of a chunk.
fn put(store: &dyn StateStore, offset: u64, rows: u8) {
    let key = |number: u8| [&GROUP.get().to_be_bytes()[..], &[number]].concat();
    let value = |number: u8| Bytes::from(vec![number ^ offset as u8; CHUNK_BYTES_TARGET / 3]);
    let row = encode_position(at(offset), ChainHead::ZERO);
    let mut writes = vec![(FamilyId::META, keys::position(GROUP), Some(row))];
    for number in 0..rows {
        let family = if number % 2 == 0 { FamilyId::MAP } else { FamilyId::LOG };
        writes.push((family, key(number), Some(value(number))));
    }
    spans::ensure(store, GROUP).unwrap();
    spans::commit(store, GROUP, WriteSet::rows(writes)).unwrap();
}

/// The snapshot: its position, and its chunks.
fn snapshot() -> (AppliedPosition, Vec<Bytes>) {
    let from = MemoryStore::default();
    put(&from, 9, 7);
    let mut chunks = Vec::new();
    let mut take = |_, chunk| {
        chunks.push(chunk);
        Ok(())
    };
    export(&from, GROUP, &mut take).unwrap();
    assert!(chunks.len() > 2, "so that there is something between two of them");
    (at(9), chunks)
}

fn machine(store: Arc<dyn StateStore>) -> EngineMachine {
    EngineMachine::unclaimed(store, Registry::new(&[]).unwrap(), true, &[GROUP]).unwrap()
}

fn install(machine: &mut EngineMachine) -> Result<(), ApplyError> {
    let (position, chunks) = snapshot();
    machine.install(GROUP, position, &mut chunks.into_iter().map(Ok))
}

/// What the rows come to, and where they stand.
fn sums(store: &dyn StateStore) -> String {
    format!("{:?}", digest(store, GROUP).unwrap())
}

fn state_of(offset: u64, rows: u8) -> String {
    let store = MemoryStore::default();
    put(&store, offset, rows);
    sums(&store)
}

/// A store after a cut: what it says of itself, and that it can be made whole. Gives where it stands.
fn check(store: Arc<dyn StateStore>) -> u64 {
    let mut left = machine(Arc::clone(&store));
    let stands = left.applied(GROUP).offset.get();
    match stands {
        3 => assert_eq!(sums(&*store), state_of(3, 4), "G10: a part of it is gone"),
        9 => assert_eq!(sums(&*store), state_of(9, 7), "G10: a part of it is there"),
        other => assert_eq!(other, 0, "it stands nowhere, so nobody is served of it"),
    }
    install(&mut left).unwrap();
    assert_eq!(left.applied(GROUP), at(9));
    assert_eq!(left.flushed(GROUP), at(9));
    assert_eq!(sums(&*store), state_of(9, 7));
    assert_sums(&*store, GROUP);
    stands
}

#[test]
fn an_install_that_is_cut_short_at_any_write_is_done_again() {
    let (mut cuts, mut left) = (0, Vec::new());
    loop {
        let states = [false, true].map(|power| {
            let store = FaultyStore::new(MemoryStore::default());
            put(&store, 3, 4);
            store.flush().unwrap();
            let mut target = machine(Arc::new(store.clone()));
            store.lose_power_after(cuts);
            let done = install(&mut target).is_ok();
            store.fail(|| None);
            if power {
                store.crash();
            }
            (done, check(Arc::new(store)))
        });
        let [(done, after_kill), (_, after_power)] = states;
        left.push((after_kill, after_power));
        if done {
            break;
        }
        cuts += 1;
    }
    // The clearing, each chunk, the position, and the flush.
    assert!(cuts >= 6, "{left:?}");
    assert_eq!(left.first(), Some(&(3, 3)));
    assert_eq!(left[1], (0, 3), "what was cleared and not flushed is back after a loss of power");
    assert_eq!(left.last(), Some(&(9, 9)));
    assert!(left.iter().all(|(_, power)| [3, 9].contains(power)), "{left:?}");
}

/// The same with a process that is gone at once, over files.
#[cfg(feature = "rocksdb")]
mod rocks {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::store::{Families, RocksStore, StateMemory};

    const DIR: &str = "PALISADE_TEST_INSTALL_DIR";
    const CUT: &str = "PALISADE_TEST_INSTALL_CUT";
    const TEST: &str =
        "snapshot::crashes::rocks::a_process_that_is_killed_at_any_write_of_an_install";

    fn open(dir: &Path) -> RocksStore {
        let memory = StateMemory { write_buffer_bytes: 1 << 20, cache_bytes: 1 << 20 };
        RocksStore::open(dir, Families::new(&[]).unwrap(), memory).unwrap()
    }

    /// In the process that is killed. Each commit is on disk at once, as it may be.
    fn install_until_killed(dir: &Path, mut left: u64) {
        let store = FaultyStore::flushing(open(dir));
        store.fail(move || match left.checked_sub(1) {
            Some(fewer) => {
                left = fewer;
                None
            }
            None => std::process::abort(),
        });
        install(&mut machine(Arc::new(store))).unwrap();
    }

    #[test]
    fn a_process_that_is_killed_at_any_write_of_an_install() {
        if let (Some(dir), Ok(cut)) = (std::env::var_os(DIR), std::env::var(CUT)) {
            return install_until_killed(Path::new(&dir), cut.parse().unwrap());
        }
        let mut left = Vec::new();
        for cut in 0_u64.. {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("state");
            let before = open(&dir);
            put(&before, 3, 4);
            before.flush().unwrap();
            drop(before);
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", TEST, "--nocapture"])
                .env(DIR, &dir)
                .env(CUT, cut.to_string())
                .output()
                .unwrap();
            left.push(check(Arc::new(open(&dir))));
            if child.status.success() {
                break;
            }
            let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
            assert_eq!(signal, Some(6), "it was killed, and did not fail: {child:?}");
        }
        assert_eq!(left.first(), Some(&3));
        assert_eq!(left.last(), Some(&9));
        assert!(left.len() >= 6, "{left:?}");
        assert!(left[1..left.len() - 2].iter().all(|stands| *stands == 0), "{left:?}");
    }
}
