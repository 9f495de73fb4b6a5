//! What the simulated disk does to those who trust it too far: each thing that a real one may do is
//! shown to happen under some seed, and what no disk does is shown never to.

use std::collections::BTreeSet;
use std::io;

use palisade_wal::Disk;
use palisade_wal::sim::{SimDisk, SimFaults};

const SECTOR: usize = 512;
const SEEDS: u64 = 300;

/// Runs it for many seeds, lets power fail, and gathers what is left.
fn after_crash<T: Ord>(before: impl Fn(&SimDisk), look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..SEEDS)
        .map(|seed| {
            let disk = SimDisk::from_seed(seed);
            disk.create("a", 4 * SECTOR as u64).unwrap();
            disk.sync_dir().unwrap();
            before(&disk);
            disk.crash();
            look(&disk)
        })
        .collect()
}

fn sector(disk: &SimDisk, number: usize) -> u8 {
    let contents = disk.contents("a");
    let sector = &contents[number * SECTOR..(number + 1) * SECTOR];
    assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is written as a whole");
    sector[0]
}

fn write(disk: &SimDisk, from: usize, sectors: usize, byte: u8) -> io::Result<()> {
    disk.write_at("a", (from * SECTOR) as u64, &vec![byte; sectors * SECTOR])
}

#[test]
fn unsynced_writes_are_kept_in_any_subset() {
    let left = after_crash(
        |disk| (0..3).for_each(|number| write(disk, number, 1, 1).unwrap()),
        |disk| [0, 1, 2].map(|number| sector(disk, number)),
    );
    assert_eq!(left.len(), 8, "{left:?}");
}

#[test]
fn one_write_is_torn_between_sectors() {
    let left = after_crash(
        |disk| write(disk, 0, 3, 1).unwrap(),
        |disk| [0, 1, 2].map(|number| sector(disk, number)),
    );
    assert_eq!(left.len(), 8, "{left:?}");
}

