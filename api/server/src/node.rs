//! One node as one process: the engine and whatever it serves, until told to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use palisade::encryption::{KeyError, KeyRing, Keys};
use palisade::{
    ClusterId, Engine, EngineBuilder, Error, FailureDomain, NodeId, PlacementProfile, WalOptions,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::admin::{self, Shows, Stage};
use crate::grpc::Callers;
use crate::observe::{Observed, continue_traces, metered_reports};
use crate::reports::{ReportService, Worker};
use crate::security::files::make_dir;
use crate::security::of_node::NodeSecurity;
use crate::security::ring_watch::RingWatch;
use crate::security::watch as files;
use crate::{grpc, http};

/// What a node process needs to know.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Which node it is.
    pub id: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Where its data is.
    pub data_dir: PathBuf,
    /// Where it is.
    pub domain: FailureDomain,
    /// It waits to be made a member.
    pub joins: bool,
    /// Groups that resources are spread over.
    pub data_groups: u64,
    /// How long a request waits for its quorum.
    pub request_timeout_ms: u64,
    /// Every first voter; none for a node by itself or one that joins.
    pub voters: BTreeMap<NodeId, Voter>,
    /// Where it listens.
    pub listen: Listen,
    /// Who may come in there.
    pub security: Security,
    /// How much it keeps in memory and on disk.
    pub storage: Storage,
    /// The ring of keys that its log, snapshots and backups are sealed with, if they are. Its state store lies
    /// on an encrypted disk then.
    pub key_ring_file: Option<PathBuf>,
    /// Where its backups are written; none are taken without.
    pub backup_dir: Option<PathBuf>,
    /// The report service, if it runs one.
    pub reports: Option<Reports>,
    /// The trace contexts of callers are stored with their records.
    pub stores_traces: bool,
}

/// A first voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Where the others reach it.
    pub address: SocketAddr,
    /// Where it is, if that was said.
    pub domain: Option<FailureDomain>,
}

/// Where a node listens, and for whom. What is not set is not served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// For the other nodes.
    pub peers: Option<SocketAddr>,
    /// For callers.
    pub grpc: Option<SocketAddr>,
    /// For operators of this machine.
    pub admin: Option<SocketAddr>,
}

/// Who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Who has a certificate.
    MutualTls(Certificates),
    /// Everyone on this machine, and nobody else.
    InsecureLoopback,
    /// Nobody: nothing is listened on.
    Closed,
}

/// Who is known, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// This node's certificate, PEM.
    pub node_cert_file: PathBuf,
    /// Its private key, PEM.
    pub node_key_file: PathBuf,
    /// Who signs the certificates of nodes, PEM.
    pub peer_ca_file: PathBuf,
    /// Who signs the certificates of clients, PEM.
    pub client_ca_file: PathBuf,
    /// Keys of capability tokens, if any are taken.
    pub token_keys_file: Option<PathBuf>,
    /// Callers who may do everything, whatever is granted: the first ones that there are.
    pub admins: BTreeSet<String>,
    /// How old the grants may be, in milliseconds, that a caller is served by.
    pub grants_age_ms_max: u64,
}

/// How much a node keeps in memory and on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Memory for parts of the state that were read.
    pub state_cache_bytes: usize,
    /// Memory for changes of the state that are not on disk yet.
    pub state_write_buffer_bytes: usize,
    /// Threads that read the state.
    pub reader_threads: usize,
    /// How much of the state is read again in a second.
    pub scrub_bytes_per_second: u64,
    /// Size of one file of the write-ahead log.
    pub wal_segment_bytes: u64,
    /// What may wait to be written to it.
    pub wal_queued_bytes_max: usize,
}

/// The report service of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// Where its callers reach it. Loopback only: they are not asked who they are.
    pub listen: SocketAddr,
    /// Where it may run.
    pub profile: PlacementProfile,
}

impl Storage {
    fn wal(&self) -> WalOptions {
        WalOptions {
            segment_bytes: self.wal_segment_bytes,
            queued_bytes_max: self.wal_queued_bytes_max,
            ..WalOptions::default()
        }
    }
}

