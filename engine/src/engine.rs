//! The engine: open a node, propose, read, and say how it is doing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palisade_replication::{
    ChangeRefusal, ClusterId, DOMAIN_BYTES_MAX, Disposition, GroupId, GroupStatus, Incarnation,
    Member, MemberChange, MemberRole, Node, NodeConfig, NodeError, NodeId, Offset, OpenDisk,
    Options, PeerFault, WalOptions,
};
use tokio::time::timeout;

use crate::batch::Batch;
use crate::command::{Command, Outcome, Refusal, Version};
use crate::digest::{StateDigest, digest};
use crate::error::Error;
use crate::machine::{ChainHead, EngineMachine, read_position};
use crate::read::{ReadConsistency, ReadOptions};
use crate::readers::Readers;
use crate::receipt::Receipt;
use crate::resource::{
    FailureDomain, LogicalResourceName, ReplicaPolicy, ResourceId, ResourceKind, ResourceSpec,
};
use crate::store::{Families, StateRead, StateStore, StoreError};

/// The group that holds an engine's resources.
const GROUP: GroupId = GroupId::new(1);
/// Between two looks whether a demand is met.
const DEMAND_PAUSE: Duration = Duration::from_millis(20);
/// Threads that read the state.
const READER_THREADS: usize = 2;

/// A running engine; cheap to clone. Closing it, or dropping the last clone, stops the node.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node<EngineMachine>,
    readers: Readers,
    id: NodeId,
    domain: FailureDomain,
    request_timeout: Duration,
}

/// How an engine is to be opened. Begins with a single voter that speaks to nobody.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is opened"]
pub struct EngineBuilder {
    dir: PathBuf,
    cluster: ClusterId,
    node: NodeId,
    domain: FailureDomain,
    listen: Option<SocketAddr>,
    voters: BTreeMap<NodeId, Member>,
    joins: bool,
    request_timeout: Duration,
    options: Options,
    wal: WalOptions,
    disk: OpenDisk,
}

impl EngineBuilder {
    /// The cluster this node belongs to; zero if never said.
    pub fn cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = cluster;
        self
    }

    /// This node's name, unique in its cluster; 1 if never said.
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }

    /// Where this node is; `local/local/local` if never said.
    pub fn domain(mut self, domain: FailureDomain) -> Self {
        self.domain = domain;
        self
    }

    /// Where this node listens for the others.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Names a first voter and where it listens; to be said for every one, this node among them.
    /// Once the engine has run, its log says who takes part.
    pub fn voter(mut self, node: NodeId, address: SocketAddr) -> Self {
        self.voters.insert(node, Member { address: Some(address), ..Member::default() });
        self
    }

    /// As [`EngineBuilder::voter`], and says where the voter is: what fails together with it. A resource
    /// that demands commits across domains needs this of every voter.
    pub fn voter_in(mut self, node: NodeId, address: SocketAddr, domain: &FailureDomain) -> Self {
        let domain = domain.to_string();
        let member = Member { address: Some(address), domain, ..Member::default() };
        self.voters.insert(node, member);
        self
    }

    /// This node is to be made a member by those who are: see [`Engine::change_members`].
    pub fn joins(mut self) -> Self {
        self.joins = true;
        self
    }

    /// How long a request waits for its quorum before its outcome is called unknown; 10 seconds
    /// if never said.
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.request_timeout = request_timeout;
        self
    }

    /// Bounds and intervals of the replica.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Bounds of the write-ahead log.
    pub fn wal(mut self, wal: WalOptions) -> Self {
        self.wal = wal;
        self
    }

    /// How the files of the log and of snapshots are opened, if there is to be something before them:
    /// slow disks for a measurement, failing ones for a test.
    pub fn disk(mut self, disk: OpenDisk) -> Self {
        self.disk = disk;
        self
    }

    /// Opens the engine on the current tokio runtime. What the directory holds is recovered first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for settings that do not fit together, [`Error::AlreadyExists`]
    /// if the directory is open in another process, [`Error::Incompatible`] if it belongs to
    /// another node or was written by a newer release, [`Error::InternalError`] if it is damaged.
    pub async fn open(self) -> Result<Engine, Error> {
        check_domain(&self.domain)?;
        let mut voters = self.voters;
        if self.joins && !voters.is_empty() {
            return Err(Error::InvalidArgument {
                what: "a node that joins names no first voters".to_owned(),
            });
        }
        if self.listen.is_none() && (self.joins || voters.len() > 1) {
            return Err(Error::InvalidArgument {
                what: "a node among several needs an address to listen on".to_owned(),
            });
        }
        if let Some(long) = voters.values().find(|v| v.domain.len() > DOMAIN_BYTES_MAX) {
            return Err(Error::InvalidArgument {
                what: format!("domain={} is longer than {DOMAIN_BYTES_MAX} bytes", long.domain),
            });
        }
        if voters.is_empty() && !self.joins {
            let domain = self.domain.to_string();
            voters.insert(self.node, Member { domain, ..Member::default() });
        }
        let (dir, cluster, node) = (self.dir.clone(), self.cluster, self.node);
        let (store, machine) = tokio::task::spawn_blocking(move || {
            let (store, keeps) = open_store(&dir, Families::new(&[])?)?;
            let machine = EngineMachine::open(Arc::clone(&store), keeps, cluster, node, &[GROUP])?;
            Ok::<_, Error>((store, machine))
        })
        .await
        .map_err(|panic| Error::InternalError { what: format!("opening the state: {panic}") })??;
        let config = NodeConfig {
            cluster: self.cluster,
            node: self.node,
            data_dir: self.dir,
            groups: vec![GROUP],
            voters,
            listen: self.listen,
            options: self.options,
            wal: self.wal,
            disk: self.disk,
        };
        let node = Node::open(config, machine).await?;
        let readers = match Readers::start(&store, READER_THREADS) {
            Ok(readers) => readers,
            Err(error) => {
                // The caller hears the first cause; a node that would not close as well is gone
                // with this process.
                let _ = node.close().await;
                return Err(error);
            }
        };
        Ok(Engine {
            inner: Arc::new(Inner {
                node,
                readers,
                id: self.node,
                domain: self.domain,
                request_timeout: self.request_timeout,
            }),
        })
    }
}

