//! A running node: the handle that services hold, and the threads behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use palisade_wal::{GroupId, Keys, Wal, WalIdentity, WalOptions, WalReader, WalWriter};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::acquaintances::Acquaintances;
use crate::ages::Ages;
use crate::applier::{Applier, Committed, GroupShared, ROOM_RETRY, rebuilding};
use crate::ceiling::Ceiling;
use crate::directory;
use crate::driver::{Callers, Driver, Event, ROUND_BYTES_MAX};
use crate::effects::{GroupStatus, Role};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::greeting::Speaker;
use crate::host::{Host, Hosted, is_of_one_log};
use crate::identity::{ClusterId, Incarnation, NodeId, Offset};
use crate::inbox::{self, Inbox};
use crate::keeper::{self, Keeper};
use crate::membership::{Member, MemberChange, Membership};
use crate::node_load::{NodeLoad, Queues};
use crate::open_disk::OpenDisk;
use crate::options::Options;
use crate::peer_faults::{PeerFault, PeerFaults};
use crate::records::{RecordRun, Records};
use crate::replica::ReplicaConfig;
use crate::scrubber::Scrubber;
use crate::shelf::Shelf;
use crate::state_machine::{ApplyError, StateMachine};
use crate::tls::PeerLinks;
use crate::tracker::Tracker;
use crate::transport::{Local, Released, TcpTransport};
use crate::vigil::Vigil;
use crate::wire::{Envelope, NO_GROUP};

/// Where a node keeps snapshots, under its data directory.
const SNAPSHOTS_DIR: &str = "snapshots";
/// How long a runtime that nobody drives is waited for.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// What a node needs to know to open.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its own name.
    pub node: NodeId,
    /// Where it keeps its log. One process at a time.
    pub data_dir: PathBuf,
    /// The groups it hosts.
    pub groups: Vec<GroupId>,
    /// The first voters of groups that have never run, this node among them. Empty for a node that
    /// waits to be made a member. Once a group has run, its own log says who takes part.
    pub voters: BTreeMap<NodeId, Member>,
    /// Where to listen for the others. Without it only a single voter makes sense.
    pub listen: Option<SocketAddr>,
    /// How the others are reached.
    pub links: PeerLinks,
    /// Bounds and intervals.
    pub options: Options,
    /// Bounds of the write-ahead log.
    pub wal: WalOptions,
    /// How the files of the log and of snapshots are opened.
    pub disk: OpenDisk,
    /// What they are sealed with, if with anything.
    pub keys: Keys,
}

impl NodeConfig {
    /// Refuses values that cannot work together. Nothing is touched.
    ///
    /// # Errors
    /// [`NodeError::InvalidArgument`], naming the rule.
    pub fn validate(&self) -> Result<(), NodeError> {
        let invalid = |what: String| Err(NodeError::InvalidArgument { what });
        self.options.validate()?;
        let wal =
            if self.keys.are_given() { self.wal.validate_sealed() } else { self.wal.validate() };
        if let Err(error) = wal {
            return invalid(format!("wal: {error}"));
        }
        // All that one round takes in may be one batch.
        let batch_bytes = ROUND_BYTES_MAX + self.options.append_bytes_limit();
        if self.wal.batch_bytes_max < batch_bytes {
            return invalid(format!(
                "batch_bytes_max of the wal must be at least {batch_bytes}: 4 MiB and twice \
                 message_bytes_max, or 12 MiB if that is more"
            ));
        }
        self.validate_links()?;
        if self.groups.contains(&NO_GROUP) {
            return invalid(format!(
                "group={NO_GROUP} is no number for a group: choose a lower one"
            ));
        }
        Ok(())
    }
}

