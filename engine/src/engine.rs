//! The engine: the handle of an open node. It proposes, reads, and says how it is doing.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{
    ClusterId, GroupId, GroupStatus, Incarnation, MemberChange, NodeError, NodeId, Offset,
    PeerFault,
};
use tokio::sync::oneshot;

use crate::backend::{Backend, race};
use crate::batch::Batch;
use crate::builder::EngineBuilder;
use crate::chain::ChainHead;
use crate::clients::ClientNumbers;
use crate::command::Command;
use crate::comparing::{Divergence, Scrub, divergences};
use crate::degradation::{ClusterMap, DrillReport, FailureDrill, Gate, GroupMap, ResourceMap};
use crate::digest::{StateDigest, digest};
use crate::error::Error;
use crate::freshness::{Freshness, Read};
use crate::gatekeeper::Gatekeeper;
use crate::machine::read_position;
use crate::outcome::Outcome;
use crate::projection::{ProjectionFault, Registry};
use crate::read::{ReadConsistency, ReadOptions};
use crate::receipt::Receipt;
use crate::resource::FailureDomain;
use crate::resource_row::each_resource;
use crate::session::{Seen, Session};
use crate::store::StateRead;

/// The group that holds an engine's resources.
pub(crate) const GROUP: GroupId = GroupId::new(1);
/// How long a request waits for its quorum if nothing else is said.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A running engine; cheap to clone. Closing it, or dropping the last clone, stops the node.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// The session that its handles carry, if they carry one.
    seen: Option<Seen>,
    /// Who numbers what is written through its handles, if somebody does.
    numbers: Option<Arc<ClientNumbers>>,
}

/// An engine that is not kept open by this.
pub(crate) struct WeakEngine {
    inner: Weak<Inner>,
}

impl WeakEngine {
    pub(crate) fn upgrade(&self) -> Option<Engine> {
        Some(Engine { inner: self.inner.upgrade()?, seen: None, numbers: None })
    }
}

struct Inner {
    backend: Box<dyn Backend>,
    gatekeeper: Gatekeeper,
    setup: Setup,
}

/// What an engine is, beside the node that it speaks for.
pub(crate) struct Setup {
    pub(crate) registry: Registry,
    pub(crate) cluster: ClusterId,
    pub(crate) id: NodeId,
    pub(crate) domain: FailureDomain,
    pub(crate) request_timeout: Duration,
    pub(crate) scrub: Scrub,
}

impl Engine {
    /// Begins to open an engine whose data is in this directory.
    pub fn builder(dir: impl AsRef<Path>) -> EngineBuilder {
        EngineBuilder::new(dir.as_ref())
    }

    /// An engine that speaks for a node.
    pub(crate) fn new(
        backend: impl Backend + 'static,
        gatekeeper: Gatekeeper,
        setup: Setup,
    ) -> Self {
        let inner = Inner { backend: Box::new(backend), gatekeeper, setup };
        Self { inner: Arc::new(inner), seen: None, numbers: None }
    }

    pub(crate) fn downgrade(&self) -> WeakEngine {
        WeakEngine { inner: Arc::downgrade(&self.inner) }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    pub(crate) fn gatekeeper(&self) -> &Gatekeeper {
        &self.inner.gatekeeper
    }

    /// The projections that it was opened with.
    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.setup.registry
    }

    /// How far it has looked whether rows are what they were.
    pub(crate) fn scrub(&self) -> &Scrub {
        &self.inner.setup.scrub
    }

