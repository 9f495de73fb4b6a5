//! The simplest state machine there is: it keeps every payload by offset.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_replication::sim::SimMachine;
use palisade_replication::{
    AppliedPosition, ApplyError, CommittedEntry, Export, Exporter, GroupId, LogIndex, LogTime,
    Offset, StateMachine, TakeChunk, Term,
};

/// Small, so that a snapshot has several chunks.
const CHUNK_RECORDS: usize = 16;

#[derive(Clone)]
struct Kept {
    position: AppliedPosition,
    records: Vec<Bytes>,
    /// Folded over all records.
    head: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { position: AppliedPosition::ZERO, records: Vec::new(), head: 0 }
    }
}

impl Kept {
    fn push(&mut self, record: Bytes) {
        for byte in &record {
            self.head = (self.head ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.head = self.head.rotate_left(7) ^ record.len() as u64;
        self.records.push(record);
    }
}

type Groups = BTreeMap<GroupId, Kept>;

/// Keeps the records of every group. A clone sees what the original applies.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    groups: Arc<Mutex<Groups>>,
    flushed: Groups,
    /// Up to where what was given up had come: it is served again from there on.
    given_up: Arc<Mutex<BTreeMap<GroupId, Offset>>>,
    /// Nothing of it ever survives a crash.
    pub(crate) never_flushes: bool,
}

impl Journal {
    fn with<T>(&self, group: GroupId, read: impl FnOnce(&mut Kept) -> T) -> T {
        read(self.groups.lock().unwrap().entry(group).or_default())
    }

    /// What it holds of a group.
    pub(crate) fn records(&self, group: GroupId) -> Vec<Bytes> {
        self.with(group, |kept| kept.records.clone())
    }
}

impl StateMachine for Journal {
    type Outcome = usize;

    fn applied(&self, group: GroupId) -> AppliedPosition {
        self.with(group, |kept| kept.position)
    }

    fn apply(
        &mut self,
        group: GroupId,
        entries: &[CommittedEntry],
    ) -> Result<Vec<usize>, ApplyError> {
        self.with(group, |kept| {
            let mut outcomes = Vec::new();
            for entry in entries {
                assert!(kept.position.index < entry.index);
                assert_eq!(entry.first_offset, kept.position.offset.next());
                assert!(kept.position.log_time <= entry.log_time);
                for record in &entry.records {
                    kept.push(record.payload.clone());
                    outcomes.push(kept.records.len());
                }
                kept.position = entry.end();
                assert_eq!(kept.position.offset.get(), kept.records.len() as u64);
            }
            Ok(outcomes)
        })
    }

    fn halted(&self, group: GroupId) -> Option<ApplyError> {
        self.is_given_up(group).then(|| ApplyError::of_group("it was given up"))
    }

    fn is_given_up(&self, group: GroupId) -> bool {
        let applied = self.applied(group);
        let is_behind =
            |up_to: &Offset| applied == AppliedPosition::ZERO || applied.offset < *up_to;
        self.given_up.lock().unwrap().get(&group).is_some_and(is_behind)
    }

    fn give_up(&mut self, group: GroupId) -> Result<(), ApplyError> {
        let had = self.applied(group).offset;
        let mut given_up = self.given_up.lock().unwrap();
        let up_to = given_up.entry(group).or_insert(had);
        *up_to = had.max(*up_to);
        drop(given_up);
        self.groups.lock().unwrap().remove(&group);
        self.flushed.remove(&group);
        Ok(())
    }

    fn flushed(&self, group: GroupId) -> AppliedPosition {
        self.flushed.get(&group).map_or(AppliedPosition::ZERO, |kept| kept.position)
    }

    fn flush(&mut self) -> Result<(), ApplyError> {
        if !self.never_flushes {
            self.flushed = self.groups.lock().unwrap().clone();
        }
        Ok(())
    }

    fn exporter(&self) -> Exporter {
        let groups = Arc::clone(&self.groups);
        Arc::new(move |group| Box::new(JournalExport { groups: Arc::clone(&groups), group }))
    }

    fn install(
        &mut self,
        group: GroupId,
        position: AppliedPosition,
        chunks: &mut dyn Iterator<Item = Result<Bytes, ApplyError>>,
    ) -> Result<(), ApplyError> {
        let mut kept = Kept::default();
        for chunk in chunks {
            let mut chunk = chunk?;
            kept.position = AppliedPosition {
                index: LogIndex::new(chunk.get_u64_le()),
                term: Term::new(chunk.get_u64_le()),
                members_index: LogIndex::new(chunk.get_u64_le()),
                offset: Offset::new(chunk.get_u64_le()),
                log_time: LogTime::new(chunk.get_u64_le()),
            };
            while chunk.has_remaining() {
                let length = chunk.get_u32_le() as usize;
                kept.push(chunk.copy_to_bytes(length));
            }
        }
        assert_eq!(kept.position, position);
        assert_eq!(kept.records.len() as u64, position.offset.get());
        self.groups.lock().unwrap().insert(group, kept);
        self.flush()
    }
}

struct JournalExport {
    groups: Arc<Mutex<Groups>>,
    group: GroupId,
}

impl Export for JournalExport {
    fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
        let kept = self.groups.lock().unwrap().get(&self.group).cloned().unwrap_or_default();
        let mut chunks: Vec<&[Bytes]> = kept.records.chunks(CHUNK_RECORDS).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for records in chunks {
            let mut chunk = BytesMut::new();
            chunk.put_u64_le(kept.position.index.get());
            chunk.put_u64_le(kept.position.term.get());
            chunk.put_u64_le(kept.position.members_index.get());
            chunk.put_u64_le(kept.position.offset.get());
            chunk.put_u64_le(kept.position.log_time.get());
            for record in records {
                chunk.put_u32_le(record.len() as u32);
                chunk.put_slice(record);
            }
            take(kept.position, chunk.freeze())?;
        }
        Ok(())
    }
}

impl SimMachine for Journal {
    fn crash(&mut self) {
        *self.groups.lock().unwrap() = self.flushed.clone();
    }

    fn head(&self, group: GroupId) -> [u8; 32] {
        let mut head = [0; 32];
        head[..8].copy_from_slice(&self.with(group, |kept| kept.head).to_le_bytes());
        head
    }

    fn digest(&self, group: GroupId) -> [u8; 32] {
        self.head(group)
    }
}