#[test]
fn what_was_replaced_in_the_cache_may_be_what_is_left() {
    let left = after_crash(
        |disk| (1..=3).for_each(|byte| write(disk, 0, 1, byte).unwrap()),
        |disk| sector(disk, 0),
    );
    assert_eq!(left, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn what_was_synced_stays() {
    let left = after_crash(
        |disk| {
            write(disk, 0, 2, 1).unwrap();
            disk.sync("a").unwrap();
            write(disk, 1, 1, 2).unwrap();
        },
        |disk| [0, 1].map(|number| sector(disk, number)),
    );
    assert_eq!(left, BTreeSet::from([[1, 1], [1, 2]]));
}

#[test]
fn names_are_lost_without_a_sync_of_the_directory_in_any_subset() {
    let left = after_crash(
        |disk| {
            disk.create("b", 8).unwrap();
            disk.create("c", 8).unwrap();
            disk.remove("a").unwrap();
            disk.sync("b").unwrap();
        },
        |disk| disk.list().unwrap().concat(),
    );
    let all = ["", "a", "ab", "abc", "ac", "b", "bc", "c"].map(str::to_owned);
    assert_eq!(left, BTreeSet::from(all));
    let synced = after_crash(
        |disk| {
            disk.create("b", 8).unwrap();
            disk.sync_dir().unwrap();
        },
        |disk| disk.list().unwrap().concat(),
    );
    assert_eq!(synced, BTreeSet::from(["ab".to_owned()]));
}

#[test]
fn a_rename_happens_whole_or_not_at_all() {
    let left = after_crash(
        |disk| {
            disk.create("b", 8).unwrap();
            disk.sync_dir().unwrap();
            disk.rename("a", "b").unwrap();
        },
        |disk| (disk.list().unwrap().concat(), disk.len("b").unwrap()),
    );
    let (before, after) = (("ab".to_owned(), 8), ("b".to_owned(), 4 * SECTOR as u64));
    assert_eq!(left, BTreeSet::from([before, after]));
}

/// As Linux does: the cache keeps showing what no sync will ever write.
#[test]
fn what_a_failed_sync_covered_is_lost_for_later_ones_too() {
    let left = after_crash(
        |disk| {
            disk.set_faults(SimFaults { failing_sync: Some(1), ..SimFaults::default() });
            write(disk, 0, 1, 1).unwrap();
            assert!(disk.sync("a").is_err());
            assert_eq!(sector(disk, 0), 1);
            write(disk, 1, 1, 2).unwrap();
            disk.sync("a").unwrap();
        },
        |disk| [0, 1].map(|number| sector(disk, number)),
    );
    assert_eq!(left, BTreeSet::from([[0, 2]]));
}

#[test]
fn each_operation_fails_when_it_is_told_to() {
    let disk = SimDisk::from_seed(1);
    disk.create("a", 4 * SECTOR as u64).unwrap();
    disk.set_faults(SimFaults {
        failing_read: Some(1),
        failing_write: Some(1),
        short_write: Some(2),
        failing_sync: Some(1),
        failing_create: Some(2),
        failing_rename: Some(1),
        failing_remove: Some(1),
        failing_sync_dir: Some(1),
        ..SimFaults::default()
    });
    let read = || disk.read_at("a", 0, &mut [0]);
    assert_eq!(read().unwrap_err().raw_os_error(), Some(5));
    read().unwrap();
    assert!(write(&disk, 0, 1, 1).is_err());
    assert_eq!(sector(&disk, 0), 0);
    assert!(write(&disk, 0, 3, 1).is_err());
    assert!(disk.contents("a")[..3 * SECTOR].contains(&0), "a short write is not whole");
    write(&disk, 0, 1, 1).unwrap();
    assert!(disk.sync("a").is_err());
    assert!(disk.create("b", 1).is_err());
    assert!(disk.rename("a", "b").is_err());
    assert!(disk.remove("a").is_err());
    assert!(disk.sync_dir().is_err());
    assert_eq!(disk.list().unwrap(), ["a"]);
    disk.fail_reads("a", 10..11);
    assert!(read().is_ok());
    assert_eq!(disk.read_at("a", 10, &mut [0]).unwrap_err().raw_os_error(), Some(5));
    write(&disk, 0, 1, 2).unwrap();
    disk.read_at("a", 10, &mut [0]).unwrap();
}

fn is_full(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
}

#[test]
fn a_full_disk_stores_what_fits_and_overwrites_in_place() {
    let disk = SimDisk::from_seed(1);
    disk.create("a", 4 * SECTOR as u64).unwrap();
    let capacity_bytes = Some(6 * SECTOR as u64);
    disk.set_faults(SimFaults { capacity_bytes, ..SimFaults::default() });
    assert!(is_full(&disk.create("b", 3 * SECTOR as u64)));
    assert_eq!(disk.len("b").unwrap(), 2 * SECTOR as u64);
    write(&disk, 0, 4, 1).unwrap();
    assert!(is_full(&write(&disk, 3, 2, 2)), "a longer file needs room");
    assert_eq!((sector(&disk, 2), sector(&disk, 3)), (1, 2));
    disk.remove("b").unwrap();
    write(&disk, 3, 2, 3).unwrap();

    // Five sectors are held, and the sixth is all there is to copy to.
    disk.set_faults(SimFaults { capacity_bytes, copies_on_write: true, ..SimFaults::default() });
    write(&disk, 0, 1, 4).unwrap();
    assert!(is_full(&write(&disk, 1, 2, 4)));
    assert_eq!([0, 1, 2].map(|number| sector(&disk, number)), [4, 4, 1]);
}

/// Everything that changes a disk, once.
fn change_everything(disk: &SimDisk) -> io::Result<()> {
    disk.create("b", 64)?;
    write(disk, 0, 1, 1)?;
    disk.sync("a")?;
    disk.rename("b", "c")?;
    disk.sync_dir()?;
    disk.remove("c")?;
    disk.sync_dir()
}

#[test]
fn power_fails_in_the_middle_of_any_operation() {
    let states = |changes: u64| {
        after_crash(
            |disk| {
                disk.fail_power_after(changes);
                let ended = change_everything(disk);
                assert_eq!(ended.is_err(), changes < 7);
                assert_eq!(disk.has_power(), ended.is_ok());
                if ended.is_err() {
                    // Nothing answers any more.
                    assert!(disk.list().is_err());
                    assert!(disk.len("a").is_err());
                    assert!(disk.read_at("a", 0, &mut [0]).is_err());
                    assert!(change_everything(disk).is_err());
                }
            },
            |disk| {
                assert!(disk.has_power());
                change_everything(&SimDisk::clone(disk)).unwrap();
                disk.list().unwrap()
            },
        )
    };
    for changes in 0..=7 {
        assert_eq!(states(changes), BTreeSet::from([vec!["a".to_owned()]]));
    }
    let left = |changes: u64| {
        after_crash(
            |disk| {
                disk.fail_power_after(changes);
                let _ = change_everything(disk);
            },
            |disk| {
                let is_cut = disk.len("b").or(disk.len("c")).is_ok_and(|length| length < 64);
                (disk.list().unwrap().concat(), sector(disk, 0), is_cut)
            },
        )
    };
    let state = |names: &str, byte: u8, is_cut: bool| (names.to_owned(), byte, is_cut);
    // A file being made may be there, and be too short.
    assert!(left(0).contains(&state("ab", 0, true)));
    assert!(left(0).contains(&state("a", 0, false)));
    // A write and a sync may have been done or not.
    for changes in [1, 2] {
        let kept: BTreeSet<u8> = left(changes).into_iter().map(|(_, byte, _)| byte).collect();
        assert_eq!(kept, BTreeSet::from([0, 1]), "changes={changes}");
    }
    // So may a rename, a sync of names and a removal.
    for changes in [3, 4] {
        let names: BTreeSet<String> = left(changes).into_iter().map(|(names, ..)| names).collect();
        assert_eq!(names, BTreeSet::from(["a", "ab", "ac"].map(str::to_owned)));
    }
    for changes in [5, 6] {
        let gone = [state("a", 1, false), state("ac", 1, false)];
        assert_eq!(left(changes), BTreeSet::from(gone));
    }
    assert_eq!(left(7), BTreeSet::from([state("a", 1, false)]));
}

#[test]
fn a_seed_gives_one_disk() {
    for seed in 0..20 {
        let left = || {
            let disk = SimDisk::from_seed(seed);
            disk.create("a", 4 * SECTOR as u64).unwrap();
            disk.sync_dir().unwrap();
            disk.fail_power_after(seed % 7);
            let _ = change_everything(&disk);
            disk.crash();
            (disk.list().unwrap(), disk.contents("a"), disk.counts())
        };
        assert_eq!(left(), left());
    }
}
