//! What is measured moves when what it measures does: on three real nodes.

#[path = "support/admin.rs"]
mod admin;
#[path = "support/nodes.rs"]
mod nodes;

use std::time::Duration;

use admin::{AdminPort, fill};
use nodes::Nodes;
use palisade::{Engine, ReplicatedMap, ResourceSpec};
use palisade_server::admin::Shows;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The metrics of a node, as of one look.
struct Look(String);

impl Look {
    async fn at(port: &AdminPort) -> Self {
        Self(reqwest::get(port.url("/metrics")).await.unwrap().text().await.unwrap())
    }

    fn find(&self, series: &str) -> Option<f64> {
        let named =
            |line: &&str| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' '));
        let line = self.0.lines().find(named)?;
        Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    fn of(&self, series: &str) -> f64 {
        let series = format!("palisade_{series}");
        self.find(&series).unwrap_or_else(|| panic!("no {series} in {}", self.0))
    }

    /// Of group 1, which holds the resources.
    fn group(&self, name: &str) -> f64 {
        self.of(&format!("{name}{{group=\"1\"}}"))
    }

    fn queue(&self, queue: &str) -> f64 {
        self.of(&format!("group_queue{{group=\"1\",queue=\"{queue}\"}}"))
    }

    /// The stages of entries: accepted, durable, committed, applied.
    fn stages(&self) -> [f64; 4] {
        ["last", "durable", "committed", "applied"]
            .map(|stage| self.group(&format!("group_{stage}_index")))
    }

    /// What waits in each queue, and what may.
    fn queues(&self) -> Vec<(String, f64, f64)> {
        let held = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{')?;
            let of = ["palisade_queue", "palisade_group_queue", "palisade_peer_queue_bytes"];
            let max = of.contains(&name).then(|| self.find(&format!("{name}_max{{{labels}")))?;
            Some((series.to_owned(), value.parse().unwrap(), max.expect("each has a bound")))
        };
        self.0.lines().filter_map(held).collect()
    }
}

/// Looks until it is so.
async fn until(port: &AdminPort, is_so: impl Fn(&Look) -> bool) -> Look {
    let looks = async {
        loop {
            let look = Look::at(port).await;
            if is_so(&look) {
                return look;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, looks).await.expect("it is so at last")
}

async fn write(engine: &Engine, count: u64) {
    let spec = ResourceSpec::new("stock", "count.v1").unwrap();
    let stock = ReplicatedMap::<String, u64>::open(engine, spec).await.unwrap();
    for number in 0..count {
        stock.put(&format!("key {number}"), &number).await.unwrap();
    }
}

/// Group 1 as the JSON tells of it.
async fn group_of(port: &AdminPort) -> Value {
    let told: Value = reqwest::get(port.url("/api/v1/groups")).await.unwrap().json().await.unwrap();
    told["groups"][1].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_measured_moves() {
    let nodes = Nodes::start(3).await;
    fill(&nodes.engines[0]).await;
    let mut ports = Vec::new();
    for observed in &nodes.observed {
        ports.push(AdminPort::of(observed, Shows::Everything).await);
    }

    // The stages of entries, and the syncs of the log.
    let mut before = Vec::new();
    for port in &ports {
        before.push(Look::at(port).await);
    }
    write(&nodes.engines[0], 50).await;
    let end = nodes.engines[0].group(palisade::GroupId::new(1)).unwrap().status().await.unwrap();
    let end = end.last_index.get() as f64;
    for (port, before) in ports.iter().zip(&before) {
        let look = until(port, |look| look.stages().iter().all(|stage| end <= *stage)).await;
        assert!(before.stages()[0] < end);
        let syncs = |look: &Look| look.of("log_sync_seconds_count");
        assert!(syncs(before) < syncs(&look), "each write is synced at every node");
        assert!(before.of("log_sync_seconds_sum") < look.of("log_sync_seconds_sum"));
        assert_eq!(syncs(&look), look.of("log_sync_seconds_bucket{le=\"+Inf\"}"));
        assert_eq!(look.of("state_damaged"), 0.0);
    }

    // Queues, each within its bound.
    for port in &ports {
        let queues = Look::at(port).await.queues();
        // Five that groups share, five of each group, and two peers.
        assert_eq!(queues.len(), 5 + 2 * 5 + 2, "{queues:?}");
        for (queue, held, max) in queues {
            assert!(held <= max && 0.0 < max, "{queue} {held} of {max}");
        }
    }

    // What replicas come to at a mark.
    for port in &ports {
        let all = |look: &Look| 3.0 <= look.group("group_digests_compared_total");
        let look = until(port, all).await;
        assert_eq!(look.group("group_digests_differing_total"), 0.0);
        assert_eq!(group_of(port).await["digests_differing"], 0);
    }

    // Another leader.
    let leader = Look::at(&ports[0]).await.group("group_leader") as usize - 1;
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    let mut before = Vec::new();
    for at in &others {
        before.push(Look::at(&ports[*at]).await);
    }
    nodes.engines[leader].close().await.unwrap();
    let is_new = |look: &Look| ![0.0, leader as f64 + 1.0].contains(&look.group("group_leader"));
    let mut begun = 0.0;
    for (at, before) in others.iter().zip(&before) {
        let look = until(&ports[*at], is_new).await;
        let grown = |name: &str| look.group(name) - before.group(name);
        assert!(1.0 <= grown("group_leader_changes_total"));
        begun += grown("group_elections_total");
    }
    assert!(1.0 <= begun, "somebody asked for votes");

    // What waits for a quorum that is not there.
    let (alone, other) = (others[0], others[1]);
    nodes.engines[other].close().await.unwrap();
    let mut waits = JoinSet::new();
    let engine = nodes.engines[alone].clone();
    waits.spawn(async move {
        let spec = ResourceSpec::new("stock", "count.v1").unwrap();
        let _ = ReplicatedMap::<String, u64>::open(&engine, spec).await;
    });
    let look = until(&ports[alone], |look| 1.0 <= look.queue("proposals")).await;
    assert!(0.0 < look.queue("proposal_bytes"));
    let told = group_of(&ports[alone]).await;
    assert!(told["queues"]["proposals"]["held_max"].as_u64().unwrap() > 1, "{told}");
    waits.abort_all();
    nodes.close().await;
}
