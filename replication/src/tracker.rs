//! How far a group is applied here, and who waits for more.
//!
//! Waiters lie in order of what they wait for, so an apply wakes exactly those it serves.

use std::collections::BTreeMap;

use palisade_wal::LogIndex;
use tokio::sync::oneshot;

use crate::entry::AppliedPosition;
use crate::identity::Offset;
use crate::sync::{Mutex, MutexGuard};

/// The applied position of one group, shared between its driver and its readers.
#[derive(Debug)]
pub(crate) struct Tracker {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    position: AppliedPosition,
    /// Nobody will be served any more: who asks now must not begin to wait.
    stopped: bool,
    /// And it does not go on.
    closed: bool,
    next_id: u64,
    by_offset: BTreeMap<(Offset, u64), oneshot::Sender<AppliedPosition>>,
    by_index: BTreeMap<(LogIndex, u64), oneshot::Sender<AppliedPosition>>,
}

impl Tracker {
    pub(crate) fn new(position: AppliedPosition) -> Self {
        Self {
            inner: Mutex::new(Inner {
                position,
                stopped: false,
                closed: false,
                next_id: 0,
                by_offset: BTreeMap::new(),
                by_index: BTreeMap::new(),
            }),
        }
    }

    pub(crate) fn position(&self) -> AppliedPosition {
        self.lock().position
    }

    /// Moves on, and wakes those who waited for no more than this.
    pub(crate) fn advance(&self, position: AppliedPosition) {
        let mut inner = self.lock();
        if position.index < inner.position.index {
            let stands_at = inner.position.index;
            // Whoever is left is still to be told.
            drop(inner);
            panic!("applied again: index={} stands_at={stands_at}", position.index);
        }
        inner.position = position;
        let by_offset = inner.by_offset.split_off(&(position.offset.next(), 0));
        let offset_served = std::mem::replace(&mut inner.by_offset, by_offset);
        let by_index = inner.by_index.split_off(&(position.index.next(), 0));
        let index_served = std::mem::replace(&mut inner.by_index, by_index);
        drop(inner);
        for waiter in offset_served.into_values().chain(index_served.into_values()) {
            // A waiter that gave up is no loss.
            let _ = waiter.send(position);
        }
    }

    /// What was applied is given up: it stands here, and nobody is served before it [goes on](Self::go_on).
    pub(crate) fn fall_back(&self, position: AppliedPosition) {
        self.stop();
        self.lock().position = position;
    }

    /// Whoever asks from now on is served, unless it was [closed](Self::close).
    pub(crate) fn go_on(&self) {
        let mut inner = self.lock();
        inner.stopped = inner.closed;
    }

    /// Resolves once the offset is applied. `None` if the node stops first.
    pub(crate) async fn offset(&self, offset: Offset) -> Option<AppliedPosition> {
        let waiter = {
            let mut inner = self.lock();
            if offset <= inner.position.offset {
                return Some(inner.position);
            }
            if inner.stopped {
                return None;
            }
            let id = inner.take_id();
            let (sender, receiver) = oneshot::channel();
            inner.by_offset.insert((offset, id), sender);
            Waiter { tracker: self, key: Key::Offset((offset, id)), receiver }
        };
        waiter.wait().await
    }

    /// Resolves once the entry is applied. `None` if the node stops first.
    pub(crate) async fn index(&self, index: LogIndex) -> Option<AppliedPosition> {
        let waiter = {
            let mut inner = self.lock();
            if index <= inner.position.index {
                return Some(inner.position);
            }
            if inner.stopped {
                return None;
            }
            let id = inner.take_id();
            let (sender, receiver) = oneshot::channel();
            inner.by_index.insert((index, id), sender);
            Waiter { tracker: self, key: Key::Index((index, id)), receiver }
        };
        waiter.wait().await
    }

    /// The group stops: whoever waits, and whoever asks for more than there is, has `None`.
    pub(crate) fn stop(&self) {
        self.lock().stop();
    }

    /// The node stops, for good.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.stop();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the tracker")
    }
}

impl Inner {
    fn stop(&mut self) {
        self.stopped = true;
        self.by_offset.clear();
        self.by_index.clear();
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

enum Key {
    Offset((Offset, u64)),
    Index((LogIndex, u64)),
}

/// Takes its place out of the queue when the caller stops waiting.
struct Waiter<'a> {
    tracker: &'a Tracker,
    key: Key,
    receiver: oneshot::Receiver<AppliedPosition>,
}

impl Waiter<'_> {
    async fn wait(mut self) -> Option<AppliedPosition> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut inner = self.tracker.lock();
        match self.key {
            Key::Offset(key) => inner.by_offset.remove(&key),
            Key::Index(key) => inner.by_index.remove(&key),
        };
    }
}

#[cfg(all(test, not(palisade_loom)))]
mod tests {
    use super::*;
    use crate::identity::{LogTime, Term};

