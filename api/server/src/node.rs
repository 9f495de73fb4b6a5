//! One node as one process: engine, service, worker and HTTP, until told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use palisade::{ClusterId, Engine, Error, FailureDomain, NodeId, PlacementProfile};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::http;
use crate::reports::{ReportService, Worker};

/// What a node process needs to know.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Which node it is.
    pub id: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Where its data is.
    pub data: PathBuf,
    /// Where the others reach it.
    pub peer_listen: SocketAddr,
    /// Where callers reach it.
    pub http_listen: SocketAddr,
    /// Every voter, and where the others reach it.
    pub voters: BTreeMap<NodeId, SocketAddr>,
    /// Where it is.
    pub domain: FailureDomain,
    /// Where the service may run.
    pub profile: PlacementProfile,
}

/// Between two looks for work when there was none.
const WORKER_PAUSE: Duration = Duration::from_millis(20);
/// After work that could not be done now.
const WORKER_RETRY: Duration = Duration::from_millis(200);

/// Runs the node until `stop` resolves, then closes it.
///
/// # Errors
/// When it cannot be opened, or has stopped by itself.
pub async fn run(settings: NodeSettings, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let listener =
        TcpListener::bind(settings.http_listen).await.map_err(|error| Error::InvalidArgument {
            what: format!("could not listen on {}: {error}", settings.http_listen),
        })?;
    let mut builder = Engine::builder(&settings.data)
        .cluster(settings.cluster)
        .node(settings.id)
        .domain(settings.domain.clone())
        .listen(settings.peer_listen);
    for (voter, address) in &settings.voters {
        builder = builder.voter(*voter, *address);
    }
    let engine = builder.open().await?;
    tracing::info!(node = %settings.id, http = %settings.http_listen, "the node is open");
    let served = tokio::select! {
        served = serve(&engine, &settings, listener) => served,
        () = stop => Ok(()),
    };
    let closed = engine.close().await;
    served.and(closed)
}

async fn serve(
    engine: &Engine,
    settings: &NodeSettings,
    listener: TcpListener,
) -> Result<(), Error> {
    let service = open_service(engine, &settings.profile).await?;
    let count = settings.voters.len() as u64;
    let share = (settings.id.get() % count.max(1), count);
    let name = format!("worker-{}", settings.id);
    let worker = Worker::new(service.clone(), settings.domain.clone(), name, share)?;
    let served = async {
        axum::serve(listener, http::router(service)).await.map_err(|error| Error::InternalError {
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
