//! What can be read of a log: pages of entries either way, and the positions of consumers.

use bytes::Bytes;
use palisade_replication::LogTime;

use super::header::{Header, ROW};
use super::position::{ENTRIES_END, LogPosition};
use super::state::{CONSUMERS, CONSUMERS_END, Consumer, consumer_row};
use crate::error::Error;
use crate::page::Page;
use crate::projection::{ProjectionFault, RowsRead};
use crate::resource::FenceEpoch;
use crate::store::{Direction, Walk};
use crate::stored::Stored;

/// The header.
pub(crate) fn header(rows: &RowsRead<'_>) -> Result<Header, ProjectionFault> {
    let row = rows.get(ROW)?;
    Ok(row.map_or(Ok(Header::NEW), |raw| Header::from_bytes(&raw))?)
}

/// Where a consumer is, if it has committed anything.
pub(crate) fn committed(
    rows: &RowsRead<'_>,
    name: &str,
) -> Result<Option<LogPosition>, ProjectionFault> {
    let row = rows.get(&consumer_row(name))?;
    Ok(row.map(|raw| Consumer::from_bytes(&raw)).transpose()?.map(|found| found.position))
}

/// How far a consumer has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerPosition {
    /// Its name.
    pub name: String,
    /// Everything before it is done with.
    pub position: LogPosition,
    /// Who made the last change; no lower one can.
    pub owner: FenceEpoch,
    /// When it was made.
    pub log_time: LogTime,
}

/// All consumers, by name. There are no more than [`super::CONSUMERS_MAX`].
pub(crate) fn consumers(rows: &RowsRead<'_>) -> Result<Vec<ConsumerPosition>, ProjectionFault> {
    let (mut found, mut malformed) = (Vec::new(), Ok(()));
    rows.walk(CONSUMERS, Some(CONSUMERS_END), Direction::Forward, &mut |key, value| {
        let name = String::from_utf8(key[CONSUMERS.len()..].to_vec());
        match (name, Consumer::from_bytes(&Bytes::copy_from_slice(value))) {
            (Ok(name), Ok(Consumer { position, owner, log_time })) => {
                found.push(ConsumerPosition { name, position, owner, log_time });
                Walk::Next
            }
            (Err(_), _) => {
                malformed = Err(ProjectionFault::new("a consumer's name is no text"));
                Walk::Stop
            }
            (_, Err(error)) => {
                malformed = Err(error.into());
                Walk::Stop
            }
        }
    })?;
    malformed.map(|()| found)
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) position: LogPosition,
    pub(crate) log_time: LogTime,
    pub(crate) payload: Bytes,
}

/// The row of an entry, and what it says.
pub(super) fn entry_value(log_time: LogTime, payload: &[u8]) -> Vec<u8> {
    [&log_time.get().to_be_bytes(), payload].concat()
}

pub(super) fn split_entry<'a>(
    key: &[u8],
    value: &'a [u8],
) -> Result<(LogPosition, LogTime, &'a [u8]), ProjectionFault> {
    let position = LogPosition::of_row(key)?;
    let split = value.split_first_chunk::<8>();
    let (time, payload) = split.ok_or_else(|| ProjectionFault::new("malformed log entry"))?;
    Ok((position, LogTime::new(u64::from_be_bytes(*time)), payload))
}

/// What was asked for has been removed; what there is begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trimmed {
    pub(crate) first: LogPosition,
}

impl From<Trimmed> for Error {
    fn from(Trimmed { first }: Trimmed) -> Self {
        Self::Trimmed { first }
    }
}

/// A part of a log, and the log's bounds at the same moment.
pub(crate) struct Scanned {
    pub(crate) page: Page<RawEntry, LogPosition>,
    pub(crate) header: Header,
}

/// The entries from `from` on, or those before it, the newest first: a page of them.
pub(crate) fn scan(
    rows: &RowsRead<'_>,
    from: LogPosition,
    direction: Direction,
    mut page: Page<RawEntry, LogPosition>,
) -> Result<Result<Scanned, Trimmed>, ProjectionFault> {
    let header = header(rows)?;
    let first = header.first;
    let trimmed = match direction {
        Direction::Forward => from < first,
        // Right at `first`, all that there ever was before it is gone.
        Direction::Backward => from <= first && first > LogPosition::START,
    };
    if trimmed {
        return Ok(Err(Trimmed { first }));
    }
    let (from, end) = match direction {
        Direction::Forward => (from.row(), ENTRIES_END.to_vec()),
        Direction::Backward => (first.row(), from.row()),
    };
    let mut malformed = Ok(());
    rows.walk(&from, Some(&end), direction, &mut |key, value| {
        match split_entry(key, value) {
            Ok((position, log_time, payload)) if page.has_room(payload.len()) => {
                let bytes = payload.len();
                let payload = Bytes::copy_from_slice(payload);
                page.push(RawEntry { position, log_time, payload }, bytes);
                return Walk::Next;
            }
            Ok((position, ..)) => {
                page.next = Some(match direction {
                    Direction::Forward => position,
                    Direction::Backward => position.after(),
                });
            }
            Err(fault) => malformed = Err(fault),
        }
        Walk::Stop
    })?;
    malformed.map(|()| Ok(Scanned { page, header }))
}
