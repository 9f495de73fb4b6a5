//! Log: values by their place, from the oldest that is kept to the tail.
//!
//! ```text
//! row        h                     first, tail, bytes, entries, consumers, keep ms, keep bytes
//!            e offset 8 index 2    log time 8, value
//!            c name                position, owner, log time
//! ```
//! Positions in keys and times in values are big-endian; numbers and byte strings elsewhere as in
//! `codec`, a position as its two numbers, what may be missing as 0, or 1 and what it is. The encodings of
//! operations are in `op`.
//!
//! What a position, `first` and the tail are is said in `docs/log.md`.

mod header;
mod op;
mod position;
mod read;
mod state;
#[cfg(test)]
mod tests;

use palisade_replication::LogTime;

pub use self::header::LogRetention;
pub use self::op::{APPEND_ENTRIES_MAX, CONSUMER_NAME_BYTES_MAX, LogTrim};
pub(crate) use self::op::{ConsumerChange, LogGuard, LogOp, LogOutcome, LogRefusal};
pub use self::position::LogPosition;
pub use self::read::ConsumerPosition;
use self::read::split_entry;
pub(crate) use self::read::{RawEntry, Scanned, committed, consumers, header, scan};
use self::state::State;
pub use self::state::{CONSUMERS_MAX, TRIM_ENTRIES_MAX};
use crate::projection::{Applied, At, Projection, ProjectionFault, Rows, RowsRead};

pub(crate) const NAME: &str = "log";

/// The projection.
pub(crate) struct Log;

impl Projection for Log {
    const NAME: &'static str = NAME;
    const VERSION: u32 = 1;
    type Op = LogOp;
    type Outcome = LogOutcome;
    type Refusal = LogRefusal;
    type Guard = LogGuard;

    fn apply(
        &self,
        at: At,
        op: LogOp,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<LogOutcome, LogRefusal>, ProjectionFault> {
        let mut state = State::load(at, rows)?;
        let done = match op {
            LogOp::Append { expected, payloads } => state.append(expected, &payloads)?,
            LogOp::Trim { before } => Ok(LogOutcome::Trimmed(state.trim(before)?)),
            LogOp::Retain { retention } => {
                state.retain(retention);
                Ok(LogOutcome::Done)
            }
            LogOp::Consumer { name, owner, change } => {
                state.consumer(&name, owner, change)?.map(|()| LogOutcome::Done)
            }
        };
        Ok(match done {
            Ok(outcome) => {
                state.keep()?;
                Applied::Done(outcome)
            }
            Err(refusal) => Applied::Refused(refusal),
        })
    }

    fn holds(&self, guard: &LogGuard, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        let LogGuard::TailIs { position } = guard;
        Ok(header(rows)?.tail == *position)
    }

    fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        let header = header(rows)?;
        let Some(keep_ms) = header.retention.keep_ms else { return Ok(None) };
        let oldest = rows.first(&header.first.row(), Some(&header.tail.row()))?;
        let oldest =
            oldest.map(|(row, value)| Ok::<_, ProjectionFault>(split_entry(&row, &value)?.1));
        let until =
            oldest.transpose()?.map(|at| at.get().saturating_add(keep_ms).saturating_add(1));
        Ok(until.map(LogTime::new))
    }

    fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault> {
        let mut state = State::load(at, rows)?;
        state.forget_old(most)?;
        state.keep()
    }
}
