//! How far the process is that the admin port speaks for.

use tokio::sync::watch;

use crate::observe::{Observed, Phase};

#[derive(Clone)]
struct Now {
    phase: Phase,
    observed: Option<Observed>,
}

/// How far a node's process is. Clones are of the same one: who runs the node says it, the admin port tells it.
#[derive(Clone)]
pub struct Stage(watch::Sender<Now>);

/// Its engine is not open yet.
impl Default for Stage {
    fn default() -> Self {
        Self(watch::Sender::new(Now { phase: Phase::Opening, observed: None }))
    }
}

impl Stage {
    /// The engine is open.
    pub fn open(&self, observed: &Observed) {
        let observed = Some(observed.clone());
        self.0.send_replace(Now { phase: Phase::Open, observed });
    }

    /// It was told to stop.
    pub fn stopping(&self) {
        self.0.send_modify(|now| now.phase = Phase::Stopping);
    }

    pub(super) fn phase(&self) -> Phase {
        self.0.borrow().phase
    }

    pub(super) fn observed(&self) -> Option<Observed> {
        self.0.borrow().observed.clone()
    }
}
