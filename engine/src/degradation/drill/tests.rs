//! The judge against a naive one, written only from the page, and the cases that the page names.

use palisade_replication::{GroupId, MemberRole};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::degradation::contract::tests::contract;
use crate::degradation::{DegradationContract, DegradationMode, DegradationRule};
use crate::resource::{LogicalResourceName, Placement, ReplicaPolicy};

// ---- the naive judge ----

/// Writes, linearizable reads and local reads at one member.
type Three = [Answer; 3];

fn is_lost(drill: &FailureDrill, member: &MemberMap) -> bool {
    let FailureDomain { provider, region, zone } = &member.domain;
    match drill {
        FailureDrill::AvailabilityZoneLoss { zone: lost } => {
            (&lost.provider, &lost.region, &lost.zone) == (provider, region, zone)
        }
        FailureDrill::RegionLoss { provider: p, region: r } => (p, r) == (provider, region),
        FailureDrill::ProviderLoss { provider: p } => p == provider,
        FailureDrill::NodeLoss { node } | FailureDrill::DiskLoss { node } => *node == member.node,
    }
}

/// Tries every set of voters that is left: does one of them make a commit durable as demanded?
fn some_set(left: &[&MemberMap], voters: usize, domains: u32) -> bool {
    (0_u32..1 << left.len()).any(|set| {
        let acks = (0..left.len()).filter(|at| set & 1 << at != 0);
        let mut zones: Vec<String> = acks.clone().map(|at| left[at].domain.to_string()).collect();
        zones.sort();
        zones.dedup();
        2 * acks.count() > voters && zones.len() as u32 >= domains
    })
}

/// Says of a call what the three tables of the page say, and no more.
fn naive(
    drill: &FailureDrill,
    map: &ClusterMap,
    resource: &ResourceMap,
    member: &MemberMap,
) -> Three {
    let refused = |failure| [Answer::Refused(failure); 3];
    if is_lost(drill, member) {
        let diskless = matches!(drill, FailureDrill::DiskLoss { .. });
        return refused(if diskless { Failure::InternalError } else { Failure::Disconnected });
    }
    if !resource.placement.allows(&member.domain) {
        return refused(Failure::DomainUnavailable);
    }
    let group = map.groups.iter().find(|group| group.group == resource.group).unwrap();
    let votes = |member: &&MemberMap| member.role == MemberRole::Voter;
    let voters: Vec<_> = group.members.iter().filter(votes).collect();
    let left: Vec<_> = voters.iter().copied().filter(|voter| !is_lost(drill, voter)).collect();
    let mut demand = group.domains_demanded.max(1);
    for other in map.resources.iter().filter(|other| other.group == group.group) {
        demand = demand.max(other.replicas.domains());
    }
    let leads = left.iter().any(|voter| group.leader == Some(voter.node));
    let commits = some_set(&left, voters.len(), demand);
    let reads = commits || leads && some_set(&left, voters.len(), 1);

    let tried = |works: bool| {
        if works { Answer::Served } else { Answer::Refused(Failure::Disconnected) }
    };
    let or_stale = |works: bool| if works { Answer::Served } else { Answer::Stale };
    let mode_under = |contract: &DegradationContract, failure| {
        let rule = contract.rules().iter().find(|r| r.when.contains(&failure));
        rule.map_or(DegradationMode::FailClosed, |rule| rule.mode)
    };
    let stays = group.leader == Some(member.node) && some_set(&left, voters.len(), 1);
    let (mode, failure) = match &resource.contract {
        Some(contract) if !commits => match mode_under(contract, Failure::Degraded) {
            mode if stays && !mode.takes_writes() => (mode, Failure::Degraded),
            _ => (mode_under(contract, Failure::Disconnected), Failure::Disconnected),
        },
        _ => (DegradationMode::Normal, Failure::Disconnected),
    };
    let no = Answer::Refused(failure);
    match mode {
        DegradationMode::Normal => [tried(commits), tried(reads), Answer::Served],
        DegradationMode::ReadOnly => [no, tried(reads), Answer::Served],
        DegradationMode::StaleReadsOk => [no, or_stale(reads), Answer::Stale],
        DegradationMode::DegradedOk => [tried(commits), or_stale(reads), Answer::Stale],
        DegradationMode::FailClosed => [no; 3],
    }
}

// ---- random maps ----

fn domain() -> impl Strategy<Value = FailureDomain> {
    (select(vec!["p", "q"]), select(vec!["r", "s"]), select(vec!["a", "b"]))
        .prop_map(|(provider, region, zone)| FailureDomain::new(provider, region, zone))
}