#[cfg(feature = "rocksdb")]
fn open_store(dir: &Path, families: Families) -> Result<(Arc<dyn StateStore>, bool), Error> {
    std::fs::create_dir_all(dir).map_err(|error| Error::InternalError {
        what: format!("could not create {}: {error}", dir.display()),
    })?;
    let store = crate::store::RocksStore::open(&dir.join("state"), families)?;
    Ok((Arc::new(store), true))
}

#[cfg(not(feature = "rocksdb"))]
#[allow(clippy::unnecessary_wraps, reason = "the other store can fail to open")]
fn open_store(_dir: &Path, families: Families) -> Result<(Arc<dyn StateStore>, bool), Error> {
    Ok((Arc::new(crate::store::MemoryStore::new(families)), false))
}

impl Engine {
    /// Begins to open an engine whose data is in this directory.
    pub fn builder(dir: impl AsRef<Path>) -> EngineBuilder {
        EngineBuilder {
            dir: dir.as_ref().to_owned(),
            cluster: ClusterId::new(0),
            node: NodeId::new(1),
            domain: FailureDomain::new("local", "local", "local"),
            listen: None,
            voters: BTreeMap::new(),
            joins: false,
            request_timeout: Duration::from_secs(10),
            options: Options::default(),
            wal: WalOptions::default(),
            disk: OpenDisk::default(),
        }
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.id
    }

    /// Where this node is.
    #[must_use]
    pub fn domain(&self) -> &FailureDomain {
        &self.inner.domain
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
        Ok(self.inner.node.applied(GROUP)?.offset)
    }

    /// How this node sees its group.
    ///
    /// # Errors
    /// [`Error::RateLimited`] if it is too busy to say, [`Error::InternalError`] if it has stopped.
    pub async fn status(&self) -> Result<GroupStatus, Error> {
        Ok(self.inner.node.status(GROUP).await?)
    }

    /// What peers sent that was refused since this engine was opened, and how often: another cluster's
    /// node, a damaged or oversized message, an unknown version, a life that the group does not know.
    /// The connection was closed each time. Each cause is logged once for each peer.
    #[must_use]
    pub fn peer_faults(&self) -> BTreeMap<PeerFault, u64> {
        self.inner.node.peer_faults()
    }

