//! How a cluster is: its nodes and its groups, as documents and as tables.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_client::NodeStatus;
use palisade_client::proto::cluster::v1::{GetStatusResponse, Group, Member, MemberRole, Role};
use serde_json::{Value, json};

use super::health::ailments;
use crate::command::failed::Failed;
use crate::command::output::Found;
use crate::command::table::table;

pub(super) fn hex(raw: &Bytes) -> String {
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn role_text(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "busy",
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Repairing => "repairing",
        Role::Outsider => "outsider",
        Role::Halted => "halted",
    }
}

fn member_role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Unspecified => "unknown",
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Leaving => "leaving",
    }
}

/// `1 2 3`, and of others than voters what they are: `4 (learner)`.
fn members_text(members: &[Member]) -> String {
    let each = |member: &Member| match member.role() {
        MemberRole::Voter => member.node.to_string(),
        role => format!("{} ({})", member.node, member_role(role)),
    };
    members.iter().map(each).collect::<Vec<_>>().join(" ")
}

fn domain_text(status: &GetStatusResponse) -> String {
    let domain = status.domain.clone().unwrap_or_default();
    format!("{}/{}/{}", domain.provider, domain.region, domain.zone)
}

fn group_json(group: &Group) -> Value {
    let member = |member: &Member| {
        json!({
            "node": member.node,
            "role": member_role(member.role()),
            "address": member.address,
            "domain": member.domain,
            "incarnation": hex(&member.incarnation),
        })
    };
    json!({
        "group": group.group,
        "role": role_text(group.role()),
        "leader": (group.leader > 0).then_some(group.leader),
        "term": group.term,
        "applied_offset": group.applied_offset,
        "first_index": group.first_index,
        "last_index": group.last_index,
        "committed_index": group.committed_index,
        "leaderless_ms": group.leaderless_ms,
        "uncommitted_ms": group.uncommitted_ms,
        "sync_ms": group.sync_ms,
        "disk_full": group.disk_full,
        "halted": (!group.halted.is_empty()).then_some(&group.halted),
        "members": group.members.iter().map(member).collect::<Vec<_>>(),
        "voters": group.voters.iter().map(|voter| json!({
            "node": voter.node,
            "answers": voter.answers,
            "entries_behind": voter.entries_behind,
        })).collect::<Vec<_>>(),
    })
}

fn node_json(node: &NodeStatus) -> Value {
    match &node.status {
        Ok(status) => json!({
            "endpoint": node.endpoint,
            "node": status.node,
            "cluster": hex(&status.cluster),
            "incarnation": hex(&status.incarnation),
            "domain": domain_text(status),
            "groups": status.groups.iter().map(group_json).collect::<Vec<_>>(),
        }),
        Err(error) => json!({ "endpoint": node.endpoint, "unreached": error.to_string() }),
    }
}

fn node_row(node: &NodeStatus) -> Vec<String> {
    let endpoint = node.endpoint.clone();
    match &node.status {
        Ok(status) => {
            let of = |role: Role| {
                let groups = status.groups.iter().filter(|group| group.role() == role);
                groups.map(|group| group.group.to_string()).collect::<Vec<_>>().join(" ")
            };
            let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            let (leads, halted) = (or_none(of(Role::Leader)), or_none(of(Role::Halted)));
            vec![status.node.to_string(), endpoint, domain_text(status), leads, halted]
        }
        Err(_) => {
            let none = || "-".to_owned();
            vec![none(), endpoint, "does not answer".to_owned(), none(), none()]
        }
    }
}

/// A group as its leader sees it, or else whoever has heard of the highest term.
fn group_rows(nodes: &[NodeStatus]) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<u64, Vec<&Group>> = BTreeMap::new();
    for status in nodes.iter().filter_map(|node| node.status.as_ref().ok()) {
        for group in &status.groups {
            groups.entry(group.group).or_default().push(group);
        }
    }
    let row = |(id, seen): (&u64, &Vec<&Group>)| {
        let by = |group: &&&Group| (group.term, group.role() == Role::Leader);
        let newest = seen.iter().max_by_key(by).expect("a group was seen somewhere");
        let applied = seen.iter().map(|group| group.applied_offset);
        let (least, most) = (applied.clone().min(), applied.max());
        let leader = match newest.leader {
            0 => "none".to_owned(),
            leader => leader.to_string(),
        };
        vec![
            id.to_string(),
            leader,
            newest.term.to_string(),
            least.unwrap_or_default().to_string(),
            most.unwrap_or_default().to_string(),
            members_text(&newest.members),
        ]
    };
    groups.iter().map(row).collect()
}

pub(super) fn found(nodes: &[NodeStatus]) -> Result<Found, Failed> {
    if let Some(error) = nodes.iter().map(|node| node.status.as_ref()).find_map(Result::err)
        && nodes.iter().all(|node| node.status.is_err())
    {
        return Err(error.clone().into());
    }
    let rows: Vec<Vec<String>> = nodes.iter().map(node_row).collect();
    let mut text = table(&["NODE", "ENDPOINT", "DOMAIN", "LEADS", "HALTED"], &rows);
    text.push('\n');
    let head = ["GROUP", "LEADER", "TERM", "APPLIED FROM", "APPLIED TO", "MEMBERS"];
    text.push_str(&table(&head, &group_rows(nodes)));
    let wrong = ailments(nodes);
    text.push('\n');
    match wrong.is_empty() {
        true => text.push_str("healthy\n"),
        false => wrong.iter().for_each(|what| text.push_str(&format!("not healthy: {what}\n"))),
    }
    let nodes: Vec<Value> = nodes.iter().map(node_json).collect();
    Ok(Found::new(json!({ "nodes": nodes, "healthy": wrong.is_empty(), "wrong": wrong }), text))
}
