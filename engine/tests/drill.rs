//! What drills foresee, held against what happens: a simulated cluster loses the same nodes, and is asked.
#![cfg(feature = "sim")]

use std::collections::BTreeSet;

use palisade::degradation::{
    Answer, ClusterMap, DegradationContract, DegradationMode, DegradationRule, FailureDrill,
    GroupMap, MemberMap, ResourceMap,
};
use palisade::sim::SimFabric;
use palisade::{
    Error, Failure, FailureDomain, GroupId, MemberRole, NodeId, Placement, ReplicaPolicy,
    ReplicatedMap, ResourceSpec, SYSTEM_GROUP,
};

const GROUP: GroupId = GroupId::new(1);

fn zone(number: u64) -> FailureDomain {
    FailureDomain::new("aws", "r1", ["a", "b"][number as usize % 2])
}

/// Nodes that are named by tens, in two zones in turn, and one resource.
fn map(
    voters: u32,
    domains: u32,
    leader: u64,
    contract: Option<DegradationContract>,
) -> ClusterMap {
    let member = |number| MemberMap {
        node: NodeId::new(10 * number),
        domain: zone(number),
        role: MemberRole::Voter,
    };
    let members = (1..=u64::from(voters)).map(member).collect();
    let leader = Some(NodeId::new(10 * leader));
    let spec = ResourceSpec::new("orders", "order.v1")
        .unwrap()
        .replicas(ReplicaPolicy::majority(voters).across_domains(domains))
        .placement(Placement::providers(["aws"]).unwrap());
    let orders = ResourceMap { contract, ..ResourceMap::of(GROUP, spec) };
    let group = GroupMap { group: GROUP, leader, domains_demanded: 1, members };
    ClusterMap { groups: vec![group], resources: vec![orders] }
}

/// None, and each mode that being cut off allows; with writes or without where only a domain is away.
fn contracts() -> Vec<Option<DegradationContract>> {
    use DegradationMode::{DegradedOk, FailClosed, Normal, ReadOnly, StaleReadsOk};
    let pairs = [
        (Normal, ReadOnly),
        (ReadOnly, DegradedOk),
        (StaleReadsOk, StaleReadsOk),
        (FailClosed, Normal),
    ];
    let built = pairs.map(|(cut_off, degraded)| {
        DegradationContract::builder()
            .rule(DegradationRule::new([Failure::Disconnected], cut_off))
            .rule(DegradationRule::new([Failure::Degraded], degraded))
            .build()
            .unwrap()
    });
    std::iter::once(None).chain(built.into_iter().map(Some)).collect()
}

/// Every node and every zone of clusters of one to five under every leader, with and without a demand of
/// two zones, with and without a contract.
#[test]
fn what_a_drill_foresees_is_what_happens() {
    let mut seen = BTreeSet::new();
    for (voters, domains) in (1..=5).flat_map(|voters| [(voters, 1), (voters, 2)]) {
        if voters == 1 && domains == 2 {
            continue;
        }
        let zones = [0, 1].map(|number| FailureDrill::AvailabilityZoneLoss { zone: zone(number) });
        let nodes = (1..=voters)
            .map(|node| FailureDrill::NodeLoss { node: NodeId::new(10 * u64::from(node)) });
        // The only voter of all is in the second zone.
        for drill in zones.into_iter().skip(usize::from(voters == 1)).chain(nodes) {
            for leader in 1..=u64::from(voters) {
                for contract in contracts() {
                    let map = map(voters, domains, leader, contract.clone());
                    let foreseen = drill.judge(&map).unwrap();
                    let verdict = &foreseen.groups[0];
                    let elects_who =
                        verdict.voters_missing == 0 && !verdict.commits && !verdict.leader_left;
                    if elects_who && contract.is_some() {
                        // Whoever leads then may call it by another name.
                        continue;
                    }
                    let found = drill.rehearse(&map, 1).unwrap();
                    assert_eq!(found, foreseen, "led by {leader}, {contract:?}: {found}{foreseen}");
                    let left = |node: &&palisade::degradation::NodeAnswers| {
                        !found.lost.contains(&node.node)
                    };
                    let answers = found.resources[0].nodes.iter().filter(left);
                    seen.extend(answers.map(|n| [n.writes, n.linearizable_reads, n.local_reads]));
                }
            }
        }
    }
    let all: BTreeSet<Answer> = seen.iter().flatten().copied().collect();
    let refused = [Failure::Disconnected, Failure::Degraded].map(Answer::Refused);
    assert_eq!(
        all,
        [Answer::Served, Answer::Stale].into_iter().chain(refused).collect(),
        "{seen:?}"
    );
}