    /// Changes who takes part; this node must lead. A new node is opened with
    /// [`EngineBuilder::joins`], added as a learner, and promoted once it has caught up. A dead one
    /// gives its place to a learner with [`MemberChange::Replace`].
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] with the reason if the change is not made, for one that would
    /// not be safe among others; [`Error::Disconnected`] if its outcome is not known.
    pub async fn change_members(&self, change: MemberChange) -> Result<(), Error> {
        timeout(self.inner.request_timeout, self.inner.node.change_members(GROUP, change))
            .await
            .map_err(|_| Error::Disconnected { outcome_unknown: true })??;
        Ok(())
    }

    /// Asks for the leadership to be handed to another voter; this node must lead, or nothing
    /// happens. [`Engine::status`] says whether it was.
    ///
    /// # Errors
    /// [`Error::RateLimited`] if the node is too busy, [`Error::InternalError`] if it has stopped.
    pub fn transfer_leadership(&self, to: NodeId) -> Result<(), Error> {
        Ok(self.inner.node.transfer_leadership(GROUP, to)?)
    }

    /// Which life of its data directory this node is in: part of who it is when it is added.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.inner.node.incarnation()
    }

    /// The last record applied here, and the head of the chain of records up to it.
    ///
    /// # Errors
    /// As for any read.
    pub async fn chain_head(&self) -> Result<(Offset, ChainHead), Error> {
        let applied = self.applied()?;
        let (position, head) = self.read_state(applied, read_position).await?;
        Ok((position.offset, head))
    }

    /// Digests of the whole state at one offset, read from front to back.
    ///
    /// # Errors
    /// As for any read.
    pub async fn digest(&self) -> Result<StateDigest, Error> {
        self.read_state(self.applied()?, digest).await
    }

    /// Stops the node; everything is on stable storage when this returns.
    ///
    /// # Errors
    /// [`Error::InternalError`] with the cause, if it had stopped by itself before.
    pub async fn close(&self) -> Result<(), Error> {
        let closed = self.inner.node.close().await;
        self.inner.readers.close().await;
        Ok(closed?)
    }

    /// Opens a resource for writing, making it if it is not there.
    pub(crate) async fn open_resource(
        &self,
        kind: ResourceKind,
        spec: ResourceSpec,
    ) -> Result<ResourceId, Error> {
        let name = spec.name.clone();
        // G1: a resource that asks for more copies than there can be is not made with fewer.
        let members = self.status().await?.members;
        let is_voter = |(_, role): &(NodeId, MemberRole)| *role == MemberRole::Voter;
        let voters = members.roles().filter(is_voter).count();
        // A node that has heard of nobody yet cannot tell; the leader's domain checks still hold.
        if voters > 0 && spec.replicas.replicas() as usize > voters {
            return Err(Error::Incompatible {
                expected: format!("replicas={} of resource={name}", spec.replicas.replicas()),
                found: format!("voters={voters}"),
            });
        }
        if !spec.placement.allows(&self.inner.domain) {
            return Err(Error::DomainUnavailable {
                domain: self.inner.domain.to_string(),
                resource: name.to_string(),
            });
        }
        let domains = spec.replicas.domains();
        if !(1..=ReplicaPolicy::DOMAINS_MAX).contains(&domains) {
            return Err(Error::InvalidArgument {
                what: format!("a write can be demanded in 1 or 2 domains, domains={domains}"),
            });
        }
        let found = members.voter_domains();
        if voters > 0 && domains as usize > 1.max(found.len()) {
            return Err(one_domain(&name, &found));
        }
        let caller = self.inner.domain.clone();
        let resource = match self.propose(&Command::Open { kind, spec, caller }).await? {
            (_, Outcome::Opened { resource }) => resource,
            (_, Outcome::Refused(refusal)) => return Err(refused(refusal)),
            (_, other) => return Err(unexpected(&other)),
        };
        // There is no handle, and so no write, before the whole group commits as it demands.
        if domains > 1 {
            timeout(self.inner.request_timeout, self.demand_domains(&name))
                .await
                .map_err(|_| Error::Disconnected { outcome_unknown: true })??;
        }
        Ok(resource)
    }

    /// Resolves once every commit of the group reaches two failure domains.
    async fn demand_domains(&self, name: &LogicalResourceName) -> Result<(), Error> {
        loop {
            let demanded = self.inner.node.change_members(GROUP, MemberChange::AcrossDomains).await;
            match demanded {
                Ok(()) => return Ok(()),
                Err(NodeError::Change(ChangeRefusal::OneDomain { domains })) => {
                    return Err(one_domain(name, &domains.iter().map(String::as_str).collect()));
                }
                Err(error @ NodeError::Change(ChangeRefusal::DomainsAtRisk { .. })) => {
                    return Err(Error::Degraded { what: error.to_string() });
                }
                // It is the same demand however often it is made.
                Err(error) if error.disposition() != Disposition::Halt => {
                    tokio::time::sleep(DEMAND_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Commits a batch and says where it took effect.
    pub(crate) async fn commit(&self, command: &Command) -> Result<Receipt, Error> {
        match self.propose(command).await? {
            (receipt, Outcome::Applied) => Ok(receipt),
            (receipt, Outcome::Duplicate(first)) => Ok(Receipt {
                offset: first.offset,
                log_time: first.log_time,
                duplicate: true,
                ..receipt
            }),
            (_, Outcome::Refused(refusal)) => Err(refused(refusal)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn propose(&self, command: &Command) -> Result<(Receipt, Outcome), Error> {
        let payload = command.encode();
        debug_assert_eq!(Command::decode(payload.clone()).as_ref(), Ok(command));
        let proposal = self.inner.node.propose(GROUP, payload)?;
        let committed = timeout(self.inner.request_timeout, proposal)
            .await
            .map_err(|_| Error::Disconnected { outcome_unknown: true })??;
        let receipt = Receipt {
            group: GROUP,
            offset: committed.offset,
            log_time: committed.log_time,
            duplicate: false,
        };
        Ok((receipt, committed.outcome.0))
    }

    /// Reads one moment's state that is as fresh as asked.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        options: ReadOptions,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Error> {
        // A halted replica may be damaged: it serves nothing, however stale (G10).
        if let Some(cause) = self.inner.node.stopped() {
            return Err(cause.into());
        }
        let required = match options.consistency {
            ReadConsistency::Local => self.inner.node.applied(GROUP)?.offset,
            ReadConsistency::Linearizable => {
                timeout(self.inner.request_timeout, self.inner.node.read_barrier(GROUP))
                    .await
                    .map_err(|_| Error::Disconnected { outcome_unknown: false })??
                    .offset
            }
            ReadConsistency::AtLeastOffset(required) => {
                self.at_least(required, options.wait).await?;
                required
            }
        };
        self.read_state(required, read).await
    }

    /// Reads one moment's state, which says itself how fresh it is (G4): a state that a snapshot is
    /// about to replace stands nowhere.
    async fn read_state<T: Send + 'static>(
        &self,
        required: Offset,
        read: impl FnOnce(&dyn StateRead, GroupId) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Error> {
        let found = self.inner.readers.read(move |state| {
            let (position, _) = read_position(state, GROUP)?;
            let fresh = required <= position.offset;
            Ok(if fresh { Ok(read(state, GROUP)?) } else { Err(position.offset) })
        });
        found.await?.map_err(|applied| Error::NotYetApplied { required, applied })
    }

    async fn at_least(&self, required: Offset, wait: Duration) -> Result<(), Error> {
        let node = &self.inner.node;
        if required <= node.applied(GROUP)?.offset {
            return Ok(());
        }
        if !wait.is_zero()
            && let Ok(waited) = timeout(wait, node.wait_applied(GROUP, required)).await
        {
            waited?;
            return Ok(());
        }
        Err(Error::NotYetApplied { required, applied: node.applied(GROUP)?.offset })
    }
}

/// Longest name of a provider, region or zone.
const DOMAIN_PART_BYTES_MAX: usize = 64;

pub(crate) fn check_domain(domain: &FailureDomain) -> Result<(), Error> {
    let parts = [&domain.provider, &domain.region, &domain.zone];
    if parts.iter().all(|part| (1..=DOMAIN_PART_BYTES_MAX).contains(&part.len())) {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        what: format!(
            "domain={domain} needs a provider, region and zone of 1 to {DOMAIN_PART_BYTES_MAX} \
             bytes"
        ),
    })
}

/// A demand that the voters of the group could never meet.
fn one_domain(name: &LogicalResourceName, found: &BTreeSet<&str>) -> Error {
    Error::Incompatible {
        expected: format!(
            "voters in 2 failure domains, as resource={name} demands: name each voter's domain \
             with EngineBuilder::voter_in, and have voters in two"
        ),
        found: format!("voters known to be in {found:?}"),
    }
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Fenced { current } => Error::Fenced { current },
        Refusal::NotOpened { epoch, current } => Error::PreconditionFailed {
            what: format!("epoch={epoch} was not opened, current={current}"),
        },
        Refusal::UnknownResource { resource } => {
            Error::NotFound { what: format!("resource number {}", resource.0) }
        }
        Refusal::Incompatible { expected, found } => Error::Incompatible { expected, found },
        Refusal::DomainUnavailable { domain, resource } => {
            Error::DomainUnavailable { domain: domain.to_string(), resource: resource.to_string() }
        }
        Refusal::VersionMismatch { expected, found } => {
            let version = |version: Version| match version {
                Version::ABSENT => "absent".to_owned(),
                version => version.offset().to_string(),
            };
            Error::PreconditionFailed {
                what: format!("version, expected={} found={}", version(expected), version(found)),
            }
        }
        Refusal::IdempotencyConflict => Error::IdempotencyConflict,
        Refusal::InProgress { owner, since } => Error::PreconditionFailed {
            what: format!("the request is reserved by owner epoch={owner} since={since}"),
        },
        Refusal::NotReserved => Error::PreconditionFailed {
            what: "the request is not reserved by this owner epoch".to_owned(),
        },
        Refusal::CompletedOtherwise { at } => Error::PreconditionFailed {
            what: format!("the request was completed with another result, offset={at}"),
        },
        Refusal::AppendedTwice => Error::InvalidArgument {
            what: "a batch appends to the same log at most once".to_owned(),
        },
    }
}

fn unexpected(outcome: &Outcome) -> Error {
    Error::InternalError { what: format!("a record was answered with {outcome:?}") }
}