impl NodeConfig {
    /// Refuses to speak to other machines without protection that was not asked for, and credentials that
    /// are not this node's.
    fn validate_links(&self) -> Result<(), NodeError> {
        let invalid = |what: String| Err(NodeError::InvalidArgument { what });
        if let PeerLinks::Tls(tls) = &self.links
            && tls.of() != (self.cluster, self.node)
        {
            let (cluster, node) = tls.of();
            return invalid(format!(
                "the credentials for peers are of cluster={cluster} node={node}: give this node its own"
            ));
        }
        let voters = self.voters.values().filter_map(|voter| voter.address);
        match self.listen.into_iter().chain(voters).find(|at| !self.links.allow(*at)) {
            Some(address) => invalid(format!(
                "address={address} is reached by other machines, and there are no certificates for peers: \
                 give the node some (peer_tls), or say that nobody else is in that network \
                 (unprotected_peers)"
            )),
            None => Ok(()),
        }
    }
}

/// A handle to a running node; cheap to clone. The node stops when the last one is dropped, or
/// when it is closed.
pub struct Node<M: StateMachine> {
    shared: Arc<Shared<M::Outcome>>,
}

struct Shared<O> {
    inbox: Inbox<Event<O>>,
    groups: BTreeMap<GroupId, Arc<GroupShared<O>>>,
    incarnation: Incarnation,
    faults: Arc<PeerFaults>,
    record_bytes_max: usize,
    retry_after_ms: u64,
    stopped: Arc<OnceLock<NodeError>>,
    /// Let go of with the log.
    reader: Arc<Mutex<Option<WalReader>>>,
    queues: Queues,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    driver: JoinHandle<()>,
    applier: JoinHandle<()>,
    keeper: JoinHandle<()>,
    scrubber: JoinHandle<()>,
    released: Released,
}

impl Threads {
    fn join(self) -> std::thread::Result<Released> {
        let joined = self.driver.join().and(self.applier.join()).and(self.keeper.join());
        joined.and(self.scrubber.join()).map(|()| self.released)
    }

    /// The same; and nobody listens at the node's address any more, so that it can be opened again at once.
    fn close(self) -> std::thread::Result<()> {
        let released = self.join()?;
        // Nothing is ever sent. It is the runtime that lets go of the listener, if anybody still drives it.
        let _ = released.recv_timeout(RELEASE_PATIENCE);
        Ok(())
    }
}

impl<M: StateMachine> Clone for Node<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<O> Drop for Shared<O> {
    /// Waits for the threads: a process that ends while they use the state would abort in the
    /// state store's own destructors. Closing first keeps this wait off the caller's runtime.
    fn drop(&mut self) {
        self.inbox.report(Event::Close);
        if let Some(threads) = self.threads.get_mut().ok().and_then(Option::take) {
            // Why they ended is latched already; nobody is left to be told.
            let _ = threads.join();
        }
    }
}

