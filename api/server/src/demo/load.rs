//! Loading: every flight through the log, one in flight for each airport, with a kill in the middle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::PhaseStats;
use super::client::Client;
use super::cluster::Cluster;
use super::table::Progress;
use crate::reports::Flight;

/// Requests under way at once, over all airports.
const IN_FLIGHT: usize = 96;
/// Every so many flights, one is sent again although it was acknowledged.
const REPEAT_EVERY: u64 = 50;
/// How long the killed leader stays down.
const DOWN: Duration = Duration::from_millis(1500);

pub(super) async fn run(cluster: &mut Cluster, flights: &[Flight]) -> Result<PhaseStats, String> {
    let progress = Arc::new(Progress::new("loaded", flights.len()));
    // Flights of one airport follow each other: each builds on the state the last one left.
    let mut lanes: BTreeMap<&str, Vec<(u64, Flight)>> = BTreeMap::new();
    for (id, flight) in flights.iter().enumerate() {
        lanes.entry(&flight.origin).or_default().push((id as u64, flight.clone()));
    }
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let client = Arc::new(Client::new(cluster.addresses())?);
    let mut tasks = JoinSet::new();
    // The longest lanes first, or they would be all that is left at the end.
    let mut lanes: Vec<Vec<(u64, Flight)>> = lanes.into_values().collect();
    lanes.sort_by_key(|lane| std::cmp::Reverse(lane.len()));
    for lane in lanes {
        let (client, permits) = (Arc::clone(&client), Arc::clone(&permits));
        let progress = Arc::clone(&progress);
        tasks.spawn(async move {
            for (id, flight) in lane {
                let _permit = permits.acquire().await.map_err(|error| error.to_string())?;
                send(&client, &progress, id, &flight).await?;
            }
            Ok::<_, String>(())
        });
    }
    kill_in_the_middle(cluster, &client, &progress, flights.len() as u64 * 2 / 5, &mut tasks)
        .await?;
    Ok(progress.finish())
}

/// Kills the leader once `at` requests are acknowledged, starts it again a little later, and sees
/// the tasks to their end.
pub(super) async fn kill_in_the_middle(
    cluster: &mut Cluster,
    client: &Client,
    progress: &Progress,
    at: u64,
    tasks: &mut JoinSet<Result<(), String>>,
) -> Result<(), String> {
    let nemesis = async {
        while progress.count() < at {
            sleep(Duration::from_millis(2)).await;
        }
        let leader = client.leader().await?;
        cluster.kill(leader)?;
        progress.killed(leader);
        sleep(DOWN).await;
        cluster.start_node(leader)
    };
    let requests = async {
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok::<_, String>(())
    };
    tokio::try_join!(nemesis, requests)?;
    client.wait_ready().await
}

async fn send(
    client: &Client,
    progress: &Progress,
    id: u64,
    flight: &Flight,
) -> Result<(), String> {
    let body = json!({ "id": id, "flight": flight });
    let begun = Instant::now();
    let first = taken(client.post("/flights", &body).await?)?;
    progress.acknowledged(begun);
    if id.is_multiple_of(REPEAT_EVERY) {
        let again = taken(client.post("/flights", &body).await?)?;
        progress.repeated();
        if again["duplicate"] != true || again["offset"] != first["offset"] {
            return Err(format!("flight {id} was repeated: first {first}, then {again}"));
        }
    }
    Ok(())
}

fn taken((status, answer): (u16, Value)) -> Result<Value, String> {
    if status == 202 { Ok(answer) } else { Err(format!("POST /flights: {status} {answer}")) }
}
