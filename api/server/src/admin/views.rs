//! How the node is: one function a route. Nothing here shows what is stored.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use palisade::{
    Described, Error, GroupId, LogicalResourceName, NodeId, QueueLoad, ReadConsistency,
    RebuildStage, ResourceState,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Answer, asked};
use crate::http::ApiError;
use crate::observe::{
    GroupReadiness, GroupSample, Latencies, Observed, Phase, Readiness, State as NodeState,
    fault_word, member_role_word, role_word,
};

/// Resources of one answer.
pub(super) const RESOURCES_MAX: usize = 200;

pub(super) async fn prometheus(State(admin): State<Admin>) -> Result<Response, ApiError> {
    let text = admin.observed()?.metrics().await;
    let text = text.map_err(|error| Error::InternalError { what: format!("metrics: {error}") })?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// How the node is by what its groups and its process say.
async fn judged(admin: &Admin) -> Readiness {
    let of = |state| Readiness { state, ..Readiness::default() };
    match (admin.stage.phase(), admin.stage.observed()) {
        (Phase::Stopping, _) => of(NodeState::Stopping),
        (Phase::Opening, _) | (_, None) => of(NodeState::Starting),
        (Phase::Open, Some(observed)) => {
            let sample = observed.sample().await;
            observed.readiness(&sample).await
        }
    }
}

fn readiness_of(readiness: &Readiness) -> Value {
    let group = |group: &GroupReadiness| {
        json!({
            "group": group.group.get(),
            "state": group.state.as_str(),
            "reason": group.reason,
        })
    };
    json!({
        "state": readiness.state.as_str(),
        "ready": readiness.state == NodeState::Ready,
        "groups": readiness.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfGroup {
    group: Option<u64>,
}

/// 200 if it is ready, and 503 if not: of the node, or of one group of it.
pub(super) async fn readiness(
    State(admin): State<Admin>,
    query: Result<Query<OfGroup>, QueryRejection>,
) -> Result<Response, ApiError> {
    let asked = asked(query)?;
    let readiness = judged(&admin).await;
    let is_ready = match asked.group {
        None => readiness.state == NodeState::Ready,
        Some(number) => {
            let found = readiness.groups.iter().find(|group| group.group == GroupId::new(number));
            let is_open = !readiness.groups.is_empty();
            let what = format!("group={number} of this node");
            if found.is_none() && is_open {
                return Err(Error::NotFound { what }.into());
            }
            found.is_some_and(|group| group.state == NodeState::Ready)
        }
    };
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(readiness_of(&readiness))).into_response())
}

/// Everyone that takes part in any group, as this node knows them.
fn members(groups: &[GroupSample]) -> Vec<Value> {
    struct Seen {
        address: Option<String>,
        domain: String,
        roles: BTreeSet<&'static str>,
        leads: Vec<u64>,
        answers: Option<bool>,
        entries_behind: Option<u64>,
    }
    let mut members: BTreeMap<NodeId, Seen> = BTreeMap::new();
    for (group, status) in
        groups.iter().filter_map(|group| Some((group.id, group.status.as_ref().ok()?)))
    {
        for (node, role) in status.members.roles() {
            let known = status.members.member(node);
            let seen = members.entry(node).or_insert_with(|| Seen {
                address: known.and_then(|member| member.address).map(|at| at.to_string()),
                domain: known.map(|member| member.domain.clone()).unwrap_or_default(),
                roles: BTreeSet::new(),
                leads: Vec::new(),
                answers: None,
                entries_behind: None,
            });
            seen.roles.insert(member_role_word(role));
            if status.leader == Some(node) {
                seen.leads.push(group.get());
            }
            if let Some(voter) = status.voters.iter().find(|voter| voter.node == node) {
                seen.answers = Some(seen.answers.unwrap_or(true) && voter.answers);
                let most = seen.entries_behind.unwrap_or(0).max(voter.entries_behind);
                seen.entries_behind = Some(most);
            }
        }
    }
    let member = |(node, seen): (NodeId, Seen)| {
        json!({
            "node": node.get(),
            "address": seen.address,
            "domain": seen.domain,
            "roles": seen.roles,
            "leads": seen.leads,
            "answers": seen.answers,
            "entries_behind": seen.entries_behind,
        })
    };
    members.into_iter().map(member).collect()
}

/// What waits in queues, and what may at most, by their names.
fn queues<'a>(queues: impl IntoIterator<Item = (String, &'a QueueLoad)>) -> Value {
    let each = |(name, queue): (String, &QueueLoad)| {
        (name, json!({ "held": queue.held, "held_max": queue.held_max }))
    };
    Value::Object(queues.into_iter().map(each).collect())
}

