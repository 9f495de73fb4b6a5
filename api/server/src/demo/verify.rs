//! The check: everything acknowledged, against a plain computation over the same file.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::client::Client;
use super::report::Accepted;
use crate::reports::{AirportState, Flight, IndexedFlight, Report};

const PAGE: usize = 1000;

pub(super) async fn run(
    client: &Client,
    flights: &[Flight],
    accepted: &[Accepted],
) -> Result<Vec<String>, String> {
    let mut verified = Vec::new();
    // First the reports: when all are done, nothing writes any more.
    for node in 0..3 {
        reports(client, node, flights, accepted).await?;
    }
    verified.push(format!(
        "{} reports completed, each equal to a plain computation, on all 3 nodes",
        accepted.len()
    ));
    for node in 0..3 {
        all_flights(client, node, flights).await?;
    }
    verified.push(format!(
        "{} flights in the log exactly once, airport states equal, on all 3 nodes",
        flights.len()
    ));
    for node in 0..3 {
        effects(client, node, accepted).await?;
    }
    verified.push(format!("{} effects recorded, one for each report", accepted.len()));
    let (offset, head) = digests(client).await?;
    verified.push(format!("equal state digests on all 3 nodes at offset {offset}, head {head}"));
    Ok(verified)
}

async fn reports(
    client: &Client,
    node: usize,
    flights: &[Flight],
    accepted: &[Accepted],
) -> Result<(), String> {
    let mut by_month: BTreeMap<(&str, &str), Vec<IndexedFlight>> = BTreeMap::new();
    for flight in flights {
        by_month
            .entry((&flight.origin, flight.month()))
            .or_default()
            .push(IndexedFlight { delay: flight.delay, destination: flight.destination.clone() });
    }
    for request in accepted {
        let path =
            format!("/reports/{}?at_least={}&wait_ms=10000", request.request_id, request.offset);
        let found = client
            .wait(node, &path, |answer| (answer["state"] == "completed").then(|| answer.clone()))
            .await?;
        let report: Report = serde_json::from_value(found["report"].clone())
            .map_err(|error| format!("{}: {error}", request.request_id))?;
        let flights = &by_month[&(request.airport.as_str(), request.month.as_str())];
        let expected = Report::of(flights, report.computed_at);
        if report != expected {
            return Err(format!(
                "node {}: {} is {report:?}, expected {expected:?}",
                node + 1,
                request.request_id
            ));
        }
    }
    Ok(())
}

async fn pages(client: &Client, node: usize, path: &str) -> Result<Vec<Value>, String> {
    let mut all: Vec<Value> = Vec::new();
    let mut from = 0;
    loop {
        let (page, next) = client
            .wait(node, &format!("{path}?from={from}&limit={PAGE}"), |answer| {
                Some((answer["entries"].as_array()?.clone(), answer["next"].as_u64()))
            })
            .await?;
        all.extend(page);
        match next {
            Some(next) => from = next,
            None => return Ok(all),
        }
    }
}

async fn all_flights(client: &Client, node: usize, flights: &[Flight]) -> Result<(), String> {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    let mut airports: BTreeMap<&str, AirportState> = BTreeMap::new();
    for flight in flights {
        *expected.entry(text(flight)).or_default() += 1;
        let state = airports.entry(&flight.origin).or_default();
        *state = state.with(flight);
    }
    let entries = pages(client, node, "/flights").await?;
    for entry in &entries {
        let flight: Flight = serde_json::from_value(entry["flight"].clone())
            .map_err(|error| format!("node {}: {entry}: {error}", node + 1))?;
        *expected.entry(text(&flight)).or_default() -= 1;
    }
    // As often as in the file, each: neither lost nor doubled, whatever was sent how often.
    if let Some((flight, off)) = expected.iter().find(|(_, off)| **off != 0) {
        return Err(format!("node {}: {flight} is off by {off}", node + 1));
    }
    for (code, expected) in airports {
        let found = client.wait(node, &format!("/airports/{code}"), |a| Some(a.clone())).await?;
        let same = found["flights"] == expected.flights
            && found["delay_sum"] == expected.delay_sum
            && found["last_date"] == expected.last_date;
        if !same {
            return Err(format!("node {}: {code} is {found}, expected {expected:?}", node + 1));
        }
    }
    Ok(())
}

fn text(flight: &Flight) -> String {
    serde_json::to_string(flight).expect("plain data encodes")
}

async fn effects(client: &Client, node: usize, accepted: &[Accepted]) -> Result<(), String> {
    let entries = pages(client, node, "/effects").await?;
    let found: BTreeSet<&str> =
        entries.iter().filter_map(|entry| entry["effect"]["request_id"].as_str()).collect();
    let expected: BTreeSet<&str> =
        accepted.iter().map(|request| request.request_id.as_str()).collect();
    if found != expected || entries.len() != expected.len() {
        return Err(format!(
            "node {}: {} effects of {} requests, expected {}",
            node + 1,
            entries.len(),
            found.len(),
            expected.len()
        ));
    }
    Ok(())
}

async fn digests(client: &Client) -> Result<(u64, String), String> {
    let mut all = Vec::new();
    let mut offset = 0;
    // Nothing writes any more: the replicas stand at one offset as soon as the last has caught up.
    for node in [0, 1, 2, 0, 1, 2] {
        let digest = client
            .wait(node, "/digest", |answer| {
                answer["offset"].as_u64().filter(|at| offset <= *at).map(|_| answer.clone())
            })
            .await?;
        offset = digest["offset"].as_u64().unwrap_or(0);
        all.push(digest);
    }
    let last = &all[3..];
    if last.iter().any(|digest| digest != &last[0]) {
        return Err(format!("digests differ: {last:?}"));
    }
    let head = last[0]["chain_head"].as_str().unwrap_or_default();
    Ok((offset, head.get(..16).unwrap_or_default().to_owned()))
}
