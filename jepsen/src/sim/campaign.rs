//! Many seeds, side by side.

#![expect(
    clippy::disallowed_methods,
    reason = "how long people wait; runs have clocks of their own"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Failure, Report, Shape, run};

/// What a campaign runs.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many seeds, if it is not the time that ends it.
    pub seeds: Option<u64>,
    /// No seed is begun after so long.
    pub time: Option<Duration>,
    /// Seeds at a time.
    pub threads: usize,
    /// It ends after so many seeds that failed.
    pub failures_max: usize,
}

impl Campaign {
    /// Runs it. `each` is told of every seed as it ends.
    ///
    /// # Panics
    /// When one of its threads does, outside of a run.
    pub fn run(
        &self,
        each: impl Fn(u64, &Result<(), Failure>) + Sync,
    ) -> (Report, Vec<(Shape, Failure)>) {
        let next = AtomicU64::new(0);
        let ended = Mutex::new((Report::default(), Vec::new()));
        let started = Instant::now();
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let late = self.time.is_some_and(|time| started.elapsed() >= time);
                if late || self.seeds.is_some_and(|seeds| number >= seeds) {
                    return;
                }
                let shape = Shape::of_seed(self.from.wrapping_add(number));
                let before = thread_cpu_us();
                let result = run(&shape);
                let took = thread_cpu_us().saturating_sub(before);
                let mut ended = ended.lock().expect("nobody panics with it");
                let (report, failures) = &mut *ended;
                each(shape.seed, &result.as_ref().map(|_| ()).map_err(Clone::clone));
                match result {
                    Ok(run) => report.add(&run, took),
                    Err(failure) => failures.push((shape, failure)),
                }
                if failures.len() >= self.failures_max {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(work);
            }
        });
        ended.into_inner().expect("nobody panics with it")
    }
}

/// Processor time of the calling thread so far, or 0 where the kernel does not say.
fn thread_cpu_us() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|raw| raw.parse::<u64>().ok());
    ns.unwrap_or(0) / 1000
}