pub(super) async fn cluster(State(admin): State<Admin>) -> Answer {
    let observed = admin.observed()?;
    let engine = observed.engine();
    let sample = observed.sample().await;
    let mut readiness = observed.readiness(&sample).await;
    if admin.stage.phase() == Phase::Stopping {
        readiness.state = NodeState::Stopping;
    }
    let faults: BTreeMap<_, _> = sample
        .peer_faults
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cause, count)| (fault_word(*cause), *count))
        .collect();
    let conditions = engine.conditions().await;
    let conditions = conditions.iter().take(RESOURCES_MAX).map(|condition| {
        json!({
            "resource": condition.resource.as_str(),
            "failure": condition.observed.code(),
            "reason": condition.observed.to_string(),
            "mode": condition.mode.to_string(),
        })
    });
    // Who takes part and what is stored is for who shows a certificate, where one is asked for.
    let (members, conditions) = match admin.may_show() {
        Ok(()) => (members(&sample.groups), conditions.collect::<Vec<_>>()),
        Err(_) => (Vec::new(), Vec::new()),
    };
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": format!("{:032x}", engine.cluster().get()),
        "node": engine.node().get(),
        "incarnation": format!("{:032x}", engine.incarnation().get()),
        "domain": engine.domain().to_string(),
        "readiness": readiness_of(&readiness),
        "members": members,
        "applied": sample.applied(),
        "records_behind": sample.records_behind(),
        "sync_ms": sample.sync_ms(),
        "state_damaged": sample.is_damaged,
        "queues": queues(sample.load.queues.iter().map(|queue| (queue.queue.to_owned(), queue))),
        "peer_queues": queues(sample.load.peers.iter().map(|(node, queue)| (node.to_string(), queue))),
        "calls_under_way": observed.calls().under_way(),
        "peer_faults": faults,
        "conditions": conditions,
    })))
}

fn group(group: &GroupSample, readiness: &Readiness) -> Value {
    let ready = readiness.groups.iter().find(|each| each.group == group.id);
    let mut told = json!({
        "group": group.id.get(),
        "state": ready.map(|ready| ready.state.as_str()),
        "reason": ready.and_then(|ready| ready.reason.clone()),
        "applied": group.applied.as_ref().ok().map(|offset| offset.get()),
        "records_behind": group.records_behind(),
    });
    match &group.status {
        Ok(status) => {
            told["role"] = json!(role_word(status.role));
            told["leader"] = json!(status.leader.map(NodeId::get));
            told["term"] = json!(status.term.get());
            told["last_index"] = json!(status.last_index.get());
            told["durable_index"] = json!(status.durable_index.get());
            told["applied_index"] = json!(status.applied_index.get());
            told["committed_index"] = json!(status.committed_index.get());
            told["first_index"] = json!(status.first_index.get());
            told["committed"] = json!(status.offset.get());
            told["proposals"] = json!(status.proposals_count);
            told["leaderless_ms"] = json!(status.leaderless_ms);
            told["uncommitted_ms"] = json!(status.uncommitted_ms);
            told["sync_ms"] = json!(status.sync_ms);
            told["disk_full"] = json!(status.disk_full);
            told["elections"] = json!(status.elections);
            told["leader_changes"] = json!(status.leaders);
            told["digests_compared"] = json!(group.compared.digests);
            told["digests_differing"] = json!(group.compared.differing);
            let held = status.queues.iter().map(|queue| (queue.queue.to_owned(), queue));
            told["queues"] = queues(held);
            let voters = status.voters.iter().map(|voter| {
                json!({
                    "node": voter.node.get(),
                    "answers": voter.answers,
                    "entries_behind": voter.entries_behind,
                })
            });
            told["voters"] = voters.collect();
        }
        Err(error) => told["error"] = json!(error.to_string()),
    }
    told
}

