//! How an engine is opened: settings with their defaults, checked together before anything is touched.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palisade_replication::{
    ClusterId, DOMAIN_BYTES_MAX, Member, Node, NodeConfig, NodeId, OpenDisk, Options, WalOptions,
};

use crate::degradation::HealthLimits;
use crate::engine::{Engine, GROUP, REQUEST_TIMEOUT, Setup};
use crate::error::Error;
use crate::gatekeeper::Gatekeeper;
use crate::machine::EngineMachine;
use crate::node_backend::{NodeBackend, look_after};
use crate::projection::{AnyProjection, Erased, Projection, Registry};
use crate::resource::FailureDomain;
use crate::store::{Families, StateStore};

/// How an engine is to be opened. Begins with a single voter that speaks to nobody.
#[derive(Clone)]
#[must_use = "a builder does nothing until it is opened"]
pub struct EngineBuilder {
    pub(crate) dir: PathBuf,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) domain: FailureDomain,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) voters: BTreeMap<NodeId, Member>,
    pub(crate) joins: bool,
    request_timeout: Duration,
    options: Options,
    pub(crate) wal: WalOptions,
    pub(crate) disk: OpenDisk,
    pub(crate) projections: Vec<Arc<dyn AnyProjection>>,
    limits: HealthLimits,
}

impl EngineBuilder {
    pub(crate) fn new(dir: &Path) -> Self {
        let unnamed = FailureDomain::UNNAMED;
        Self {
            dir: dir.to_owned(),
            cluster: ClusterId::new(0),
            node: NodeId::new(1),
            domain: FailureDomain::new(unnamed, unnamed, unnamed),
            listen: None,
            voters: BTreeMap::new(),
            joins: false,
            request_timeout: REQUEST_TIMEOUT,
            options: Options::default(),
            wal: WalOptions::default(),
            disk: OpenDisk::default(),
            projections: Vec::new(),
            limits: HealthLimits::default(),
        }
    }

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

    /// Adds a kind of resource. Once there was a resource of a kind, the engine must be opened with it
    /// for ever.
    pub fn projection(mut self, projection: impl Projection) -> Self {
        self.projections.push(Arc::new(Erased(projection)));
        self
    }

    /// From when on something is a failure, for resources that declare what they do about it: see
    /// [`crate::degradation`].
    pub fn health_limits(mut self, limits: HealthLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens the engine on the current tokio runtime. What the directory holds is recovered first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for settings that do not fit together, [`Error::AlreadyExists`]
    /// if the directory is open in another process, [`Error::Incompatible`] if it belongs to
    /// another node or was written by a newer release, [`Error::InternalError`] if it is damaged.
    pub async fn open(self) -> Result<Engine, Error> {
        self.domain.check()?;
        check_limits(&self.limits, &self.options)?;
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
        let registry = Registry::new(&self.projections)?;
        let (dir, cluster, node) = (self.dir.clone(), self.cluster, self.node);
        let registered = registry.clone();
        let (store, machine) = tokio::task::spawn_blocking(move || {
            let (store, keeps) = open_store(&dir, registered.families().clone())?;
            let shared = Arc::clone(&store);
            let machine = EngineMachine::open(shared, registered, keeps, cluster, node, &[GROUP])?;
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
        let gatekeeper = Gatekeeper::new(machine.contracts(), self.limits);
        let node = Node::open(config, machine).await?;
        let backend = NodeBackend::start(node, &store).await?;
        let setup = Setup {
            registry,
            cluster: self.cluster,
            id: self.node,
            domain: self.domain,
            request_timeout: self.request_timeout,
        };
        let engine = Engine::new(backend, gatekeeper, setup);
        #[expect(
            clippy::disallowed_methods,
            reason = "it has the engine weakly, and ends when nobody else has it or it was closed"
        )]
        tokio::spawn(look_after(engine.downgrade()));
        Ok(engine)
    }
}

/// Refuses limits under which nothing is ever well, or each change of leader is a failure.
fn check_limits(limits: &HealthLimits, options: &Options) -> Result<(), Error> {
    limits.check()?;
    let election_ms = 2 * u64::from(options.election_ticks) * options.tick_ms;
    if limits.disconnected_after_ms > election_ms {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        what: format!(
            "disconnected_after_ms={} must be more than an election takes, which is up to twice \
             election_ticks, {election_ms} ms",
            limits.disconnected_after_ms
        ),
    })
}

#[cfg(feature = "rocksdb")]
pub(crate) fn open_store(
    dir: &Path,
    families: Families,
) -> Result<(Arc<dyn StateStore>, bool), Error> {
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