impl<M: StateMachine> Node<M> {
    /// Takes up the node where its data directory and its state left it, and joins the others.
    /// Must be called on a tokio runtime, which then carries its connections.
    ///
    /// # Errors
    /// When the directory is someone else's or in use, when the log is damaged, or when the
    /// address cannot be listened on.
    pub async fn open(config: NodeConfig, machine: M) -> Result<Self, NodeError> {
        config.validate()?;
        let listener = match config.listen {
            None => None,
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|source| NodeError::Io {
                    what: format!("could not listen on {address}"),
                    source: Arc::new(source),
                })?)
            }
        };
        let runtime = tokio::runtime::Handle::current();
        // Opening reads the whole log: not on a runtime thread, and never half cancelled.
        tokio::task::spawn_blocking(move || {
            Self::open_blocking(&config, machine, listener, &runtime)
        })
        .await
        .map_err(|panic| NodeError::Invariant { what: format!("open: {panic}") })?
    }

    fn open_blocking(
        config: &NodeConfig,
        machine: M,
        listener: Option<TcpListener>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, NodeError> {
        let io = |what: &str| {
            let what = format!("{what} {}", config.data_dir.display());
            move |source| NodeError::Io { what, source: Arc::new(source) }
        };
        let incarnation = directory::claim(&config.data_dir, config.cluster, config.node)?;
        let session = directory::random_u128().map_err(io("no randomness for"))? as u64;
        let disk = config.disk.open(&directory::wal_dir(&config.data_dir))?;
        let identity = WalIdentity {
            cluster: config.cluster.get(),
            node: config.node.get(),
            incarnation: incarnation.get(),
        };
        // Before the log goes on: both or neither are opened with these keys.
        let shelf = config.disk.open(&config.data_dir.join(SNAPSHOTS_DIR))?;
        let shelf = Arc::new(Shelf::open(shelf, config.keys.clone(), identity)?);
        let (mut wal, recovered) =
            Wal::open_with_keys(disk, identity, config.wal.clone(), config.keys.clone())?;
        if let Some(group) = recovered.groups.keys().find(|group| !config.groups.contains(group)) {
            return Err(NodeError::InvalidArgument {
                what: format!("the log holds group={group}, which is not configured"),
            });
        }
        if config.groups.iter().all(|group| recovered.groups.contains_key(group)) {
            // A group that is configured later is new, and not one that was lost without a trace.
            wal.forget_unlisted();
        }

        let (inbox, outbox) = inbox::channel(
            config.options.proposals_bytes_max * 2 + config.options.peer_queue_bytes_max,
        );
        let (ceiling, term) = Ceiling::open(&config.data_dir)?;
        let meet = inbox.clone();
        let on_meet = Box::new(move |node, life| meet.report(Event::Met { node, life }));
        let acquaintances = Acquaintances::open(&config.data_dir, on_meet)?;
        let ages = Ages::open(&config.data_dir, session)?;
        let first =
            (!config.voters.is_empty()).then(|| Membership::of_voters(config.voters.clone()));
        let mut replicas = BTreeMap::new();
        let mut lost = BTreeMap::new();
        let mut callers = BTreeMap::new();
        let mut shared_groups = BTreeMap::new();
        for group in &config.groups {
            let applied = machine.applied(*group);
            let opened = Hosted::open(
                ReplicaConfig {
                    group: *group,
                    node: config.node,
                    incarnation,
                    first: first.clone(),
                    session,
                    seed: session,
                    options: config.options.clone(),
                },
                &recovered,
                wal.reader(),
                applied,
                term,
            );
            let replica = match opened {
                Err(cause) if is_of_one_log(&cause) => {
                    lost.insert(*group, cause);
                    Hosted::lost(*group, &recovered, applied, term)
                }
                opened => opened?,
            };
            let shared = Arc::new(GroupShared::new(Tracker::new(applied)));
            inbox.report(Event::Flushed { group: *group, index: machine.flushed(*group).index });
            replicas.insert(*group, replica);
            callers.insert(*group, Callers::new(Arc::clone(&shared)));
            shared_groups.insert(*group, shared);
        }

        // A log with nothing in it beside a state says something of the node, and not of a group.
        let nothing_left = lost.len() == config.groups.len() || recovered.groups.is_empty();
        if nothing_left && let Some((_, cause)) = lost.pop_first() {
            return Err(cause);
        }
        let reader = Arc::new(Mutex::new(Some(wal.reader())));
        let durable = inbox.clone();
        let wal =
            WalWriter::spawn(wal, Box::new(move |up_to| durable.report(Event::Durable(up_to))))?;
        let faults = Arc::new(PeerFaults::default());
        let (transport, vigil) = {
            let _guard = runtime.enter();
            let speaker = Speaker {
                cluster: config.cluster,
                node: config.node,
                incarnation,
                listens_at: config.listen,
            };
            let known = replicas.values().flat_map(|hosted| hosted.status().members.members);
            let peers: BTreeMap<NodeId, SocketAddr> = known
                .chain(config.voters.clone())
                .filter(|(node, _)| *node != config.node)
                .filter_map(|(node, member)| Some((node, member.address?)))
                .collect();
            let deliver = inbox.clone();
            let bytes_max = config.options.peer_queue_bytes_max;
            let take = move |envelope: Envelope, life| {
                // A full inbox drops the message; replicas repeat what matters.
                deliver.offer(envelope.encoded_bytes(), Event::Peer { envelope, life });
            };
            let tell = inbox.clone();
            let told = Arc::new(move |told| tell.report(Event::Told(told)));
            let faults = Arc::clone(&faults);
            let links = config.links.clone();
            // A directory that was made just now is no copy.
            let asked = peers.keys().copied().filter(|_| !ages.is_first());
            let vigil = Vigil::new(asked, config.options.vigil_ticks);
            let local = Local { speaker, links, acquaintances, ages, faults, told };
            (TcpTransport::start(local, listener, peers, bytes_max, take), vigil)
        };
        let (shelf_queue, shelf_jobs) = keeper::channel(config.options.peer_queue_bytes_max);
        let keeper = Keeper {
            node: config.node,
            shelf: Arc::clone(&shelf),
            exporter: machine.exporter(),
            jobs: shelf_jobs,
            inbox: inbox.clone(),
            bytes_per_second: config.options.snapshot_bytes_per_second,
        };
        let mut host = Host::new(config.node, replicas, term, &config.wal);
        let (mut halted, mut anew) = (BTreeSet::new(), BTreeSet::new());
        for (group, shared) in &shared_groups {
            let before = machine.halted(*group).map(|cause| NodeError::Apply(Arc::new(cause)));
            let is_lost = lost.contains_key(group);
            let Some(cause) = lost.remove(group).or(before) else { continue };
            if !is_lost
                && machine.is_given_up(*group)
                && host.is_made_anew(*group, machine.applied(*group), |index| {
                    shelf.received(*group, index).is_ok_and(|found| found.is_some())
                })
            {
                tracing::warn!(%group, "the state is still to be made anew");
                shared.halt(rebuilding(*group));
                anew.insert(*group);
                continue;
            }
            tracing::error!(%group, %cause, "the group is halted on this node");
            let cause = Arc::new(cause);
            shared.halt(NodeError::GroupHalted { group: group.get(), cause });
            // Nobody was promised anything yet.
            let _ = host.halt(*group);
            halted.insert(*group);
        }
        let (running, stops) = mpsc::channel();
        let scrubber = Scrubber {
            log: wal.scrubber(),
            inbox: inbox.clone(),
            bytes_per_second: config.options.scrub_bytes_per_second,
            pause: Duration::from_millis(config.options.scrub_pause_ms),
            stops,
        };
        let (jobs_sender, jobs) = mpsc::channel();
        let applier = Applier {
            machine,
            shelf,
            session,
            jobs,
            groups: shared_groups.clone(),
            inbox: inbox.clone(),
            flush_bytes_target: config.options.flush_bytes_target,
            halted,
            rebuilding: anew,
            held: VecDeque::new(),
            is_full: false,
            room_retry: ROOM_RETRY,
        };
        let queues = Queues {
            inbox: inbox.load(),
            shelf: shelf_queue.load(),
            unread: transport.unread(),
            peers: transport.loads(),
            log: Arc::clone(&reader),
        };
        let driver = Driver {
            outbox,
            host,
            callers,
            wal,
            ceiling,
            transport,
            jobs: jobs_sender,
            shelf: shelf_queue,
            tick: Duration::from_millis(config.options.tick_ms),
            resend_ticks: config.options.resend_ticks,
            vigil,
            state_is_full: false,
        };
        let stopped = Arc::new(OnceLock::new());
        let ends = Ends {
            running,
            groups: shared_groups.values().map(Arc::clone).collect(),
            stopped: Arc::clone(&stopped),
            reader: Arc::clone(&reader),
        };
        let threads = spawn_threads(config.node, driver, applier, keeper, scrubber, ends)
            .map_err(io("could not start the threads of"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                inbox,
                groups: shared_groups,
                incarnation,
                faults,
                record_bytes_max: config.options.record_bytes_max,
                retry_after_ms: config.options.tick_ms,
                stopped,
                reader,
                queues,
                threads: Mutex::new(Some(threads)),
            }),
        })
    }

    /// Offers a record to the group's log. It takes its place in the queue at once; the answer
    /// comes when this node has applied it. Dropping the answer gives up the wait, not the record.
    ///
    /// # Errors
    /// When there is no room now, the record is too large, or the node has stopped: nothing
    /// happened then.
    pub fn propose(
        &self,
        group: GroupId,
        payload: Bytes,
    ) -> Result<Proposal<M::Outcome>, NodeError> {
        self.check(group)?;
        if payload.len() > self.shared.record_bytes_max {
            return Err(NodeError::InvalidArgument {
                what: format!(
                    "record of {} bytes is over record_bytes_max={}",
                    payload.len(),
                    self.shared.record_bytes_max
                ),
            });
        }
        let (reply, receiver) = oneshot::channel();
        let bytes = payload.len();
        self.offer(bytes, Event::Propose { group, payload, reply })?;
        Ok(Proposal { receiver })
    }

    /// Resolves once this node has applied everything that was committed when it was called.
    ///
    /// # Errors
    /// When too many wait already, or the node stops.
    pub async fn read_barrier(&self, group: GroupId) -> Result<AppliedPosition, NodeError> {
        let shared = self.check(group)?;
        let (reply, receiver) = oneshot::channel();
        self.offer(0, Event::Read { group, reply })?;
        let index = receiver.await.map_err(|_| self.stop_cause(group))??;
        shared.tracker.index(index).await.ok_or_else(|| self.stop_cause(group))
    }

    /// How far this node has applied the group.
    ///
    /// # Errors
    /// When the group is not hosted here.
    pub fn applied(&self, group: GroupId) -> Result<AppliedPosition, NodeError> {
        let shared = self.shared.groups.get(&group);
        shared.map(|shared| shared.tracker.position()).ok_or_else(|| unknown(group))
    }

    /// Resolves once the offset is applied here. The caller adds its own deadline.
    ///
    /// # Errors
    /// When the node stops first.
    pub async fn wait_applied(
        &self,
        group: GroupId,
        at_least: Offset,
    ) -> Result<AppliedPosition, NodeError> {
        let shared = self.check(group)?;
        shared.tracker.offset(at_least).await.ok_or_else(|| self.stop_cause(group))
    }

    /// Committed records from `from` on, as far as this node has applied them: about `bytes_max` of them and
    /// at least one run, or nothing if `from` is not applied yet.
    ///
    /// # Errors
    /// [`NodeError::RecordsTrimmed`] says where what is left begins. [`NodeError::Unavailable`] while the
    /// log is under repair: what it holds may not be what was committed.
    pub async fn records(
        &self,
        group: GroupId,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Vec<RecordRun>, NodeError> {
        let applied = self.check(group)?.tracker.position();
        let reader =
            self.shared.reader.lock().expect("no code panics while it holds the reader").clone();
        let reader = reader.ok_or_else(|| self.stop_cause(group))?;
        if matches!(self.status(group).await?.role, Role::Repairing | Role::Halted) {
            return Err(NodeError::Unavailable);
        }
        let read = move || Records { group, reader, applied }.read(from, bytes_max);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| NodeError::Invariant { what: "a read of the log panicked".into() })?
    }

    /// Changes the membership of the group; this node must lead it. Resolves once the change is
    /// through.
    ///
    /// # Errors
    /// [`NodeError::Change`] with the reason if it is not made, [`NodeError::Indeterminate`] if the
    /// leadership moved or the replica stopped meanwhile: look at the status then.
    pub async fn change_members(
        &self,
        group: GroupId,
        change: MemberChange,
    ) -> Result<(), NodeError> {
        self.check(group)?;
        let (reply, receiver) = oneshot::channel();
        self.offer(0, Event::Change { group, change, reply })?;
        // Without an answer it stopped here, and others may commit it.
        receiver.await.unwrap_or(Err(NodeError::Indeterminate))
    }

    /// Asks the leader to hand the group to a voter. This node must lead it, or be the one that is to;
    /// otherwise nothing happens. Look at the status to see whether it did.
    ///
    /// # Errors
    /// When the node is too busy, or has stopped.
    pub fn transfer_leadership(&self, group: GroupId, to: NodeId) -> Result<(), NodeError> {
        self.check(group)?;
        self.offer(0, Event::Transfer { group, to })
    }

    /// Which life of its data directory this node is in. Who adds it to a group names it.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.shared.incarnation
    }

    /// What peers did that was refused since this node was opened: how often, by cause. Each cause is
    /// logged once for each peer.
    #[must_use]
    pub fn peer_faults(&self) -> BTreeMap<PeerFault, u64> {
        self.shared.faults.counts().collect()
    }

    /// What waits in this node, and how long its log takes; nothing of the log once it has stopped.
    #[must_use]
    pub fn load(&self) -> NodeLoad {
        self.shared.queues.look()
    }

    /// How this node sees the group.
    ///
    /// # Errors
    /// When the node is too busy to say, or has stopped.
    pub async fn status(&self, group: GroupId) -> Result<GroupStatus, NodeError> {
        self.hosts(group)?;
        let (reply, receiver) = oneshot::channel();
        self.offer(0, Event::Status { group, reply })?;
        receiver.await.map_err(|_| self.stop_cause(group))
    }

    /// Why this node's replica of the group stopped, if it has and the node has not.
    #[must_use]
    pub fn halted(&self, group: GroupId) -> Option<NodeError> {
        self.shared.groups.get(&group)?.halted()
    }

    /// The group's state is wrong here: this node's replica of it stops for this cause, as if an entry could
    /// not have been applied.
    ///
    /// # Errors
    /// When it has stopped already, or the node is too busy.
    pub fn halt(&self, group: GroupId, what: impl Into<String>) -> Result<(), NodeError> {
        self.check(group)?;
        let cause = NodeError::Apply(Arc::new(ApplyError::of_group(what)));
        self.offer(0, Event::Rejected { group, cause })
    }

    /// Makes the state of a group anew that has halted here: it is given up, and with it this replica's log,
    /// and a snapshot of the leader takes their place. Resolves once the replica is as far as it was, and
    /// serves again. Until a leader is heard nothing is lost but the state. Dropping the future gives up
    /// the wait.
    ///
    /// # Errors
    /// [`NodeError::Rebuild`] with the reason if it cannot be done; the cause, if it halts once more.
    pub async fn rebuild(&self, group: GroupId) -> Result<(), NodeError> {
        self.hosts(group)?;
        let (reply, receiver) = oneshot::channel();
        self.offer(0, Event::Rebuild { group, reply })?;
        receiver.await.map_err(|_| self.stop_cause(group))?
    }

    /// Why the node stopped, if it has: its first cause, or that it was closed.
    #[must_use]
    pub fn stopped(&self) -> Option<NodeError> {
        self.shared.stopped.get().cloned()
    }

    /// Stops the node: what is queued for the disk is written, the state is made durable, and all
    /// threads have ended when this returns, and its address is free. Further calls, on any handle, say that it is closed.
    ///
    /// # Errors
    /// When the node had halted before, with its cause.
    pub async fn close(&self) -> Result<(), NodeError> {
        self.shared.inbox.report(Event::Close);
        let threads =
            self.shared.threads.lock().expect("no code panics while it holds the threads").take();
        if let Some(threads) = threads {
            let joined = tokio::task::spawn_blocking(move || threads.close()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(NodeError::Invariant { what: "a thread of the node panicked".into() });
            }
        }
        match self.stopped() {
            Some(NodeError::Closed) | None => Ok(()),
            Some(cause) => Err(cause),
        }
    }

    /// The group is served here.
    fn check(&self, group: GroupId) -> Result<&GroupShared<M::Outcome>, NodeError> {
        let shared = self.hosts(group)?;
        shared.halted().map_or(Ok(shared), Err)
    }

    fn hosts(&self, group: GroupId) -> Result<&GroupShared<M::Outcome>, NodeError> {
        if let Some(cause) = self.shared.stopped.get() {
            return Err(cause.clone());
        }
        self.shared.groups.get(&group).map(Arc::as_ref).ok_or_else(|| unknown(group))
    }

    fn offer(&self, bytes: usize, event: Event<M::Outcome>) -> Result<(), NodeError> {
        if self.shared.inbox.offer(bytes, event) {
            return Ok(());
        }
        // Full, or its reader gone.
        Err(self.shared.stopped.get().cloned().unwrap_or(NodeError::Backpressure {
            queue: "inbox",
            retry_after_ms: self.shared.retry_after_ms,
        }))
    }

    fn stop_cause(&self, group: GroupId) -> NodeError {
        let shared = self.shared.groups.get(&group);
        if let Some(cause) = shared.and_then(|shared| shared.halted()) {
            return cause;
        }
        self.shared.stopped.get().cloned().unwrap_or(NodeError::Closed)
    }
}

