//! Plots of figures by how much is under way: throughput by concurrency, latency by load, cost by concurrency.

use std::collections::BTreeMap;

use palisade_server::plot::{Panel, svg};

use crate::goals::Figure;
use crate::report::{Drawn, Point};

/// The name of each plot, and the plot.
pub(crate) fn plots(drawn: &Drawn) -> Vec<(String, String)> {
    let mut lines: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
    for point in &drawn.points {
        lines.entry(point.party).or_default().push(point);
    }
    let by_concurrency = |title: &str, figure: Figure| {
        let counts: Vec<u64> = drawn.points.iter().map(|point| point.in_flight).collect();
        let place = |in_flight: u64| place(in_flight as f64, &counts);
        let mut marks = counts.clone();
        marks.sort_unstable();
        marks.dedup();
        let below = marks.iter().map(|count| (place(*count), count.to_string())).collect();
        let mut panel = Panel::new(title, below);
        for (party, points) in &lines {
            let points = points.iter();
            let value = |point: &&Point| (place(point.in_flight), figure.of(&point.runs));
            panel = panel.line(*party, points.map(value));
        }
        panel
    };
    let name = &drawn.name;
    let rate = by_concurrency(
        &format!("{name} | operations a second, by how many are in flight"),
        Figure::Rate,
    );
    let cost = by_concurrency(
        &format!("{name} | processor seconds of the servers for 1,000 operations"),
        Figure::Cpu,
    );
    let latency = by_load(drawn, &lines);
    vec![
        (format!("{name}-throughput"), svg(&[rate])),
        (format!("{name}-latency"), svg(&[latency])),
        (format!("{name}-cost"), svg(&[cost])),
    ]
}

/// The 99th percentile over the rate that was reached with it.
fn by_load(drawn: &Drawn, lines: &BTreeMap<&str, Vec<&Point>>) -> Panel {
    let rates = drawn.points.iter().map(|point| Figure::Rate.of(&point.runs));
    let highest = rates.fold(1.0, f64::max);
    let mark = |share: f64| (share, format!("{:.0}/s", share * highest));
    let below = [0.0, 0.25, 0.5, 0.75, 1.0].map(mark).to_vec();
    let title = format!("{} | p99 in ms, by operations a second", drawn.name);
    let mut panel = Panel::new(title, below);
    for (party, points) in lines {
        let place = |point: &&Point| {
            (Figure::Rate.of(&point.runs) / highest, Figure::P99.of(&point.runs) / 1000.0)
        };
        panel = panel.line(*party, points.iter().map(place));
    }
    panel
}

/// Where a number lies between the least and the most: each doubling takes as much room.
fn place(value: f64, all: &[u64]) -> f64 {
    let log = |value: f64| value.max(1.0).log2();
    let least = log(all.iter().min().copied().unwrap_or(1) as f64);
    let most = log(all.iter().max().copied().unwrap_or(1) as f64);
    if most > least { (log(value) - least) / (most - least) } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doublings_take_as_much_room() {
        let all = [1, 4, 16, 256];
        let places: Vec<f64> = all.iter().map(|count| place(*count as f64, &all)).collect();
        assert_eq!(places, [0.0, 0.25, 0.5, 1.0]);
        assert_eq!((place(7.0, &[7]), place(0.0, &[])), (0.5, 0.5));
    }
}
