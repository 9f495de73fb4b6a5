//! Whether a cluster is healthy, as its nodes say.

use std::collections::{BTreeMap, BTreeSet};

use palisade_client::NodeStatus;
use palisade_client::proto::cluster::v1::{GetStatusResponse, Group, Role};

/// What is wrong, one sentence each; nothing for a cluster in which everything serves.
pub(super) fn ailments(nodes: &[NodeStatus]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut clusters = BTreeSet::new();
    let mut groups: BTreeMap<u64, Vec<(&GetStatusResponse, &Group)>> = BTreeMap::new();
    for node in nodes {
        match &node.status {
            Ok(status) => {
                clusters.insert(&status.cluster);
                for group in &status.groups {
                    groups.entry(group.group).or_default().push((status, group));
                }
            }
            Err(error) => wrong.push(format!("{} does not answer: {error}", node.endpoint)),
        }
    }
    if clusters.len() > 1 {
        wrong.push("the endpoints are of more than one cluster".to_owned());
    }
    for (id, seen) in &groups {
        let mut add = |what: String| wrong.push(format!("group {id}: {what}"));
        for (status, group) in seen {
            let node = status.node;
            match group.role() {
                _ if !group.halted.is_empty() => {
                    add(format!("halted at node {node}: {}", group.halted))
                }
                Role::Halted => add(format!("halted at node {node}")),
                Role::Repairing => add(format!("being repaired at node {node}")),
                Role::Unspecified => add(format!("node {node} is too busy to say how it is")),
                _ => {}
            }
            if group.disk_full {
                add(format!("the disk of node {node} is full"));
            }
        }
        // Who leads in the highest term knows who follows.
        let leader = seen.iter().map(|(_, group)| *group).filter(|it| it.role() == Role::Leader);
        let Some(leader) = leader.max_by_key(|group| group.term) else {
            add("no node that answers leads it".to_owned());
            continue;
        };
        for voter in leader.voters.iter().filter(|voter| !voter.answers) {
            add(format!("voter {} does not answer its leader", voter.node));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use palisade_client::proto::cluster::v1::Voter;

    use super::*;

    fn node(node: u64, role: Role, answers: bool) -> NodeStatus {
        let voters = vec![Voter { node: 2, answers, entries_behind: 0 }];
        let voters = if role == Role::Leader { voters } else { Vec::new() };
        let group = Group { group: 1, role: role.into(), voters, ..Default::default() };
        let status = GetStatusResponse { node, groups: vec![group], ..Default::default() };
        NodeStatus { endpoint: format!("http://{node}"), status: Ok(status) }
    }

    #[test]
    fn everything_has_to_serve() {
        let leader = || node(1, Role::Leader, true);
        assert_eq!(ailments(&[leader(), node(2, Role::Follower, true)]), [""; 0]);
        assert_eq!(ailments(&[leader(), node(2, Role::Halted, true)]).len(), 1);
        assert_eq!(ailments(&[node(1, Role::Leader, false)]).len(), 1);
        assert_eq!(
            ailments(&[node(2, Role::Follower, true)]),
            ["group 1: no node that answers leads it"]
        );
        let mut full = leader();
        full.status.as_mut().unwrap().groups[0].disk_full = true;
        assert_eq!(ailments(&[full]).len(), 1);
        let mut other = node(2, Role::Follower, true);
        other.status.as_mut().unwrap().cluster = vec![7].into();
        assert_eq!(ailments(&[leader(), other]).len(), 1);
    }
}
