//! Committed records, read back from a node's own log: what incremental backups and proofs are made of.
//!
//! Offsets are found by looking into entries: each says which its first record has, and the log has no
//! other index of them. What is applied here never changes, so no lock is held meanwhile; what is trimmed
//! in between is told as trimmed.

use bytes::Bytes;
use palisade_wal::{GroupId, LogIndex, WalError, WalReader};

use crate::entry::{AppliedPosition, EntryBody};
use crate::error::NodeError;
use crate::identity::{LogTime, Offset};
use crate::log_store::records_of_stored;

/// Records of one entry, in the order of their offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRun {
    /// The offset of the first.
    pub first_offset: Offset,
    /// The leader's stamp on all of them.
    pub log_time: LogTime,
    /// What was proposed.
    pub payloads: Vec<Bytes>,
}

/// Reads the log of one group, as far as it is applied.
pub(crate) struct Records {
    pub(crate) group: GroupId,
    pub(crate) reader: WalReader,
    pub(crate) applied: AppliedPosition,
}

impl Records {
    /// Runs from `from` on, about `bytes_max` of them and at least one; none if nothing is applied there.
    pub(crate) fn read(&self, from: Offset, bytes_max: usize) -> Result<Vec<RecordRun>, NodeError> {
        if from == Offset::ZERO {
            return Err(NodeError::InvalidArgument { what: "records begin at offset=1".into() });
        }
        loop {
            match self.read_once(from, bytes_max) {
                // The log was trimmed meanwhile: what is left of it says up to where.
                Err(NodeError::Wal(error)) if matches!(*error, WalError::Trimmed { .. }) => {}
                read => return read,
            }
        }
    }

    fn read_once(&self, from: Offset, bytes_max: usize) -> Result<Vec<RecordRun>, NodeError> {
        if self.applied.offset < from {
            return Ok(Vec::new());
        }
        let trimmed = |first| Err(NodeError::RecordsTrimmed { first });
        let range = self.reader.range(self.group);
        let Some((first, last)) = range.filter(|(first, _)| *first <= self.applied.index) else {
            return trimmed(self.applied.offset.next());
        };
        let last = last.min(self.applied.index);
        // The last place whose next records do not lie behind `from`.
        let (mut low, mut high) = (first, last.next());
        while low.next() < high {
            let middle = LogIndex::new(low.get().midpoint(high.get()));
            match self.next_run(middle, last)? {
                Some((_, run)) if run.first_offset <= from => low = middle,
                _ => high = middle,
            }
        }
        let mut runs = Vec::new();
        let mut bytes = 0;
        let mut index = low;
        while let Some((at, mut run)) = self.next_run(index, last)? {
            if runs.is_empty() {
                if from < run.first_offset {
                    return trimmed(run.first_offset);
                }
                let before = (from.get() - run.first_offset.get()) as usize;
                if run.payloads.len() <= before {
                    return Err(NodeError::Damaged {
                        what: format!("group={} lacks offset={from} in its log", self.group),
                    });
                }
                run.payloads.drain(..before);
                run.first_offset = from;
            }
            bytes += run.payloads.iter().map(Bytes::len).sum::<usize>();
            if !runs.is_empty() && bytes_max < bytes {
                break;
            }
            runs.push(run);
            index = at.next();
        }
        if runs.is_empty() { trimmed(self.applied.offset.next()) } else { Ok(runs) }
    }

    /// The first entry with records from a place on, up to `last`.
    fn next_run(
        &self,
        mut index: LogIndex,
        last: LogIndex,
    ) -> Result<Option<(LogIndex, RecordRun)>, NodeError> {
        while index <= last {
            for (at, stored) in self.reader.read(self.group, index, index.next(), usize::MAX)? {
                if let Some(body) = records_of_stored(at, stored)? {
                    let EntryBody { first_offset, log_time, records } = body;
                    let payloads = records.into_iter().map(|record| record.payload).collect();
                    return Ok(Some((at, RecordRun { first_offset, log_time, payloads })));
                }
            }
            index = index.next();
        }
        Ok(None)
    }
}
