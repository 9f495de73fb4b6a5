//! One function a route: decode, call the service, encode.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use palisade::{Error, FailureDomain, Offset, ReadConsistency, ReadOptions, Role};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::reports::{Flight, ReportService, ReportSubmission};

const DOMAIN_HEADER: &str = "x-palisade-domain";
/// Longest that a read waits for an offset.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Entries of a page if not said, and at most.
const PAGE_ENTRIES: usize = 1000;

type Answer = Result<(StatusCode, Json<Value>), ApiError>;

fn ok(status: StatusCode, body: Value) -> Answer {
    Ok((status, Json(body)))
}

fn encode(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("plain data encodes")
}

/// The caller's domain, or this node's.
fn caller(service: &ReportService, headers: &HeaderMap) -> Result<FailureDomain, ApiError> {
    let Some(named) = headers.get(DOMAIN_HEADER) else {
        return Ok(service.engine().domain().clone());
    };
    let parts: Vec<&str> = named.to_str().unwrap_or_default().split('/').collect();
    match parts[..] {
        [provider, region, zone] if parts.iter().all(|part| !part.is_empty()) => {
            Ok(FailureDomain::new(provider, region, zone))
        }
        _ => Err(Error::InvalidArgument {
            what: format!("{DOMAIN_HEADER} is written as provider/region/zone"),
        }
        .into()),
    }
}

/// A JSON body that is just what it should be.
fn body<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(ApiError::request(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "InvalidArgument",
            "send a body of content-type application/json",
        ));
    }
    let bytes = body.map_err(|rejection| {
        let limit = format!("{}, limit={} bytes", rejection.body_text(), super::BODY_BYTES_MAX);
        ApiError::request(rejection.status(), "InvalidArgument", limit)
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::request(StatusCode::BAD_REQUEST, "InvalidArgument", format!("body: {error}"))
    })
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(value)| value).map_err(|rejection| {
        ApiError::request(StatusCode::BAD_REQUEST, "InvalidArgument", rejection.body_text())
    })
}

pub(super) async fn submit(
    State(service): State<ReportService>,
    headers: HeaderMap,
    raw: Result<Bytes, BytesRejection>,
) -> Answer {
    let submission: ReportSubmission = body(&headers, raw)?;
    let caller = caller(&service, &headers)?;
    let receipt = service.submit(&caller, &submission).await?;
    ok(StatusCode::ACCEPTED, encode(&receipt))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freshness {
    at_least: Option<u64>,
    wait_ms: Option<u64>,
}

pub(super) async fn report(
    State(service): State<ReportService>,
    Path(id): Path<String>,
    freshness: Result<Query<Freshness>, QueryRejection>,
    headers: HeaderMap,
) -> Answer {
    let Freshness { at_least, wait_ms } = query(freshness)?;
    let caller = caller(&service, &headers)?;
    let wait = Duration::from_millis(wait_ms.unwrap_or(0)).min(WAIT_MAX);
    let consistency = at_least.map_or(ReadConsistency::Local, |offset| {
        ReadConsistency::AtLeastOffset(Offset::new(offset))
    });
    let applied = service.group().applied()?.get();
    let read = service.read_status(&caller, &id, ReadOptions::from(consistency).wait(wait)).await?;
    let Some(record) = read else {
        return Err(Error::NotFound { what: format!("request_id={id}") }.into());
    };
    let mut answer = encode(&record);
    // What this replica had before it read: the answer is at least as fresh.
    answer["applied"] = json!(applied.max(at_least.unwrap_or(0)));
    ok(StatusCode::OK, answer)
}

#[derive(Deserialize)]
pub(super) struct FlightBody {
    id: u64,
    flight: Flight,
}

pub(super) async fn take_flight(
    State(service): State<ReportService>,
    headers: HeaderMap,
    raw: Result<Bytes, BytesRejection>,
) -> Answer {
    let FlightBody { id, flight } = body(&headers, raw)?;
    let caller = caller(&service, &headers)?;
    let receipt = service.take_flight(&caller, id, &flight).await?;
    ok(StatusCode::ACCEPTED, encode(&receipt))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    from: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn flights(
    State(service): State<ReportService>,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let Page { from, limit } = query(page)?;
    let limit = limit.unwrap_or(PAGE_ENTRIES).min(PAGE_ENTRIES);
    let page = service.flights(Offset::new(from.unwrap_or(0)), limit).await?;
    let rows = page
        .entries
        .iter()
        .map(|e| json!({ "offset": e.position.offset.get(), "flight": e.value }));
    let next = page.next.map(|next| next.offset.get());
    ok(StatusCode::OK, json!({ "entries": rows.collect::<Vec<_>>(), "next": next }))
}

pub(super) async fn effects(
    State(service): State<ReportService>,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let Page { from, limit } = query(page)?;
    let limit = limit.unwrap_or(PAGE_ENTRIES).min(PAGE_ENTRIES);
    let page = service.effects(Offset::new(from.unwrap_or(0)), limit).await?;
    let rows = page
        .entries
        .iter()
        .map(|e| json!({ "offset": e.position.offset.get(), "effect": e.value }));
    let next = page.next.map(|next| next.offset.get());
    ok(StatusCode::OK, json!({ "entries": rows.collect::<Vec<_>>(), "next": next }))
}

pub(super) async fn airport(
    State(service): State<ReportService>,
    Path(code): Path<String>,
) -> Answer {
    match service.airport(&code).await? {
        None => Err(Error::NotFound { what: format!("airport={code}") }.into()),
        Some(row) => {
            let mut answer = encode(&row.value);
            answer["version"] = json!(row.version.offset().get());
            ok(StatusCode::OK, answer)
        }
    }
}

pub(super) async fn status(State(service): State<ReportService>) -> Answer {
    let engine = service.engine();
    let status = service.group().status().await?;
    let role = match status.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Outsider => "outsider",
        Role::Repairing => "repairing",
        Role::Halted => "halted",
    };
    let body = json!({
        "node": engine.node().get(),
        "domain": engine.domain().to_string(),
        "profile": service.profile().name,
        "role": role,
        "leader": status.leader.map(|leader| leader.get()),
        "term": status.term.get(),
        "applied": service.group().applied()?.get(),
    });
    ok(StatusCode::OK, body)
}

pub(super) async fn digest(State(service): State<ReportService>) -> Answer {
    let digest = service.group().digest().await?;
    let projections: serde_json::Map<String, Value> = digest
        .projections
        .iter()
        .map(|(name, head)| ((*name).to_owned(), json!(head.to_string())))
        .collect();
    let body = json!({
        "offset": digest.offset.get(),
        "chain_head": digest.head.to_string(),
        "projections": projections,
    });
    ok(StatusCode::OK, body)
}

/// Ready once a leader is known; a node that has stopped is not.
pub(super) async fn healthz(State(service): State<ReportService>) -> Answer {
    match service.group().status().await?.leader {
        Some(leader) => ok(StatusCode::OK, json!({ "ready": true, "leader": leader.get() })),
        None => Err(Error::Disconnected { outcome_unknown: false }.into()),
    }
}

pub(super) async fn not_found() -> impl IntoResponse {
    ApiError::request(StatusCode::NOT_FOUND, "NotFound", "there is nothing at this path")
}

pub(super) async fn method_not_allowed() -> impl IntoResponse {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    ApiError::request(status, "InvalidArgument", "this path takes another method")
}
