//! What the runs have come to: a table for people, all runs as JSON, and plots.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Args;
use crate::goals::{Bound, Figure, Goals, Missing, Row};
use crate::load::Run;
use crate::middle::ratio;
use crate::parties::{NATS_SERVER, postgres_program, zookeeper_version};
use crate::plots::plots;
use crate::server::{text, version};

/// Under which a ratio says little: the one in the middle of fewer runs moves with whatever else is done.
const RUNS_MIN: u64 = 5;
const SECONDS_MIN: u64 = 5;

/// All that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    conditions: Conditions,
    pub(crate) lines: Vec<Line>,
    pub(crate) drawn: Vec<Drawn>,
}

/// The machine, what ran on it, and how.
#[derive(Serialize)]
pub(crate) struct Conditions {
    cores: usize,
    memory_mib: u64,
    processor: String,
    kernel: String,
    /// Processes that wanted a core when it began, averaged over a minute: ours is not one of them.
    load_average: String,
    runs: u64,
    seconds: u64,
    requests: Option<u64>,
    keys: String,
    versions: Vec<(String, String)>,
}

/// One row.
#[derive(Serialize)]
pub(crate) struct Line {
    title: String,
    against: &'static str,
    ours: Vec<Run>,
    theirs: Vec<Run>,
    /// None of it, and why.
    not_measured: Option<String>,
    #[serde(skip)]
    goals: Vec<(Figure, Option<Bound>)>,
}

/// Figures of some parties by how much is under way.
#[derive(Serialize)]
pub(crate) struct Drawn {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
    pub(crate) absent: BTreeSet<String>,
}

#[derive(Serialize)]
pub(crate) struct Point {
    pub(crate) party: &'static str,
    pub(crate) in_flight: u64,
    pub(crate) runs: Vec<Run>,
}

impl Point {
    pub(crate) fn of(party: &'static str, in_flight: u64, runs: Vec<Run>) -> Self {
        Self { party, in_flight, runs }
    }
}

impl Conditions {
    pub(crate) async fn now(args: &Args) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let line = |path: &str, name: &str| {
            let text = read(path);
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches([' ', '\t', ':']).to_owned()
        };
        let kib = line("/proc/meminfo", "MemTotal");
        let kib = kib.split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        let mut versions = Vec::new();
        for name in ["etcd", NATS_SERVER, "redis-server", "java"] {
            versions.push((name.to_owned(), version(name).await));
        }
        versions.push(("postgres".to_owned(), version(&postgres_program("postgres")).await));
        versions.push(("zookeeper".to_owned(), zookeeper_version()));
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kib.unwrap_or_default() / 1024,
            processor: line("/proc/cpuinfo", "model name"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            runs: args.runs,
            seconds: args.seconds,
            requests: args.requests,
            keys: args.keys.into(),
            versions,
        }
    }

    /// Whether the figures are worth repeating to anybody.
    fn is_short(&self) -> bool {
        self.runs < RUNS_MIN || (self.requests.is_none() && self.seconds < SECONDS_MIN)
    }
}

impl Line {
    pub(crate) fn measured(row: &Row, ours: Vec<Run>, theirs: Vec<Run>) -> Self {
        let (title, against) = (row.title(), row.against.name());
        Self { title, against, ours, theirs, not_measured: None, goals: row.goals() }
    }

    pub(crate) fn not_measured(row: &Row, why: String) -> Self {
        let (title, against) = (row.title(), row.against.name());
        let (ours, theirs) = (Vec::new(), Vec::new());
        Self { title, against, ours, theirs, not_measured: Some(why), goals: row.goals() }
    }

    /// For each goal: ours, theirs, the ratio, the goal, and whether it is met.
    fn told(&self) -> Vec<[String; 7]> {
        let told = |(figure, bound): &(Figure, Option<Bound>)| {
            let goal = bound.map_or("reference".to_owned(), Bound::shown);
            if let Some(why) = &self.not_measured {
                let nothing = || "-".to_owned();
                let why = format!("not measured: {why}");
                return [
                    self.title.clone(),
                    self.against.into(),
                    nothing(),
                    nothing(),
                    nothing(),
                    goal,
                    why,
                ];
            }
            let (ours, theirs) = (figure.of(&self.ours), figure.of(&self.theirs));
            let ratio = ratio(ours, theirs);
            let verdict = match bound.map(|bound| bound.is_met(ratio)) {
                None => "",
                Some(true) => "met",
                Some(false) => "NOT MET",
            };
            [
                self.title.clone(),
                self.against.to_owned(),
                figure.shown(ours),
                figure.shown(theirs),
                format!("{ratio:.2}"),
                goal,
                verdict.to_owned(),
            ]
        };
        self.goals.iter().map(told).collect()
    }
}

