//! Resources that demand their writes in two failure domains: engines over loopback TCP. What the demand
//! does under faults is tried in the simulator, in `replication/tests/geo_commit.rs`.

#[path = "support/data.rs"]
mod data;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use data::Data;
use palisade::degradation::{
    Answer, DegradationContract, DegradationMode, DegradationRule, DrillReport, FailureDrill,
    HealthLimits, NodeAnswers,
};
use palisade::{
    ClusterId, Disposition, Engine, Error, Failure, FailureDomain, NodeId, ReadConsistency,
    ReplicaPolicy, ReplicatedMap, ResourceSpec,
};

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

struct Nodes {
    dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    zones: [&'static str; 3],
}

impl Nodes {
    fn new(zones: [&'static str; 3]) -> Self {
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        Self { dir: tempfile::tempdir().unwrap(), addresses, zones }
    }

    fn data(&self, at: usize) -> impl AsRef<Path> {
        self.dir.path().join(format!("node-{at}"))
    }

    async fn open(&self, at: usize, request_timeout: Duration) -> Engine {
        let mut builder = Engine::builder(self.data(at))
            .cluster(ClusterId::new(9))
            .node(NodeId::new(at as u64 + 1))
            .listen(self.addresses[at])
            .domain(domain(self.zones[at]))
            .request_timeout_ms(request_timeout.as_millis() as u64);
        for (number, (address, zone)) in self.addresses.iter().zip(self.zones).enumerate() {
            let node = NodeId::new(number as u64 + 1);
            builder = match zone {
                "" => builder.voter(node, *address),
                zone => builder.voter_in(node, *address, &domain(zone)),
            };
        }
        builder.open().await.unwrap()
    }
}

fn domain(zone: &str) -> FailureDomain {
    FailureDomain::new("local", "region", if zone.is_empty() { "unnamed" } else { zone })
}

fn spec(name: &str, replicas: ReplicaPolicy) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap().replicas(replicas)
}

const ACROSS: ReplicaPolicy = ReplicaPolicy::majority(3).across_domains(2);

type Map = ReplicatedMap<String, String>;

async fn open_map(engine: &Engine, name: &str, replicas: ReplicaPolicy) -> Result<Map, Error> {
    open_as(engine, spec(name, replicas)).await
}

/// Opens as soon as somebody leads.
async fn open_as(engine: &Engine, spec: ResourceSpec) -> Result<Map, Error> {
    let opened = async {
        loop {
            match Map::open(engine, spec.clone()).await {
                Err(error) if error.disposition() != Disposition::Reject => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => break other,
            }
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.expect("an answer")
}

async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            match look().await {
                Some(found) => break found,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("it comes about")
}

/// What would be left without a zone, as a node knows the group.
async fn drill(engine: &Engine, zone: &str) -> DrillReport {
    let drill = FailureDrill::AvailabilityZoneLoss { zone: domain(zone) };
    engine.drill(&drill).await.unwrap()
}

/// Puts until it is acknowledged.
async fn put(map: &Map, value: &str) {
    let put = async {
        while let Err(error) = map.put(&"k".into(), &value.into()).await {
            assert_ne!(error.disposition(), Disposition::Halt, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, put).await.expect("an acknowledgement");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demand_that_cannot_be_met_is_refused_with_what_to_do() {
    for zones in [["a", "a", "a"], ["", "", ""], ["a", "", "a"]] {
        let nodes = Nodes::new(zones);
        let mut engines = Vec::new();
        for at in 0..3 {
            engines.push(nodes.open(at, PATIENCE).await);
        }
        let plain = open_map(&engines[0], "plain", ReplicaPolicy::majority(3)).await.unwrap();
        let Err(Error::Incompatible { expected, found }) =
            open_map(&engines[1], "geo", ACROSS).await
        else {
            panic!("zones={zones:?}: opened without two domains");
        };
        assert!(expected.contains("voter_in"), "{expected}");
        assert_eq!(found.contains("region/a"), zones.contains(&"a"), "{found}");
        let three = ReplicaPolicy::majority(3).across_domains(3);
        let refused = open_map(&engines[1], "geo", three).await.map(|_| ());
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        // Nobody demanded anything: the group works as before.
        put(&plain, "v").await;
        assert!(!engines[0].data().status().await.unwrap().members.commits_across_domains());
        for engine in engines {
            engine.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_acknowledged_in_two_domains_or_not_at_all() {
    let nodes = Nodes::new(["a", "b", "a"]);
    let patience = Duration::from_secs(3);
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(nodes.open(at, patience).await);
    }
    // Whoever leads, one of these asks another than the leader.
    let mut maps = Vec::new();
    for engine in &engines {
        maps.push(open_map(engine, "geo", ACROSS).await.unwrap());
        assert!(engine.data().status().await.unwrap().members.commits_across_domains());
    }
    for map in &maps {
        put(map, "both").await;
    }
    let report = drill(&engines[0], "b").await;
    assert_eq!(report.groups[0].domains_missing, 1);
    let foreseen: Vec<&NodeAnswers> =
        report.resources[0].nodes.iter().filter(|node| node.domain == domain("a")).collect();
    assert_eq!(foreseen.len(), 2);
    let other = open_map(&engines[0], "geo", ReplicaPolicy::majority(3)).await.map(|_| ());
    assert!(matches!(other, Err(Error::Incompatible { .. })), "{other:?}");

    // The only voter of its zone goes: a majority is left, and acknowledges nothing.
    let alone = engines.remove(1);
    alone.close().await.unwrap();
    drop((alone, maps.remove(1)));
    for (map, foreseen) in maps.iter().zip(foreseen) {
        let refused = map.put(&"k".into(), &"one zone".into()).await.map(|_| ());
        assert!(matches!(refused, Err(Error::Disconnected { .. })), "{refused:?}");
        assert_eq!(foreseen.writes, Answer::Refused(refused.unwrap_err().failure()));
        map.get(&"k".into(), ReadConsistency::Local).await.unwrap();
        assert_eq!(foreseen.local_reads, Answer::Served);
    }

    // All restart, and the demand is still there.
    drop(maps);
    for engine in engines {
        engine.close().await.unwrap();
    }
    let first = nodes.open(0, patience).await;
    let third = nodes.open(2, patience).await;
    let refused = Map::open(&first, spec("other", ReplicaPolicy::majority(3))).await.map(|_| ());
    assert!(matches!(refused, Err(Error::Disconnected { .. })), "{refused:?}");
    let second = nodes.open(1, patience).await;
    let map = open_map(&third, "geo", ACROSS).await.unwrap();
    put(&map, "both again").await;
    let read = map.get(&"k".into(), ReadConsistency::Local).await.unwrap().value.unwrap();
    assert_eq!(read.value, "both again", "it was acknowledged here");
    for engine in [first, second, third] {
        engine.close().await.unwrap();
    }
}

/// The same loss, of a resource that says what it does then: reads say that they are stale, writes are refused
/// before they are tried, and once the zone is back all is as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_demanded_domain_the_contract_is_obeyed() {
    let stale = [Failure::Degraded, Failure::Disconnected];
    let contract = DegradationContract::builder()
        .rule(DegradationRule::new(stale, DegradationMode::StaleReadsOk))
        .build()
        .unwrap();
    let nodes = Nodes::new(["a", "b", "a"]);
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(nodes.open(at, Duration::from_secs(3)).await);
    }
    let mut maps = Vec::new();
    for engine in &engines {
        maps.push(open_as(engine, spec("geo", ACROSS).contract(contract.clone())).await.unwrap());
    }
    put(&maps[0], "both").await;
    let report = drill(&engines[0], "b").await;

    engines.remove(1).close().await.unwrap();
    maps.remove(1);
    // Who leads notices that nobody in the other zone answers. A write that was tried before is of unknown
    // outcome.
    let map = until(async || {
        for map in &maps {
            let refused = map.put(&"k".into(), &"one zone".into()).await.unwrap_err();
            if refused.disposition() != Disposition::Indeterminate {
                assert!(stale.contains(&refused.failure()), "{refused}");
                return Some(map);
            }
        }
        None
    })
    .await;
    until(async || {
        let read = map.get(&"k".into(), ReadConsistency::Local).await.unwrap();
        read.stale.then_some(())
    })
    .await;
    let foreseen = &report.resources[0].nodes[0];
    assert_eq!(foreseen.local_reads, Answer::Stale);
    assert!(matches!(foreseen.writes, Answer::Refused(_)));

    let back = nodes.open(1, Duration::from_secs(3)).await;
    until(async || {
        let read = map.get(&"k".into(), ReadConsistency::Linearizable).await;
        read.is_ok_and(|read| !read.stale).then_some(())
    })
    .await;
    put(map, "both again").await;
    for engine in engines.into_iter().chain([back]) {
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn limits_that_call_every_election_a_failure_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let short = HealthLimits { disconnected_after_ms: 1_000, ..HealthLimits::default() };
    let refused = Engine::builder(dir.path()).health_limits(short).open().await.map(|_| ());
    let Err(Error::InvalidArgument { what }) = refused else { panic!("{refused:?}") };
    assert!(what.contains("disconnected_after_ms=1000") && what.contains("1000 ms"), "{what}");
}
