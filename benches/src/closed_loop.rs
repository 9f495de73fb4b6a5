//! A closed loop: each caller sends its next request when the last is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What one run of the loop measured.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Answered requests a second.
    pub per_second: f64,
    /// Median time to the answer.
    pub p50: Duration,
    /// 99th percentile of it.
    pub p99: Duration,
}

/// Runs `callers` loops for `length`, after a tenth of it that is not counted. `request` gets a
/// number that no other request has.
///
/// # Errors
/// The first request that failed, for people.
pub async fn closed_loop<F>(
    callers: usize,
    length: Duration,
    request: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Result<Sample, String>
where
    F: Future<Output = Result<(), String>> + Send,
{
    let numbers = Arc::new(AtomicU64::new(0));
    let counted_from = Instant::now() + length / 10;
    let end = counted_from + length;
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (request, numbers) = (request.clone(), Arc::clone(&numbers));
        tasks.spawn(async move {
            let mut latency_us = latencies()?;
            loop {
                let begun = Instant::now();
                if begun >= end {
                    return Ok::<_, String>(latency_us);
                }
                request(numbers.fetch_add(1, Ordering::Relaxed)).await?;
                let now = Instant::now();
                if counted_from <= begun && now < end {
                    latency_us.saturating_record((now - begun).as_micros() as u64);
                }
            }
        });
    }
    let mut all = latencies()?;
    while let Some(done) = tasks.join_next().await {
        let one = done.map_err(|error| error.to_string())??;
        all.add(one).map_err(|error| error.to_string())?;
    }
    Ok(Sample::of(&all, 1, length))
}

impl Sample {
    /// Of how long each answer took, when each was for so many.
    pub(crate) fn of(latency_us: &Histogram<u64>, each: usize, length: Duration) -> Self {
        let quantile = |q| Duration::from_micros(latency_us.value_at_quantile(q));
        Self {
            per_second: (latency_us.len() as usize * each) as f64 / length.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }

    /// The same, where each answer was for so many.
    #[must_use]
    pub fn times(self, each: usize) -> Self {
        Self { per_second: self.per_second * each as f64, ..self }
    }
}

/// Microseconds, from one to a minute.
pub(crate) fn latencies() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())
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
}
