//! What a queue holds, in bytes, against its bound.
//!
//! The queue itself has none. Whoever puts something in takes its bytes here first, and whoever has
//! taken it out gives them back, so what is in the queue is always counted, and the count never
//! passes the bound, however many put in at once. It orders nothing: that is the queue's affair.

use crate::node_load::QueueLoad;
use crate::sync::{AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct Load {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Load {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max }
    }

    /// Takes the bytes if there is room for all of them. Returns whether it did.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let with = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, bytes: usize) {
        let held = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(bytes <= held, "gave back {bytes} bytes of {held}");
    }

    /// What is held now, against the bound.
    pub(crate) fn told(&self, queue: &'static str) -> QueueLoad {
        QueueLoad { queue, held: self.bytes() as u64, held_max: self.bytes_max as u64 }
    }

    /// What is held now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(palisade_loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_at_its_bound_and_not_before() {
        let load = Load::new(10);
        assert!(load.take(4));
        assert!(load.take(6));
        assert!(!load.take(1));
        assert!(load.take(0));
        load.give(4);
        assert!(!load.take(5));
        assert!(!load.take(usize::MAX));
        assert!(load.take(4));
        assert_eq!(load.bytes(), 10);
    }
}

#[cfg(all(test, palisade_loom))]
mod models {
    use std::sync::Arc;

    use loom::thread;

    use super::*;

    /// Two want in, one of them twice, and there is room for one at a time: never more than the
    /// bound, nobody is refused for nothing, and nothing is kept.
    #[test]
    fn the_bound_holds_and_everything_comes_back() {
        fn enter(load: &Load, bytes: usize) -> bool {
            let took = load.take(bytes);
            let held = load.bytes();
            assert!(held <= 7, "{held} bytes are over the bound");
            if took {
                load.give(bytes);
            }
            took
        }
        loom::model(|| {
            let load = Arc::new(Load::new(7));
            let beside = Arc::clone(&load);
            let other = thread::spawn(move || enter(&beside, 4));
            let took = [enter(&load, 5), enter(&load, 3)];
            let other = other.join().unwrap();
            assert!(other || took[0], "one of them was first");
            assert!(took[1], "3 and 4 have room beside each other");
            assert_eq!(load.bytes(), 0);
            assert!(load.take(7));
        });
    }
}