pub(super) async fn groups(State(admin): State<Admin>) -> Answer {
    let observed = admin.observed()?;
    let sample = observed.sample().await;
    let readiness = observed.readiness(&sample).await;
    let groups: Vec<Value> = sample.groups.iter().map(|each| group(each, &readiness)).collect();
    Ok(Json(json!({ "groups": groups })))
}

fn stage(stage: &RebuildStage) -> String {
    match stage {
        RebuildStage::Idle => "serving".to_owned(),
        RebuildStage::Waiting { version, .. } => format!("waiting to build version {version}"),
        RebuildStage::Building { version, .. } => format!("building version {version}"),
        RebuildStage::Failed { version, .. } => format!("version {version} has failed"),
        _ => "unknown".to_owned(),
    }
}

/// What is computed of each group's log here, and how far it is behind it.
pub(super) async fn projections(State(admin): State<Admin>) -> Answer {
    let observed = admin.observed()?;
    let sample = observed.sample().await;
    let mut rows = Vec::new();
    for of in &sample.groups {
        let group = observed.engine().group(of.id)?;
        let kinds = match group.rebuilds().await {
            Ok(read) => read.value,
            // One that has halted still says how far it was.
            Err(_) => Vec::new(),
        };
        let kinds = kinds.iter().map(|status| {
            json!({
                "kind": status.kind.as_str(),
                "version": status.active,
                "stage": stage(&status.stage),
            })
        });
        rows.push(json!({
            "group": of.id.get(),
            "committed": of.status.as_ref().ok().map(|status| status.offset.get()),
            "applied": of.applied.as_ref().ok().map(|applied| applied.get()),
            "records_behind": of.records_behind(),
            "halted": of.halted(),
            "kinds": kinds.collect::<Vec<_>>(),
        }));
    }
    Ok(Json(json!({ "groups": rows })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) fn resource(found: &Described) -> Value {
    let schemas = found.schemas.iter();
    let state = match found.state {
        ResourceState::Active => "active",
        _ => "deleted",
    };
    json!({
        "name": found.name.as_str(),
        "kind": found.kind.as_str(),
        "group": found.group.get(),
        "epoch": found.epoch.get(),
        "revision": found.revision.get(),
        "schemas": schemas.map(|schema| schema.id.as_str()).collect::<Vec<_>>(),
        "made": found.made.get(),
        "state": state,
    })
}

/// A page of the directory.
pub(super) async fn listed(
    observed: &Observed,
    prefix: &str,
    after: Option<&str>,
    limit: Option<usize>,
) -> Result<(Vec<Described>, Option<String>), Error> {
    let limit = limit.unwrap_or(RESOURCES_MAX).clamp(1, RESOURCES_MAX);
    let after = after.map(LogicalResourceName::new).transpose()?;
    let directory = observed.engine().directory();
    let found =
        directory.list(prefix, after.as_ref(), limit, ReadConsistency::Local).await?.resources;
    let last = found.last().filter(|_| found.len() == limit);
    let next = last.map(|last| last.name.as_str().to_owned());
    Ok((found, next))
}

pub(super) async fn resources(
    State(admin): State<Admin>,
    query: Result<Query<Listed>, QueryRejection>,
) -> Answer {
    let Listed { prefix, after, limit } = asked(query)?;
    admin.may_show()?;
    let observed = admin.observed()?;
    let (found, next) = listed(&observed, &prefix, after.as_deref(), limit).await?;
    let found: Vec<Value> = found.iter().map(resource).collect();
    Ok(Json(json!({ "resources": found, "next": next })))
}

fn latencies(of: &Latencies) -> Value {
    json!({
        "count": of.count,
        "p50_us": of.p50_us,
        "p95_us": of.p95_us,
        "p99_us": of.p99_us,
        "max_us": of.most_us,
    })
}

/// The last ten minutes, for plots.
pub(super) async fn metrics(State(admin): State<Admin>) -> Answer {
    let points = admin.observed()?.calls().history().points();
    let points = points.iter().map(|point| {
        json!({
            "at_ms": point.at_ms,
            "seconds": point.seconds,
            "writes": latencies(&point.writes),
            "reads": latencies(&point.reads),
            "refused": point.refused,
            "applied": point.applied,
            "records_behind": point.records_behind,
            "sync_ms": point.sync_ms,
        })
    });
    Ok(Json(json!({ "points": points.collect::<Vec<_>>() })))
}
