//! `palisade.cluster.v1.Cluster`.

use palisade::{
    ClusterId, Error, FailureDomain, Group, GroupId, Incarnation, Member, MemberChange, MemberRole,
    MembersChanged, NodeId, Role,
};
use palisade_proto::cluster::v1 as proto;
use palisade_proto::cluster::v1::cluster_server::Cluster as Service;
use tonic::{Request, Response, Status};

use super::convert::{needed, of_domain};
use super::endpoint::{CLUSTER, Endpoint, refused};
use super::failure::invalid;
use super::own;
use crate::rebuild::rebuild;
use crate::security::audit::{AuditEvent, AuditFacts};
use crate::security::grants::Right;

fn role(role: Role) -> proto::Role {
    match role {
        Role::Follower => proto::Role::Follower,
        Role::Candidate => proto::Role::Candidate,
        Role::Leader => proto::Role::Leader,
        Role::Learner => proto::Role::Learner,
        Role::Repairing => proto::Role::Repairing,
        Role::Outsider => proto::Role::Outsider,
        Role::Halted => proto::Role::Halted,
    }
}

fn incarnation(raw: &[u8]) -> Result<Option<Incarnation>, Error> {
    if raw.is_empty() {
        return Ok(None);
    }
    let raw = raw.try_into().map_err(|_| invalid("an incarnation has 16 bytes"))?;
    Ok(Some(Incarnation::new(u128::from_be_bytes(raw))))
}

/// A domain as one text.
pub(super) fn domain(text: &str) -> Result<FailureDomain, Error> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [provider, region, zone] if parts.iter().all(|part| (1..=64).contains(&part.len())) => {
            Ok(FailureDomain::new(provider, region, zone))
        }
        _ => Err(invalid(format!("domain={text:?} is written provider/region/zone"))),
    }
}

fn member(asked: &proto::Add) -> Result<Member, Error> {
    let address = asked.address.parse();
    let address = address.map_err(|error| invalid(format!("address={:?}: {error}", asked.address)));
    domain(&asked.domain)?;
    Ok(Member {
        incarnation: incarnation(&asked.incarnation)?,
        address: Some(address?),
        domain: asked.domain.clone(),
    })
}

pub(crate) fn change(asked: &proto::ChangeMembersRequest) -> Result<MemberChange, Error> {
    use proto::change_members_request::Change;
    Ok(match needed(asked.change.as_ref(), "change")? {
        Change::AddLearner(add) => {
            MemberChange::AddLearner { node: NodeId::new(add.node), member: member(add)? }
        }
        Change::Promote(node) => MemberChange::Promote { node: NodeId::new(*node) },
        Change::Demote(node) => MemberChange::Demote { node: NodeId::new(*node) },
        Change::Remove(node) => MemberChange::Remove { node: NodeId::new(*node) },
        Change::Replace(replace) => {
            MemberChange::Replace { old: NodeId::new(replace.old), new: NodeId::new(replace.new) }
        }
    })
}

async fn group(group: Group) -> proto::Group {
    let id = group.id().get();
    let applied = group.applied();
    match (group.status().await, applied) {
        (Ok(status), applied) => proto::Group {
            group: id,
            role: role(status.role).into(),
            leader: status.leader.map_or(0, NodeId::get),
            term: status.term.get(),
            applied_offset: applied.as_ref().map_or(0, |offset| offset.get()),
            last_index: status.last_index.get(),
            committed_index: status.committed_index.get(),
            first_index: status.first_index.get(),
            members: members(&status.members),
            leaderless_ms: status.leaderless_ms,
            uncommitted_ms: status.uncommitted_ms,
            sync_ms: status.sync_ms,
            disk_full: status.disk_full,
            voters: status
                .voters
                .iter()
                .map(|voter| proto::Voter {
                    node: voter.node.get(),
                    answers: voter.answers,
                    entries_behind: voter.entries_behind,
                })
                .collect(),
            proposals: status.proposals_count as u64,
            halted: applied.err().map(|error| error.to_string()).unwrap_or_default(),
        },
        // Only one that has stopped says so; another is too busy to be asked.
        (Err(error), applied) => proto::Group {
            group: id,
            role: match error {
                Error::InternalError { .. } => proto::Role::Halted.into(),
                _ => proto::Role::Unspecified.into(),
            },
            halted: applied.err().map(|error| error.to_string()).unwrap_or_default(),
            ..Default::default()
        },
    }
}