impl NodeSettings {
    /// The engine that it opens.
    pub(crate) fn builder(&self) -> EngineBuilder {
        let mut builder = Engine::builder(&self.data_dir)
            .cluster(self.cluster)
            .node(self.id)
            .domain(self.domain.clone())
            .data_groups(self.data_groups)
            .request_timeout_ms(self.request_timeout_ms)
            .state_cache_bytes(self.storage.state_cache_bytes)
            .state_write_buffer_bytes(self.storage.state_write_buffer_bytes)
            .reader_threads(self.storage.reader_threads)
            .scrub_bytes_per_second(self.storage.scrub_bytes_per_second)
            .wal(self.storage.wal());
        if self.key_ring_file.is_some() {
            builder = builder.state_disk_is_encrypted();
        }
        if let Some(peers) = self.listen.peers {
            builder = builder.listen(peers);
        }
        if self.joins {
            builder = builder.joins();
        }
        if self.stores_traces {
            builder = builder.stores_traces();
        }
        for (id, voter) in &self.voters {
            builder = match &voter.domain {
                Some(domain) => builder.voter_in(*id, voter.address, domain),
                None => builder.voter(*id, voter.address),
            };
        }
        builder
    }

    /// What its log, snapshots and backups are sealed with.
    ///
    /// # Errors
    /// When there is to be a ring, and it cannot be read.
    pub(crate) fn keys(&self) -> Result<Keys, KeyError> {
        let ring = self.key_ring_file.as_deref().map(KeyRing::read).transpose()?;
        Ok(ring.map_or_else(Keys::none, Keys::new))
    }
}

/// Between two looks for work when there was none.
const WORKER_PAUSE: Duration = Duration::from_millis(20);
/// After work that could not be done now.
const WORKER_RETRY: Duration = Duration::from_millis(200);

