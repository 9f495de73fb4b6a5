//! The engine as others call it over gRPC: `docs/grpc.md`.
//!
//! Each service is an `impl` for `Endpoint`, in the file of its name. Any node takes any call: what
//! is written goes to the leader by itself, what is read is read here.

mod append_stream;
mod batch;
mod cluster;
mod convert;
mod deadline;
mod directory;
mod endpoint;
mod failure;
mod handles;
mod health;
mod idempotency;
mod log;
mod map;
mod readiness;
mod session;
mod spec;

use std::sync::Arc;
use std::time::Duration;

use palisade::{Engine, Error};
use palisade_proto::{DESCRIPTORS, MESSAGE_BYTES_MAX};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::pb::health_server::HealthServer;

use self::endpoint::Endpoint;
use self::health::Health;
use self::readiness::Readiness;

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
/// A connection on which nothing moves is asked whether anybody is there, and closed if nobody answers.
const SILENCE: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(10);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::InternalError { what: format!("the gRPC endpoint: {error}") }
}

macro_rules! services {
    ($router:expr, $endpoint:expr, $($package:ident::$module:ident::$server:ident),* $(,)?) => {
        $router$(.add_service(
            palisade_proto::$package::v1::$module::$server::new($endpoint.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        ))*
    };
}

fn router(engine: &Engine) -> Result<Router, Error> {
    let endpoint = Endpoint::new(engine.clone());
    let readiness = Arc::new(Readiness::new(engine.clone()));
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let server = Server::builder()
        .max_concurrent_streams(CALLS_MAX)
        .initial_stream_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_keepalive_interval(Some(SILENCE))
        .http2_keepalive_timeout(Some(ANSWER));
    let mut server = server;
    let router = server
        .add_service(HealthServer::new(Health::new(readiness)))
        .add_service(described().build_v1().map_err(failed)?)
        .add_service(described().build_v1alpha().map_err(failed)?);
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
    ))
}

/// Serves the engine on connections to this listener until `stop` resolves, and then until the calls that are
/// under way have ended.
///
/// # Errors
/// [`Error::InternalError`] if it cannot begin or ends by itself.
pub async fn serve(
    engine: &Engine,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    router(engine)?.serve_with_incoming_shutdown(incoming, stop).await.map_err(failed)
}
