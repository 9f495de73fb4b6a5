//! How an engine is opened: settings with their defaults, checked together before anything is touched.

mod check;
mod groups;
#[cfg(all(test, feature = "rocksdb"))]
mod newer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palisade_replication::{
    ClusterId, Keys, Member, Node, NodeId, OpenDisk, Options, PeerLinks, PeerTls, WalOptions,
};

pub(crate) use self::groups::keep_count;
use crate::comparing::{SCRUB_BYTES_PER_SECOND, Scrub};
use crate::degradation::HealthLimits;
use crate::engine::{Engine, REQUEST_TIMEOUT, Setup};
use crate::error::Error;
use crate::gatekeeper::Gatekeeper;
use crate::machine::EngineMachine;
use crate::node_backend::{Carrier, NodeBackend, apart, look_after};
use crate::projection::{Added, Projection};
use crate::resource::FailureDomain;
use crate::store::{Families, StateMemory, StateStore};

/// Threads that read the state if nothing else is said.
const READER_THREADS: usize = 2;
/// Most threads that [`EngineBuilder::reader_threads`] may ask for.
pub const READER_THREADS_MAX: usize = 64;
/// Least memory that [`EngineBuilder::state_cache_bytes`] and
/// [`EngineBuilder::state_write_buffer_bytes`] may be set to.
pub const STATE_MEMORY_BYTES_MIN: usize = 1 << 20;

