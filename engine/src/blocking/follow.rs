//! Following a log or a map: an iterator that waits for what comes next.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use palisade_replication::{Disposition, Offset};

use super::Running;
use crate::backend::race;
use crate::error::Error;
use crate::freshness::Read;
use crate::log::{LogEntry, LogTail};
use crate::map::{Watch, WatchEvent};
use crate::observation::Observation;
use crate::projection::Projection;
use crate::projections::log::LogPosition;
use crate::stored::{Key, Stored};
use crate::trace::{TracedRecord, TracedRecords};

/// A tail, a watch, an observation or traced records as an iterator. It waits for each item, and ends after an error that asking again does
/// not help against; another can go on from its position.
#[must_use = "nothing is read until it is asked"]
pub struct Following<F> {
    of: F,
    running: Arc<Running>,
    ended: bool,
}

impl<F> Following<F> {
    pub(super) fn new(of: F, running: &Arc<Running>) -> Self {
        Self { of, running: Arc::clone(running), ended: false }
    }
}

impl<T: Stored> Following<LogTail<T>> {
    /// As [`LogTail::position`].
    #[must_use]
    pub fn position(&self) -> LogPosition {
        self.of.position()
    }

    /// The next entry, or nothing if none comes for so long. For a thread that has something else to look
    /// after too.
    ///
    /// # Errors
    /// As [`LogTail::next`], and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn next_within(&mut self, wait: Duration) -> Result<Option<LogEntry<T>>, Error> {
        let (engine, next) = (self.running.engine(), self.of.next());
        // The sleep begins on the runtime: its clock is that one's.
        self.running.wait(async { race(next, engine.backend().sleep(wait)).await.transpose() })
    }

    /// As [`LogTail::ready`].
    ///
    /// # Errors
    /// As [`LogTail::ready`], and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn ready(&mut self) -> Result<(), Error> {
        self.running.wait(self.of.ready())
    }

    /// As [`LogTail::read_page`].
    ///
    /// # Errors
    /// As [`LogTail::read_page`], and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn read_page(&mut self) -> Result<Vec<LogEntry<T>>, Error> {
        self.running.wait(self.of.read_page())
    }
}

impl<K: Key, V: Stored> Following<Watch<K, V>> {
    /// As [`Watch::position`].
    #[must_use]
    pub fn position(&self) -> Offset {
        self.of.position()
    }

    /// As [`Watch::ready`].
    ///
    /// # Errors
    /// As [`Watch::ready`], and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn ready(&mut self) -> Result<(), Error> {
        self.running.wait(self.of.ready())
    }

    /// As [`Watch::read_next`].
    ///
    /// # Errors
    /// As [`Watch::read_next`], and [`Error::InvalidArgument`] within a tokio runtime.
    pub fn read_next(&mut self) -> Result<Option<WatchEvent<K, V>>, Error> {
        self.running.wait(self.of.read_next())
    }
}

impl<P: Projection, T: Clone + PartialEq + Send + 'static> Following<Observation<P, T>> {
    /// As [`Observation::position`].
    #[must_use]
    pub fn position(&self) -> Offset {
        self.of.position()
    }
}

impl<P, T> Iterator for Following<Observation<P, T>>
where
    P: Projection,
    T: Clone + PartialEq + Send + 'static,
{
    type Item = Result<Read<T>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        step(&self.running, &mut self.ended, self.of.next())
    }
}

impl<T: Stored> Iterator for Following<LogTail<T>> {
    type Item = Result<LogEntry<T>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        step(&self.running, &mut self.ended, self.of.next())
    }
}

impl<K: Key, V: Stored> Iterator for Following<Watch<K, V>> {
    type Item = Result<WatchEvent<K, V>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        step(&self.running, &mut self.ended, self.of.next())
    }
}

/// It ends with the engine.
impl Iterator for Following<TracedRecords> {
    type Item = Result<TracedRecord, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.of.next();
        let item = self.running.wait(async { Ok(next.await) }).transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

fn step<T>(
    running: &Running,
    ended: &mut bool,
    next: impl Future<Output = Result<T, Error>>,
) -> Option<Result<T, Error>> {
    if *ended {
        return None;
    }
    let item = running.wait(next);
    *ended = item.as_ref().is_err_and(|error| error.disposition() != Disposition::Retry);
    Some(item)
}