impl Report {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self { conditions, lines: Vec::new(), drawn: Vec::new() }
    }

    /// Writes all runs, and the plots, below a folder.
    pub(crate) fn write(&self, out: &Path, goals: &Goals) -> Result<(), String> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            missing: &'a [Missing],
        }
        fs::create_dir_all(out).map_err(text)?;
        let whole = Whole { report: self, missing: &goals.missing };
        let mut json = serde_json::to_string_pretty(&whole).map_err(text)?;
        json.push('\n');
        fs::write(out.join("results.json"), json).map_err(text)?;
        for drawn in &self.drawn {
            for (name, svg) in plots(drawn) {
                fs::write(out.join(format!("{name}.svg")), svg).map_err(text)?;
            }
        }
        println!("written: {}", out.display());
        Ok(())
    }
}

/// The table, with what is missing, and what each party promises.
pub(crate) fn print(goals: &Goals, report: &Report) {
    let mut rows =
        vec![["work", "against", "ours", "theirs", "ratio", "goal", ""].map(str::to_owned)];
    rows.extend(report.lines.iter().flat_map(Line::told));
    for Missing { work, against, goal, why } in &goals.missing {
        let nothing = || "-".to_owned();
        let why = format!("missing: {why}");
        rows.push([
            work.clone(),
            against.clone(),
            nothing(),
            nothing(),
            nothing(),
            goal.clone(),
            why,
        ]);
    }
    let widths: Vec<usize> =
        (0..7).map(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or_default()).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
    println!();
    for (peer, about) in &goals.peer {
        if report.lines.iter().any(|line| line.against == peer.name()) {
            println!("{}: {} {}", peer.name(), about.is, about.durable);
        }
    }
    for drawn in &report.drawn {
        drawn.absent.iter().for_each(|absent| println!("{}: {absent}", drawn.name));
    }
    let Conditions { cores, processor, runs, seconds, load_average, .. } = &report.conditions;
    println!(
        "{cores} cores, {processor}; load average at the beginning {load_average}; medians of {runs} \
         alternating runs of {seconds} s"
    );
    if report.conditions.is_short() {
        println!("A short form, to see that it works: these are no figures to repeat.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Cost, Told};

    fn run(per_second: f64, p99_us: u64) -> Run {
        let told = format!(
            "{{\"per_second\":{per_second},\"p50_us\":1,\"p99_us\":{p99_us},\"p999_us\":9,\"answered\":10}}"
        );
        let told: Told = serde_json::from_str(&told).unwrap();
        let cost = Cost { cpu_seconds: 0.5, disk_bytes: Some(5120), syncs: Some(5) };
        Run::of(told, cost)
    }

    fn line(goals: Vec<(Figure, Option<Bound>)>, theirs: &[(f64, u64)]) -> Line {
        Line {
            title: "work".to_owned(),
            against: "etcd",
            ours: [30.0, 10.0, 20.0].map(|rate| run(rate, 400)).to_vec(),
            theirs: theirs.iter().map(|(rate, p99)| run(*rate, *p99)).collect(),
            not_measured: None,
            goals,
        }
    }

    #[test]
    fn what_servers_took_is_told_for_each_operation() {
        let run = run(1.0, 1);
        assert_eq!((run.cpu_seconds_of_1000, run.disk_bytes_each), (50.0, Some(512.0)));
        assert_eq!(run.syncs_each, Some(0.5));
    }

    #[test]
    fn a_goal_is_judged_by_medians() {
        let goals = vec![
            (Figure::Rate, Some(Bound::AtLeast(2.0))),
            (Figure::P99, Some(Bound::AtMost(0.5))),
            (Figure::Rate, None),
        ];
        let told = line(goals, &[(10.0, 1000), (10.0, 500), (100.0, 600)]).told();
        let ends = told.map_rows();
        assert_eq!(ends[0], ["20/s", "10/s", "2.00", ">= 2", "met"]);
        assert_eq!(ends[1], ["p99 0.40 ms", "p99 0.60 ms", "0.67", "<= 0.5", "NOT MET"]);
        assert_eq!(ends[2], ["20/s", "10/s", "2.00", "reference", ""]);
    }

    #[test]
    fn what_was_not_measured_says_why_and_meets_nothing() {
        let goals = vec![(Figure::Rate, Some(Bound::AtLeast(0.0)))];
        let line = Line { not_measured: Some("gone".to_owned()), ..line(goals, &[]) };
        assert_eq!(line.told().map_rows()[0], ["-", "-", "-", ">= 0", "not measured: gone"]);
    }

    trait MapRows {
        fn map_rows(&self) -> Vec<[&str; 5]>;
    }

    impl MapRows for Vec<[String; 7]> {
        fn map_rows(&self) -> Vec<[&str; 5]> {
            self.iter().map(|row| std::array::from_fn(|at| row[at + 2].as_str())).collect()
        }
    }
}
