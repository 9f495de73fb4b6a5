//! The admin port: metrics, readiness, a JSON API, and the console in front of it. `docs/observability.md`.
//!
//! ```text
//! request --guard--> route --> engine and what is observed of it --> JSON, text, or an asset
//! ```
//! It serves this machine alone and asks nobody who they are. So what a page of some website could make a
//! browser send is refused, and where callers need certificates no values are shown and nothing is changed.

mod assets;
mod fences;
mod guard;
mod places;
mod state;
mod values;
mod views;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use palisade::Error;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::places::Places;
pub use self::state::Stage;
use crate::http::ApiError;
use crate::observe::{History, Observed};
use crate::security::now_ms;

/// Connections at once. Over it, new ones wait to be taken.
pub const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take, from when it could begin, and its body after that.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests served at once. Over it, callers are told to come back.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 16;
/// Largest request body.
pub const BODY_BYTES_MAX: usize = 4 << 10;

/// What the admin port shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Everything: everyone on this machine may call the node as well.
    Everything,
    /// How the node is: what is stored is for those alone who show a certificate, and they call over gRPC.
    Health,
}

#[derive(Clone)]
struct Admin {
    stage: Stage,
    shows: Shows,
}

type Answer = Result<Json<Value>, ApiError>;

impl Admin {
    fn observed(&self) -> Result<Observed, Error> {
        self.stage.observed().ok_or(Error::Disconnected { outcome_unknown: false })
    }

    /// Refuses what only callers may see and do.
    fn may_show(&self) -> Result<(), ApiError> {
        match self.shows {
            Shows::Everything => Ok(()),
            Shows::Health => Err(ApiError::request(
                StatusCode::FORBIDDEN,
                Error::Revoked.code(),
                "callers of this node show a certificate, and the admin port asks for none: what is stored \
                 is read, and changed, over gRPC",
            )),
        }
    }
}

fn router(stage: Stage, shows: Shows) -> Router {
    let permits = Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX));
    Router::new()
        .route("/metrics", get(views::prometheus))
        .route("/api/v1/cluster", get(views::cluster))
        .route("/api/v1/groups", get(views::groups))
        .route("/api/v1/projections", get(views::projections))
        .route("/api/v1/resources", get(views::resources))
        .route("/api/v1/metrics", get(views::metrics))
        .route("/api/v1/log", get(values::log))
        .route("/api/v1/audit", get(values::audit))
        .route("/api/v1/fences", get(fences::list))
        .route("/api/v1/fences/clear", post(fences::clear))
        .layer(from_fn_with_state(permits, bound))
        // Not bounded: how a busy node is doing must be seen when it is busy.
        .route("/api/v1/readiness", get(views::readiness))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/", get(assets::index))
        .route("/console/{name}", get(assets::asset))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(guarded))
        .with_state(Admin { stage, shows })
}

/// Serves the admin port for as long as it is polled; nothing, without a listener.
pub async fn serve(listener: Option<TcpListener>, stage: Stage, shows: Shows) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(admin = %format!("http://{address}/"), "the console is served");
    }
    let places = Places::new(listener, CONNECTIONS_MAX);
    tokio::select! {
        never = serve_on(places, router(stage.clone(), shows)) => never,
        never = keep_history(&stage) => never,
    }
}

/// A connection that takes longer for the head of its next request gives its place to others.
async fn serve_on(places: Places, routes: Router) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = places.next() => {
                let service = TowerToHyperService::new(routes.clone());
                connections.spawn(async move {
                    let mut http = Builder::new(TokioExecutor::new()).http1_only();
                    http.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
                    if let Err(error) =
                        http.serve_connection(TokioIo::new(connection), service).await
                    {
                        tracing::debug!(%error, "a connection of the admin port has ended");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Makes a point of the history, again and again.
async fn keep_history(stage: &Stage) -> Infallible {
    let mut every = interval(History::POINT_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        if let Some(observed) = stage.observed() {
            let sample = observed.sample().await;
            observed.calls().history().close(now_ms(), &sample);
        }
    }
}

async fn bound(State(permits): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match permits.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => ApiError::from(Error::RateLimited { retry_after_ms: 1000 }).into_response(),
    }
}

/// What browsers are told of every answer: nothing of it is for other sites, and a page of ours loads nothing
/// from elsewhere.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Refuses what a website could make a browser send.
fn allowed(request: &Request) -> Result<(), &'static str> {
    let text = |name: &str| -> Option<&str> {
        // One that is no text is none that we would send: it fits nothing.
        request.headers().get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"))
    };
    guard::judge(&guard::Asked {
        changes: !request.method().is_safe(),
        host: text("host"),
        origin: text("origin"),
        site: text("sec-fetch-site"),
        mark: text(guard::MARK),
    })
}

async fn guarded(request: Request, next: Next) -> Response {
    let mut response = match allowed(&request) {
        Ok(()) => next.run(request).await,
        Err(why) => {
            ApiError::request(StatusCode::FORBIDDEN, Error::Revoked.code(), why).into_response()
        }
    };
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a request asks for behind `?`.
fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(value)| value).map_err(|rejection| {
        let code = Error::InvalidArgument { what: String::new() }.code();
        ApiError::request(StatusCode::BAD_REQUEST, code, rejection.body_text())
    })
}

async fn not_found() -> ApiError {
    ApiError::request(StatusCode::NOT_FOUND, "NotFound", "there is nothing at this path")
}

async fn method_not_allowed() -> ApiError {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    ApiError::request(status, "InvalidArgument", "this path takes another method")
}
