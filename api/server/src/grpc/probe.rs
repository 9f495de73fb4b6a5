//! Whether a node can be written to: found out by writing, not by looking at a port.
//!
//! For each data group there is a small log, `palisade.probe/<n>`, that every node appends to. The append goes
//! the whole way, over the leader, a quorum's disks and this node's own state, and is judged by the fence of
//! its resource as any other. The system group is asked for a name, as fresh as there is. All groups are looked
//! at at once, whoever asks, and the answer of the last second is given again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use palisade::{
    Affinity, Disposition, Engine, Error, Group, GroupId, LogRetention, LogicalResourceName,
    ReadConsistency, ReplicatedLog, SYSTEM_GROUP,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::own::{PROBES, epoch_of, own_spec};

const SCHEMA: &str = "palisade.probe.v1";
/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long a group may take before it is not ready.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of all that is appended, so much is kept.
const KEPT_BYTES: u64 = 4 << 10;
/// New affinities go to the group with the fewest, so few more than one for each group reach them all.
const TRIES_EACH: u64 = 4;

type ProbeLog = ReplicatedLog<u64>;

/// Why a group takes no writes here, or that it does.
pub(crate) type Ready = BTreeMap<GroupId, Result<(), Error>>;

#[derive(Default)]
struct Looking {
    probes: BTreeMap<GroupId, ProbeLog>,
    /// The one that is under way.
    task: JoinSet<()>,
}

/// Finds out whether the groups of a node take writes.
pub(crate) struct Probe {
    engine: Engine,
    looking: Mutex<Looking>,
    last: watch::Sender<Option<(Instant, Ready)>>,
}

fn unknown() -> Error {
    Error::Disconnected { outcome_unknown: true }
}

impl Probe {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine, looking: Mutex::default(), last: watch::Sender::new(None) }
    }

    /// How each group is, at most a second ago. Whoever gives up waiting leaves the look to the next.
    pub(crate) async fn look(self: &Arc<Self>) -> Ready {
        let mut last = self.last.subscribe();
        loop {
            let known = last.borrow_and_update().clone();
            if let Some((at, ready)) = known
                && at.elapsed() < FRESH
            {
                return ready;
            }
            self.begin();
            if last.changed().await.is_err() {
                return Ready::new();
            }
        }
    }

    fn looking(&self) -> std::sync::MutexGuard<'_, Looking> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>) {
        let mut looking = self.looking();
        while looking.task.try_join_next().is_some() {}
        if looking.task.is_empty() {
            let probe = Arc::clone(self);
            looking.task.spawn(async move {
                let ready = probe.look_now().await;
                probe.last.send_replace(Some((Instant::now(), ready)));
            });
        }
    }

    async fn look_now(&self) -> Ready {
        let found = timeout(PATIENCE, self.find_probes()).await.unwrap_or_else(|_| Err(unknown()));
        let groups = self.engine.groups().into_iter().map(|group| self.try_one(group, &found));
        join_all(groups).await.into_iter().collect()
    }

    async fn try_one(
        &self,
        group: Group,
        found: &Result<(), Error>,
    ) -> (GroupId, Result<(), Error>) {
        let id = group.id();
        let probe = self.looking().probes.get(&id).cloned();
        let done = match probe {
            _ if id == SYSTEM_GROUP => timeout(PATIENCE, self.ask_for_a_name()).await,
            None => Ok(found.clone().and_then(|()| Err(unknown()))),
            Some(probe) => {
                let who = self.engine.node().get();
                timeout(PATIENCE, async { probe.append(&who).await.map(|_| ()) }).await
            }
        };
        let done = done.unwrap_or_else(|_| Err(unknown()));
        // It is another by now, or somebody took it over: it is found anew.
        if done.as_ref().is_err_and(|error| error.disposition() == Disposition::Reject) {
            self.looking().probes.remove(&id);
        }
        (id, done)
    }

    /// The system group knows where names are: that nothing has this one is its answer.
    async fn ask_for_a_name(&self) -> Result<(), Error> {
        let name = LogicalResourceName::new("palisade.nothing")?;
        match self.engine.directory().describe(&name, ReadConsistency::Linearizable).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Opens a probe in each data group that has none yet. One that cannot be opened leaves the others.
    async fn find_probes(&self) -> Result<(), Error> {
        let groups = self.engine.groups().len() as u64 - 1;
        let mut failed = Ok(());
        for number in 0..groups * TRIES_EACH {
            if self.looking().probes.len() as u64 == groups {
                return Ok(());
            }
            match self.open_probe(&format!("{PROBES}{number}")).await {
                Ok(probe) => {
                    let id = probe.group().id();
                    self.looking().probes.entry(id).or_insert(probe);
                }
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    /// As it is, whoever made it and with which epoch; made only if it is not there.
    async fn open_probe(&self, name: &str) -> Result<ProbeLog, Error> {
        let spec = own_spec(&self.engine, name, SCHEMA).await?;
        match epoch_of(&self.engine, &spec.name).await? {
            Some(epoch) => {
                ProbeLog::open_existing(&self.engine, &spec.name, &spec.schema, epoch).await
            }
            None => {
                let spec = spec.affinity(Affinity::new(name)?);
                let probe = ProbeLog::open(&self.engine, spec).await?;
                probe.retain(LogRetention { keep_ms: None, keep_bytes: Some(KEPT_BYTES) }).await?;
                Ok(probe)
            }
        }
    }
}
