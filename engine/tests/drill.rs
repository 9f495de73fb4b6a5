//! What drills foresee, held against what happens: a simulated cluster loses the same nodes, and is asked.
#![cfg(feature = "sim")]

use std::collections::BTreeSet;
use std::time::Duration;

use palisade::degradation::{
    Answer, ClusterMap, FailureDrill, GroupMap, MemberMap, NodeAnswers, ResourceMap,
};
use palisade::sim::SimFabric;
use palisade::{
    Engine, Error, FailureDomain, GroupId, NodeId, ReadConsistency, ReplicaPolicy, ReplicatedMap,
    ResourceSpec,
};

/// Enough for an election and what follows from it.
const A_WHILE: Duration = Duration::from_secs(5);

type Map = ReplicatedMap<String, String>;

fn spec(replicas: ReplicaPolicy) -> ResourceSpec {
    ResourceSpec::new("orders", "test.v1").unwrap().replicas(replicas)
}

/// A cluster with one map, open on every node, and a copy of its placement.
struct World {
    fabric: SimFabric,
    maps: Vec<(NodeId, Map)>,
    copy: ClusterMap,
}

impl World {
    fn new(voters: u32, domains: u32, leader: NodeId) -> Self {
        let mut fabric = SimFabric::new(voters.into());
        let spec = spec(ReplicaPolicy::majority(voters).across_domains(domains));
        let engines: Vec<Engine> =
            (1..=voters).map(|number| fabric.engine(fabric.node(number.into()))).collect();
        let mut maps = Vec::new();
        for engine in &engines {
            let map: Map = fabric.block_on(Map::open(engine, spec.clone())).unwrap();
            fabric.block_on(map.put(&"k".into(), &"before".into())).unwrap();
            maps.push((engine.node(), map));
        }
        let leads = fabric.leader();
        for engine in engines.iter().filter(|engine| leads == Some(engine.node())) {
            fabric.block_on(async { engine.transfer_leadership(leader) }).unwrap();
        }
        fabric.run_for(A_WHILE);
        assert_eq!(fabric.leader(), Some(leader));
        let status = fabric.block_on(engines[0].status()).unwrap();
        assert_eq!(status.members.commits_across_domains(), domains == 2);
        // Members of a simulated cluster are named by their zones alone.
        let members = status.members.roles().map(|(node, role)| {
            let zone = &status.members.member(node).unwrap().domain;
            MemberMap { node, domain: FailureDomain::new("local", "local", zone), role }
        });
        let group = GroupMap {
            group: GroupId::new(1),
            leader: Some(leader),
            domains_demanded: 1,
            members: members.collect(),
        };
        let ResourceSpec { name, placement, replicas, .. } = spec;
        let orders = ResourceMap { name, group: group.group, placement, replicas, contract: None };
        Self { fabric, maps, copy: ClusterMap { groups: vec![group], resources: vec![orders] } }
    }

    /// What the nodes that are left answer: writes first, since a drill takes a map to be in use.
    fn lose(mut self, lost: &BTreeSet<NodeId>) -> Vec<(NodeId, [Answer; 3])> {
        for node in lost {
            self.fabric.crash(*node);
        }
        self.fabric.run_for(A_WHILE);
        let mut answers = Vec::new();
        for (node, map) in self.maps.iter().filter(|(node, _)| !lost.contains(node)) {
            let put = self.fabric.block_on(map.put(&"k".into(), &"after".into()));
            let mut get = |how| told(&self.fabric.block_on(map.get(&"k".into(), how)));
            let reads = [get(ReadConsistency::Linearizable), get(ReadConsistency::Local)];
            answers.push((*node, [told(&put), reads[0], reads[1]]));
        }
        answers
    }
}

fn told<T>(result: &Result<T, Error>) -> Answer {
    result.as_ref().map_or_else(|error| Answer::Refused(error.failure()), |_| Answer::Served)
}

fn foreseen(node: &NodeAnswers) -> [Answer; 3] {
    [node.writes, node.linearizable_reads, node.local_reads]
}

/// Every node and every zone of clusters of one to five under every leader, with and without a demand of
/// two zones.
#[test]
fn what_a_drill_foresees_is_what_happens() {
    let mut seen = BTreeSet::new();
    for (voters, domains) in (1..=5).flat_map(|voters| [(voters, 1), (voters, 2)]) {
        if voters == 1 && domains == 2 {
            continue;
        }
        let zones = ["zone-0", "zone-1"].map(|zone| FailureDomain::new("local", "local", zone));
        let zones = zones.map(|zone| FailureDrill::AvailabilityZoneLoss { zone });
        let nodes =
            (1..=voters).map(|node| FailureDrill::NodeLoss { node: NodeId::new(node.into()) });
        // The only voter of all is in the second zone.
        for drill in zones.into_iter().skip(usize::from(voters == 1)).chain(nodes) {
            for leader in (1..=voters).map(|node| NodeId::new(node.into())) {
                let world = World::new(voters, domains, leader);
                let report = drill.judge(&world.copy).unwrap();
                let mut answers = world.lose(&report.lost).into_iter().peekable();
                for node in &report.resources[0].nodes {
                    let Some((_, found)) = answers.next_if(|(left, _)| *left == node.node) else {
                        assert!(report.lost.contains(&node.node));
                        continue;
                    };
                    let expected = foreseen(node);
                    assert_eq!(found, expected, "led by {leader}, demand {domains}, {report}");
                    seen.insert(found);
                }
                assert_eq!(answers.next(), None);
            }
        }
    }
    // All served, only reads under the old leader, only local reads: none of it went untried.
    let writes: BTreeSet<Answer> = seen.iter().map(|answers| answers[0]).collect();
    assert_eq!((writes.len(), seen.len()), (2, 3), "{seen:?}");
}