/// The answer to a proposal, to be awaited.
#[must_use = "the outcome of the record comes out of this"]
#[derive(Debug)]
pub struct Proposal<O> {
    receiver: oneshot::Receiver<Result<Committed<O>, NodeError>>,
}

impl<O> Future for Proposal<O> {
    type Output = Result<Committed<O>, NodeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Without an answer the node stopped, and the record may be with another by then.
        Pin::new(&mut self.receiver)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(NodeError::Indeterminate)))
    }
}

fn unknown(group: GroupId) -> NodeError {
    NodeError::UnknownGroup { group: group.get() }
}

/// What is told when the node ends.
struct Ends<O> {
    /// Dropped when it has ended.
    running: mpsc::Sender<()>,
    groups: Vec<Arc<GroupShared<O>>>,
    stopped: Arc<OnceLock<NodeError>>,
    reader: Arc<Mutex<Option<WalReader>>>,
}

impl<O> Ends<O> {
    fn meet(self, cause: NodeError) {
        let _ = self.stopped.set(cause);
        drop(self.running);
        self.reader.lock().expect("no code panics while it holds the reader").take();
        self.groups.iter().for_each(|shared| shared.close());
    }
}

/// Starts the replica thread and the applier thread. Whichever ends first, for whatever reason,
/// latches the cause; a panic is a failed invariant, which stops this node and never its host.
fn spawn_threads<M: StateMachine>(
    node: NodeId,
    mut driver: Driver<M::Outcome, TcpTransport>,
    applier: Applier<M>,
    keeper: Keeper<M::Outcome>,
    scrubber: Scrubber<M::Outcome>,
    ends: Ends<M::Outcome>,
) -> std::io::Result<Threads> {
    let released = driver.transport.released();
    let failed = applier.inbox.clone();
    let applier =
        std::thread::Builder::new().name(format!("palisade-apply-{node}")).spawn(move || {
            if let Err(cause) = guarded(|| applier.run()) {
                failed.report(Event::Failed(cause));
            }
        })?;
    let failed = keeper.inbox.clone();
    let keeper =
        std::thread::Builder::new().name(format!("palisade-shelf-{node}")).spawn(move || {
            let run = || {
                keeper.run();
                Ok(())
            };
            if let Err(cause) = guarded(run) {
                failed.report(Event::Failed(cause));
            }
        })?;
    let failed = scrubber.inbox.clone();
    let scrubber =
        std::thread::Builder::new().name(format!("palisade-scrub-{node}")).spawn(move || {
            let run = || {
                // Without a thread it would hold the log.
                if scrubber.bytes_per_second > 0 {
                    scrubber.run();
                }
                Ok(())
            };
            if let Err(cause) = guarded(run) {
                failed.report(Event::Failed(cause));
            }
        })?;
    let driver =
        std::thread::Builder::new().name(format!("palisade-raft-{node}")).spawn(move || {
            let mut ended = guarded(|| driver.run());
            if ended.is_ok() {
                // What was submitted is written and synced before the log is let go.
                ended = driver.wal.close().map_err(NodeError::from);
            }
            let cause = match ended {
                Ok(()) => NodeError::Closed,
                Err(cause) => {
                    tracing::error!(%node, %cause, "the node halts");
                    NodeError::Halted { cause: Arc::new(cause) }
                }
            };
            ends.meet(cause);
        })?;
    Ok(Threads { driver, applier, keeper, scrubber, released })
}

fn guarded(run: impl FnOnce() -> Result<(), NodeError>) -> Result<(), NodeError> {
    palisade_wal::guarded(run).unwrap_or_else(|what| Err(NodeError::Invariant { what }))
}
