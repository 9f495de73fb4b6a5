//! The engine as others call it over gRPC: `docs/grpc.md`.
//!
//! Each service is an `impl` for `Endpoint`, in the file of its name. Any node takes any call: what
//! is written goes to the leader by itself, what is read is read here.

mod access;
mod access_service;
mod answers;
mod append_stream;
mod audit;
mod backups;
mod batch;
mod cluster;
mod connections;
mod convert;
mod deadline;
mod directory;
mod endpoint;
mod failure;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod handles;
mod health;
mod idempotency;
mod log;
mod map;
mod own;
mod probe;
mod registrations;
mod session;
mod spec;
mod streams;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palisade::Error;
use palisade_proto::admin::v1::backups_server::BackupsServer;
use palisade_proto::{DESCRIPTORS, MESSAGE_BYTES_MAX};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;
use tower_layer::{Identity, Stack};

use self::access::{Access, Grants};
use self::answers::{Answers, Bounded, Bounds};
use self::backups::Backups;
pub(crate) use self::connections::{CONNECTIONS_MAX, Connection};
use self::connections::{Door, incoming};
pub(crate) use self::convert::Raw;
use self::endpoint::Endpoint;
use self::health::Health;
pub(crate) use self::probe::Probe;
use crate::observe::{Metered, Observed};
use crate::security::accept::Gate;
use crate::security::audit::AuditQueue;
use crate::security::tls::CallerTls;
use crate::security::token::LiveKeys;

/// Calls of one connection that are under way.
const CALLS_MAX: u32 = 256;
/// Bytes of a call that have come and were not looked at.
const CALL_WINDOW_BYTES: u32 = 1 << 20;
/// The same of all calls of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What a call says of itself beside its messages.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Calls that a connection takes back before they were looked at.
const RESETS_MAX: usize = 64;
/// How long calls that are under way may take once the node is told to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// A connection on which nothing moves is asked whether anybody is there, and closed if nobody answers.
const SILENCE: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(10);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::InternalError { what: format!("the gRPC endpoint: {error}") }
}

/// No message is longer, in either direction.
macro_rules! bounded {
    ($server:expr) => {
        $server
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    };
}

macro_rules! services {
    ($router:expr, $endpoint:expr, $($package:ident::$module:ident::$server:ident),* $(,)?) => {
        $router$(.add_service(
            bounded!(palisade_proto::$package::v1::$module::$server::new($endpoint.clone())),
        ))*
    };
}

type Layers = Stack<Bounded, Stack<Metered, Identity>>;

fn router(
    observed: &Observed,
    access: Arc<Access>,
    backup_dir: Option<PathBuf>,
) -> Result<Router<Layers>, Error> {
    let endpoint = Endpoint::new(observed.engine().clone(), access);
    let answers = Bounded(Arc::new(Answers::new(Bounds::default())));
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let server = Server::builder()
        .layer(Metered(Arc::clone(observed.calls())))
        .layer(answers)
        .max_concurrent_streams(CALLS_MAX)
        .initial_stream_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_keepalive_interval(Some(SILENCE))
        .http2_keepalive_timeout(Some(ANSWER));
    let mut server = server;
    let router = server
        .add_service(bounded!(BackupsServer::new(Backups::new(endpoint.clone(), backup_dir))))
        .add_service(bounded!(HealthServer::new(Health::new(Arc::clone(observed.probe())))))
        .add_service(bounded!(described().build_v1().map_err(failed)?))
        .add_service(bounded!(described().build_v1alpha().map_err(failed)?));
    Ok(services!(
        router,
        endpoint,
        log::log_server::LogServer,
        map::map_server::MapServer,
        idempotency::idempotency_server::IdempotencyServer,
        batch::batch_server::BatchServer,
        session::session_server::SessionServer,
        directory::directory_server::DirectoryServer,
        cluster::cluster_server::ClusterServer,
        access::access_server::AccessServer,
    ))
}

/// Whom a node serves.
#[derive(Debug)]
pub enum Callers {
    /// Everyone who reaches the listener: for loopback alone.
    Everyone,
    /// Who shows a certificate of the cluster's client authority, and what was granted to whom.
    Certified {
        /// The node's own certificate, and whom it believes.
        tls: Arc<CallerTls>,
        /// Names that may do everything, whatever is granted: the first ones that there are.
        admins: BTreeSet<String>,
        /// Keys to know tokens by; none are taken without.
        token_keys: Option<Arc<LiveKeys>>,
        /// How long ago a quorum may have had the grants that somebody is served by.
        grants_age_max: Duration,
    },
}

/// Serves the engine on connections to this listener until `stop` resolves, and then until the calls that are
/// under way have ended, for at most 5 seconds: streams may have no end. What was refused is in the audit by then. Calls are counted with what else is observed of the node, if that is given. Backups are
/// written to `backup_dir`, and refused without one.
///
/// # Errors
/// [`Error::InvalidArgument`] if everyone would be served on an address that is not of this machine alone,
/// [`Error::InternalError`] if it cannot begin or ends by itself.
pub async fn serve(
    observed: impl Into<Observed>,
    listener: TcpListener,
    callers: Callers,
    backup_dir: Option<PathBuf>,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let observed = observed.into();
    let engine = observed.engine();
    let address = listener.local_addr().map_err(failed)?;
    let audit = Arc::new(AuditQueue::default());
    let (door, access) = match callers {
        Callers::Everyone if !address.ip().is_loopback() => {
            let what =
                format!("{address} is not of this machine alone: callers need certificates there");
            return Err(Error::InvalidArgument { what });
        }
        Callers::Everyone => (None, Access::Everyone),
        Callers::Certified { tls, admins, token_keys, grants_age_max } => {
            let gate = Arc::new(Gate::new(engine.cluster(), tls));
            observed.gate(Arc::clone(&gate));
            let grants = Grants::new(admins, token_keys, grants_age_max, Arc::clone(&audit));
            (Some(Door { gate, audit: Arc::clone(&audit) }), Access::Granted(grants))
        }
    };
    let access = Arc::new(access);
    let incoming = incoming(listener, door, Arc::clone(observed.connections()));
    let (stopping, stopped) = oneshot::channel();
    let stop = async {
        stop.await;
        let _ = stopping.send(());
    };
    let served = router(&observed, Arc::clone(&access), backup_dir)?
        .serve_with_incoming_shutdown(incoming, stop);
    let drained = async {
        match stopped.await {
            Ok(()) => sleep(DRAIN).await,
            // It was never told to, and has ended.
            Err(_) => std::future::pending().await,
        }
    };
    let follow = async {
        match &*access {
            Access::Everyone => std::future::pending().await,
            Access::Granted(grants) => grants.follow(engine).await,
        }
    };
    let served = tokio::select! {
        served = served => served.map_err(failed),
        () = drained => Ok(()),
        never = follow => never,
        never = own::settle(engine, &audit) => match never {},
        never = audit::write(engine, &audit) => never,
    };
    audit::write_rest(engine, &audit).await;
    served
}
