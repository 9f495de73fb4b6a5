//! A closed loop: each caller sends its next request when the last is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When a load ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After a tenth of it that is not counted, and all of it.
    Time(Duration),
    /// After so many requests, all of them counted.
    Requests(u64),
}

impl From<Duration> for Until {
    fn from(length: Duration) -> Self {
        Self::Time(length)
    }
}

/// What one run of the loop measured.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Answered requests a second.
    pub per_second: f64,
    /// Median time to the answer.
    pub p50: Duration,
    /// 99th percentile of it.
    pub p99: Duration,
    /// 99.9th percentile of it.
    pub p999: Duration,
    /// Requests that were answered, counted or not: what the processes of the run have worked for.
    pub answered: u64,
}

/// Which requests are made, and which of them count; shared by all who make them.
#[derive(Debug)]
pub struct Course {
    number: AtomicU64,
    answered: AtomicU64,
    begun: Instant,
    until: Until,
}

/// What one caller has counted.
#[derive(Debug)]
pub struct Tally {
    latency_us: Histogram<u64>,
}

impl Course {
    /// Begins now.
    #[must_use]
    pub fn new(until: Until) -> Self {
        let (number, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { number, answered, begun: Instant::now(), until }
    }

    /// The number of the next request, which no other has, unless it is over.
    pub fn next(&self, now: Instant) -> Option<u64> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let more = match self.until {
            Until::Time(length) => now < self.counted_from() + length,
            Until::Requests(requests) => number < requests,
        };
        more.then_some(number)
    }

    /// Counts an answer that came now, unless it is of too early or came too late.
    pub fn count(&self, tally: &mut Tally, begun: Instant, now: Instant) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let is_late = match self.until {
            Until::Time(length) => self.counted_from() + length <= now,
            Until::Requests(_) => false,
        };
        if self.counted_from() <= begun && !is_late {
            tally.latency_us.saturating_record((now - begun).as_micros() as u64);
        }
    }

    /// What came of it, when each answer was for so many requests.
    #[must_use]
    pub fn ended(&self, all: &Tally, each: usize) -> Sample {
        let length = match self.until {
            Until::Time(length) => length,
            Until::Requests(_) => self.begun.elapsed(),
        };
        let quantile = |q| Duration::from_micros(all.latency_us.value_at_quantile(q));
        Sample {
            per_second: (all.latency_us.len() as usize * each) as f64 / length.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            answered: self.answered.load(Ordering::Relaxed) * each as u64,
        }
    }

    fn counted_from(&self) -> Instant {
        match self.until {
            Until::Time(length) => self.begun + length / 10,
            Until::Requests(_) => self.begun,
        }
    }
}

impl Default for Tally {
    /// Microseconds, from one to a minute.
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3);
        Self { latency_us: latency_us.expect("three digits up to a minute") }
    }
}

impl Tally {
    /// What another has counted, too.
    pub fn add(&mut self, other: &Self) {
        self.latency_us.add(&other.latency_us).expect("all have the same bounds");
    }
}

/// Runs `callers` loops. `request` gets a number that no other request has.
///
/// # Errors
/// The first request that failed, for people.
pub async fn closed_loop<F>(
    callers: usize,
    until: impl Into<Until>,
    request: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Result<Sample, String>
where
    F: Future<Output = Result<(), String>> + Send,
{
    let course = Arc::new(Course::new(until.into()));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (request, course) = (request.clone(), Arc::clone(&course));
        tasks.spawn(async move {
            let mut tally = Tally::default();
            loop {
                let begun = Instant::now();
                let Some(number) = course.next(begun) else { return Ok::<_, String>(tally) };
                request(number).await?;
                course.count(&mut tally, begun, Instant::now());
            }
        });
    }
    let mut all = Tally::default();
    while let Some(done) = tasks.join_next().await {
        all.add(&done.map_err(|error| error.to_string())??);
    }
    Ok(course.ended(&all, 1))
}

