//! Plots of a sample: latency by percentile, and answers by second.

use super::load::Load;
use super::sample::Sample;
use crate::plot::{self, Panel};

/// Percentiles up to 99.99: on the axis, each nine takes as much room.
const NINES: f64 = 4.0;
const POINTS: u32 = 80;

/// Both plots, for a browser or a page.
pub(super) fn svg(load: &Load, sample: &Sample) -> String {
    let ms = |percent: f64| sample.latency_us.value_at_percentile(percent) as f64 / 1000.0;
    let percent = |share: f64| 100.0 * (1.0 - 10_f64.powf(-share * NINES));
    let shape = format!(
        "{}: {} in flight, {} bytes, {:.0} answers a second",
        load.workload.name(),
        load.in_flight,
        load.payload_bytes,
        sample.per_second()
    );
    let below = ["0", "90", "99", "99.9", "99.99"];
    let below: Vec<(f64, String)> =
        (0..).zip(below).map(|(at, text)| (f64::from(at) / NINES, text.to_owned())).collect();
    let shares = (0..=POINTS).map(|at| f64::from(at) / f64::from(POINTS));
    let latency = Panel::new(format!("{shape} | latency in ms, by percentile"), below)
        .line("latency", shares.map(|share| (share, ms(percent(share)))));

    // The last second is seldom a whole one.
    let whole =
        (sample.length.as_secs_f64().round() as usize).clamp(1, sample.by_second.len().max(1));
    let seconds = &sample.by_second[..whole.min(sample.by_second.len())];
    let last = seconds.len().saturating_sub(1).max(1) as f64;
    let below = vec![(0.0, "1".to_owned()), (1.0, seconds.len().to_string())];
    let points = seconds.iter().enumerate().map(|(at, count)| (at as f64 / last, *count as f64));
    let answers = Panel::new("answers in each second", below).line("answers", points);
    plot::svg(&[latency, answers])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::load::{Until, Workload};
    use super::*;

    fn plot(sample: &Sample) -> String {
        let until = Until::Operations(1);
        let workload = Workload::Put;
        svg(&Load { workload, in_flight: 1, payload_bytes: 1, keys: 1, until }, sample)
    }

    #[test]
    fn both_plots_are_there_even_of_nothing() {
        let mut sample = Sample::new();
        for at in 0..5000_u64 {
            sample.answered(Duration::from_millis(at), Duration::from_micros(100 + at));
        }
        sample.length = Duration::from_secs(5);
        for text in [plot(&sample), plot(&Sample::new())] {
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            assert_eq!(text.matches("<polyline").count(), 2);
        }
        assert!(plot(&sample).contains(">99.9</text>"));
    }
}