    fn at(offset: u64) -> AppliedPosition {
        AppliedPosition {
            index: LogIndex::new(offset + 1),
            term: Term::new(1),
            members_index: LogIndex::ZERO,
            offset: Offset::new(offset),
            log_time: LogTime::ZERO,
        }
    }

    #[tokio::test]
    async fn a_waiter_wakes_at_exactly_its_offset() {
        let tracker = Tracker::new(AppliedPosition::ZERO);
        let mut waiting = std::pin::pin!(tracker.offset(Offset::new(3)));
        let mut poll = || {
            let waker = std::task::Waker::noop();
            waiting.as_mut().poll(&mut std::task::Context::from_waker(waker))
        };
        assert!(poll().is_pending());
        tracker.advance(at(2));
        assert!(poll().is_pending());
        tracker.advance(at(3));
        assert_eq!(poll(), std::task::Poll::Ready(Some(at(3))));
        assert_eq!(tracker.offset(Offset::new(1)).await, Some(at(3)));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_stopped_node() {
        let tracker = Tracker::new(at(2));
        tracker.stop();
        assert_eq!(tracker.offset(Offset::new(3)).await, None);
        assert_eq!(tracker.index(LogIndex::new(9)).await, None);
        assert_eq!(tracker.offset(Offset::new(2)).await, Some(at(2)), "what is there is there");
    }

    #[tokio::test]
    async fn a_state_that_is_whole_again_is_served_unless_the_node_has_stopped() {
        let tracker = Tracker::new(at(2));
        tracker.fall_back(AppliedPosition::ZERO);
        assert_eq!(tracker.offset(Offset::new(1)).await, None);
        tracker.go_on();
        tracker.advance(at(2));
        assert_eq!(tracker.offset(Offset::new(1)).await, Some(at(2)));
        tracker.close();
        tracker.go_on();
        assert_eq!(tracker.offset(Offset::new(3)).await, None);
    }

    /// A state machine that says it stands where it stood before is a bug, of which everybody is told.
    #[tokio::test]
    async fn an_apply_that_goes_back_leaves_nobody_waiting() {
        let tracker = Tracker::new(at(2));
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        let mut waiting = std::pin::pin!(tracker.offset(Offset::new(3)));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        let said = palisade_wal::guarded(|| tracker.advance(at(1))).unwrap_err();
        assert!(said.contains("index=2 stands_at=3"), "{said}");
        assert_eq!(tracker.position(), at(2));
        tracker.stop();
        assert_eq!(waiting.await, None);
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_no_trace() {
        let tracker = Tracker::new(AppliedPosition::ZERO);
        {
            let mut waiting = std::pin::pin!(tracker.index(LogIndex::new(9)));
            let waker = std::task::Waker::noop();
            assert!(waiting.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        }
        assert!(tracker.lock().by_index.is_empty());
    }
}

#[cfg(all(test, palisade_loom))]
mod models {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use loom::thread;

    use super::*;
    use crate::identity::{LogTime, Term};

    const ONE: AppliedPosition = AppliedPosition {
        index: LogIndex::new(1),
        term: Term::new(1),
        members_index: LogIndex::ZERO,
        offset: Offset::new(1),
        log_time: LogTime::ZERO,
    };

    /// What a waiter has who asks while another thread does something, and asks again after it.
    fn answer(
        wait: impl AsyncFnOnce(&Tracker) -> Option<AppliedPosition>,
        beside: impl FnOnce(&Tracker) + Send + 'static,
    ) -> Poll<Option<AppliedPosition>> {
        let tracker = Arc::new(Tracker::new(AppliedPosition::ZERO));
        let other = Arc::clone(&tracker);
        let other = thread::spawn(move || beside(&other));
        let mut waiting = pin!(wait(&tracker));
        let mut context = Context::from_waker(Waker::noop());
        let early = waiting.as_mut().poll(&mut context);
        other.join().unwrap();
        if early.is_ready() { early } else { waiting.as_mut().poll(&mut context) }
    }

    #[test]
    fn whoever_waits_while_it_advances_is_served() {
        loom::model(|| {
            let offset = async |tracker: &Tracker| tracker.offset(Offset::new(1)).await;
            assert_eq!(answer(offset, |tracker| tracker.advance(ONE)), Poll::Ready(Some(ONE)));
            let index = async |tracker: &Tracker| tracker.index(LogIndex::new(1)).await;
            assert_eq!(answer(index, |tracker| tracker.advance(ONE)), Poll::Ready(Some(ONE)));
        });
    }

    #[test]
    fn nobody_waits_for_a_stopped_node() {
        loom::model(|| {
            let offset = async |tracker: &Tracker| tracker.offset(Offset::new(1)).await;
            assert_eq!(answer(offset, Tracker::stop), Poll::Ready(None));
            let index = async |tracker: &Tracker| tracker.index(LogIndex::new(1)).await;
            assert_eq!(answer(index, Tracker::stop), Poll::Ready(None));
        });
    }
}
