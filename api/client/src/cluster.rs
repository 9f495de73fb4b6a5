//! What an operator asks of a cluster: how its nodes are, who takes part, who leads, and a backup.

use std::time::Duration;

use palisade_proto::admin::v1 as admin;
use palisade_proto::admin::v1::backups_client::BackupsClient;
use palisade_proto::cluster::v1 as proto;
use palisade_proto::cluster::v1::change_members_request::Change;
use palisade_proto::cluster::v1::cluster_client::ClusterClient;
use tokio::time::timeout;
use tonic::Streaming;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::retry::Kind;
use crate::route::Target;

/// How long a node may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// The cluster behind a client: see [`Client::cluster`].
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

/// What one endpoint says of its node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The endpoint, as the client was told it.
    pub endpoint: String,
    /// How the node is, or why nobody knows.
    pub status: Result<proto::GetStatusResponse, Error>,
}

fn serves(status: &proto::GetStatusResponse, not: Option<u64>) -> bool {
    let is_voter = |group: &proto::Group| {
        let voter = proto::MemberRole::Voter;
        group.members.iter().any(|it| it.node == status.node && it.role() == voter)
    };
    // One that has halted in a group could not lead it.
    let ready = |group: &proto::Group| is_voter(group) && group.halted.is_empty();
    Some(status.node) != not && status.groups.iter().all(ready)
}

/// Who must not be asked, since it is to leave.
fn leaves(change: &Change) -> Option<u64> {
    match change {
        Change::Remove(node) | Change::Demote(node) => Some(*node),
        Change::Replace(replace) => Some(replace.old),
        Change::AddLearner(_) | Change::Promote(_) => None,
    }
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// How each node is, asked of every endpoint once. The order is that of the endpoints.
    pub async fn status(&self) -> Vec<NodeStatus> {
        let mut found = Vec::new();
        for (at, endpoint) in self.client.endpoints().iter().enumerate() {
            let request = self.client.request(proto::GetStatusRequest {});
            let mut asked = ClusterClient::new(self.client.channel(at));
            let status = match timeout(STATUS_TIMEOUT, asked.get_status(request)).await {
                Ok(Ok(status)) => Ok(status.into_inner()),
                Ok(Err(status)) => Err(Error::of(&status, false)),
                Err(_) => Err(Error::timed_out(false)),
            };
            found.push(NodeStatus { endpoint: endpoint.clone(), status });
        }
        found
    }

    /// The endpoint of a node that is fit for something.
    async fn endpoint(
        &self,
        fit: impl Fn(&proto::GetStatusResponse) -> bool,
        what: &str,
    ) -> Result<usize, Error> {
        let found = self.status().await;
        let is_fit = |each: &NodeStatus| each.status.as_ref().is_ok_and(&fit);
        found.iter().position(is_fit).ok_or_else(|| Error::unreached(what, false))
    }

    /// Changes who takes part, in all groups, asked of a voter that stays. Gives the groups in which it was made
    /// now.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` with the reason if it would not be safe now, `DOMAIN_UNAVAILABLE` for a node
    /// outside the placement of a resource, `DISCONNECTED` if no such voter is among the endpoints. After an
    /// error some groups may be changed: asked again, it goes on where it stopped.
    pub async fn change_members(&self, change: Change) -> Result<Vec<u64>, Error> {
        let leaves = leaves(&change);
        let what = "no endpoint is of a voter that serves and stays";
        let at = self.endpoint(|status| serves(status, leaves), what).await?;
        let call = Call { target: Target::Endpoint(at), ..Call::slow(Kind::Once) };
        let asked = proto::ChangeMembersRequest { change: Some(change) };
        let changed = self.client.call(call, asked, |channel, request| async {
            ClusterClient::new(channel).change_members(request).await
        });
        Ok(changed.await?.changed)
    }

    /// Asks for the leadership of a group to go to a voter. [`Cluster::status`] says whether it did.
    ///
    /// # Errors
    /// `DISCONNECTED` if that node is not among the endpoints.
    pub async fn transfer_leadership(&self, group: u64, to: u64) -> Result<(), Error> {
        // Whoever is to lead can always ask for it.
        let what = format!("no endpoint is of node {to}");
        let at = self.endpoint(|status| status.node == to, &what).await?;
        let call = Call { target: Target::Endpoint(at), ..Call::write(group, Kind::Once, 0) };
        let asked = proto::TransferLeadershipRequest { group, to };
        let done = self.client.call(call, asked, |channel, request| async {
            ClusterClient::new(channel).transfer_leadership(request).await
        });
        done.await.map(|_| ())
    }

    /// Replicas of a group that were found to differ, the newest 64, as a node knows them.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if it is not among the endpoints.
    pub async fn divergences(
        &self,
        node: u64,
        group: u64,
    ) -> Result<Vec<proto::Divergence>, Error> {
        let what = format!("no endpoint is of node {node}");
        let at = self.endpoint(|status| status.node == node, &what).await?;
        let call = Call { target: Target::Endpoint(at), ..Call::read() };
        let asked = proto::ListDivergencesRequest { group };
        let found = self.client.call(call, asked, |channel, request| async {
            ClusterClient::new(channel).list_divergences(request).await
        });
        Ok(found.await?.divergences)
    }

    /// Makes the replica of a group anew that has halted at a node, and waits until it serves again. The reason is
    /// in the audit.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` if it has not halted, `DISCONNECTED` if the node is not among the endpoints, and of the
    /// kind `OUTCOME_UNKNOWN` if the answer was lost: [`Cluster::status`] says whether it is halted still.
    pub async fn rebuild_replica(&self, node: u64, group: u64, reason: &str) -> Result<(), Error> {
        let what = format!("no endpoint is of node {node}");
        let at = self.endpoint(|status| status.node == node, &what).await?;
        let asked = proto::RebuildReplicaRequest { group, reason: reason.to_owned() };
        // Asked again it would be refused, since it serves then: nobody could say what the first has done.
        let call = Call { target: Target::Endpoint(at), ..Call::slow(Kind::Write) };
        let done = self.client.call(call, asked, |channel, request| async {
            ClusterClient::new(channel).rebuild_replica(request).await
        });
        done.await.map(|_| ())
    }

    /// Takes a backup of a node into the directory of its configuration: of this one, or of the first endpoint
    /// that answers. It ends when what this gives is dropped.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` for an id that is used, `NOT_FOUND` for a node that keeps no backups or a parent that
    /// is not there, `DISCONNECTED` if the node is not among the endpoints.
    pub async fn back_up(
        &self,
        node: Option<u64>,
        asked: admin::CreateRequest,
    ) -> Result<Backup, Error> {
        let is_meant =
            |status: &proto::GetStatusResponse| node.is_none_or(|node| node == status.node);
        let at = self.endpoint(is_meant, "no endpoint is of that node").await?;
        let request = self.client.request(asked);
        let mut asked = BackupsClient::new(self.client.channel(at));
        // It is not made again: the id is used.
        let stream = asked.create(request).await.map_err(|status| Error::of(&status, true))?;
        Ok(Backup { stream: stream.into_inner() })
    }
}