    /// Gives up the wait for some work, though not the work, after the time a request has.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
        outcome_unknown: bool,
    ) -> Result<T, Error> {
        let done = race(work, self.backend().sleep(self.inner.setup.request_timeout)).await;
        done.unwrap_or(Err(Error::Disconnected { outcome_unknown }))
    }

    /// The same engine, whose handles carry a session.
    pub(crate) fn with_session(&self, seen: Seen, numbers: Option<Arc<ClientNumbers>>) -> Self {
        Self { inner: Arc::clone(&self.inner), seen: Some(seen), numbers }
    }

    /// Who numbers what is written.
    pub(crate) fn numbers(&self) -> Option<&ClientNumbers> {
        self.numbers.as_deref()
    }

    /// How long a request waits.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.inner.setup.request_timeout
    }

    /// Begins a session: handles that are opened through it read what they have written and seen.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self, None)
    }

    /// Begins a session that also numbers what is written through its handles and in its engine's batches,
    /// so that each write takes effect at most once (G6): it repeats by itself what may have been lost, and
    /// one that comes back with its [`Session::token`] can repeat its last write, as the example there does.
    /// At most 64 writes of it are under way, more of them wait. The group knows it for `ttl` without a
    /// write: see [`Engine::register_client`].
    ///
    /// # Errors
    /// As [`Engine::register_client`].
    pub async fn client_session(&self, ttl: Duration) -> Result<Session, Error> {
        let numbers = Arc::new(ClientNumbers::new(ttl, None));
        numbers.register(self).await?;
        Ok(Session::new(self, Some(numbers)))
    }

    /// Goes on with a session where [`Session::token`] was taken, on whichever replica that was.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for bytes that are no token, [`Error::Incompatible`] for one of
    /// another cluster.
    pub fn resume(&self, token: &Bytes) -> Result<Session, Error> {
        Session::resume(self, token)
    }

    /// The cluster that this node belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.setup.cluster
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.setup.id
    }

    /// Where this node is.
    #[must_use]
    pub fn domain(&self) -> &FailureDomain {
        &self.inner.setup.domain
    }

    /// Begins a batch: operations on several resources that take effect together, at one offset.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// The last record applied here.
    ///
    /// # Errors
    /// [`Error::InternalError`] if the engine has stopped.
    pub fn applied(&self) -> Result<Offset, Error> {
        self.backend().applied(GROUP)
    }

    /// How this node sees its group.
    ///
    /// # Errors
    /// [`Error::RateLimited`] if it is too busy to say, [`Error::InternalError`] if it has stopped.
    pub async fn status(&self) -> Result<GroupStatus, Error> {
        self.backend().status(GROUP).await
    }

    /// What peers sent that was refused since this engine was opened, and how often: another cluster's
    /// node, a damaged or oversized message, an unknown version, a life that the group does not know.
    /// The connection was closed each time. Each cause is logged once for each peer.
    #[must_use]
    pub fn peer_faults(&self) -> BTreeMap<PeerFault, u64> {
        self.backend().peer_faults()
    }

    /// Changes who takes part; this node must lead. A new node is opened with
    /// [`EngineBuilder::joins`], added as a learner, and promoted once it has caught up. A dead one
    /// gives its place to a learner with [`MemberChange::Replace`].
    ///
    /// # Errors
    /// [`Error::DomainUnavailable`] for a new node outside the placement of a resource;
    /// [`Error::PreconditionFailed`] with the reason if the change is not made, for one that would
    /// not be safe among others; [`Error::Disconnected`] if its outcome is not known.
    pub async fn change_members(&self, change: MemberChange) -> Result<(), Error> {
        if let MemberChange::AddLearner { member, .. } = &change
            && let Some(domain) = FailureDomain::parse(&member.domain)
        {
            self.admit_replica(&domain).await?;
        }
        let changed = self.within(self.backend().change(GROUP, change), true).await?;
        changed.map_err(|refusal| NodeError::Change(refusal).into())
    }

    /// G9: a node is given no state that is not to be where it is.
    async fn admit_replica(&self, domain: &FailureDomain) -> Result<(), Error> {
        let wanted = domain.clone();
        let read = self.read(ReadConsistency::Local.into(), move |read, group| {
            let mut outside = None;
            each_resource(read, group, |_, resource| {
                if resource.spec.placement.allows(&wanted) {
                    return ControlFlow::Continue(());
                }
                outside = Some(resource.spec.name);
                ControlFlow::Break(())
            })?;
            Ok(outside)
        });
        match read.await?.value {
            None => Ok(()),
            Some(resource) => Err(Error::DomainUnavailable {
                domain: domain.to_string(),
                resource: resource.to_string(),
            }),
        }
    }

    /// A copy of the placement as this node has it: the group, its members, and the resources with what they
    /// declare. What might be can be judged on it as well, with [`FailureDrill::judge`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a member of whom nobody said where it is,
    /// [`Error::PreconditionFailed`] while voters are being replaced, and as any read.
    pub async fn cluster_map(&self) -> Result<ClusterMap, Error> {
        let status = self.status().await?;
        let group = GroupMap::of(GROUP, status.leader, &status.members)?;
        let read = self.read(ReadConsistency::Local.into(), |read, group| {
            let mut resources = Vec::new();
            each_resource(read, group, |_, resource| {
                if resource.deleted.is_none() {
                    resources.push(ResourceMap::of(group, resource.spec));
                }
                ControlFlow::Continue(())
            })?;
            Ok(resources)
        });
        Ok(ClusterMap { groups: vec![group], resources: read.await?.value })
    }

    /// What would still be served, of each resource and by each node, if some were gone: nothing is taken
    /// away, and nobody is asked but this node.
    ///
    /// ```
    /// # use palisade::{Engine, Error, degradation::FailureDrill};
    /// # async fn example(engine: &Engine) -> Result<(), Error> {
    /// let zone = engine.domain().clone();
    /// let report = engine.drill(&FailureDrill::AvailabilityZoneLoss { zone }).await?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Engine::cluster_map`] and [`FailureDrill::judge`].
    pub async fn drill(&self, drill: &FailureDrill) -> Result<DrillReport, Error> {
        drill.judge(&self.cluster_map().await?)
    }

    /// Asks for the leadership to be handed to another voter; this node must lead, or nothing
    /// happens. [`Engine::status`] says whether it was.
    ///
    /// # Errors
    /// [`Error::RateLimited`] if the node is too busy, [`Error::InternalError`] if it has stopped.
    pub fn transfer_leadership(&self, to: NodeId) -> Result<(), Error> {
        self.backend().transfer(GROUP, to)
    }

    /// Which life of its data directory this node is in: part of who it is when it is added.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.backend().incarnation()
    }

    /// The last record applied here, and the head of the chain of records up to it.
    ///
    /// # Errors
    /// As for any read.
    pub async fn chain_head(&self) -> Result<(Offset, ChainHead), Error> {
        let applied = self.applied()?;
        let read = self.read_state(applied, |read, group| Ok(read_position(read, group)?)).await?;
        let (position, head) = read.value;
        Ok((position.offset, head))
    }

    /// Digests of the whole state at one offset, read from front to back.
    ///
    /// # Errors
    /// As for any read.
    pub async fn digest(&self) -> Result<StateDigest, Error> {
        Ok(self.read_state(self.applied()?, |read, group| Ok(digest(read, group)?)).await?.value)
    }

    /// Replicas whose states were found to differ from what a majority agreed on, the newest first, at most 64
    /// of them: each named with the first range of rows that differs. Any replica tells that has applied the
    /// record that showed it, but not the one it is about: that has halted, and its calls say why.
    ///
    /// # Errors
    /// As any read of this replica alone.
    pub async fn divergences(&self) -> Result<Vec<Divergence>, Error> {
        let found =
            self.read(ReadConsistency::Local.into(), |read, group| divergences(read, group));
        Ok(found.await?.value)
    }

    /// Stops the node; everything is on stable storage when this returns.
    ///
    /// # Errors
    /// [`Error::InternalError`] with the cause, if it had stopped by itself before.
    pub async fn close(&self) -> Result<(), Error> {
        self.backend().close().await
    }

    /// Commits a record, and says where and with which outcome.
    pub(crate) async fn propose(&self, command: &Command) -> Result<(Receipt, Outcome), Error> {
        let payload = command.encode();
        debug_assert_eq!(Command::decode(payload.clone()).as_ref(), Ok(command));
        let committed = self.within(self.backend().propose(GROUP, payload), true).await?;
        self.note(committed.offset);
        let receipt = Receipt {
            cluster: self.cluster(),
            group: GROUP,
            offset: committed.offset,
            log_time: committed.log_time,
            duplicate: false,
        };
        Ok((receipt, committed.outcome.0))
    }

    /// The session has written or seen what this offset says.
    fn note(&self, offset: Offset) {
        if let Some(seen) = &self.seen {
            seen.note(GROUP, offset);
        }
    }

    /// Reads one moment's state that is as fresh as asked.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        options: ReadOptions,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        self.read_through(&Gate::Try, options, read).await
    }

    /// The same of a resource, as its gate lets it.
    pub(crate) async fn read_through<T: Send + 'static>(
        &self,
        gate: &Gate,
        options: ReadOptions,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        // A halted replica may be damaged: it serves nothing, however stale (G10).
        if let Some(cause) = self.backend().stopped(GROUP) {
            return Err(cause);
        }
        let fresh = match gate {
            Gate::Stale => None,
            Gate::TryElseStale => {
                let patience = self.backend().sleep(self.gatekeeper().patience());
                let late = Err(Error::Disconnected { outcome_unknown: false });
                match race(self.fresh(options), patience).await.unwrap_or(late) {
                    Err(error) if gate.stands_in_for(&error) => None,
                    tried => Some(tried?),
                }
            }
            Gate::Try => Some(self.fresh(options).await?),
            Gate::Refuse(error) => return Err(error.clone()),
        };
        // What a session has seen, and what a page goes on from, stale answers do not take back either.
        let floor = self.seen_here().max(options.at_least);
        // What is there already is not to be taken back by a snapshot that replaces it.
        let required = fresh.unwrap_or(floor).max(self.applied()?);
        let mut read = self.read_state(required, read).await?;
        read.stale = fresh.is_none();
        self.note(read.freshness.offset);
        Ok(read)
    }

    /// Resolves once what is asked for is applied here, and says what that is.
    async fn fresh(&self, options: ReadOptions) -> Result<Offset, Error> {
        let asked = match options.consistency {
            ReadConsistency::Local => Offset::ZERO,
            ReadConsistency::Linearizable => {
                self.within(self.backend().barrier(GROUP), false).await?
            }
            ReadConsistency::AtLeastOffset(required) => required,
            ReadConsistency::AtLeast(freshness) => {
                freshness.check(self.cluster(), GROUP)?;
                freshness.offset
            }
        };
        let wait = if self.seen.is_some() { Session::WAIT } else { Duration::ZERO };
        let required = asked.max(self.seen_here()).max(options.at_least);
        self.at_least(required, options.wait.unwrap_or(wait)).await?;
        Ok(required)
    }

    /// What the session has seen of the group, if there is one.
    fn seen_here(&self) -> Offset {
        self.seen.as_ref().map_or(Offset::ZERO, |seen| seen.of(GROUP))
    }

    /// Reads one moment's state, which says itself how fresh it is (G4): a state that a snapshot is
    /// about to replace stands nowhere.
    async fn read_state<T: Send + 'static>(
        &self,
        required: Offset,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, ProjectionFault> + Send + 'static,
    ) -> Result<Read<T>, Error> {
        let (leave, mut left) = oneshot::channel();
        let job = move |state: &dyn StateRead| {
            let (position, _) = read_position(state, GROUP)?;
            let fresh = required <= position.offset;
            let found =
                if fresh { Ok((read(state, GROUP), position)) } else { Err(position.offset) };
            // A caller that gave up is no loss.
            let _ = leave.send(found);
            Ok(())
        };
        self.backend().read(Box::new(job)).await?;
        let found = left.try_recv().map_err(|_| Error::InternalError {
            what: "a read ended without what it read".to_owned(),
        })?;
        let (read, position) =
            found.map_err(|applied| Error::NotYetApplied { required, applied })?;
        let value = read.map_err(|fault| Error::InternalError { what: fault.to_string() })?;
        let (cluster, group, offset) = (self.cluster(), GROUP, position.offset);
        let freshness = Freshness { cluster, group, offset };
        Ok(Read { value, freshness, log_time: position.log_time, stale: false })
    }

    /// Waits until this offset is applied here, or for so long.
    pub(crate) async fn wait_applied(&self, offset: Offset, wait: Duration) -> Result<(), Error> {
        let waits = self.backend().wait_applied(GROUP, offset);
        race(waits, self.backend().sleep(wait)).await.unwrap_or(Ok(()))
    }

    async fn at_least(&self, required: Offset, wait: Duration) -> Result<(), Error> {
        if required <= self.applied()? {
            return Ok(());
        }
        if !wait.is_zero() {
            let waits = self.backend().wait_applied(GROUP, required);
            if let Some(waited) = race(waits, self.backend().sleep(wait)).await {
                return waited;
            }
        }
        Err(Error::NotYetApplied { required, applied: self.applied()? })
    }
}

/// The machine answers each kind of record in its own way; another is a bug.
pub(crate) fn unexpected(outcome: &Outcome) -> Error {
    Error::InternalError { what: format!("a record was answered with {outcome:?}") }
}
