//! Whether a node can be written to: found out by writing, not by looking at a port.
//!
//! For each data group there is a small log, `palisade.probe/<n>`, that every node appends to. The append goes
//! the whole way, over the leader, a quorum's disks and this node's own state, and is judged by the fence of
//! its resource as any other. Asked often, the answer of the last second is given again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use palisade::{
    Affinity, DomainRule, Engine, Error, GroupId, LogRetention, Placement, ReplicatedLog,
    ResourceSpec, SYSTEM_GROUP,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

const PREFIX: &str = "palisade.probe/";
const SCHEMA: &str = "palisade.probe.v1";
/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long an append may take before the group is not ready.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of all that is appended, so much is kept.
const KEPT_BYTES: u64 = 4 << 10;
/// New affinities go to the group with the fewest, so few more than one for each group reach them all.
const TRIES_EACH: u64 = 4;

type Probe = ReplicatedLog<u64>;

/// Why a group takes no writes here, or that it does.
pub(crate) type Ready = BTreeMap<GroupId, Result<(), Error>>;

#[derive(Default)]
struct Known {
    probes: BTreeMap<GroupId, Probe>,
    last: Option<(Instant, Ready)>,
}

/// The readiness of a node.
pub(crate) struct Readiness {
    engine: Engine,
    known: Mutex<Known>,
}

impl Readiness {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine, known: Mutex::default() }
    }

    /// How each group is, at most a second ago.
    pub(crate) async fn look(&self) -> Ready {
        let mut known = self.known.lock().await;
        if let Some((at, ready)) = &known.last
            && at.elapsed() < FRESH
        {
            return ready.clone();
        }
        let ready = self.try_all(&mut known.probes).await;
        known.last = Some((Instant::now(), ready.clone()));
        ready
    }

    async fn try_all(&self, probes: &mut BTreeMap<GroupId, Probe>) -> Ready {
        let unknown = || Err(Error::Disconnected { outcome_unknown: true });
        let prepared = timeout(PATIENCE, self.prepare(probes)).await.unwrap_or_else(|_| unknown());
        let mut ready = Ready::new();
        for group in self.engine.groups() {
            let id = group.id();
            let done = match probes.get(&id) {
                Some(probe) => {
                    let who = self.engine.node().get();
                    let done = timeout(PATIENCE, probe.append(&who)).await;
                    done.map_or_else(|_| unknown(), |done| done.map(|_| ()))
                }
                // It knows the names of the others, which were found through it.
                None if id == SYSTEM_GROUP => group.applied().map(|_| ()).and(prepared.clone()),
                None => prepared.clone().and_then(|()| unknown()),
            };
            if matches!(done, Err(Error::NotFound { .. })) {
                probes.remove(&id);
            }
            ready.insert(id, done);
        }
        ready
    }

    /// Opens a probe in each data group that has none yet.
    async fn prepare(&self, probes: &mut BTreeMap<GroupId, Probe>) -> Result<(), Error> {
        let groups = self.engine.groups().len() as u64 - 1;
        for number in 0..groups * TRIES_EACH {
            if probes.len() as u64 == groups {
                break;
            }
            let name = format!("{PREFIX}{number}");
            let spec = ResourceSpec::new(&name, SCHEMA)?
                .affinity(Affinity::new(&name)?)
                .placement(self.everywhere().await?);
            let probe = Probe::open(&self.engine, spec).await?;
            let retention = LogRetention { keep_ms: None, keep_bytes: Some(KEPT_BYTES) };
            if let Entry::Vacant(vacant) = probes.entry(probe.group().id()) {
                probe.retain(retention).await?;
                vacant.insert(probe);
            }
        }
        Ok(())
    }

    /// Wherever there is a replica, and here.
    async fn everywhere(&self) -> Result<Placement, Error> {
        let mut providers = vec![self.engine.domain().provider.clone()];
        for group in self.engine.groups() {
            let members = group.status().await?.members;
            let named = members.member_domains().filter_map(|domain| domain.split('/').next());
            providers.extend(named.filter(|name| !name.is_empty()).map(str::to_owned));
        }
        let rule = |provider| DomainRule { provider, region: None, zone: None };
        providers.sort();
        providers.dedup();
        Placement::new(providers.into_iter().map(rule))
    }
}
