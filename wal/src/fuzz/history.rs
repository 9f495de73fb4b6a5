//! Any run of calls, with crashes and damage between them: what the public API takes, it can read
//! back, and opening never panics on what the wal itself wrote.
//!
//! Each call is a byte, low nibble what, high nibble which group, and then its arguments. Bytes that
//! are missing at the end count as zeros.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{IDENTITY, options};
use crate::disk::Disk;
use crate::position::{BatchSeq, GroupId, LogIndex};
use crate::recovery::Verdict;
use crate::sim::SimDisk;
use crate::wal::Wal;
use crate::{WalError, Write};

const CALLS_MAX: usize = 200;

struct Run {
    disk: SimDisk,
    wal: Wal,
    /// Not yet submitted.
    batch: Vec<Write>,
    /// The last entry that each group has after everything submitted.
    last: BTreeMap<GroupId, u64>,
    durable: BatchSeq,
    /// The last batch that the disk was given.
    written: BatchSeq,
    is_damaged: bool,
}

/// Well-formed is what was never refused and never damaged.
pub(super) fn run(raw: &[u8]) -> bool {
    let disk = SimDisk::from_seed(raw.len() as u64);
    let (wal, _) =
        Wal::open(Arc::new(disk.clone()), IDENTITY, options()).expect("the disk is empty");
    let mut run = Run {
        disk,
        wal,
        batch: Vec::new(),
        last: BTreeMap::new(),
        durable: BatchSeq::ZERO,
        written: BatchSeq::ZERO,
        is_damaged: false,
    };
    let mut rest = raw.iter().copied();
    let mut is_fine = true;
    for _ in 0..CALLS_MAX {
        let Some(call) = rest.next() else { break };
        match run.call(call, &mut rest) {
            Ok(()) => {}
            Err(WalError::Damaged { .. }) => return false,
            Err(_) => is_fine = false,
        }
    }
    run.reopen(false).is_ok() && is_fine
}

