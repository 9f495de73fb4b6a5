//! The numbers of a client's commands in one group: a command keeps its own however often it is sent.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use palisade_proto::common::v1::CommandNumber;
use tokio::sync::Notify;

/// How far a client's numbers may be apart that are under way in a group, as the engine has it.
const COMMANDS_MAX: u64 = 64;

#[derive(Default)]
struct Counted {
    last: u64,
    /// Those that are under way.
    open: BTreeSet<u64>,
}

#[derive(Default)]
struct Shared {
    counted: Mutex<Counted>,
    closed: Notify,
}

/// The numbers of one registration.
#[derive(Clone)]
pub(crate) struct Numbers {
    client: Bytes,
    shared: Arc<Shared>,
}

/// A number that is in use until this is dropped.
pub(crate) struct Number {
    seq: u64,
    acked_up_to: u64,
    of: Numbers,
}

impl Counted {
    /// The next number and the one up to which all are done, if they are near enough.
    fn next(&mut self) -> Option<(u64, u64)> {
        let seq = self.last + 1;
        let acked_up_to = self.open.first().copied().unwrap_or(seq) - 1;
        (seq - acked_up_to <= COMMANDS_MAX).then(|| {
            self.last = seq;
            self.open.insert(seq);
            (seq, acked_up_to)
        })
    }
}

impl Numbers {
    pub(crate) fn new(client: Bytes) -> Self {
        Self { client, shared: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.shared.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next number, once the oldest that is under way is near enough.
    pub(crate) async fn next(&self) -> Number {
        loop {
            let mut closed = pin!(self.shared.closed.notified());
            // From here on, or one that is closed meanwhile would be missed.
            closed.as_mut().enable();
            if let Some((seq, acked_up_to)) = self.lock().next() {
                return Number { seq, acked_up_to, of: self.clone() };
            }
            closed.await;
        }
    }

    /// Whether it is this registration.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.client == other.client
    }
}

impl Number {
    pub(crate) fn told(&self) -> CommandNumber {
        let (seq, acked_up_to) = (self.seq, self.acked_up_to);
        CommandNumber { client: self.of.client.clone(), seq, acked_up_to }
    }
}

/// Answered, or nobody waits for an answer any more.
impl Drop for Number {
    fn drop(&mut self) {
        self.of.lock().open.remove(&self.seq);
        self.of.shared.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_under_way_is_not_given_up() {
        let numbers = Numbers::new(Bytes::from_static(b"c"));
        let (first, second) = (numbers.next().await, numbers.next().await);
        assert_eq!((first.told().seq, first.told().acked_up_to), (1, 0));
        assert_eq!((second.told().seq, second.told().acked_up_to), (2, 0));
        drop(second);
        let third = numbers.next().await;
        assert_eq!((third.told().seq, third.told().acked_up_to), (3, 0));
        drop(first);
        let fourth = numbers.next().await;
        assert_eq!((fourth.told().seq, fourth.told().acked_up_to), (4, 2));
    }

    /// The oldest holds up the others, as the group keeps answers for so many numbers only.
    #[tokio::test]
    async fn numbers_that_are_under_way_are_near_each_other() {
        let numbers = Numbers::new(Bytes::new());
        let oldest = numbers.next().await;
        for _ in 1..COMMANDS_MAX {
            drop(numbers.next().await);
        }
        let mut waiting = tokio::task::JoinSet::new();
        waiting.spawn({
            let numbers = numbers.clone();
            async move { numbers.next().await.told() }
        });
        tokio::task::yield_now().await;
        assert!(waiting.try_join_next().is_none());
        drop(oldest);
        let told = waiting.join_next().await.unwrap().unwrap();
        assert_eq!((told.seq, told.acked_up_to), (COMMANDS_MAX + 1, COMMANDS_MAX));
    }
}
