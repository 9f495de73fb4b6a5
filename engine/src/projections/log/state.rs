//! How an operation changes a log.

use bytes::Bytes;
use palisade_replication::LogTime;

use super::header::{Header, LogRetention, ROW};
use super::op::{ConsumerChange, LogOutcome, LogRefusal, LogTrim};
use super::position::LogPosition;
use super::read::{entry_value, header, split_entry};
use crate::codec::{DecodeError, Reader, put_number};
use crate::projection::{At, ProjectionFault, Rows};
use crate::resource::FenceEpoch;
use crate::store::{Direction, Walk};
use crate::stored::Stored;

/// Most consumers of one log.
pub const CONSUMERS_MAX: u64 = 1024;
/// Most entries that one trim removes.
pub const TRIM_ENTRIES_MAX: u64 = 256;
/// Most entries that an append removes for each that it adds.
const EVICTED_PER_ENTRY: u64 = 8;
/// Once an operation has read so many bytes of entries to remove them, it removes no more.
const REMOVED_BYTES_MAX: usize = 4 << 20;
/// An entry counts with so many bytes beside its value.
const ENTRY_BYTES: u64 = 16;

fn counted(payload: &[u8]) -> u64 {
    payload.len() as u64 + ENTRY_BYTES
}

/// A consumer as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Consumer {
    pub(super) position: LogPosition,
    pub(super) owner: FenceEpoch,
    pub(super) log_time: LogTime,
}

impl Stored for Consumer {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(24);
        self.position.put(&mut out);
        put_number(&mut out, self.owner.get());
        put_number(&mut out, self.log_time.get());
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let consumer = Self {
            position: LogPosition::take(&mut reader)?,
            owner: FenceEpoch::new(reader.number("owner")?),
            log_time: LogTime::new(reader.number("log time")?),
        };
        reader.end("consumer")?;
        Ok(consumer)
    }
}

/// Where the rows of consumers begin, each followed by its name, and what is behind them.
pub(super) const CONSUMERS: &[u8] = b"c";
pub(super) const CONSUMERS_END: &[u8] = b"d";

/// The key of a consumer's row.
pub(super) fn consumer_row(name: &str) -> Vec<u8> {
    [CONSUMERS, name.as_bytes()].concat()
}

/// What is left of a count of the header.
fn left(held: u64, less: u64) -> Result<u64, ProjectionFault> {
    held.checked_sub(less).ok_or_else(|| ProjectionFault::new("a log's header miscounts its rows"))
}

/// What a removal did.
struct Removed {
    entries: u64,
    /// There would have been more, had it been allowed more.
    more: bool,
}

/// A log while an operation is applied.
pub(super) struct State<'a, 'r, 'v> {
    at: At,
    rows: &'a mut Rows<'r, 'v>,
    header: Header,
}

impl<'a, 'r, 'v> State<'a, 'r, 'v> {
    pub(super) fn load(at: At, rows: &'a mut Rows<'r, 'v>) -> Result<Self, ProjectionFault> {
        let header = header(&rows.read())?;
        Ok(Self { at, rows, header })
    }

    /// Writes the header back.
    pub(super) fn keep(self) -> Result<(), ProjectionFault> {
        self.rows.put(ROW, self.header.to_bytes())
    }

    pub(super) fn append(
        &mut self,
        expected: Option<LogPosition>,
        payloads: &[Bytes],
    ) -> Result<Result<LogOutcome, LogRefusal>, ProjectionFault> {
        let found = self.header.tail;
        if let Some(expected) = expected
            && expected != found
        {
            return Ok(Err(LogRefusal::TailMismatch { expected, found }));
        }
        // L2: after the entries that this record has added already.
        let first = found.max(self.at.offset.into());
        let mut place = first;
        for payload in payloads {
            self.rows.put(&place.row(), entry_value(self.at.log_time, payload))?;
            self.header.bytes += counted(payload);
            place = place.after();
        }
        self.header.tail = place;
        let count = payloads.len() as u64;
        self.header.entries += count;
        self.evict(first, count)?;
        Ok(Ok(LogOutcome::Appended { first, count: count as u16 }))
    }

