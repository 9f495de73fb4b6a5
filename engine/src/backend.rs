//! The seam below the handles: what an engine needs of the node it speaks for.
//!
//! Two implementations: the node of this process (`node_backend.rs`), and a node of a simulated cluster
//! (`sim/backend.rs`). All that is decided about a request (deadlines, freshness, what an answer means)
//! is above the seam, and so the same code in both. Time above the seam is [`Backend::sleep`] and
//! [`Backend::now`], and no other clock.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{
    ChangeRefusal, Committed, GroupId, GroupStatus, Incarnation, LogTime, MemberChange, NodeId,
    NodeLoad, Offset, PeerFault, RecordRun,
};
#[cfg(feature = "backup")]
use tokio::sync::mpsc;

use crate::comparing::latch::Latch;
use crate::error::Error;
use crate::outcome::RecordOutcome;
use crate::store::{StateRead, StoreError};
use crate::trace::TraceContext;

/// What is asked of a backend goes through a trait object, so it is boxed: one allocation beside a
/// write of the log, or beside a read by another thread.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A read of one moment's state. It leaves what it found with whoever made it.
pub(crate) type ReadJob = Box<dyn FnOnce(&dyn StateRead) -> Result<(), StoreError> + Send>;

/// A node, as its handles see it. Dropping a future gives up the wait, not what was asked for.
pub(crate) trait Backend: Send + Sync {
    /// Offers a record to the log. The answer comes once it is committed, and applied here.
    fn propose(
        &self,
        group: GroupId,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Committed<RecordOutcome>, Error>>;

    /// Resolves once everything is applied here that was committed when it was called. Says how far
    /// that is.
    fn barrier(&self, group: GroupId) -> BoxFuture<'_, Result<Offset, Error>>;

    /// How far this node has applied the group.
    fn applied(&self, group: GroupId) -> Result<Offset, Error>;

    /// Resolves once the offset is applied here. The caller adds its own deadline.
    fn wait_applied(&self, group: GroupId, at_least: Offset) -> BoxFuture<'_, Result<(), Error>>;

    /// Runs a read on one moment's state, where nobody waits for it who has something else to do.
    fn read(&self, job: ReadJob) -> BoxFuture<'_, Result<(), Error>>;

    /// Committed records from `from` on, as far as they are applied here: about so many bytes of them, and
    /// none if nothing is applied there. That the log begins later is an answer like another: where.
    fn records(
        &self,
        group: GroupId,
        from: Offset,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Result<Vec<RecordRun>, Offset>, Error>>;

    /// The group's state of one moment as the chunks of a snapshot, read while they are taken, on a thread
    /// that nothing else waits for. Nothing more comes after an error.
    #[cfg(feature = "backup")]
    fn export(&self, group: GroupId) -> Result<mpsc::Receiver<Result<Bytes, Error>>, Error>;

    /// Goes on with what is to be built beside the log, where nobody waits for it.
    fn build(&self);

    /// Resolves after so long.
    fn sleep(&self, length: Duration) -> BoxFuture<'_, ()>;

    /// Time since some moment of this life, only ever rising, as [`Backend::sleep`] counts it.
    fn now(&self) -> Duration;

    /// What the node's clock says: what a record would be stamped with that it leads now.
    fn wall_clock(&self) -> LogTime;

    /// How this node sees the group.
    fn status(&self, group: GroupId) -> BoxFuture<'_, Result<GroupStatus, Error>>;

    /// Changes the membership. A refusal is an answer like another: some of them are acted upon.
    fn change(
        &self,
        group: GroupId,
        change: MemberChange,
    ) -> BoxFuture<'_, Result<Result<(), ChangeRefusal>, Error>>;

    /// Asks for the leadership to be handed over.
    fn transfer(&self, group: GroupId, to: NodeId) -> Result<(), Error>;

    /// Whether the node has stopped, with all of its groups.
    fn ended(&self) -> bool;

    /// Why the node serves nothing more of the group, if one of the two has stopped.
    fn stopped(&self, group: GroupId) -> Option<Error>;

    /// The state of the group is wrong here: it is not served any more, also after a restart.
    fn halt(&self, group: GroupId, latch: Latch) -> BoxFuture<'_, Result<(), Error>>;

    /// Gives the state of a group up that has halted here, for one of the leader's. Resolves once it is whole.
    fn rebuild(&self, group: GroupId) -> BoxFuture<'_, Result<(), Error>>;

    /// Which life of its data directory the node is in.
    fn incarnation(&self) -> Incarnation;

    /// What peers sent that was refused, and how often.
    fn peer_faults(&self) -> BTreeMap<PeerFault, u64>;

    /// A trace context for what has none.
    fn draw_trace(&self) -> Option<TraceContext> {
        None
    }

    /// What waits in the node, and how long its log takes.
    fn load(&self) -> NodeLoad;

    /// Whether a part of the state could not be read.
    fn state_is_damaged(&self) -> bool;

    /// Stops the node.
    fn close(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// The outcome of `work`, or `None` if the sleep ends first. Work that is done when both are counts.
pub(crate) async fn race<T>(
    work: impl Future<Output = T>,
    mut sleep: BoxFuture<'_, ()>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// What all of these come to, in their order. They are polled in that order, too.
pub(crate) async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    let mut done: Vec<_> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (waiting, done) in waiting.iter_mut().zip(&mut done) {
            let Some(future) = waiting else { continue };
            if let Poll::Ready(found) = future.as_mut().poll(context) {
                (*waiting, *done) = (None, Some(found));
            }
        }
        if waiting.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::{Context, Waker};

    use super::*;

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_race_is_won_by_what_is_done_and_by_the_work_if_both_are() {
        let (done, over) = (|| ready(1), || -> BoxFuture<'static, ()> { Box::pin(ready(())) });
        let never = || -> BoxFuture<'static, ()> { Box::pin(pending()) };
        assert_eq!(poll(race(done(), never())), Poll::Ready(Some(1)));
        assert_eq!(poll(race(done(), over())), Poll::Ready(Some(1)));
        assert_eq!(poll(race(pending::<i32>(), over())), Poll::Ready(None));
        assert_eq!(poll(race(pending::<i32>(), never())), Poll::Pending);
    }

    #[test]
    fn all_are_done_when_each_is_whichever_came_first() {
        let soon = |number: i32, polls: i32| {
            let mut left = polls;
            poll_fn(move |context| {
                left -= 1;
                context.waker().wake_by_ref();
                if left < 0 { Poll::Ready(number) } else { Poll::Pending }
            })
        };
        let mut work = pin!(all([soon(1, 2), soon(2, 0), soon(3, 1)]));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(work.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(work.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(work.as_mut().poll(&mut context), Poll::Ready(vec![1, 2, 3]));
        assert_eq!(poll(all(Vec::<std::future::Pending<i32>>::new())), Poll::Ready(vec![]));
    }
}