/// How an engine is to be opened. Begins with a single voter that speaks to nobody.
///
/// ```
/// use palisade::*;
///
/// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
/// let engine = Engine::builder(dir)
///     .domain(FailureDomain::new("aws", "us-east-1", "us-east-1a"))
///     .state_cache_bytes(16 << 20)
///     .open()
///     .await?;
/// engine.close().await
/// # }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until it is opened"]
pub struct EngineBuilder {
    pub(crate) dir: PathBuf,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) domain: FailureDomain,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) links: PeerLinks,
    pub(crate) voters: BTreeMap<NodeId, Member>,
    pub(crate) joins: bool,
    pub(crate) data_groups: u64,
    request_timeout_ms: u64,
    reader_threads: usize,
    pub(crate) memory: StateMemory,
    /// A voter that was named more than once.
    twice: Option<NodeId>,
    options: Options,
    pub(crate) wal: WalOptions,
    pub(crate) disk: OpenDisk,
    pub(crate) keys: Keys,
    state_disk_is_encrypted: bool,
    pub(crate) added: Added,
    limits: HealthLimits,
    scrub_bytes_per_second: u64,
    stores_traces: bool,
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
            links: PeerLinks::default(),
            voters: BTreeMap::new(),
            joins: false,
            data_groups: 1,
            request_timeout_ms: REQUEST_TIMEOUT.as_millis() as u64,
            reader_threads: READER_THREADS,
            memory: StateMemory::default(),
            twice: None,
            options: Options::default(),
            wal: WalOptions::default(),
            disk: OpenDisk::default(),
            keys: Keys::none(),
            state_disk_is_encrypted: false,
            added: Added::default(),
            limits: HealthLimits::default(),
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
            stores_traces: false,
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

    /// The certificates by which this node and its peers know each other. Without them every peer must be on
    /// this machine, or [`EngineBuilder::unprotected_peers`] be said. Who keeps a clone of these can give the
    /// node others while it runs: [`PeerTls::replace`].
    ///
    /// ```
    /// # use palisade::*;
    /// use palisade::tls::{Credentials, PeerTls};
    ///
    /// # // An authority, and a certificate that it has issued for the node.
    /// # use rcgen::*;
    /// # let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    /// # let mut authority = CertificateParams::default();
    /// # authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    /// # let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    /// # let mut leaf = CertificateParams::default();
    /// # let uri = format!("spiffe://{:032x}.palisade/node/1", 7);
    /// # leaf.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
    /// # leaf.extended_key_usages =
    /// #     vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    /// # let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    /// # let (certificates_pem, key_pem) = (certificate.pem().into(), key.serialize_pem().into());
    /// # let authorities_pem = authority_pem.into();
    /// # async fn example(dir: &std::path::Path, credentials: &Credentials) -> Result<(), Error> {
    /// // Of files: the node's certificate, its key, and the authorities that it believes.
    /// let (cluster, node) = (ClusterId::new(7), NodeId::new(1));
    /// let tls = PeerTls::new(cluster, node, credentials).expect("the certificate names this node");
    /// let address = "127.0.0.1:0".parse().expect("it is an address");
    /// let builder = Engine::builder(dir).cluster(cluster).node(node).listen(address);
    /// let engine = builder.voter(node, address).peer_tls(tls.clone()).open().await?;
    ///
    /// // The next certificate, before this one ends: while the node runs.
    /// tls.replace(credentials).expect("it names this node, too");
    /// engine.close().await
    /// # }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let credentials = Credentials { certificates_pem, key_pem, authorities_pem };
    /// # let work = example(dir.path(), &credentials);
    /// # tokio::runtime::Runtime::new().unwrap().block_on(work).unwrap();
    /// ```
    pub fn peer_tls(mut self, tls: PeerTls) -> Self {
        self.links = PeerLinks::Tls(tls);
        self
    }

    /// Speaks to peers on other machines without TLS, and believes whoever reaches the port: for a network
    /// that nobody else is in.
    pub fn unprotected_peers(mut self) -> Self {
        self.links = PeerLinks::Unprotected;
        self
    }

    /// Names a first voter and where it listens; to be said for every one, this node among them.
    /// Once the engine has run, its log says who takes part.
    pub fn voter(self, node: NodeId, address: SocketAddr) -> Self {
        self.first_voter(node, Member { address: Some(address), ..Member::default() })
    }

    /// As [`EngineBuilder::voter`], and says where the voter is: what fails together with it. A resource
    /// that demands commits across domains needs this of every voter.
    ///
    /// The first three voters, each opened with the same words but its number:
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use std::path::Path;
    ///
    /// use palisade::*;
    ///
    /// fn node(dir: &Path, number: u64) -> EngineBuilder {
    ///     let address = |node: u64| SocketAddr::from(([10, 0, 0, node as u8], 7400));
    ///     let zone = |node| FailureDomain::new("aws", "us-east-1", &format!("us-east-1{node}"));
    ///     let builder = Engine::builder(dir)
    ///         .cluster(ClusterId::new(7))
    ///         .node(NodeId::new(number))
    ///         .domain(zone(number))
    ///         .listen(address(number))
    ///         .unprotected_peers() // nobody else is in this network
    ///         .data_groups(4);
    ///     (1..=3).fold(builder, |builder, voter| {
    ///         builder.voter_in(NodeId::new(voter), address(voter), &zone(voter))
    ///     })
    /// }
    /// # async fn example(dir: &Path) {
    ///
    /// // What contradicts itself is refused before anything is touched.
    /// let refused = node(dir, 4).open().await;
    /// assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "it is no first voter");
    /// # }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path()));
    /// ```
    pub fn voter_in(self, node: NodeId, address: SocketAddr, domain: &FailureDomain) -> Self {
        let domain = domain.to_string();
        self.first_voter(node, Member { address: Some(address), domain, ..Member::default() })
    }

    fn first_voter(mut self, node: NodeId, member: Member) -> Self {
        if self.voters.insert(node, member).is_some() {
            self.twice = Some(node);
        }
        self
    }

    /// This node is to be made a member by those who are: see [`Engine::change_members`].
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// let address = "127.0.0.1:0".parse().expect("it is an address");
    /// let builder = Engine::builder(dir).node(NodeId::new(4)).listen(address).joins();
    /// let engine = builder.open().await?;
    /// // It is outside until a voter is asked to add it, with its incarnation and its address.
    /// let status = engine.group(GroupId::new(1))?.status().await?;
    /// assert_eq!(status.role, Role::Outsider);
    /// println!("node={} incarnation={}", engine.node(), engine.incarnation());
    /// engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    pub fn joins(mut self) -> Self {
        self.joins = true;
        self
    }

    /// Over how many groups resources are spread, 1 to [`crate::DATA_GROUPS_MAX`]; 1 if never said. Each has a log and a
    /// leader of its own, so that more of them write more; only resources of one group can be in one batch,
    /// which is what [`crate::Affinity`] is for. It is the same for every node, for the life of the cluster.
    pub fn data_groups(mut self, data_groups: u64) -> Self {
        self.data_groups = data_groups;
        self
    }

    /// How long a request waits for its quorum before its outcome is called unknown; 10 seconds
    /// if never said.
    pub fn request_timeout_ms(mut self, request_timeout_ms: u64) -> Self {
        self.request_timeout_ms = request_timeout_ms;
        self
    }

    /// Threads that read the state, 1 to [`READER_THREADS_MAX`]; 2 if never said. Reads of more callers
    /// than that wait for one another.
    pub fn reader_threads(mut self, reader_threads: usize) -> Self {
        self.reader_threads = reader_threads;
        self
    }

    /// Memory for parts of the state that were read, over all kinds of resources; 64 MiB if never said, and
    /// at least [`STATE_MEMORY_BYTES_MIN`]. Without the feature `rocksdb` all of the state is in memory,
    /// however much it is.
    pub fn state_cache_bytes(mut self, state_cache_bytes: usize) -> Self {
        self.memory.cache_bytes = state_cache_bytes;
        self
    }

    /// Memory for changes of the state that are not on disk yet, over all kinds of resources; 64 MiB if never
    /// said, and at least [`STATE_MEMORY_BYTES_MIN`]. It bounds nothing without the feature `rocksdb`.
    ///
    /// A small machine with a slow disk:
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// let limits = degradation::HealthLimits { sync_ms_max: 2_000, ..Default::default() };
    /// let engine = Engine::builder(dir)
    ///     .state_cache_bytes(8 << 20)
    ///     .state_write_buffer_bytes(8 << 20)
    ///     .reader_threads(1)
    ///     .scrub_bytes_per_second(1 << 20)
    ///     .request_timeout_ms(30_000)
    ///     .health_limits(limits)
    ///     .options(Options { kept_entries: 100_000, ..Options::default() })
    ///     .wal(WalOptions { live_multiple_max: 3, ..WalOptions::default() })
    ///     .open()
    ///     .await?;
    /// engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    pub fn state_write_buffer_bytes(mut self, state_write_buffer_bytes: usize) -> Self {
        self.memory.write_buffer_bytes = state_write_buffer_bytes;
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
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// use std::sync::{Arc, Mutex};
    ///
    /// // A test that looks at which directories are opened; another could put a failing disk before the files.
    /// let opened = Arc::new(Mutex::new(Vec::new()));
    /// let seen = Arc::clone(&opened);
    /// let disk = OpenDisk::over(move |dir, files: Arc<dyn Disk>| {
    ///     seen.lock().expect("nobody panics with it").push(dir.to_owned());
    ///     files
    /// });
    /// let engine = Engine::builder(dir).disk(disk).open().await?;
    /// engine.close().await?;
    /// assert!(!opened.lock().expect("nobody panics with it").is_empty());
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    pub fn disk(mut self, disk: OpenDisk) -> Self {
        self.disk = disk;
        self
    }

    /// Seals the log, snapshots and backups with these keys: see [`crate::encryption`]. They do not seal the
    /// state store, so that [`EngineBuilder::state_disk_is_encrypted`] must be said too. Who keeps a clone can
    /// give the node another ring while it runs: [`Keys::replace`].
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// Says that the state store, `state` below the directory, lies on an encrypted disk or file system. It
    /// has in clear what the log has sealed, and nothing here can see whether that is true.
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// use palisade::encryption::{KeyRing, Keys, SystemRandomness};
    ///
    /// let mut ring = KeyRing::default();
    /// ring.rotate(&SystemRandomness).expect("there is a first epoch");
    /// let builder = Engine::builder(dir).keys(Keys::new(ring));
    /// let engine = builder.state_disk_is_encrypted().open().await?;
    /// assert!(engine.keys().are_given());
    /// engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    pub fn state_disk_is_encrypted(mut self) -> Self {
        self.state_disk_is_encrypted = true;
        self
    }

    /// Adds a kind of resource. Once there was a resource of a kind, the engine must be opened with it
    /// for ever.
    pub fn projection(mut self, projection: impl Projection) -> Self {
        self.added.projection(projection);
        self
    }

    /// Adds an older version of a kind that [`EngineBuilder::projection`] has a newer one of. Where the older
    /// one is in use it stays so, and decides and serves, until every member of the group was opened with the
    /// newer one and has made its rows anew with [`Projection::import`]; [`crate::Group::rebuilds`] says how far
    /// that is. From then on the newer one decides, and a later release can leave the older one out.
    ///
    /// As long as it is here, an operation that it could not read is refused at the handle.
    ///
    /// ```
    /// # use palisade::*;
    /// # mod versions {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/versions.rs"));
    /// # }
    /// # use versions::{First, Second};
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// // A release whose second version takes over from the first: `Second` says how, with `Projection::import`.
    /// let builder = Engine::builder(dir).projection(Second).superseding(First);
    /// let engine = builder.rebuild_queue_bytes_max(256 << 20).open().await?;
    /// let visits = Handle::<Second>::open(&engine, ResourceSpec::new("visits", "v1")?).await?;
    /// visits.submit(&3).await?;
    /// engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    pub fn superseding(mut self, older: impl Projection) -> Self {
        self.added.older(older);
        self
    }

    /// Most bytes of operations that are kept to be done by a newer version of a projection while it is being
    /// built; 1 GiB if never said. With more, the rebuild ends, and the older version stays.
    pub fn rebuild_queue_bytes_max(mut self, rebuild_queue_bytes_max: u64) -> Self {
        self.added.rebuild_queue_bytes_max = rebuild_queue_bytes_max;
        self
    }

    /// From when on something is a failure, for resources that declare what they do about it: see
    /// [`crate::degradation`].
    pub fn health_limits(mut self, limits: HealthLimits) -> Self {
        self.limits = limits;
        self
    }

    /// How much of its stored rows the node reads again in a second, to see whether they are still what was
    /// written; 4 MiB if never said, and at least 1. A pass over all of them begins once a minute at most.
    pub fn scrub_bytes_per_second(mut self, scrub_bytes_per_second: u64) -> Self {
        self.scrub_bytes_per_second = scrub_bytes_per_second;
        self
    }

    /// Stores the trace contexts of callers with what they write: see [`Engine::traced`]. If never said they are
    /// left out, and the writes are not. A node of a release that does not know such records halts at the first: to
    /// be said once every node of the cluster is of one that does. Each node applies them, whether it says so or not.
    ///
    /// ```
    /// # use palisade::*;
    /// # async fn example(dir: &std::path::Path) -> Result<(), Error> {
    /// let engine = Engine::builder(dir).stores_traces().open().await?;
    /// let trace = TraceContext::new([7; 16], [9; 8], 1).expect("these are no zeros");
    /// # let spec = ResourceSpec::new("orders", "order.v1")?;
    /// let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
    /// let mut records = engine.traced_records();
    /// orders.traced(trace).append(&"an apple".to_owned()).await?;
    /// assert_eq!(records.next().await.map(|record| record.trace), Some(trace));
    /// engine.close().await?;
    /// # Ok(()) }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
    /// ```
    pub fn stores_traces(mut self) -> Self {
        self.stores_traces = true;
        self
    }

    /// Opens the engine on the current tokio runtime. What the directory holds is recovered first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for settings that do not fit together, [`Error::AlreadyExists`]
    /// if the directory is open in another process, [`Error::Incompatible`] if it belongs to
    /// another node or was written by a newer release, [`Error::InternalError`] if it is damaged.
    pub async fn open(self) -> Result<Engine, Error> {
        let registry = self.check()?;
        let carrier = Carrier::here().await?;
        let config = self.config();
        let (dir, cluster, node, memory) = (self.dir, self.cluster, self.node, self.memory);
        let (registered, groups) = (registry.clone(), config.groups.clone());
        let data_groups = self.data_groups;
        let (store, machine) = tokio::task::spawn_blocking(move || {
            let (store, keeps) = open_store(&dir, registered.families().clone(), memory)?;
            let shared = Arc::clone(&store);
            let machine = EngineMachine::open(shared, registered, keeps, cluster, node, &groups)?;
            keep_count(&*store, groups.len() as u64 - 1)?;
            Ok::<_, Error>((store, machine))
        })
        .await
        .map_err(|panic| Error::InternalError { what: format!("opening the state: {panic}") })??;
        let gatekeeper = Gatekeeper::new(machine.contracts(), self.limits);
        let (jobs, comparisons, traces) = (machine.jobs(), machine.comparisons(), machine.traces());
        let id = node;
        // For want of sockets in this runtime it panics.
        let node = apart(Node::open(config, machine)).await?.map_err(Error::from)?;
        let backend = NodeBackend::start(node, &store, self.reader_threads, carrier, jobs).await?;
        let setup = Setup {
            registry,
            cluster,
            id,
            data_groups,
            domain: self.domain,
            keys: self.keys,
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            scrub: Scrub::new(self.scrub_bytes_per_second),
            comparisons,
            traces,
            stores_traces: self.stores_traces,
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

#[cfg(feature = "rocksdb")]
pub(crate) fn open_store(
    dir: &Path,
    families: Families,
    memory: StateMemory,
) -> Result<(Arc<dyn StateStore>, bool), Error> {
    std::fs::create_dir_all(dir).map_err(|error| Error::InternalError {
        what: format!("could not create {}: {error}", dir.display()),
    })?;
    let store = crate::store::RocksStore::open(&dir.join("state"), families, memory)?;
    Ok((Arc::new(store), true))
}

#[cfg(not(feature = "rocksdb"))]
#[allow(clippy::unnecessary_wraps, reason = "the other store can fail to open")]
fn open_store(
    _dir: &Path,
    families: Families,
    _memory: StateMemory,
) -> Result<(Arc<dyn StateStore>, bool), Error> {
    Ok((Arc::new(crate::store::MemoryStore::new(families)), false))
}
