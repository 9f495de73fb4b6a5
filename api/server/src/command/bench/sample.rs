//! What a load has measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency that is told from longer ones: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Percentiles that are told.
const PERCENTS: [f64; 3] = [50.0, 99.0, 99.9];

/// Requests that were answered, and how soon.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) latency_us: Histogram<u64>,
    /// Those that failed, by their code. They are not in the histogram.
    pub(super) failed: BTreeMap<String, u64>,
    /// How many were answered in each second.
    pub(super) by_second: Vec<u64>,
    /// How long was counted.
    pub(super) length: Duration,
}

impl Sample {
    pub(super) fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self {
            latency_us: latency_us.expect("three digits up to a minute"),
            failed: BTreeMap::new(),
            by_second: Vec::new(),
            length: Duration::ZERO,
        }
    }

    /// A request that was answered so long after the beginning.
    pub(super) fn answered(&mut self, since: Duration, latency: Duration) {
        self.latency_us.saturating_record(latency.as_micros() as u64);
        let second = since.as_secs() as usize;
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0);
        }
        self.by_second[second] += 1;
    }

    pub(super) fn failed(&mut self, code: &str) {
        *self.failed.entry(code.to_owned()).or_default() += 1;
    }

    /// What others have measured beside.
    pub(super) fn add(&mut self, other: Self) {
        self.latency_us.add(&other.latency_us).expect("all have the same bounds");
        for (code, count) in other.failed {
            *self.failed.entry(code).or_default() += count;
        }
        self.by_second.resize(self.by_second.len().max(other.by_second.len()), 0);
        for (second, count) in other.by_second.into_iter().enumerate() {
            self.by_second[second] += count;
        }
        self.length = self.length.max(other.length);
    }

    pub(super) fn operations(&self) -> u64 {
        self.latency_us.len()
    }

    pub(super) fn per_second(&self) -> f64 {
        let seconds = self.length.as_secs_f64();
        if seconds > 0.0 { self.operations() as f64 / seconds } else { 0.0 }
    }

    pub(super) fn percentiles(&self) -> [(f64, u64); 3] {
        PERCENTS.map(|percent| (percent, self.latency_us.value_at_percentile(percent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_add_up() {
        let ms = Duration::from_millis;
        let (mut one, mut other) = (Sample::new(), Sample::new());
        one.answered(ms(10), ms(1));
        one.length = ms(500);
        other.answered(ms(1500), ms(3));
        other.failed("Fenced");
        other.length = ms(2000);
        one.add(other);
        assert_eq!((one.operations(), &one.by_second[..]), (2, &[1, 1][..]));
        assert_eq!((one.per_second(), one.failed["Fenced"]), (1.0, 1));
        assert_eq!(one.percentiles()[0].1 / 1000, 1);
        assert_eq!(Sample::new().per_second(), 0.0);
    }
}