/// The same with a thread for each caller, for requests that block.
///
/// # Errors
/// The first request that failed, for people.
pub fn closed_loop_of_threads(
    callers: usize,
    until: impl Into<Until>,
    request: impl Fn(u64) -> Result<(), String> + Sync,
) -> Result<Sample, String> {
    let course = Course::new(until.into());
    let call = || {
        let mut tally = Tally::default();
        loop {
            let begun = Instant::now();
            let Some(number) = course.next(begun) else { return Ok::<_, String>(tally) };
            request(number)?;
            course.count(&mut tally, begun, Instant::now());
        }
    };
    let all = thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(call)).collect();
        let mut all = Tally::default();
        for caller in callers {
            all.add(&caller.join().map_err(|_| "a caller has panicked".to_owned())??);
        }
        Ok::<_, String>(all)
    });
    Ok(course.ended(&all?, 1))
}

impl Sample {
    /// The same, where each answer was for so many.
    #[must_use]
    pub fn times(self, each: usize) -> Self {
        let (per_second, answered) = (self.per_second * each as f64, self.answered * each as u64);
        Self { per_second, answered, ..self }
    }
}

/// The sample in the middle, by its rate.
///
/// # Panics
/// Without samples.
#[must_use]
pub fn median(mut samples: Vec<Sample>) -> Sample {
    samples.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    samples[samples.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loop_counts_answers_and_passes_failures_on() {
        let length = Duration::from_millis(50);
        let answer = |_| async {
            tokio::task::yield_now().await;
            Ok(())
        };
        assert!(closed_loop(2, length, answer).await.unwrap().per_second > 0.0);
        let slow = |_| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        };
        assert!(closed_loop(2, length, slow).await.unwrap().p50 >= Duration::from_millis(10));
        let fail = |number| async move { if number > 5 { Err("six".to_owned()) } else { Ok(()) } };
        assert_eq!(closed_loop(2, length, fail).await.unwrap_err(), "six");
    }

    #[tokio::test]
    async fn so_many_requests_are_made_and_no_more() {
        let made = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&made);
        let request = move |_| {
            let made = Arc::clone(&counter);
            async move {
                made.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        };
        let sample = closed_loop(3, Until::Requests(100), request).await.unwrap();
        assert_eq!((sample.answered, made.load(Ordering::Relaxed)), (100, 100));
        let request = |_| {
            made.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let sample = closed_loop_of_threads(3, Until::Requests(100), request).unwrap();
        assert_eq!((sample.answered, made.load(Ordering::Relaxed)), (100, 200));
        let fail = |number| if number == 7 { Err("seven".to_owned()) } else { Ok(()) };
        assert_eq!(closed_loop_of_threads(2, Until::Requests(9), fail).unwrap_err(), "seven");
    }

    /// Of a hundred answers that took one to a hundred milliseconds.
    #[test]
    fn percentiles_are_those_of_the_answers() {
        let course = Course::new(Until::Time(Duration::from_secs(20)));
        let (mut one, mut other) = (Tally::default(), Tally::default());
        let now = course.begun + Duration::from_secs(3);
        for at in 1..=100_u64 {
            let tally = if at % 2 == 0 { &mut one } else { &mut other };
            course.count(tally, now - Duration::from_millis(at), now);
        }
        one.add(&other);
        let sample = course.ended(&one, 4);
        // Three digits.
        let is = |found: Duration, ms: u64| found.as_micros().abs_diff(1000 * u128::from(ms)) <= 60;
        assert!(is(sample.p50, 50) && is(sample.p99, 99) && is(sample.p999, 100), "{sample:?}");
        assert_eq!((sample.per_second, sample.answered), (20.0, 400));
    }

    /// A tenth before is made but not counted, and what comes too late is not counted either.
    #[test]
    fn only_what_begins_and_ends_in_time_counts() {
        let course = Course::new(Until::Time(Duration::from_millis(1000)));
        let (begun, at) = (course.begun, |ms| course.begun + Duration::from_millis(ms));
        let mut tally = Tally::default();
        for (from, to) in [(0, 50), (90, 110), (100, 200), (1000, 1099), (1000, 1100)] {
            course.count(&mut tally, at(from), at(to));
        }
        assert_eq!((course.ended(&tally, 1).per_second, tally.latency_us.len()), (2.0, 2));
        assert_eq!(course.ended(&tally, 1).answered, 5);
        assert!(course.next(begun).is_some() && course.next(at(1099)).is_some());
        assert_eq!(course.next(at(1100)), None);
    }
}
