//! The resources of the endpoint itself: `palisade.`, then what they are for.

use palisade::{DomainRule, Engine, Error, Placement, ResourceSpec};

/// One of them, usable wherever there is a replica, and here.
pub(crate) async fn own_spec(
    engine: &Engine,
    name: &str,
    schema: &str,
) -> Result<ResourceSpec, Error> {
    let mut providers = vec![engine.domain().provider.clone()];
    for group in engine.groups() {
        let members = group.status().await?.members;
        let named = members.member_domains().filter_map(|domain| domain.split('/').next());
        providers.extend(named.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    let rule = |provider| DomainRule { provider, region: None, zone: None };
    let placement = Placement::new(providers.into_iter().map(rule))?;
    Ok(ResourceSpec::new(name, schema)?.placement(placement))
}