    /// Removes the oldest entries that are beyond a bound, of those before this append.
    fn evict(&mut self, before: LogPosition, appended: u64) -> Result<(), ProjectionFault> {
        let LogRetention { keep_ms, keep_bytes } = self.header.retention;
        // Without a look at the oldest entry, if it cannot be beyond.
        if keep_ms.is_none() && keep_bytes.is_none_or(|keep| self.header.bytes <= keep) {
            return Ok(());
        }
        let now = self.at.log_time.get();
        let beyond = |header: &Header, log_time: LogTime| {
            let age_ms = now.saturating_sub(log_time.get());
            keep_ms.is_some_and(|keep| age_ms > keep)
                || keep_bytes.is_some_and(|keep| header.bytes > keep)
        };
        self.remove(before, appended * EVICTED_PER_ENTRY, beyond)?;
        Ok(())
    }

    /// Removes entries that are too old, up to so many. Appends see to the other bound.
    pub(super) fn forget_old(&mut self, most: usize) -> Result<(), ProjectionFault> {
        let Some(keep_ms) = self.header.retention.keep_ms else { return Ok(()) };
        let now = self.at.log_time.get();
        let old = |_: &Header, at: LogTime| now.saturating_sub(at.get()) > keep_ms;
        self.remove(self.header.tail, most as u64, old)?;
        Ok(())
    }

    pub(super) fn trim(&mut self, before: LogPosition) -> Result<LogTrim, ProjectionFault> {
        let Removed { entries, more } = self.remove(before, TRIM_ENTRIES_MAX, |_, _| true)?;
        Ok(LogTrim { first: self.header.first, removed: entries, complete: !more })
    }

    /// Removes entries from the oldest on, as long as they are to go. It begins at the header's `first`:
    /// what lies below was removed, and a walk over it would look at all of it again.
    fn remove(
        &mut self,
        before: LogPosition,
        entries_max: u64,
        goes: impl Fn(&Header, LogTime) -> bool,
    ) -> Result<Removed, ProjectionFault> {
        let mut header = self.header;
        let (mut gone, mut bytes, mut more) = (Vec::new(), 0, false);
        let mut malformed = Ok(());
        let (from, end) = (header.first.row(), before.row());
        self.rows.read().walk(&from, Some(&end), Direction::Forward, &mut |key, value| {
            let removed = split_entry(key, value).and_then(|(position, log_time, payload)| {
                if !goes(&header, log_time) {
                    return Ok(None);
                }
                if gone.len() as u64 == entries_max || bytes >= REMOVED_BYTES_MAX {
                    more = true;
                    return Ok(None);
                }
                header.bytes = left(header.bytes, counted(payload))?;
                header.entries = left(header.entries, 1)?;
                header.first = position.after();
                bytes += payload.len();
                Ok(Some(key.to_vec()))
            });
            match removed {
                Ok(Some(key)) => {
                    gone.push(key);
                    return Walk::Next;
                }
                Ok(None) => {}
                Err(fault) => malformed = Err(fault),
            }
            Walk::Stop
        })?;
        malformed?;
        gone.iter().for_each(|key| self.rows.remove(key));
        self.header = header;
        Ok(Removed { entries: gone.len() as u64, more })
    }

    pub(super) fn retain(&mut self, retention: LogRetention) {
        self.header.retention = retention;
    }

    pub(super) fn consumer(
        &mut self,
        name: &str,
        owner: FenceEpoch,
        change: ConsumerChange,
    ) -> Result<Result<(), LogRefusal>, ProjectionFault> {
        let row = consumer_row(name);
        let found = self.rows.get(&row)?.map(|raw| Consumer::from_bytes(&raw)).transpose()?;
        if let Some(Consumer { owner: current, .. }) = found
            && owner < current
        {
            return Ok(Err(LogRefusal::Fenced { current }));
        }
        let position = match change {
            ConsumerChange::Forget => {
                if found.is_some() {
                    self.rows.remove(&row);
                    self.header.consumers = left(self.header.consumers, 1)?;
                }
                return Ok(Ok(()));
            }
            ConsumerChange::Commit(position) => {
                if let Some(Consumer { position: committed, .. }) = found
                    && position < committed
                {
                    return Ok(Err(LogRefusal::Falls { committed }));
                }
                position
            }
            ConsumerChange::Reset(position) => position,
        };
        let tail = self.header.tail;
        if position > tail {
            return Ok(Err(LogRefusal::BeyondTail { tail }));
        }
        if found.is_none() {
            if self.header.consumers >= CONSUMERS_MAX {
                return Ok(Err(LogRefusal::TooManyConsumers));
            }
            self.header.consumers += 1;
        }
        let consumer = Consumer { position, owner, log_time: self.at.log_time };
        self.rows.put(&row, consumer.to_bytes())?;
        Ok(Ok(()))
    }
}
