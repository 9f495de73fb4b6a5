//! Where the service may run: four profiles, from one zone to two providers.

use palisade::{Error, FailureDomain, PlacementProfile};

const REGION: &str = "us-east-1";
const ZONE: &str = "us-east-1a";

/// A zone in AWS that every profile allows.
#[must_use]
pub fn aws_zone() -> FailureDomain {
    FailureDomain::new("aws", REGION, ZONE)
}

/// A region of GCP that only the cross-provider profile allows.
#[must_use]
pub fn gcp_region() -> FailureDomain {
    FailureDomain::new("gcp", "europe-west1", "europe-west1-b")
}

fn fixed(profile: Result<PlacementProfile, Error>) -> PlacementProfile {
    profile.expect("the names are fixed and valid")
}

/// One zone: for development, or a deliberately narrow deployment.
#[must_use]
pub fn single_az_profile() -> PlacementProfile {
    fixed(PlacementProfile::single_az(&aws_zone()))
}

/// All zones of one region.
#[must_use]
pub fn multi_az_profile() -> PlacementProfile {
    fixed(PlacementProfile::multi_az("aws", REGION))
}

/// All regions of one provider.
#[must_use]
pub fn cross_region_profile() -> PlacementProfile {
    fixed(PlacementProfile::cross_region("aws"))
}

/// Two providers: ingress in AWS may be served by workers in GCP, because both are named.
#[must_use]
pub fn cross_provider_profile() -> PlacementProfile {
    fixed(PlacementProfile::cross_provider(["aws", "gcp"]))
}

/// The profile of this name.
///
/// # Errors
/// [`Error::InvalidArgument`], naming the four.
pub fn profile_by_name(name: &str) -> Result<PlacementProfile, Error> {
    let all =
        [single_az_profile(), multi_az_profile(), cross_region_profile(), cross_provider_profile()];
    let names = all.each_ref().map(|profile| profile.name.as_str()).join(", ");
    all.into_iter().find(|profile| profile.name == name).ok_or_else(|| Error::InvalidArgument {
        what: format!("profile={name} is not one of {names}"),
    })
}

/// Three domains that this profile allows, as far apart as it lets them be: where the demo's nodes say
/// they are.
#[must_use]
pub fn three_domains(profile: &PlacementProfile) -> [FailureDomain; 3] {
    let zone = |letter: char| FailureDomain::new("aws", REGION, format!("{REGION}{letter}"));
    let region = |name: &str| FailureDomain::new("aws", name, format!("{name}a"));
    match profile.name.as_str() {
        "single-az" => [aws_zone(), aws_zone(), aws_zone()],
        "multi-az" => [zone('a'), zone('b'), zone('c')],
        "cross-region" => [aws_zone(), region("us-west-2"), region("eu-west-1")],
        _ => [aws_zone(), region("us-west-2"), gcp_region()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G9: each wider profile lets in what the narrower one refuses.
    #[test]
    fn profiles_widen_step_by_step() {
        let other_zone = FailureDomain::new("aws", REGION, "us-east-1b");
        let other_region = FailureDomain::new("aws", "us-west-2", "us-west-2a");
        let domains = [aws_zone(), other_zone, other_region, gcp_region()];
        let profiles = [
            single_az_profile(),
            multi_az_profile(),
            cross_region_profile(),
            cross_provider_profile(),
        ];
        for (width, profile) in profiles.iter().enumerate() {
            for (distance, domain) in domains.iter().enumerate() {
                let allowed = profile.placement.allows(domain);
                assert_eq!(allowed, distance <= width, "{} {domain}", profile.name);
            }
            assert!(three_domains(profile).iter().all(|d| profile.placement.allows(d)));
            assert_eq!(profile_by_name(&profile.name).unwrap(), *profile);
        }
        assert!(profile_by_name("everywhere").is_err());
    }
}
