//! Following a log: each entry once, in order, as it is applied here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use palisade_replication::Disposition;

use super::{LogEntry, ReplicatedLog};
use crate::backend::BoxFuture;
use crate::error::Error;
use crate::projections::log::LogPosition;
use crate::read::ReadConsistency;
use crate::store::Direction;
use crate::stored::Stored;

/// Most entries that a tail holds.
pub const TAIL_ENTRIES_MAX: usize = 256;

/// A reader that follows a log on this replica: a cursor, not a queue. However far it is behind, it holds
/// one page of at most [`TAIL_ENTRIES_MAX`] entries and [`crate::SCAN_BYTES_MAX`].
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
    let (forward, local) = (Direction::Forward, ReadConsistency::Local);
    loop {
        let read = log.scan(from, forward, TAIL_ENTRIES_MAX, local).await?;
        if !read.value.entries.is_empty() {
            return Ok(read.value.entries);
        }
        // Whatever is applied next may be an entry of this log.
        let next = read.freshness.offset.next();
        let group = &log.handle.group;
        group.engine.backend().wait_applied(group.id(), next).await?;
    }
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
