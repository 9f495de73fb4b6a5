//! The one queue into the replica thread, bounded in bytes and in count.
//!
//! Proposals are refused and messages of peers dropped when it is full. What the node's own disk
//! and state machine report is always taken: there is only so much of it, and refusing it would
//! stop the node for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

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

#[derive(Debug)]
struct Load {
    bytes: AtomicUsize,
    bytes_max: usize,
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
    let load = Arc::new(Load { bytes: AtomicUsize::new(0), bytes_max });
    (Inbox { sender, load: Arc::clone(&load) }, Outbox { receiver, load })
}

impl<T> Inbox<T> {
    /// Puts an event in unless the queue is full or its reader gone. Returns whether it did.
    pub(crate) fn offer(&self, payload_bytes: usize, event: T) -> bool {
        let bytes = payload_bytes + EVENT_BYTES;
        // The bound is on memory, not an exact count: concurrent offers may pass it by one each.
        if self.load.bytes.load(Ordering::Relaxed) + bytes > self.load.bytes_max {
            return false;
        }
        self.push(bytes, event)
    }

    /// Puts an event in that must not be refused.
    pub(crate) fn report(&self, event: T) {
        self.push(0, event);
    }

    fn push(&self, bytes: usize, event: T) -> bool {
        self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sender.send((bytes, event)).is_ok()
    }
}

impl<T> Outbox<T> {
    /// Waits for an event until `timeout`.
    pub(crate) fn wait(&self, timeout: std::time::Duration) -> Result<T, mpsc::RecvTimeoutError> {
        self.receiver.recv_timeout(timeout).map(|event| self.taken(event))
    }

    /// The next event, if one is there.
    pub(crate) fn take(&self) -> Option<T> {
        self.receiver.try_recv().ok().map(|event| self.taken(event))
    }

    fn taken(&self, (bytes, event): (usize, T)) -> T {
        self.load.bytes.fetch_sub(bytes, Ordering::Relaxed);
        event
    }
}

#[cfg(test)]
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
