//! Plots of a sample as one SVG: latency by percentile, and answers by second. No script, no font, no link.

use std::fmt::Write;

use super::load::Load;
use super::sample::Sample;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// Around a plot: left for its numbers, right, above, below.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
/// Lines across a plot.
const LINES: u32 = 4;
/// Percentiles up to 99.99: on the axis, each nine takes as much room.
const NINES: f64 = 4.0;
const POINTS: u32 = 80;

/// One plot, and where it lies.
struct Panel {
    top: f64,
    highest: f64,
}

impl Panel {
    fn new(number: u32, highest: f64) -> Self {
        // A round number above, so that the lines have round ones too.
        let step = 10_f64.powf(highest.max(1e-3).log10().floor());
        let highest = (highest / step).ceil().max(1.0) * step;
        Self { top: f64::from(number) * HEIGHT, highest }
    }

    fn x(share: f64) -> f64 {
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let room = HEIGHT - TOP - BOTTOM;
        self.top + TOP + room * (1.0 - value / self.highest)
    }

    fn frame(&self, out: &mut String, title: &str, below: &[(f64, String)]) {
        let (left, right) = (Self::x(0.0), Self::x(1.0));
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
            self.top + 24.0
        );
        for line in 0..=LINES {
            let value = self.highest * f64::from(line) / f64::from(LINES);
            let y = self.y(value);
            let _ = writeln!(out, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ccc\"/>");
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 4.0,
                short(value)
            );
        }
        for (share, text) in below {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                Self::x(*share),
                self.y(0.0) + 18.0
            );
        }
    }

    fn line(&self, out: &mut String, points: impl Iterator<Item = (f64, f64)>) {
        let points: Vec<String> = points
            .map(|(share, value)| format!("{:.1},{:.1}", Self::x(share), self.y(value)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    }
}

/// With what is behind the point only where something is.
fn short(value: f64) -> String {
    if value >= 10_000.0 {
        return format!("{:.0}k", value / 1000.0);
    }
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Both plots, for a browser or a page.
pub(super) fn svg(load: &Load, sample: &Sample) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        2.0 * HEIGHT
    );
    let ms = |percent: f64| sample.latency_us.value_at_percentile(percent) as f64 / 1000.0;
    let percent = |share: f64| 100.0 * (1.0 - 10_f64.powf(-share * NINES));
    let latency = Panel::new(0, ms(percent(1.0)));
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
    latency.frame(&mut out, &format!("{shape} | latency in ms, by percentile"), &below);
    let shares = (0..=POINTS).map(|at| f64::from(at) / f64::from(POINTS));
    latency.line(&mut out, shares.map(|share| (share, ms(percent(share)))));

    // The last second is seldom a whole one.
    let whole =
        (sample.length.as_secs_f64().round() as usize).clamp(1, sample.by_second.len().max(1));
    let seconds = &sample.by_second[..whole.min(sample.by_second.len())];
    let highest = seconds.iter().copied().max().unwrap_or_default();
    let answers = Panel::new(1, highest as f64);
    let last = seconds.len().saturating_sub(1).max(1) as f64;
    let below = [(0.0, "1".to_owned()), (1.0, seconds.len().to_string())];
    answers.frame(&mut out, "answers in each second", &below);
    let points = seconds.iter().enumerate().map(|(at, count)| (at as f64 / last, *count as f64));
    answers.line(&mut out, points);
    out.push_str("</svg>\n");
    out
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

    /// Every point lies in its plot, and each element is closed.
    #[test]
    fn a_plot_is_whole() {
        let mut sample = Sample::new();
        for at in 0..5000_u64 {
            sample.answered(Duration::from_millis(at), Duration::from_micros(100 + at));
        }
        sample.length = Duration::from_secs(5);
        for text in [plot(&sample), plot(&Sample::new())] {
            assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            assert_eq!(text.matches("<polyline").count(), 2);
            for points in text.split("points=\"").skip(1) {
                let points = points.split('"').next().unwrap();
                for point in points.split_whitespace() {
                    let (x, y) = point.split_once(',').unwrap();
                    assert!((LEFT..=WIDTH - RIGHT).contains(&x.parse().unwrap()), "{point}");
                    assert!((TOP..=2.0 * HEIGHT - BOTTOM).contains(&y.parse().unwrap()), "{point}");
                }
            }
        }
        assert!(plot(&sample).contains(">99.9</text>"));
    }
}
