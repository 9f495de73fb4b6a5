//! Following a log: each entry once, in order, as it is applied here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use palisade_replication::{Disposition, Offset};

use super::{LogEntry, LogPage, ReplicatedLog};
use crate::backend::BoxFuture;
use crate::error::Error;
use crate::freshness::Read;
use crate::projections::log::LogPosition;
use crate::read::ReadConsistency;
use crate::store::Direction;
use crate::stored::Stored;

/// Most entries that a tail holds.
pub const TAIL_ENTRIES_MAX: usize = 256;
/// Most bytes of their values, but for the first: as the page of a watch, since there may be many of them.
pub const TAIL_BYTES_MAX: usize = 256 << 10;

/// A reader that follows a log on this replica: a cursor, not a queue. However far it is behind, it holds
/// one page of at most [`TAIL_ENTRIES_MAX`] entries and [`TAIL_BYTES_MAX`], or one value.
///
/// Every entry from its position on comes once, in order. If some of them were removed before they could
/// be read, that is [`Error::Trimmed`], now and for ever after: nothing is left out in silence.
///
/// ```
/// use palisade::sim::SimFabric;
/// use palisade::*;
///
/// # fn main() -> Result<(), Error> {
/// let mut fabric = SimFabric::new(1);
/// let engine = fabric.engine(fabric.node(1));
/// fabric.block_on(async {
///     let spec = ResourceSpec::new("orders", "order.v1")?;
///     let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
///     let mut tail = orders.tail(LogPosition::START);
///     orders.append(&"an apple".to_owned()).await?;
///     let entry = tail.next().await?;
///     assert_eq!(entry.value, "an apple");
///     assert_eq!(tail.position(), entry.position.after());
///     Ok(())
/// })
/// # }
/// ```
#[must_use = "a tail reads nothing until it is asked"]
pub struct LogTail<T> {
    log: ReplicatedLog<T>,
    position: LogPosition,
    held: VecDeque<LogEntry<T>>,
    /// The next page, on its way. It stays when whoever waits for it gives up.
    coming: Option<BoxFuture<'static, Result<Vec<LogEntry<T>>, Error>>>,
    /// As a stream, it has given its last error.
    ended: bool,
}

impl<T: Stored> LogTail<T> {
    pub(super) fn new(log: ReplicatedLog<T>, position: LogPosition) -> Self {
        Self { log, position, held: VecDeque::new(), coming: None, ended: false }
    }

    /// Where it stands: before the next entry that it gives. Another tail can go on here.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// The next entry, as soon as it is applied here. Giving up the wait loses nothing.
    ///
    /// # Errors
    /// [`Error::Trimmed`] if entries at or after its position were removed. Others as for any read; after
    /// them it stands where it stood, and can be asked again.
    pub async fn next(&mut self) -> Result<LogEntry<T>, Error> {
        poll_fn(|context| self.poll_entry(context)).await
    }

    /// Waits until there is something to read, and reads none of it: for who bounds what is held at once, and
    /// makes room before [`LogTail::read_page`]. Giving up the wait loses nothing.
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// orders.append(&"an apple".to_owned()).await?;
    /// let mut tail = orders.tail(LogPosition::START);
    /// tail.ready().await?;
    /// // Now there is something: room for a page of at most `TAIL_BYTES_MAX`, or one value.
    /// let page = tail.read_page().await?;
    /// assert_eq!(page[0].value, "an apple");
    /// assert!(tail.read_page().await?.is_empty(), "it does not wait");
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As for any read.
    pub async fn ready(&mut self) -> Result<(), Error> {
        while self.held.is_empty() {
            let bounds = self.log.bounds(ReadConsistency::Local).await?;
            // What was removed is something to read, too: that it was.
            if self.position < bounds.value.tail || self.position < bounds.value.first {
                break;
            }
            applied_after(&self.log, bounds.freshness.offset).await?;
        }
        Ok(())
    }

    /// The next entries as far as they are there, as many as a tail holds; none if it would have to wait.
    /// Giving up the wait loses nothing.
    ///
    /// # Errors
    /// As [`LogTail::next`].
    pub async fn read_page(&mut self) -> Result<Vec<LogEntry<T>>, Error> {
        // It would be told twice.
        self.coming = None;
        let page = match self.held.is_empty() {
            true => page(&self.log, self.position).await?.value.entries,
            false => self.held.drain(..).collect(),
        };
        if let Some(last) = page.last() {
            self.position = last.position.after();
        }
        Ok(page)
    }

    fn poll_entry(&mut self, context: &mut Context<'_>) -> Poll<Result<LogEntry<T>, Error>> {
        loop {
            if let Some(entry) = self.held.pop_front() {
                self.position = entry.position.after();
                return Poll::Ready(Ok(entry));
            }
            let begin =
                || -> BoxFuture<'static, _> { Box::pin(fetch(self.log.clone(), self.position)) };
            let coming = self.coming.get_or_insert_with(begin);
            let Poll::Ready(page) = coming.as_mut().poll(context) else { return Poll::Pending };
            self.coming = None;
            match page {
                Ok(page) => self.held = page.into(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// The entries from a position on, once there are any.
async fn fetch<T: Stored>(
    log: ReplicatedLog<T>,
    from: LogPosition,
) -> Result<Vec<LogEntry<T>>, Error> {
    loop {
        let read = page(&log, from).await?;
        if !read.value.entries.is_empty() {
            return Ok(read.value.entries);
        }
        applied_after(&log, read.freshness.offset).await?;
    }
}

/// What there is from a position on, as much as a tail holds.
async fn page<T: Stored>(
    log: &ReplicatedLog<T>,
    from: LogPosition,
) -> Result<Read<LogPage<T>>, Error> {
    let most = (TAIL_ENTRIES_MAX, TAIL_BYTES_MAX);
    log.page(from, Direction::Forward, most, ReadConsistency::Local.into()).await
}

/// Waits for whatever is applied next: it may be an entry of this log.
async fn applied_after<T: Stored>(log: &ReplicatedLog<T>, offset: Offset) -> Result<(), Error> {
    let group = &log.handle.group;
    group.engine.backend().wait_applied(group.id(), offset.next()).await
}

/// Ends after an error that asking again does not help against.
impl<T: Stored> Stream for LogTail<T> {
    type Item = Result<LogEntry<T>, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let tail = self.get_mut();
        if tail.ended {
            return Poll::Ready(None);
        }
        tail.poll_entry(context).map(|item| {
            tail.ended =
                item.as_ref().is_err_and(|error| error.disposition() != Disposition::Retry);
            Some(item)
        })
    }
}

/// Nothing in it is held in place: the page on its way is in a box.
impl<T> Unpin for LogTail<T> {}
