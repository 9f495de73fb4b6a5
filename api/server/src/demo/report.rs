//! Reporting: one request for each airport and month, repeated on purpose, with a kill in the middle.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::PhaseStats;
use super::client::Client;
use super::cluster::Cluster;
use super::load::kill_in_the_middle;
use super::table::Progress;
use crate::reports::Flight;

const IN_FLIGHT: usize = 24;
/// Every so many requests, one is sent again although it was acknowledged.
const REPEAT_EVERY: usize = 5;
/// Every so many requests, another one is tried under the same id.
const CONFLICT_EVERY: usize = 20;

/// A report that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) request_id: String,
    pub(super) airport: String,
    pub(super) month: String,
    pub(super) offset: u64,
}

pub(super) struct Reporting {
    pub(super) stats: PhaseStats,
    pub(super) accepted: Vec<Accepted>,
}

pub(super) async fn run(cluster: &mut Cluster, flights: &[Flight]) -> Result<Reporting, String> {
    let wanted: BTreeSet<(String, String)> =
        flights.iter().map(|f| (f.origin.clone(), f.month().to_owned())).collect();
    let progress = Arc::new(Progress::new("requested", wanted.len()));
    let at = wanted.len() as u64 * 2 / 5;
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let shared = Arc::new(Client::new(cluster.addresses())?);
    let mut tasks = JoinSet::new();
    for (number, (airport, month)) in wanted.into_iter().enumerate() {
        let (client, permits) = (Arc::clone(&shared), Arc::clone(&permits));
        let (progress, accepted) = (Arc::clone(&progress), Arc::clone(&accepted));
        tasks.spawn(async move {
            let _permit = permits.acquire().await.map_err(|error| error.to_string())?;
            let done = request(&client, &progress, number, airport, month).await?;
            accepted.lock().expect("no code panics while it holds the list").push(done);
            Ok(())
        });
    }
    kill_in_the_middle(cluster, &shared, &progress, at, &mut tasks).await?;
    let accepted =
        std::mem::take(&mut *accepted.lock().expect("no code panics while it holds the list"));
    Ok(Reporting { stats: progress.finish(), accepted })
}

async fn request(
    client: &Client,
    progress: &Progress,
    number: usize,
    airport: String,
    month: String,
) -> Result<Accepted, String> {
    let request_id = format!("report-{airport}-{month}");
    let body = json!({ "request_id": request_id, "airport": airport, "month": month });
    let begun = Instant::now();
    let first = accepted(client.post("/reports", &body).await?)?;
    progress.acknowledged(begun);
    if number.is_multiple_of(REPEAT_EVERY) {
        let again = accepted(client.post("/reports", &body).await?)?;
        progress.repeated();
        if again["duplicate"] != true || again["accepted_offset"] != first["accepted_offset"] {
            return Err(format!("{request_id} was repeated: first {first}, then {again}"));
        }
    }
    if number.is_multiple_of(CONFLICT_EVERY) {
        let other = json!({ "request_id": request_id, "airport": airport, "month": "1999-12" });
        let (status, answer) = client.post("/reports", &other).await?;
        progress.repeated();
        if status != 409 || answer["error"] != "IdempotencyConflict" {
            return Err(format!("{request_id} under another request: {status} {answer}"));
        }
    }
    let offset =
        first["accepted_offset"].as_u64().ok_or_else(|| format!("no offset in {first}"))?;
    Ok(Accepted { request_id, airport, month, offset })
}

fn accepted((status, answer): (u16, Value)) -> Result<Value, String> {
    if status == 202 { Ok(answer) } else { Err(format!("POST /reports: {status} {answer}")) }
}