/// Who votes, who leads if anybody, what is demanded.
fn group(places: Vec<FailureDomain>) -> impl Strategy<Value = GroupMap> {
    let count = places.len();
    let leader = proptest::option::weighted(0.9, any::<Index>());
    (vec(any::<Index>(), 1..=count), vec(any::<bool>(), count), leader, 1_u32..3).prop_map(
        move |(voting, takes_part, leader, domains_demanded)| {
            let voting: Vec<usize> = voting.iter().map(|at| at.index(count)).collect();
            let role = |at| {
                if voting.contains(&at) { MemberRole::Voter } else { MemberRole::Learner }
            };
            let members = places.iter().enumerate().map(|(at, domain)| MemberMap {
                node: NodeId::new(at as u64 + 1),
                domain: domain.clone(),
                role: role(at),
            });
            let members: Vec<_> = members
                .filter(|m| m.role == MemberRole::Voter || takes_part[m.node.get() as usize - 1])
                .collect();
            let leader = leader.map(|at| NodeId::new(voting[at.index(voting.len())] as u64 + 1));
            GroupMap { group: GroupId::new(1), leader, domains_demanded, members }
        },
    )
}

fn resource() -> impl Strategy<Value = ResourceMap> {
    let placement = prop_oneof![
        3 => Just(vec!["p", "q"]),
        1 => Just(vec!["p"]),
        1 => Just(vec!["q"]),
    ];
    // Most say something about the one failure that a drill brings about.
    let modes = vec![
        DegradationMode::Normal,
        DegradationMode::ReadOnly,
        DegradationMode::StaleReadsOk,
        DegradationMode::FailClosed,
    ];
    let of_mode = select(modes).prop_map(|mode| {
        let rule = DegradationRule::new([Failure::Disconnected], mode);
        DegradationContract::builder().rule(rule).build().unwrap()
    });
    let contract = prop_oneof![
        1 => Just(None),
        1 => contract().prop_map(Some),
        3 => of_mode.prop_map(Some),
    ];
    (placement, 1_u32..6, 1_u32..3, contract, any::<Index>()).prop_map(
        |(providers, replicas, domains, contract, group)| ResourceMap {
            name: LogicalResourceName::new("to-be-numbered").unwrap(),
            group: GroupId::new(group.index(3) as u64 + 1),
            placement: Placement::providers(providers).unwrap(),
            replicas: ReplicaPolicy::majority(replicas).across_domains(domains),
            contract,
        },
    )
}

fn map() -> impl Strategy<Value = ClusterMap> {
    let groups = vec(domain(), 1..7).prop_flat_map(|places| vec(group(places), 1..4));
    (groups, vec(resource(), 0..5)).prop_map(|(mut groups, mut resources)| {
        for (group, number) in groups.iter_mut().zip(1..) {
            group.group = GroupId::new(number);
        }
        for (resource, at) in resources.iter_mut().zip(0..) {
            resource.name = LogicalResourceName::new(&format!("r{at}")).unwrap();
            resource.group = GroupId::new(1 + resource.group.get() % groups.len() as u64);
        }
        ClusterMap { groups, resources }
    })
}

/// The drills that take this member away, each taking at least what the one before it takes.
fn drills(member: &MemberMap) -> [FailureDrill; 5] {
    let FailureDomain { provider, region, .. } = member.domain.clone();
    [
        FailureDrill::DiskLoss { node: member.node },
        FailureDrill::NodeLoss { node: member.node },
        FailureDrill::AvailabilityZoneLoss { zone: member.domain.clone() },
        FailureDrill::RegionLoss { provider: provider.clone(), region },
        FailureDrill::ProviderLoss { provider },
    ]
}

fn some_member<'a>(map: &'a ClusterMap, group: &Index, member: &Index) -> &'a MemberMap {
    let group = &map.groups[group.index(map.groups.len())];
    &group.members[member.index(group.members.len())]
}

