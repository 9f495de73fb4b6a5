//! How long nobody is answered after the leader was killed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Before the leader is killed.
const BEFORE: Duration = Duration::from_secs(2);
/// Answers must have come for so long before it is taken to be over.
const AFTER: Duration = Duration::from_secs(2);
/// If it is not over by then, it never is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between a write that failed and the next try.
const PAUSE: Duration = Duration::from_millis(5);

/// When an answer came last, and the longest time without one.
#[derive(Clone, Debug)]
struct Silence(Arc<Mutex<Heard>>);

#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Instant,
    longest: Duration,
    /// Since when answers have come without a stop of [`AFTER`] or longer; none yet after the kill.
    again_since: Option<Instant>,
}

impl Silence {
    fn beginning(now: Instant) -> Self {
        let heard = Heard { last: now, longest: Duration::ZERO, again_since: None };
        Self(Arc::new(Mutex::new(heard)))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, now: Instant) {
        let mut heard = self.heard();
        let silent = now.saturating_duration_since(heard.last);
        // Of what it was before, a long silence leaves nothing.
        if silent > heard.longest {
            (heard.longest, heard.again_since) = (silent, Some(now));
        }
        heard.again_since.get_or_insert(now);
        heard.last = heard.last.max(now);
    }

    /// The longest silence, once answers have come again for a while.
    fn ended(&self, now: Instant) -> Option<Duration> {
        let heard = *self.heard();
        let is_heard = now.saturating_duration_since(heard.last) < AFTER / 4;
        let long_enough = heard.again_since.is_some_and(|since| now >= since + AFTER);
        (is_heard && long_enough).then_some(heard.longest)
    }
}

/// The longest time without an answer to any of so many writers, who try again what fails, after the leader
/// was killed.
///
/// # Errors
/// When nobody was answered before, or answers do not come again.
pub(crate) async fn silence<F>(
    writers: u64,
    write: impl Fn(u64) -> F + Clone + Send + 'static,
    kill: impl AsyncFnOnce() -> Result<(), String>,
) -> Result<Duration, String>
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let before = Silence::beginning(Instant::now());
    let silence = Arc::new(Mutex::new(before.clone()));
    let current =
        |silence: &Mutex<Silence>| silence.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (write, silence) = (write.clone(), Arc::clone(&silence));
        tasks.spawn(async move {
            for turn in 0_u64.. {
                match write(turn * writers + writer).await {
                    Ok(()) => current(&silence).answered(Instant::now()),
                    Err(_) => sleep(PAUSE).await,
                }
            }
        });
    }
    sleep(BEFORE).await;
    if before.heard().again_since.is_none() {
        return Err("nobody was answered before the leader was killed".to_owned());
    }
    let killed = Instant::now();
    let after = Silence::beginning(killed);
    *silence.lock().unwrap_or_else(PoisonError::into_inner) = after.clone();
    kill().await?;
    loop {
        sleep(Duration::from_millis(50)).await;
        let now = Instant::now();
        if let Some(longest) = after.ended(now) {
            tasks.shutdown().await;
            return Ok(longest);
        }
        if killed + PATIENCE < now {
            return Err(format!("no steady answers within {PATIENCE:?} of the kill"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silence_counts_once_answers_are_steady() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let silence = Silence::beginning(begun);
        // What was under way is still answered; then nobody is.
        (0..10).for_each(|ms| silence.answered(at(ms)));
        assert_eq!(silence.ended(at(1200)), None);
        silence.answered(at(1500));
        assert_eq!(silence.ended(at(1501)), None);
        (1501..3600).step_by(100).for_each(|ms| silence.answered(at(ms)));
        assert_eq!(silence.ended(at(3499)), None);
        assert_eq!(silence.ended(at(3601)), Some(Duration::from_millis(1491)));
        // Not while they have stopped again.
        assert_eq!(silence.ended(at(4600)), None);
    }

    #[tokio::test]
    async fn writers_that_are_never_answered_are_a_failure() {
        let never = |_| async { Err("no".to_owned()) };
        let killed = async || Ok(());
        assert!(silence(2, never, killed).await.unwrap_err().contains("before the leader"));
    }
}
