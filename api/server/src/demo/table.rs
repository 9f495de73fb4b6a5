//! What the demo prints: progress while it runs, and a short table at the end.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::{DemoSummary, PhaseStats};

/// Counts acknowledgements, measures them, and says how far it is.
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    begun: Instant,
    count: AtomicU64,
    repeated: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    latency_us: Histogram<u64>,
    acknowledged_at: Vec<Instant>,
    killed_at: Option<Instant>,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: usize) -> Self {
        let latency_us = Histogram::new_with_bounds(1, 120_000_000, 3).expect("fixed bounds");
        Self {
            what,
            total: total as u64,
            begun: Instant::now(),
            count: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            inner: Mutex::new(Inner { latency_us, acknowledged_at: Vec::new(), killed_at: None }),
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn repeated(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn acknowledged(&self, since: Instant) {
        let now = Instant::now();
        {
            let mut inner = self.inner.lock().expect("no code panics while it holds the counts");
            inner.latency_us.saturating_record((now - since).as_micros() as u64);
            inner.acknowledged_at.push(now);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let step = if std::io::stderr().is_terminal() { 100 } else { (self.total / 5).max(1) };
        if count.is_multiple_of(step) || count == self.total {
            self.say(&format!("{} {count} of {}", self.what, self.total), count == self.total);
        }
    }

    fn say(&self, line: &str, last: bool) {
        let mut out = std::io::stderr().lock();
        // Progress is a courtesy: a closed pipe must not stop the demo.
        let _ = if std::io::stderr().is_terminal() {
            write!(out, "\r\x1b[K{line}{}", if last { "\n" } else { "" }).and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    pub(super) fn killed(&self, node: usize) {
        self.inner.lock().expect("no code panics while it holds the counts").killed_at =
            Some(Instant::now());
        self.say(
            &format!("{} {}: SIGKILL to the leader, node {}", self.what, self.count(), node + 1),
            true,
        );
    }

    pub(super) fn finish(&self) -> PhaseStats {
        let mut inner = self.inner.lock().expect("no code panics while it holds the counts");
        inner.acknowledged_at.sort_unstable();
        let at = &inner.acknowledged_at;
        // The longest silence that ended after the kill: the failover.
        let gap = inner.killed_at.map_or(Duration::ZERO, |killed| {
            at.windows(2)
                .filter(|pair| killed < pair[1])
                .map(|pair| pair[1] - pair[0])
                .max()
                .unwrap_or_default()
        });
        let quantile = |q| Duration::from_micros(inner.latency_us.value_at_quantile(q));
        PhaseStats {
            acknowledged: at.len() as u64,
            elapsed: at.last().map_or(Duration::ZERO, |last| *last - self.begun),
            p50: quantile(0.5),
            p99: quantile(0.99),
            gap,
            repeated: self.repeated.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Display for DemoSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<10} {:>9} {:>10} {:>9} {:>9} {:>13} {:>9}",
            "phase", "acked", "records/s", "p50", "p99", "failover gap", "repeated"
        )?;
        for (name, stats) in [("loading", &self.loading), ("reporting", &self.reporting)] {
            writeln!(
                f,
                "{name:<10} {:>9} {:>10.0} {:>9} {:>9} {:>13} {:>9}",
                stats.acknowledged,
                stats.rate(),
                ms(stats.p50),
                ms(stats.p99),
                ms(stats.gap),
                stats.repeated
            )?;
        }
        writeln!(f)?;
        self.verified.iter().try_for_each(|line| writeln!(f, "verified: {line}"))
    }
}

impl PhaseStats {
    /// Acknowledgements in a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Says how to look at a cluster that stays up.
pub(super) fn print_keep(cluster: &Cluster) {
    let [one, two, three] = cluster.addresses();
    eprintln!();
    eprintln!(
        "the cluster stays up until Ctrl-C; pids {:?}, data in {}",
        cluster.pids(),
        cluster.dir().display()
    );
    eprintln!("  consoles: {}", cluster.consoles().join("  "));
    eprintln!("  curl http://{one}/status");
    eprintln!("  curl http://{two}/airports/ATL");
    eprintln!("  curl http://{three}/reports/report-ATL-2001-01");
    eprintln!(
        "  curl -i http://{one}/reports -H 'content-type: application/json' \\\n    \
         -d '{{\"request_id\":\"mine-1\",\"airport\":\"ATL\",\"month\":\"2001-02\"}}'"
    );
}