fn members(members: &palisade::Membership) -> Vec<proto::Member> {
    let role = |role| match role {
        MemberRole::Voter => proto::MemberRole::Voter,
        MemberRole::Learner => proto::MemberRole::Learner,
        MemberRole::Leaving => proto::MemberRole::Leaving,
    };
    let found = members.roles().map(|(node, is)| {
        let member = members.member(node);
        proto::Member {
            node: node.get(),
            role: role(is).into(),
            incarnation: member
                .and_then(|member| member.incarnation)
                .map(|life| life.get().to_be_bytes().to_vec().into())
                .unwrap_or_default(),
            address: member
                .and_then(|member| member.address)
                .map(|address| address.to_string())
                .unwrap_or_default(),
            domain: member.map(|member| member.domain.clone()).unwrap_or_default(),
        }
    });
    found.collect()
}

#[tonic::async_trait]
impl Service for Endpoint {
    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, Status> {
        let (call, _) = self.begin(request)?;
        self.known(&call)?;
        let mut groups = Vec::new();
        for each in self.engine.groups() {
            groups.push(group(each).await);
        }
        Ok(Response::new(proto::GetStatusResponse {
            cluster: ClusterId::get(self.engine.cluster()).to_be_bytes().to_vec().into(),
            node: self.engine.node().get(),
            incarnation: self.engine.incarnation().get().to_be_bytes().to_vec().into(),
            domain: Some(of_domain(self.engine.domain())),
            groups,
        }))
    }

    async fn change_members(
        &self,
        request: Request<proto::ChangeMembersRequest>,
    ) -> Result<Response<proto::ChangeMembersResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow(&call, Right::Admin, CLUSTER)?;
        let change = change(&asked).map_err(refused)?;
        let changed = call.write(async {
            if let MemberChange::AddLearner { member, .. } = &change {
                let (to, facts) = (domain(&member.domain)?, self.facts(&call, AuditEvent::Placed));
                own::follow(&self.engine, &to, &|facts| self.note(facts), &facts).await?;
            }
            self.engine.change_members(change).await
        });
        let changed = changed.await.map_err(refused)?;
        let changed = changed.into_iter().filter(|(_, changed)| *changed == MembersChanged::Now);
        let changed = changed.map(|(group, _)| group.get()).collect();
        Ok(Response::new(proto::ChangeMembersResponse { changed }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<proto::TransferLeadershipRequest>,
    ) -> Result<Response<proto::TransferLeadershipResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow(&call, Right::Admin, CLUSTER)?;
        let group = self.engine.group(GroupId::new(asked.group)).map_err(refused)?;
        group.transfer_leadership(NodeId::new(asked.to)).map_err(refused)?;
        Ok(Response::new(proto::TransferLeadershipResponse {}))
    }

    async fn list_divergences(
        &self,
        request: Request<proto::ListDivergencesRequest>,
    ) -> Result<Response<proto::ListDivergencesResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow(&call, Right::Admin, CLUSTER)?;
        let group = self.engine.group(GroupId::new(asked.group)).map_err(refused)?;
        let found = call.read(group.divergences()).await.map_err(refused)?;
        let divergences = found.into_iter().map(|found| proto::Divergence {
            node: found.node.get(),
            compared: found.compared.get(),
            found: found.found.get(),
            log_time_ms: found.log_time.get(),
            has_majority: found.has_majority,
            projection: found.projection,
            resource: found.resource.map(|name| name.as_str().to_owned()).unwrap_or_default(),
            from: found.from,
            end: found.end,
        });
        let divergences = divergences.collect();
        Ok(Response::new(proto::ListDivergencesResponse { divergences }))
    }

    async fn rebuild_replica(
        &self,
        request: Request<proto::RebuildReplicaRequest>,
    ) -> Result<Response<proto::RebuildReplicaResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.allow(&call, Right::Admin, CLUSTER)?;
        let group = self.engine.group(GroupId::new(asked.group)).map_err(refused)?;
        self.note(AuditFacts {
            resource: format!("group {}", group.id()),
            right: Right::Admin.to_string(),
            why: asked.reason.clone(),
            ..self.facts(&call, AuditEvent::Cleared)
        });
        call.write(rebuild(&group, &asked.reason)).await.map_err(refused)?;
        Ok(Response::new(proto::RebuildReplicaResponse {}))
    }
}
