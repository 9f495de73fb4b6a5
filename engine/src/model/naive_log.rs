//! The rules of a log once more, written to be obvious.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_replication::Offset;

use crate::projections::log::{
    ConsumerChange, LogOp, LogOutcome, LogPosition, LogRefusal, LogRetention, LogTrim,
};
use crate::resource::FenceEpoch;

/// A log.
#[derive(Clone, Debug)]
pub(super) struct NaiveLog {
    /// When each was appended, and what it is.
    pub(super) entries: BTreeMap<LogPosition, (u64, Bytes)>,
    pub(super) first: LogPosition,
    pub(super) tail: LogPosition,
    pub(super) retention: LogRetention,
    /// Where each is, and whose.
    pub(super) consumers: BTreeMap<String, (LogPosition, FenceEpoch)>,
}

impl Default for NaiveLog {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            first: LogPosition::START,
            tail: LogPosition::START,
            retention: LogRetention::default(),
            consumers: BTreeMap::new(),
        }
    }
}

impl NaiveLog {
    pub(super) fn bytes(&self) -> u64 {
        self.entries.values().map(|(_, payload)| payload.len() as u64 + 16).sum()
    }

    pub(super) fn apply(
        &mut self,
        offset: u64,
        now: u64,
        op: &LogOp,
    ) -> Result<LogOutcome, LogRefusal> {
        match op {
            LogOp::Append { expected, payloads } => {
                if let Some(expected) = *expected
                    && expected != self.tail
                {
                    return Err(LogRefusal::TailMismatch { expected, found: self.tail });
                }
                Ok(self.append(offset, now, payloads))
            }
            LogOp::Trim { before } => {
                let gone: Vec<_> = self.entries.range(..before).map(|(at, _)| *at).collect();
                // At most so many at once.
                gone.iter().take(256).for_each(|_| self.remove_oldest());
                let (removed, complete) = (gone.len().min(256) as u64, gone.len() <= 256);
                Ok(LogOutcome::Trimmed(LogTrim { first: self.first, removed, complete }))
            }
            LogOp::Retain { retention } => {
                self.retention = *retention;
                Ok(LogOutcome::Done)
            }
            LogOp::Consumer { name, owner, change } => {
                self.consumer(name, *owner, *change).map(|()| LogOutcome::Done)
            }
        }
    }

    fn append(&mut self, offset: u64, now: u64, payloads: &[Bytes]) -> LogOutcome {
        let offset = Offset::new(offset);
        let used = if self.tail.offset == offset { self.tail.index } else { 0 };
        let place = |nth: u16| LogPosition { offset, index: used + nth };
        let count = payloads.len() as u16;
        for (nth, payload) in (0..).zip(payloads) {
            self.entries.insert(place(nth), (now, payload.clone()));
        }
        self.tail = place(count);
        for _ in 0..8 * payloads.len() {
            let Some((oldest, (then, _))) = self.entries.first_key_value() else { break };
            let old = self.retention.keep_ms.is_some_and(|keep| now - then > keep);
            let large = self.retention.keep_bytes.is_some_and(|keep| self.bytes() > keep);
            if *oldest >= place(0) || !(old || large) {
                break;
            }
            self.remove_oldest();
        }
        LogOutcome::Appended { first: place(0), count }
    }

    pub(super) fn tidy(&mut self, now: u64) {
        let Some(keep) = self.retention.keep_ms else { return };
        while self.entries.values().next().is_some_and(|(then, _)| now - then > keep) {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        let (at, _) = self.entries.pop_first().expect("it is there");
        self.first = LogPosition { offset: at.offset, index: at.index + 1 };
    }

    fn consumer(
        &mut self,
        name: &str,
        owner: FenceEpoch,
        change: ConsumerChange,
    ) -> Result<(), LogRefusal> {
        let found = self.consumers.get(name).copied();
        if let Some((_, current)) = found
            && current > owner
        {
            return Err(LogRefusal::Fenced { current });
        }
        let position = match (change, found) {
            (ConsumerChange::Forget, _) => {
                self.consumers.remove(name);
                return Ok(());
            }
            (ConsumerChange::Commit(position), Some((committed, _))) if position < committed => {
                return Err(LogRefusal::Falls { committed });
            }
            (ConsumerChange::Commit(position) | ConsumerChange::Reset(position), _) => position,
        };
        if position > self.tail {
            return Err(LogRefusal::BeyondTail { tail: self.tail });
        }
        self.consumers.insert(name.to_owned(), (position, owner));
        Ok(())
    }
}
