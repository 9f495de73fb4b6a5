//! The one queue into the replica thread, bounded in bytes and in count.
//!
//! Proposals are refused and messages of peers dropped when it is full. What the node's own disk
//! and state machine report is always taken: there is only so much of it, and refusing it would
//! stop the node for good.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;

use crate::load::Load;
use crate::sync::mpsc;

/// The sending side; cheap to clone.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    sender: mpsc::Sender<(usize, T)>,
    load: Arc<Load>,
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    receiver: mpsc::Receiver<(usize, T)>,
    load: Arc<Load>,
}

/// What every event costs beside its payload.
const EVENT_BYTES: usize = 128;

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), load: Arc::clone(&self.load) }
    }
}

pub(crate) fn channel<T>(bytes_max: usize) -> (Inbox<T>, Outbox<T>) {
    let (sender, receiver) = mpsc::channel();
    let load = Arc::new(Load::new(bytes_max));
    (Inbox { sender, load: Arc::clone(&load) }, Outbox { receiver, load })
}

impl<T> Inbox<T> {
    /// Puts an event in unless the queue is full or its reader gone. Returns whether it did.
    pub(crate) fn offer(&self, payload_bytes: usize, event: T) -> bool {
        let bytes = payload_bytes + EVENT_BYTES;
        if !self.load.take(bytes) {
            return false;
        }
        let is_in = self.push(bytes, event);
        if !is_in {
            self.load.give(bytes);
        }
        is_in
    }

    /// How much is in it.
    pub(crate) fn load(&self) -> Arc<Load> {
        Arc::clone(&self.load)
    }

    /// Puts an event in that must not be refused.
    pub(crate) fn report(&self, event: T) {
        self.push(0, event);
    }

    fn push(&self, bytes: usize, event: T) -> bool {
        self.sender.send((bytes, event)).is_ok()
    }
}

impl<T> Outbox<T> {
    /// Waits for an event until `timeout`.
    pub(crate) fn wait(&self, timeout: std::time::Duration) -> Result<T, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout).map(|event| self.taken(event))
    }

    /// The next event, if one is there.
    pub(crate) fn take(&self) -> Option<T> {
        self.receiver.try_recv().ok().map(|event| self.taken(event))
    }

    fn taken(&self, (bytes, event): (usize, T)) -> T {
        self.load.give(bytes);
        event
    }
}

#[cfg(all(test, not(palisade_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_refuses_until_it_is_read() {
        let (inbox, outbox) = channel(2 * EVENT_BYTES + 10);
        assert!(inbox.offer(10, 1));
        assert!(inbox.offer(0, 2));
        assert!(!inbox.offer(0, 3));
        inbox.report(4);
        assert_eq!(outbox.take(), Some(1));
        assert!(inbox.offer(10, 5));
        assert_eq!([outbox.take(), outbox.take(), outbox.take()], [Some(2), Some(4), Some(5)]);
    }
}

#[cfg(all(test, palisade_loom))]
mod models {
    use loom::thread;

    use super::*;

    /// Two offer, one reports, there is room for one offer at a time: what is in is counted, what
    /// was taken in comes out once, and the end finds nothing counted.
    #[test]
    fn what_is_in_is_counted_and_comes_out_once() {
        loom::model(|| {
            let (inbox, outbox) = channel(EVENT_BYTES + 1);
            let offerers = [1, 2].map(|event| {
                let inbox = inbox.clone();
                thread::spawn(move || inbox.offer(1, event))
            });
            inbox.report(3);
            let mut taken: Vec<i32> = outbox.take().into_iter().collect();
            assert!(outbox.load.bytes() <= EVENT_BYTES + 1);
            let is_in = offerers.map(|offerer| offerer.join().unwrap());
            taken.extend(std::iter::from_fn(|| outbox.take()));
            taken.sort_unstable();
            let expected: Vec<i32> = match is_in {
                [true, true] => vec![1, 2, 3],
                [true, false] => vec![1, 3],
                [false, true] => vec![2, 3],
                [false, false] => panic!("there was room for one"),
            };
            assert_eq!(taken, expected);
            assert_eq!(outbox.load.bytes(), 0);
        });
    }
}