/// A backup that is being taken: see [`Cluster::back_up`].
#[must_use = "a backup ends when nobody waits for it"]
pub struct Backup {
    stream: Streaming<admin::CreateResponse>,
}

impl Backup {
    /// What is told next: how far it is, or that it is there.
    ///
    /// # Errors
    /// What the node says; if it has stopped, it left files without a manifest.
    pub async fn next(&mut self) -> Result<admin::create_response::Told, Error> {
        let told = self.stream.message().await.map_err(|status| Error::of(&status, true))?;
        told.and_then(|told| told.told)
            .ok_or_else(|| Error::unexpected("a backup that ends without a word"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node: u64, roles: &[proto::MemberRole]) -> proto::GetStatusResponse {
        let groups = roles.iter().map(|role| {
            let member = proto::Member { node, role: (*role).into(), ..Default::default() };
            proto::Group { members: vec![member], ..Default::default() }
        });
        proto::GetStatusResponse { node, groups: groups.collect(), ..Default::default() }
    }

    #[test]
    fn a_change_is_asked_of_a_voter_that_stays() {
        use proto::MemberRole::{Learner, Voter};
        assert!(serves(&status(1, &[Voter, Voter]), Some(2)));
        assert!(!serves(&status(1, &[Voter, Voter]), Some(1)));
        assert!(!serves(&status(1, &[Voter, Learner]), None));
        let mut halted = status(1, &[Voter]);
        halted.groups[0].halted = "damaged".to_owned();
        assert!(!serves(&halted, None));
    }
}