/// Runs the node until `stop` resolves, then closes it. The admin port is served all the while. When `look_again`
/// is notified, it reads certificates and keys anew at once; it does so by itself every few seconds.
///
/// # Errors
/// When it cannot be opened, or has stopped by itself.
pub async fn run(
    settings: NodeSettings,
    look_again: Arc<Notify>,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let admin = match settings.listen.admin {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let shows = match settings.security {
        Security::InsecureLoopback => Shows::Everything,
        Security::MutualTls(_) | Security::Closed => Shows::Health,
    };
    let stage = Stage::default();
    tokio::select! {
        done = run_engine(settings, look_again, stop, &stage) => done,
        never = admin::serve(admin, stage.clone(), shows) => match never {},
    }
}

async fn run_engine(
    settings: NodeSettings,
    look_again: Arc<Notify>,
    stop: impl Future<Output = ()>,
    stage: &Stage,
) -> Result<(), Error> {
    let security = match &settings.security {
        Security::MutualTls(certificates) => {
            Some(NodeSecurity::open(settings.cluster, settings.id, certificates)?)
        }
        Security::InsecureLoopback | Security::Closed => None,
    };
    let reports = match settings.reports.clone() {
        Some(reports) => Some((listen(reports.listen).await?, reports)),
        None => None,
    };
    let callers = match settings.listen.grpc {
        Some(address) => Some((listen(address).await?, whom(&settings, security.as_ref())?)),
        None => None,
    };
    make_dir(&settings.data_dir).map_err(|error| Error::InvalidArgument {
        what: format!("could not make {}: {error}", settings.data_dir.display()),
    })?;
    let builder = match &security {
        Some(security) => settings.builder().peer_tls(security.peers.clone()),
        None => settings.builder(),
    };
    let (certificates, mut watched) = security
        .map(|security| (Vec::from(security.certificates), security.watched))
        .unwrap_or_default();
    let invalid = |error: KeyError| Error::InvalidArgument { what: error.to_string() };
    let keys = settings.keys().map_err(invalid)?;
    if let Some(path) = settings.key_ring_file.clone() {
        watched.push(Arc::new(RingWatch::new(path, keys.clone())));
    }
    let engine = builder.keys(keys).open().await?;
    tracing::info!(node = %settings.id, cluster = %settings.cluster, "the node is open");
    let observed = Observed::from(&engine);
    certificates.into_iter().for_each(|(port, watch)| observed.certificates(port, watch));
    stage.open(&observed);
    let (stopping, stopped) = watch::channel(false);
    let reports = serve_reports(&observed, &settings, reports);
    let callers = serve_callers(&observed, callers, settings.backup_dir.clone(), stopped);
    let mut callers = pin!(callers);
    let served = tokio::select! {
        served = reports => served,
        served = &mut callers => served,
        never = files::watch(watched, look_again) => never,
        never = continue_traces(&engine) => never,
        () = stop => {
            stage.stopping();
            // Calls that are under way are answered first.
            let _ = stopping.send(true);
            callers.await
        }
    };
    let closed = engine.close().await;
    served.and(closed)
}

/// Who is served on the port of callers.
fn whom(settings: &NodeSettings, security: Option<&NodeSecurity>) -> Result<Callers, Error> {
    match (&settings.security, security) {
        (Security::InsecureLoopback, _) => Ok(Callers::Everyone),
        (Security::MutualTls(certificates), Some(security)) => Ok(Callers::Certified {
            tls: Arc::clone(&security.callers),
            admins: certificates.admins.clone(),
            token_keys: security.token_keys.clone(),
            grants_age_max: Duration::from_millis(certificates.grants_age_ms_max),
        }),
        _ => {
            let what = "callers are served with certificates, or in insecure-loopback".to_owned();
            Err(Error::InvalidArgument { what })
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| Error::InvalidArgument {
        what: format!("could not listen on {address}: {error}"),
    })
}

/// Serves callers of the engine, or nobody, until told to stop.
async fn serve_callers(
    observed: &Observed,
    callers: Option<(TcpListener, Callers)>,
    backup_dir: Option<PathBuf>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    let stop = async move {
        // Whoever could say so is gone: that is the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    match callers {
        Some((listener, callers)) => {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(grpc = %address, "callers are served");
            }
            grpc::serve(observed, listener, callers, backup_dir, stop).await
        }
        None => {
            stop.await;
            Ok(())
        }
    }
}

/// Serves the report service, or nothing, for ever.
async fn serve_reports(
    observed: &Observed,
    settings: &NodeSettings,
    reports: Option<(TcpListener, Reports)>,
) -> Result<(), Error> {
    let Some((listener, reports)) = reports else { return std::future::pending().await };
    tracing::info!(http = %reports.listen, "the report service listens");
    let service = open_service(observed.engine(), &reports.profile).await?;
    let count = settings.voters.len() as u64;
    let share = (settings.id.get() % count.max(1), count.max(1));
    let name = format!("worker-{}", settings.id);
    let worker = Worker::new(service.clone(), settings.domain.clone(), name, share)?;
    let counted = from_fn_with_state(Arc::clone(observed.calls()), metered_reports);
    let routes = http::router(service).layer(counted);
    let served = async {
        axum::serve(listener, routes).await.map_err(|error| Error::InternalError {
            what: format!("the HTTP server ended: {error}"),
        })
    };
    tokio::select! {
        served = served => served,
        stopped = work(worker) => Err(stopped),
    }
}

/// A cluster that is just starting has no leader yet: the service opens once it has.
async fn open_service(engine: &Engine, profile: &PlacementProfile) -> Result<ReportService, Error> {
    loop {
        match ReportService::open(engine, profile.clone()).await {
            Err(Error::Disconnected { .. } | Error::RateLimited { .. }) => {
                tracing::info!("no quorum yet");
                sleep(WORKER_RETRY).await;
            }
            other => return other,
        }
    }
}

/// Works until the engine has stopped.
async fn work(mut worker: Worker) -> Error {
    loop {
        match worker.tick().await {
            Ok(0) => sleep(WORKER_PAUSE).await,
            Ok(_) => {}
            Err(error @ Error::InternalError { .. }) => return error,
            Err(error) => {
                tracing::debug!(%error, "the worker waits");
                sleep(WORKER_RETRY).await;
            }
        }
    }
}
