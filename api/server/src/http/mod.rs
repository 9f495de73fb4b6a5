//! The HTTP face of the report service, the same on every node.
//!
//! ```text
//! POST /reports                        202 and a receipt
//! GET  /reports/{id}?at_least=&wait_ms=
//! POST /flights                        202 and a receipt
//! GET  /flights?from=&limit=           a page of the log, and `next`: where to go on, or null
//! GET  /effects?from=&limit=           a page of what was handed out, alike
//! GET  /airports/{code}
//! GET  /status  /digest  /healthz
//! ```
//!
//! A caller may name its failure domain in `x-palisade-domain: provider/region/zone`; without it the
//! node's own counts. This trusts the caller, so it serves loopback only until callers prove who
//! they are.

mod error;
mod handlers;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use palisade::Error;
use tokio::sync::Semaphore;

pub use error::ApiError;

use crate::reports::ReportService;

/// Largest request body.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Requests served at once. Over it callers are told to come back.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1024;

/// Routes over one node's service.
pub fn router(service: ReportService) -> Router {
    router_with(service, REQUESTS_IN_FLIGHT_MAX)
}

/// The same with another bound on requests served at once.
pub fn router_with(service: ReportService, requests_in_flight_max: usize) -> Router {
    let permits = Arc::new(Semaphore::new(requests_in_flight_max));
    Router::new()
        .route("/reports", post(handlers::submit))
        .route("/reports/{id}", get(handlers::report))
        .route("/flights", post(handlers::take_flight).get(handlers::flights))
        .route("/effects", get(handlers::effects))
        .route("/airports/{code}", get(handlers::airport))
        .route("/digest", get(handlers::digest))
        .layer(from_fn_with_state(permits, bound))
        // Not bounded: how a busy node is doing must be seen when it is busy.
        .route("/status", get(handlers::status))
        .route("/healthz", get(handlers::healthz))
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(service)
}

async fn bound(State(permits): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match permits.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => ApiError::from(Error::RateLimited { retry_after_ms: 1000 }).into_response(),
    }
}