fn three(node: &NodeAnswers) -> Three {
    [node.writes, node.linearizable_reads, node.local_reads]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_is_that_of_a_naive_judge(map in map(), at: [Index; 2], drill in 0_usize..5) {
        let drill = drills(some_member(&map, &at[0], &at[1]))[drill].clone();
        let report = drill.judge(&map).unwrap();
        prop_assert_eq!(report.resources.len(), map.resources.len());
        for (verdict, resource) in report.resources.iter().zip(&map.resources) {
            prop_assert_eq!(&verdict.name, &resource.name);
            let group = map.groups.iter().find(|group| group.group == resource.group).unwrap();
            prop_assert_eq!(verdict.nodes.len(), group.members.len());
            for (found, member) in verdict.nodes.iter().zip(&group.members) {
                prop_assert_eq!((found.node, &found.domain), (member.node, &member.domain));
                let expected = naive(&drill, &map, resource, member);
                prop_assert_eq!(three(found), expected, "node {}\n{}", found.node, &report);
            }
        }
    }

    /// Who loses more serves no more: `Served` is better than `Stale`, and that than any refusal.
    #[test]
    fn a_wider_loss_serves_no_more(map in map(), at: [Index; 2]) {
        let drills = drills(some_member(&map, &at[0], &at[1]));
        let reports: Vec<_> = drills.iter().map(|drill| drill.judge(&map).unwrap()).collect();
        let rank = |answer| match answer {
            Answer::Served => 0,
            Answer::Stale => 1,
            Answer::Refused(_) => 2,
        };
        for pair in reports.windows(2) {
            prop_assert!(pair[0].lost.is_subset(&pair[1].lost));
            let answers = |report: &DrillReport| -> Vec<Three> {
                report.resources.iter().flat_map(|verdict| verdict.nodes.iter().map(three)).collect()
            };
            for (narrow, wide) in answers(&pair[0]).iter().zip(answers(&pair[1])) {
                for (narrow, wide) in narrow.iter().zip(wide) {
                    prop_assert!(rank(*narrow) <= rank(wide), "{}\n{}", pair[0], pair[1]);
                }
            }
        }
    }

    /// Where a domain is said to be served from, a node there serves; where not, there is a reason.
    #[test]
    fn domains_are_told_as_their_nodes_are(map in map(), at: [Index; 2], drill in 0_usize..5) {
        let report = drills(some_member(&map, &at[0], &at[1]))[drill].judge(&map).unwrap();
        let kinds: [fn(&NodeAnswers) -> Answer; 3] =
            [|node| node.writes, |node| node.linearizable_reads, |node| node.local_reads];
        for (verdict, kind) in report.resources.iter().flat_map(|v| kinds.map(|kind| (v, kind))) {
            let (served, refused) = (verdict.served_from(kind), verdict.refused_from(kind));
            for node in &verdict.nodes {
                prop_assert!(served.contains(&node.domain) != refused.contains_key(&node.domain));
                match kind(node) {
                    Answer::Refused(why) if !served.contains(&node.domain) => {
                        prop_assert!(refused[&node.domain].contains(&why));
                    }
                    Answer::Refused(_) => {}
                    Answer::Served | Answer::Stale => prop_assert!(served.contains(&node.domain)),
                }
            }
        }
    }
}

// ---- what the page names ----

fn at(zone: &str) -> FailureDomain {
    FailureDomain::new("p", "r", zone)
}

/// Voters 1, 2, .. in these zones, led by the first; one resource.
fn cluster(zones: &[&str], domains: u32, contract: Option<DegradationContract>) -> ClusterMap {
    let members = zones.iter().zip(1..).map(|(zone, node)| MemberMap {
        node: NodeId::new(node),
        domain: at(zone),
        role: MemberRole::Voter,
    });
    ClusterMap {
        groups: vec![GroupMap {
            group: GroupId::new(1),
            leader: Some(NodeId::new(1)),
            domains_demanded: 1,
            members: members.collect(),
        }],
        resources: vec![ResourceMap {
            name: LogicalResourceName::new("orders").unwrap(),
            group: GroupId::new(1),
            placement: Placement::providers(["p"]).unwrap(),
            replicas: ReplicaPolicy::majority(3).across_domains(domains),
            contract,
        }],
    }
}

fn zone(zone: &str) -> FailureDrill {
    FailureDrill::AvailabilityZoneLoss { zone: at(zone) }
}

const CUT_OFF: Answer = Answer::Refused(Failure::Disconnected);

#[test]
fn one_of_three_zones_is_no_failure() {
    let report = zone("a").judge(&cluster(&["a", "b", "c"], 2, None)).unwrap();
    assert!(report.groups[0].commits);
    assert!(!report.groups[0].leader_left);
    let orders = &report.resources[0];
    assert_eq!(three(&orders.nodes[0]), [CUT_OFF; 3]);
    assert_eq!(three(&orders.nodes[1]), [Answer::Served; 3]);
    assert_eq!(orders.replicas_missing, 1);
    assert_eq!(orders.served_from(|node| node.writes), [&at("b"), &at("c")].into());
    let lost = at("a");
    let why = [(&lost, [Failure::Disconnected].into())].into();
    assert_eq!(orders.refused_from(|node| node.writes), why);
}

