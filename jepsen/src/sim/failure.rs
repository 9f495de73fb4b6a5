//! One run of a seed: what it came to, or how and when it failed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::Shape;
use super::workload::Workload;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// One number for everything that happened.
    pub trace: u64,
    /// Simulated time.
    pub simulated_us: u64,
    /// Operations that clients asked for.
    pub ops: u64,
    /// Different leaders that groups have had, their first ones not counted.
    pub leader_changes: u64,
    /// What went wrong, and which rare steps of the protocol were taken, how often.
    pub happened: BTreeMap<&'static str, u64>,
    /// What clients were told, how often.
    pub told: BTreeMap<&'static str, u64>,
}

/// How a run failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was found.
    pub message: String,
    /// Where in the source it was found.
    pub place: String,
    /// In which round.
    pub round: u64,
}

impl Failure {
    /// The same for failures that are alike: the guarantee by its number, or the place of the check.
    #[must_use]
    pub fn kind(&self) -> &str {
        let word = self.message.split(':').next().unwrap_or_default();
        if word.len() < 12 && !word.is_empty() { word } else { &self.place }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}, {}: {}", self.round, self.place, self.message)
    }
}

thread_local! {
    static ROUND: Cell<u64> = const { Cell::new(0) };
    static FOUND: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

/// The round that the run of this thread is in.
pub(super) fn enter(round: u64) {
    ROUND.set(round);
}

/// Keeps what a check says, instead of printing it, while a run is under way in its thread.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !RUNS.get() {
                return print(info);
            }
            let message = info.payload_as_str().unwrap_or("no message").to_owned();
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            FOUND.set(Some((message, place)));
        }));
    });
}

/// Runs a seed to its end.
///
/// # Errors
/// What a check has found.
pub fn run(shape: &Shape) -> Result<Run, Failure> {
    hear_panics();
    enter(0);
    RUNS.set(true);
    let ended = catch_unwind(AssertUnwindSafe(|| Workload::start(shape.clone()).run()));
    RUNS.set(false);
    ended.map_err(|_| {
        let (message, place) = FOUND.take().unwrap_or_default();
        Failure { message, place, round: ROUND.get() }
    })
}
