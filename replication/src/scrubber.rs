//! The thread that reads a node's log again, so that what rots is found while the others still have it.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use palisade_wal::WalScrubber;

use crate::driver::Event;
use crate::inbox::Inbox;

/// Read between two looks at the time.
const STEP_BYTES: usize = 256 << 10;

pub(crate) struct Scrubber<O> {
    pub(crate) log: WalScrubber,
    pub(crate) inbox: Inbox<Event<O>>,
    pub(crate) bytes_per_second: u64,
    /// Between two rounds, and before the first: opening has just read it.
    pub(crate) pause: Duration,
    /// Disconnected when the node stops.
    pub(crate) stops: Receiver<()>,
}

impl<O> Scrubber<O> {
    pub(crate) fn run(mut self) {
        let mut wait = self.pause;
        while let Err(RecvTimeoutError::Timeout) = self.stops.recv_timeout(wait) {
            wait = self.step();
        }
    }

    /// Returns how long to wait before the next.
    fn step(&mut self) -> Duration {
        let found = match self.log.step(STEP_BYTES) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "a part of the log cannot be looked at");
                return self.pause;
            }
        };
        let mut wait = Duration::from_micros(found.bytes * 1_000_000 / self.bytes_per_second);
        if found.ends_round {
            wait += self.pause;
        }
        if !found.is_sound() {
            let (entries, registers) = (found.entries.len(), found.registers.len());
            tracing::warn!(entries, registers, "the log cannot be read in places");
            self.inbox.report(Event::Scrubbed(found));
        }
        wait
    }
}
