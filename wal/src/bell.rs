//! Wakes the wal's thread, and tells it when to end.
//!
//! Rings are not counted: the thread looks at everything that is queued whenever it wakes. A ring
//! that came before the close is answered before it, so whoever queues, rings and then closes knows
//! that the thread has looked once more.

use crate::sync::{Condvar, Mutex, MutexGuard};

pub(crate) struct Bell {
    calls: Mutex<Calls>,
    condvar: Condvar,
}

/// Not yet heard.
struct Calls {
    rung: bool,
    closing: bool,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// To look at what is queued.
    Look,
    /// To end. Every later call is this one.
    Close,
}

impl Bell {
    pub(crate) fn new() -> Self {
        let calls = Calls { rung: false, closing: false };
        Self { calls: Mutex::new(calls), condvar: Condvar::new() }
    }

    /// There may be something queued.
    pub(crate) fn ring(&self) {
        let mut calls = self.calls();
        // One who has not heard the last ring yet is awake or about to be.
        if !calls.rung {
            calls.rung = true;
            self.condvar.notify_one();
        }
    }

    /// Nothing will be queued any more.
    pub(crate) fn close(&self) {
        self.calls().closing = true;
        self.condvar.notify_one();
    }

    /// Sleeps until called. One thread waits, no more.
    pub(crate) fn wait(&self) -> Call {
        let mut calls = self.calls();
        loop {
            if calls.rung {
                calls.rung = false;
                return Call::Look;
            }
            if calls.closing {
                return Call::Close;
            }
            calls = self.condvar.wait(calls).expect("no code panics while it holds the bell");
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().expect("no code panics while it holds the bell")
    }
}

#[cfg(all(test, palisade_loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::*;

    /// Two queue and ring, one looks: whoever queued is looked after, and the close comes last.
    #[test]
    fn no_ring_is_lost_and_the_close_comes_last() {
        loom::model(|| {
            let (bell, queued) = (Arc::new(Bell::new()), Arc::new(AtomicUsize::new(0)));
            let ringers: Vec<_> = (0..2)
                .map(|_| {
                    let (bell, queued) = (Arc::clone(&bell), Arc::clone(&queued));
                    thread::spawn(move || {
                        queued.fetch_add(1, Ordering::Relaxed);
                        bell.ring();
                    })
                })
                .collect();
            let (rings, queue) = (Arc::clone(&bell), Arc::clone(&queued));
            let looker = thread::spawn(move || {
                let mut seen = 0;
                while rings.wait() == Call::Look {
                    seen = queue.load(Ordering::Relaxed);
                }
                seen
            });
            for ringer in ringers {
                ringer.join().unwrap();
            }
            bell.close();
            assert_eq!(looker.join().unwrap(), 2);
            assert_eq!(bell.wait(), Call::Close, "once closed, always closed");
        });
    }

    /// A ring wakes a sleeper without help from the close or from another ring.
    #[test]
    fn every_ring_wakes() {
        loom::model(|| {
            let bell = Arc::new(Bell::new());
            let rings = Arc::clone(&bell);
            let ringer = thread::spawn(move || rings.ring());
            assert_eq!(bell.wait(), Call::Look);
            ringer.join().unwrap();
            bell.ring();
            assert_eq!(bell.wait(), Call::Look, "the first ring does not swallow the second");
        });
    }
}