/// With a domain of a demand away, a leader that stays confirms reads, and a new one cannot.
#[test]
fn a_demand_of_two_domains_stops_writes_and_the_reads_of_a_new_leader() {
    let map = cluster(&["a", "a", "b"], 2, None);
    let stays = zone("b").judge(&map).unwrap();
    assert_eq!((stays.groups[0].voters_missing, stays.groups[0].domains_missing), (0, 1));
    assert_eq!(three(&stays.resources[0].nodes[1]), [CUT_OFF, Answer::Served, Answer::Served]);

    let mut led_by_b = map.clone();
    led_by_b.groups[0].leader = Some(NodeId::new(3));
    let new = zone("b").judge(&led_by_b).unwrap();
    assert_eq!(three(&new.resources[0].nodes[1]), [CUT_OFF, CUT_OFF, Answer::Served]);

    let undemanded = zone("b").judge(&cluster(&["a", "a", "b"], 1, None)).unwrap();
    assert_eq!(three(&undemanded.resources[0].nodes[1]), [Answer::Served; 3]);
}

#[test]
fn a_lost_disk_is_told_by_its_node() {
    let node = NodeId::new(1);
    let map = cluster(&["a", "b", "c"], 1, Some(DegradationContract::default()));
    let halted = Answer::Refused(Failure::InternalError);
    let report = FailureDrill::DiskLoss { node }.judge(&map).unwrap();
    assert_eq!(three(&report.resources[0].nodes[0]), [halted; 3]);
    let report = FailureDrill::NodeLoss { node }.judge(&map).unwrap();
    assert_eq!(three(&report.resources[0].nodes[0]), [CUT_OFF; 3]);
    assert_eq!(three(&report.resources[0].nodes[1]), [Answer::Served; 3]);
}

/// G9 comes before any contract.
#[test]
fn outside_the_placement_nothing_is_served() {
    let rule = DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk);
    let contract = DegradationContract::builder().rule(rule).build().unwrap();
    let mut map = cluster(&["a", "b", "c"], 1, Some(contract));
    map.resources[0].placement = Placement::providers(["q"]).unwrap();
    let report = zone("a").judge(&map).unwrap();
    let outside = Answer::Refused(Failure::DomainUnavailable);
    assert_eq!(three(&report.resources[0].nodes[1]), [outside; 3]);
}

#[test]
fn a_drill_that_shows_nothing_is_refused() {
    let map = cluster(&["a", "b"], 1, None);
    let region = FailureDrill::RegionLoss { provider: "p".into(), region: "R".into() };
    let provider = FailureDrill::ProviderLoss { provider: "aws".into() };
    let node = NodeId::new(3);
    let nodes = [FailureDrill::NodeLoss { node }, FailureDrill::DiskLoss { node }];
    for drill in [zone("c"), region, provider].iter().chain(&nodes) {
        let error = drill.judge(&map).unwrap_err();
        assert_eq!(error.failure(), Failure::InvalidArgument, "{drill}");
        assert!(error.to_string().contains("1 in p/r/a, 2 in p/r/b"), "{error}");
    }
    let mut broken = map;
    broken.groups[0].leader = Some(node);
    assert!(zone("a").judge(&broken).unwrap_err().to_string().contains("is no voter"));
}

#[test]
fn a_report_reads_as_a_table() {
    let rule = DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk);
    let contract = DegradationContract::builder().rule(rule).build().unwrap();
    let report = zone("a").judge(&cluster(&["a", "a", "b"], 2, Some(contract))).unwrap();
    let expected = "\
loss of zone p/r/a: lost nodes 1, 2
group 1: 1 of 3 voters left, commits: no, confirms reads: no; voters missing: 1; domains missing: 1
orders in group 1, replicas missing: 2
  node 1 in p/r/a: writes refused (Disconnected), linearizable reads refused (Disconnected), \
local reads refused (Disconnected)
  node 2 in p/r/a: writes refused (Disconnected), linearizable reads refused (Disconnected), \
local reads refused (Disconnected)
  node 3 in p/r/b: writes refused (Disconnected), linearizable reads stale, local reads stale
";
    assert_eq!(report.to_string(), expected);
}
