//! How long syncs took: counted without a lock by the thread that makes them, for whoever asks. However
//! long it runs, it is no more than a count for each of a few durations.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper edges of the durations that are told apart, in microseconds. Whatever is longer counts behind the last.
pub const SYNC_EDGES_US: [u64; 15] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

const COUNTS: usize = SYNC_EDGES_US.len() + 1;

/// How many syncs took how long since the wal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncTimes {
    /// One count for each edge, of syncs that took no longer and longer than the edge before, and one for the rest.
    pub counts: [u64; COUNTS],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

/// Where they are counted.
#[derive(Debug, Default)]
pub(crate) struct SyncClock {
    counts: [AtomicU64; COUNTS],
    sum_us: AtomicU64,
}

impl SyncClock {
    pub(crate) fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = SYNC_EDGES_US.partition_point(|edge| *edge < us);
        self.counts[at].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// A sync that ends meanwhile may be in the counts and not in the sum yet.
    pub(crate) fn times(&self) -> SyncTimes {
        SyncTimes {
            counts: self.counts.each_ref().map(|count| count.load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_counts_at_the_first_edge_that_is_no_shorter() {
        let clock = SyncClock::default();
        for us in [0, 50, 51, 5_000_000, 5_000_001] {
            clock.note(Duration::from_micros(us));
        }
        let SyncTimes { counts, sum_us } = clock.times();
        assert_eq!((counts[0], counts[1], counts[14], counts[15]), (2, 1, 1, 1));
        assert_eq!((counts.iter().sum::<u64>(), sum_us), (5, 10_000_102));
    }
}
