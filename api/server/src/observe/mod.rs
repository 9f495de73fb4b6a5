//! What is seen of a node: its calls, its groups and its process, counted and measured.
//!
//! ```text
//! calls of others --Metered--> Calls ----+--> Registry --> text for Prometheus
//! groups of the engine --look--> Sample -+
//!                                        +--> History --> percentiles for plots
//! probe (a fenced append) --judge--> Machine --> is it ready?
//! ```
//! A node has one [`Observed`], with a registry of its own: several nodes share a process in tests.
//! `docs/observability.md` lists what is measured, and what bounds it.

mod calls;
mod export;
mod history;
mod load;
mod metered;
mod process;
mod readiness;
mod sample;
#[cfg(feature = "otel")]
mod spans;
mod trace;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade::Engine;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

pub(crate) use self::calls::Calls;
pub(crate) use self::export::{fault_word, member_role_word, role_word};
pub(crate) use self::history::{History, Latencies};
pub(crate) use self::metered::{Metered, metered_reports};
use self::readiness::Machine;
pub(crate) use self::readiness::{GroupReadiness, Phase, Readiness, State};
pub(crate) use self::sample::{GroupSample, Sample};
#[cfg(feature = "otel")]
pub(crate) use self::spans::Spans;
pub(crate) use self::trace::{continue_traces, current as current_trace, note_place};
use crate::grpc::{CONNECTIONS_MAX, Probe};
use crate::security::accept::Gate;
use crate::security::tls::TlsWatch;

/// A node, and what is counted of it. Clones are of the same node.
#[derive(Clone)]
pub struct Observed {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    probe: Arc<Probe>,
    calls: Arc<Calls>,
    connections: Arc<Semaphore>,
    machine: Mutex<Machine>,
    shown: Arc<Mutex<export::Shown>>,
    secured: Arc<Mutex<export::Secured>>,
    registry: Registry,
}

/// Nothing is counted of it yet.
impl From<&Engine> for Observed {
    fn from(engine: &Engine) -> Self {
        let (calls, shown) = (Arc::new(Calls::new()), Arc::default());
        let secured = Arc::<Mutex<export::Secured>>::default();
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let registry = export::registry(
            Arc::clone(&calls),
            Arc::clone(&connections),
            Arc::clone(&shown),
            Arc::clone(&secured),
        );
        let inner = Inner {
            engine: engine.clone(),
            probe: Arc::new(Probe::new(engine.clone())),
            calls,
            connections,
            machine: Mutex::default(),
            shown,
            secured,
            registry,
        };
        Self { inner: Arc::new(inner) }
    }
}

impl From<&Self> for Observed {
    fn from(observed: &Self) -> Self {
        observed.clone()
    }
}

impl Observed {
    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// What finds out whether groups take writes: the one that health is told by, too.
    pub(crate) fn probe(&self) -> &Arc<Probe> {
        &self.inner.probe
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.inner.calls
    }

    /// The places for connections of callers.
    pub(crate) fn connections(&self) -> &Arc<Semaphore> {
        &self.inner.connections
    }

    /// Has the files of a port be measured: how long their certificate is good, and whether they are taken.
    pub(crate) fn certificates(&self, port: &'static str, watch: Arc<TlsWatch>) {
        lock(&self.inner.secured).certificates.push((port, watch));
    }

    /// Has the connections of callers be counted by how they were judged.
    pub(crate) fn gate(&self, gate: Arc<Gate>) {
        lock(&self.inner.secured).gate = Some(gate);
    }

    /// Its groups, as they are now.
    pub(crate) async fn sample(&self) -> Sample {
        Sample::take(self.engine()).await
    }

    /// Whether it is ready, and why not, as of the last probe: at most a second ago.
    pub(crate) async fn readiness(&self, sample: &Sample) -> Readiness {
        let writes = self.inner.probe.look().await;
        let groups = sample.groups.iter().map(|group| group.seen(writes.get(&group.id))).collect();
        lock(&self.inner.machine).step(Phase::Open, groups)
    }

    /// Everything that is measured, as text for Prometheus.
    pub(crate) async fn metrics(&self) -> Result<String, std::fmt::Error> {
        let sample = self.sample().await;
        let readiness = self.readiness(&sample).await;
        let divergences = sample::divergences(self.engine()).await;
        *lock(&self.inner.shown) =
            export::Shown { sample, divergences, readiness: Some(readiness) };
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.inner.registry)?;
        Ok(text)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