impl Run {
    fn call(&mut self, call: u8, rest: &mut impl Iterator<Item = u8>) -> Result<(), WalError> {
        let mut byte = || rest.next().unwrap_or(0);
        let group = GroupId::new(u64::from(call >> 4) % 4);
        match call & 15 {
            0..4 => {
                let index = self.index(group, byte());
                let payload = Bytes::from(vec![call; usize::from(byte()) * 16]);
                self.batch.push(Write::Append { group, index, payload });
            }
            4 => {
                let payload = Bytes::from(vec![call; usize::from(byte()) * 32]);
                self.batch.push(Write::SetState { group, payload });
            }
            5 => self.batch.push(Write::Trim { group, up_to: self.index(group, byte()) }),
            6 => self.batch.push(Write::Reset { group, up_to: self.index(group, byte()) }),
            7..9 => self.submit()?,
            9 => self.write()?,
            10 => self.sync()?,
            11 => self.wal.maintain()?,
            12 => self.reopen(true)?,
            13 => self.reopen(false)?,
            14 => {
                let at = usize::from(byte()) << 8 | usize::from(byte());
                let names = self.disk.list().expect("nothing fails");
                let name = &names[usize::from(byte()) % names.len()];
                let length = self.disk.len(name).expect("it is listed") as usize;
                self.disk.flip_bit(name, at % length, call >> 4);
                self.is_damaged = true;
                // In memory nothing is wrong yet: only the next opening tells.
                self.reopen(true)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), WalError> {
        let batch = std::mem::take(&mut self.batch);
        self.wal.submit(&batch)?;
        for write in batch {
            match write {
                Write::Append { group, index, .. } | Write::Reset { group, up_to: index } => {
                    self.last.insert(group, index.get());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), WalError> {
        self.written = self.wal.write_queued()?.unwrap_or(self.written);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WalError> {
        self.write()?;
        self.durable = self.wal.sync()?;
        Ok(())
    }

    /// Near the end of the group's log, or near one of the ends of all numbers.
    fn index(&self, group: GroupId, choice: u8) -> LogIndex {
        let last = self.last.get(&group).copied().unwrap_or(0);
        LogIndex::new(match choice {
            0..128 => last.saturating_add(1),
            128..240 => last.saturating_sub(u64::from(choice - 128)),
            240..248 => u64::from(choice - 240),
            248..252 => u64::from(u32::MAX) + u64::from(choice - 248),
            _ => u64::MAX - u64::from(255 - choice),
        })
    }

    fn reopen(&mut self, crash: bool) -> Result<(), WalError> {
        if crash {
            self.disk.crash();
        } else {
            self.sync()?;
        }
        self.batch.clear();
        let disk = Arc::new(self.disk.clone());
        let (wal, recovered) = match Wal::open(disk, IDENTITY, options()) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(self.is_damaged, "a wal must open what it wrote: {error}");
                return Err(error);
            }
        };
        if let Verdict::Damaged { segment, byte_pos } = recovered.verdict {
            assert!(self.is_damaged, "found damage at {segment} {byte_pos} that was not done");
            return Err(WalError::Damaged { segment, byte_pos });
        }
        self.wal = wal;
        if !self.is_damaged {
            assert!(self.durable <= self.wal.durable(), "a durable batch is gone");
            assert!(self.wal.durable() <= self.written, "a batch came from nowhere");
        }
        self.durable = self.wal.durable();
        self.written = self.durable;
        let groups = recovered.groups.iter();
        let found = groups.map(|(id, group)| (*id, group.last.get())).collect();
        let before = std::mem::replace(&mut self.last, found);
        if !crash && !self.is_damaged {
            for (group, last) in before {
                assert_eq!(self.last.get(&group), Some(&last), "group={group}");
            }
        }
        for (id, group) in &recovered.groups {
            if let Some((first, last)) = self.wal.reader().range(*id) {
                assert_eq!((first, last), (group.first, group.last));
                let end = LogIndex::new(last.get().saturating_add(1));
                let read = self.wal.reader().read(*id, first, end, usize::MAX);
                assert!(read.is_ok() || self.is_damaged, "{read:?}");
            }
        }
        Ok(())
    }
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let append = [0x10, 0, 8];
    let sync = [0x07, 0x0a];
    let busy: Vec<u8> =
        (0..30).flat_map(|_| [&append[..], &[0x20, 0, 99], &sync, &[0x0b]].concat()).collect();
    // Two batches on their way when power fails, then others in their place.
    let big = [0x10, 0, 60, 0x07, 0x09];
    let crashes: Vec<u8> = (0..8)
        .flat_map(|_| [&big[..], &big, &big, &[0x0c], &big, &[0x0a, 0x0c, 0x0d, 0x0b]].concat())
        .collect();
    // An entry takes the place of the last three.
    let one = [0x10, 0, 8, 0x07];
    let replaced = [&one[..], &one, &one, &one, &[0x10, 130, 1], &sync, &[0x0d]].concat();
    vec![
        ("good-crashes".to_owned(), crashes),
        ("good-replaced".to_owned(), replaced),
        ("good-append".to_owned(), [&append[..], &sync].concat()),
        ("good-crash".to_owned(), [&append[..], &[0x07, 0x09, 0x0c], &append, &sync].concat()),
        ("good-many-segments".to_owned(), busy.clone()),
        (
            "good-trim-and-reset".to_owned(),
            [&append[..], &append, &[0x07, 0x15, 128, 0x26, 240, 0x14, 9], &sync, &[0x0d]].concat(),
        ),
        ("refused-gap".to_owned(), [0x10, 250, 1, 0x07].to_vec()),
        ("good-empty-entry-last".to_owned(), [&[0; 24], &sync[..]].concat()),
        ("refused-last-index".to_owned(), [&[0x26, 255, 0x20, 0, 1], &sync[..]].concat()),
        ("damaged".to_owned(), [&busy[..], &[0x1e, 0, 200, 0]].concat()),
    ]
}
