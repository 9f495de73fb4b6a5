//! What connections hold of messages that are not whole yet, all of them together (G12): one message has
//! a bound, and so have the connections, but not all that there may be at once.

use std::sync::{Arc, Mutex};

use crate::frame::BODY_BYTES_MAX;
use crate::node_load::QueueLoad;

/// So many messages of the largest size may be under way at once.
const MESSAGES_MAX: usize = 16;

/// The room for all.
#[derive(Debug)]
pub(crate) struct Unread {
    bytes_max: usize,
    bytes: Mutex<usize>,
}

impl Default for Unread {
    fn default() -> Self {
        Self::with_room(MESSAGES_MAX * BODY_BYTES_MAX)
    }
}

impl Unread {
    pub(crate) fn with_room(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: Mutex::default() }
    }

    /// What is held now, against the bound.
    pub(crate) fn told(&self, queue: &'static str) -> QueueLoad {
        let bytes = *self.bytes.lock().expect("no code panics while it counts");
        QueueLoad { queue, held: bytes as u64, held_max: self.bytes_max as u64 }
    }

    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { of: Arc::clone(self), bytes: 0 }
    }
}

/// What one connection takes of it; given back with this.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Unread>,
    bytes: usize,
}

impl Share {
    /// From now on it takes so much. False, and nothing changes, if there is no room for that.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let mut all = self.of.bytes.lock().expect("no code panics while it counts");
        let others = *all - self.bytes;
        if bytes > self.bytes && self.of.bytes_max < others + bytes {
            return false;
        }
        (*all, self.bytes) = (others + bytes, bytes);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.take(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_take_no_more_than_there_is() {
        let unread = Arc::new(Unread::with_room(10));
        let (mut one, mut other) = (unread.share(), unread.share());
        assert!(one.take(6));
        assert!(other.take(4));
        assert!(!other.take(5));
        assert!(one.take(5), "less is always possible");
        assert!(other.take(5));
        drop(one);
        assert!(other.take(10));
        assert!(!other.take(11));
        drop(other);
        assert_eq!(*unread.bytes.lock().unwrap(), 0);
    }
}
