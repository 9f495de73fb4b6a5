//! The last ten minutes, for plots: a point every five seconds, each with the percentiles of its calls.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::calls::Does;
use super::lock;
use super::sample::Sample;

/// Points that are kept.
const POINTS_MAX: usize = 120;
/// Longest latency that is told from a longer one, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// Calls of one kind between two points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latencies {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p95_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) most_us: u64,
}

/// What was seen between two points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Milliseconds since 1970, by this machine's clock.
    pub(crate) at_ms: u64,
    /// Since the point before, or since the first call.
    pub(crate) seconds: f64,
    pub(crate) writes: Latencies,
    pub(crate) reads: Latencies,
    /// Calls that were not answered with what they asked for.
    pub(crate) refused: u64,
    /// Records applied here, over all groups.
    pub(crate) applied: u64,
    pub(crate) records_behind: u64,
    pub(crate) sync_ms: u64,
}

#[derive(Debug)]
struct Inner {
    writes: Histogram<u64>,
    reads: Histogram<u64>,
    refused: u64,
    applied: Option<u64>,
    at_ms: Option<u64>,
    points: VecDeque<Point>,
}

/// The points of one node.
#[derive(Debug)]
pub(crate) struct History {
    inner: Mutex<Inner>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("fixed bounds")
}

impl Latencies {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p95_us: at(0.95),
            p99_us: at(0.99),
            most_us: histogram.max(),
        }
    }
}

impl History {
    /// Between two points.
    pub(crate) const POINT_EVERY: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        let inner = Inner {
            writes: histogram(),
            reads: histogram(),
            refused: 0,
            applied: None,
            at_ms: None,
            points: VecDeque::new(),
        };
        Self { inner: Mutex::new(inner) }
    }

    /// A call has ended.
    pub(super) fn note(&self, does: Does, took: Duration, refused: bool) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut inner = lock(&self.inner);
        match does {
            Does::Writes => inner.writes.saturating_record(us),
            Does::Reads => inner.reads.saturating_record(us),
            Does::Streams => {}
        }
        inner.refused += u64::from(refused);
    }

    /// A point is made of what there was since the last one.
    pub(crate) fn close(&self, at_ms: u64, sample: &Sample) {
        let mut inner = lock(&self.inner);
        let applied = sample.applied();
        let since = inner.at_ms.map_or(Self::POINT_EVERY.as_millis() as u64, |before| {
            // The clock may be set back.
            at_ms.saturating_sub(before).max(1)
        });
        let point = Point {
            at_ms,
            seconds: since as f64 / 1000.0,
            writes: Latencies::of(&inner.writes),
            reads: Latencies::of(&inner.reads),
            refused: inner.refused,
            applied: inner.applied.map_or(0, |before| applied.saturating_sub(before)),
            records_behind: sample.records_behind(),
            sync_ms: sample.sync_ms(),
        };
        if inner.points.len() == POINTS_MAX {
            inner.points.pop_front();
        }
        inner.points.push_back(point);
        inner.writes.reset();
        inner.reads.reset();
        (inner.refused, inner.applied, inner.at_ms) = (0, Some(applied), Some(at_ms));
    }

    /// The oldest first.
    pub(crate) fn points(&self) -> Vec<Point> {
        lock(&self.inner).points.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_what_came_since_the_last() {
        let history = History::new();
        for us in 1..=100 {
            history.note(Does::Writes, Duration::from_micros(us), us == 100);
        }
        history.close(1_000, &Sample::default());
        history.note(Does::Reads, Duration::from_secs(3600), false);
        history.close(3_000, &Sample::default());
        let [first, second] = history.points()[..] else { panic!("two points") };
        assert_eq!(
            (first.writes.count, first.refused, first.reads),
            (100, 1, Latencies::default())
        );
        assert!((49..=51).contains(&first.writes.p50_us), "{first:?}");
        assert!((98..=100).contains(&first.writes.p99_us), "{first:?}");
        assert_eq!(
            (second.seconds, second.writes, second.reads.count),
            (2.0, Latencies::default(), 1)
        );
        assert!(second.reads.p50_us >= LATENCY_US_MAX, "an endless call counts as the longest");
    }

    #[test]
    fn points_are_forgotten() {
        let history = History::new();
        for at in 0..2 * POINTS_MAX as u64 {
            history.close(at, &Sample::default());
        }
        let points = history.points();
        assert_eq!((points.len(), points[0].at_ms), (POINTS_MAX, POINTS_MAX as u64));
    }
}
