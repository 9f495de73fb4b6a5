//! A closed loop without an end, for what happens beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

/// Callers at work until they are stopped.
pub struct Writers {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<(), String>>,
}

#[derive(Debug, Default)]
struct Shared {
    answered: AtomicU64,
    wait_us_max: AtomicU64,
    stop: AtomicBool,
}

/// A stretch of time under way.
#[derive(Clone, Copy, Debug)]
pub struct Lap {
    begun: Instant,
    answered: u64,
}

/// What a stretch of time brought.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// How long it was.
    pub length: Duration,
    /// Answered requests a second.
    pub per_second: f64,
    /// The longest that one request took which was answered in it.
    pub wait_max: Duration,
}

impl Writers {
    /// Starts so many callers. `request` gets a number that no other request has.
    pub fn start<F>(callers: usize, request: impl Fn(u64) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let numbers = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (shared, numbers) = (Arc::clone(&shared), Arc::clone(&numbers));
            let request = request.clone();
            tasks.spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    request(numbers.fetch_add(1, Ordering::Relaxed)).await?;
                    let wait_us = begun.elapsed().as_micros() as u64;
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                    shared.wait_us_max.fetch_max(wait_us, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Self { shared, tasks }
    }

    /// A stretch of time begins here, and the one before ends.
    #[must_use]
    pub fn lap(&self) -> Lap {
        self.shared.wait_us_max.store(0, Ordering::Relaxed);
        Lap { begun: Instant::now(), answered: self.answered() }
    }

    /// What came of a stretch of time up to now.
    #[must_use]
    pub fn since(&self, lap: Lap) -> Stretch {
        let length = lap.begun.elapsed();
        Stretch {
            length,
            per_second: (self.answered() - lap.answered) as f64 / length.as_secs_f64(),
            wait_max: Duration::from_micros(self.shared.wait_us_max.load(Ordering::Relaxed)),
        }
    }

    fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends once every request under way is answered.
    ///
    /// # Errors
    /// The first request that failed.
    pub async fn stop(mut self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stretches_are_counted_apart_and_failures_told() {
        let answer = |number: u64| async move {
            tokio::task::yield_now().await;
            if number == 1000 { Err("a thousand".to_owned()) } else { Ok(()) }
        };
        let writers = Writers::start(1, answer);
        let lap = writers.lap();
        while writers.answered() < 1000 {
            tokio::task::yield_now().await;
        }
        assert!(writers.since(lap).per_second > 0.0);
        let lap = writers.lap();
        tokio::task::yield_now().await;
        assert_eq!(writers.since(lap).per_second, 0.0);
        assert_eq!(writers.stop().await.unwrap_err(), "a thousand");
    }
}
