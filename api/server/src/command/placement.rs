//! Where a resource may be used if nobody says it: with every provider that the cluster has a node at.

use std::collections::BTreeSet;

use palisade_client::proto::directory::v1::DomainRule;
use palisade_client::{Client, NodeStatus};

use super::failed::Failed;

/// The providers of all members, and of the nodes that answer.
pub(super) async fn everywhere(client: &Client) -> Result<Vec<DomainRule>, Failed> {
    Ok(providers(&client.cluster().status().await))
}

fn providers(nodes: &[NodeStatus]) -> Vec<DomainRule> {
    let mut providers = BTreeSet::new();
    for status in nodes.iter().filter_map(|node| node.status.as_ref().ok()) {
        providers.extend(status.domain.iter().map(|own| own.provider.clone()));
        let members = status.groups.iter().flat_map(|group| &group.members);
        let of = members.filter_map(|member| member.domain.split('/').next());
        providers.extend(of.filter(|provider| !provider.is_empty()).map(str::to_owned));
    }
    let rule = |provider| DomainRule { provider, ..Default::default() };
    providers.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use palisade_client::proto::cluster::v1::{GetStatusResponse, Group, Member};
    use palisade_client::proto::common::v1::Domain;

    use super::*;

    #[test]
    fn every_provider_of_a_member_is_named_once() {
        let member = |domain: &str| Member { domain: domain.to_owned(), ..Default::default() };
        let members = vec![member("gcp/us/a"), member(""), member("aws/eu/b")];
        let status = GetStatusResponse {
            domain: Some(Domain { provider: "aws".to_owned(), ..Default::default() }),
            groups: vec![Group { members, ..Default::default() }],
            ..Default::default()
        };
        let node = NodeStatus { endpoint: String::new(), status: Ok(status) };
        let found: Vec<String> = providers(&[node]).into_iter().map(|rule| rule.provider).collect();
        assert_eq!(found, ["aws", "gcp"]);
    }
}