/// Two nodes in one region and one in another, of another provider: each loss that takes more than a zone, and that
/// of a disk, under every leader.
#[test]
fn regions_providers_and_disks_are_lost_as_foreseen() {
    let places = [("aws", "r1", "a"), ("aws", "r2", "a"), ("gcp", "r1", "a")];
    let region = |provider: &str, region: &str| FailureDrill::RegionLoss {
        provider: provider.to_owned(),
        region: region.to_owned(),
    };
    let provider = |provider: &str| FailureDrill::ProviderLoss { provider: provider.to_owned() };
    let disk = |node| FailureDrill::DiskLoss { node: NodeId::new(node) };
    let drills = [
        (region("aws", "r1"), true),
        (region("aws", "r2"), true),
        (region("gcp", "r1"), true),
        (provider("aws"), false),
        (provider("gcp"), true),
        (disk(10), true),
        (disk(30), true),
    ];
    for leader in 1..=3 {
        for (drill, commits) in &drills {
            let mut map = map(3, 1, leader, None);
            map.resources[0].placement = Placement::providers(["aws", "gcp"]).unwrap();
            for (member, (provider, region, zone)) in map.groups[0].members.iter_mut().zip(places) {
                member.domain = FailureDomain::new(provider, region, zone);
            }
            let foreseen = drill.judge(&map).unwrap();
            assert_eq!(foreseen.groups[0].commits, *commits, "{drill} led by {leader}");
            let found = drill.rehearse(&map, 1).unwrap();
            assert_eq!(found, foreseen, "{drill} led by {leader}: {found}{foreseen}");
        }
    }
}

#[test]
fn what_can_only_be_judged_is_not_rehearsed() {
    let drill = FailureDrill::NodeLoss { node: NodeId::new(10) };
    let mut unled = map(3, 1, 1, None);
    unled.groups[0].leader = None;
    let mut learner = map(3, 1, 1, None);
    learner.groups[0].members[2].role = MemberRole::Learner;
    let mut two = map(3, 1, 1, None);
    let mut other = GroupMap { group: GroupId::new(2), ..two.groups[0].clone() };
    other.members.pop();
    two.resources.push(ResourceMap { group: other.group, ..two.resources[0].clone() });
    two.groups.push(other);
    for map in [unled, learner, two] {
        drill.judge(&map).unwrap();
        let Err(Error::InvalidArgument { what }) = drill.rehearse(&map, 1) else {
            panic!("{map:?}")
        };
        assert!(what.contains("a rehearsal is of"), "{what}");
    }
    let mut demanding = map(3, 1, 1, None);
    demanding.groups[0].domains_demanded = 2;
    let lost = FailureDrill::AvailabilityZoneLoss { zone: zone(0) };
    let found = lost.rehearse(&demanding, 1).unwrap();
    assert_eq!(found, lost.judge(&demanding).unwrap());
    assert!(!found.groups[0].commits, "the demand was of the group");
}

/// The copy that a node makes of its placement is the one that a person would write.
#[test]
fn a_node_makes_the_copy_itself() {
    for contract in contracts() {
        let wanted = map(3, 2, 10, contract.clone());
        let mut builder = SimFabric::builder(3);
        for number in 1..=3 {
            builder = builder.place(NodeId::new(number), zone(number));
        }
        let mut fabric = builder.build().unwrap();
        let engine = fabric.engine(fabric.node(2));
        let spec = ResourceSpec::new("orders", "order.v1")
            .unwrap()
            .replicas(wanted.resources[0].replicas)
            .placement(wanted.resources[0].placement.clone());
        let spec = contract.into_iter().fold(spec, ResourceSpec::contract);
        fabric.block_on(ReplicatedMap::<String, String>::open(&engine, spec)).unwrap();
        let copy = fabric.block_on(engine.cluster_map()).unwrap();
        assert_eq!(copy.resources, wanted.resources);
        let [system, group] = &copy.groups[..] else { panic!("{copy:?}") };
        assert_eq!((system.group, system.domains_demanded), (SYSTEM_GROUP, 2));
        assert_eq!((group.leader, group.domains_demanded), (fabric.leader(), 2));
        let places = |group: &GroupMap| {
            group.members.iter().map(|member| member.domain.clone()).collect::<Vec<_>>()
        };
        assert_eq!(places(group), places(&wanted.groups[0]));
        let drill = FailureDrill::AvailabilityZoneLoss { zone: zone(2) };
        let report = fabric.block_on(engine.drill(&drill)).unwrap();
        assert_eq!(report, drill.judge(&copy).unwrap());
    }
}
