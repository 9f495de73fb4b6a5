//! What is fenced: writers below the epoch of their resource, and replicas that have halted here.
//!
//! An epoch only ever rises, so a fence of a writer is never taken back: a writer opens the resource with a
//! higher one. What an operator clears is a replica that has halted because its state is wrong, by making it
//! anew from the others.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::StatusCode;
use palisade::{Divergence, Error, GroupId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::views::listed;
use super::{Admin, Answer, REQUEST_TIMEOUT, asked};
use crate::http::ApiError;
use crate::rebuild::rebuild;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    after: Option<String>,
    limit: Option<usize>,
}

fn divergence(found: &Divergence) -> Value {
    json!({
        "node": found.node.get(),
        "compared": found.compared.get(),
        "found": found.found.get(),
        "log_time_ms": found.log_time.get(),
        "has_majority": found.has_majority,
        "projection": found.projection,
        "resource": found.resource.as_ref().map(|name| name.as_str()),
    })
}

pub(super) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<Listed>, QueryRejection>,
) -> Answer {
    let Listed { after, limit } = asked(query)?;
    admin.may_show()?;
    let observed = admin.observed()?;
    let (mut halted, mut divergences) = (Vec::new(), Vec::new());
    for group in observed.sample().await.groups {
        if let Some(cause) = group.halted() {
            halted.push(json!({ "group": group.id.get(), "cause": cause }));
            continue;
        }
        // A replica that cannot say now says nothing.
        for found in observed.engine().group(group.id)?.divergences().await.unwrap_or_default() {
            let mut found = divergence(&found);
            found["group"] = json!(group.id.get());
            divergences.push(found);
        }
    }
    let (found, next) = listed(&observed, "", after.as_deref(), limit).await?;
    let writers = found.iter().map(|found| {
        json!({
            "resource": found.name.as_str(),
            "kind": found.kind.as_str(),
            "group": found.group.get(),
            "epoch": found.epoch.get(),
        })
    });
    Ok(Json(json!({
        "writers": writers.collect::<Vec<_>>(),
        "next": next,
        "halted": halted,
        "divergences": divergences,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cleared {
    group: u64,
    reason: String,
}

fn wrong(what: impl Into<String>) -> ApiError {
    ApiError::from(Error::InvalidArgument { what: what.into() })
}

/// Makes a replica anew that has halted here, and answers once it serves again.
pub(super) async fn clear(State(admin): State<Admin>, request: Request) -> Answer {
    admin.may_show()?;
    // Whoever says that there is a body and sends none holds a place of few.
    let body = timeout(REQUEST_TIMEOUT, Bytes::from_request(request, &())).await;
    let body = body.map_err(|_| {
        let what = "the body of the request did not come: send it whole";
        ApiError::request(StatusCode::REQUEST_TIMEOUT, "InvalidArgument", what)
    })?;
    let body = body.map_err(|rejection| {
        ApiError::request(StatusCode::BAD_REQUEST, "InvalidArgument", rejection.body_text())
    })?;
    let asked: Cleared =
        serde_json::from_slice(&body).map_err(|error| wrong(format!("body: {error}")))?;
    let observed = admin.observed()?;
    let group = observed.engine().group(GroupId::new(asked.group))?;
    rebuild(&group, &asked.reason).await?;
    Ok(Json(json!({ "group": group.id().get(), "cleared": true })))
}
