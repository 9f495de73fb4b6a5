//! Placement profiles: who may take part in a resource, and with how many replicas, under one name.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::codec::put_number;
use crate::error::Error;
use crate::refusal::Refusal;
use crate::resource::{DomainRule, FailureDomain, Placement, ReplicaPolicy, ResourceSpec};
use crate::spec_codec::put_placement;

/// What a hash of a profile begins with, so that it is a hash of nothing else.
const PROFILE_TAG: &[u8] = b"palisade.profile.v1\0";

/// The SHA-256 of a policy: equal policies have equal hashes, however they were spelled.
///
/// ```
/// use palisade::PlacementProfile;
///
/// let hash = PlacementProfile::cross_region("aws")?.hash();
/// assert_eq!(hash.to_string().len(), 64);
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyHash([u8; 32]);

impl PolicyHash {
    /// The hash of canonical bytes under a tag that no other kind of policy has.
    pub(crate) fn of(tag: &[u8], canonical: &[u8]) -> Self {
        Self(Sha256::new().chain_update(tag).chain_update(canonical).finalize().into())
    }

    /// The hash of what a profile decides.
    pub(crate) fn of_policy(placement: &Placement, replicas: ReplicaPolicy) -> Self {
        let mut canonical = Vec::new();
        put_number(&mut canonical, u64::from(replicas.replicas()));
        put_number(&mut canonical, u64::from(replicas.domains()));
        put_placement(&mut canonical, placement);
        Self::of(PROFILE_TAG, &canonical)
    }

    /// Of a resource that is to be.
    pub(crate) fn of_spec(spec: &ResourceSpec) -> Self {
        Self::of_policy(&spec.placement, spec.replicas)
    }

    /// What a record says of its policy is what it comes to here: two releases that hash otherwise would judge
    /// placement otherwise as well.
    pub(crate) fn check(self, found: Self) -> Result<(), Refusal> {
        if self == found {
            return Ok(());
        }
        let (expected, found) = (format!("policy={self}"), format!("policy={found}"));
        Err(Refusal::Incompatible { expected, found })
    }

    /// A hash as it was stored.
    ///
    /// ```
    /// use palisade::{PlacementProfile, PolicyHash};
    ///
    /// let hash = PlacementProfile::multi_az("aws", "us-east-1")?.hash();
    /// assert_eq!(PolicyHash::from_bytes(hash.to_bytes()), hash);
    /// # Ok::<(), palisade::Error>(())
    /// ```
    #[must_use]
    pub const fn from_bytes(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A resilience envelope: from where a resource may be used, and its replicas. Services take a profile
/// instead of rules, so that moving from one zone to two providers changes no code but this.
///
/// Each of the four asks for a majority of three replicas; a resource that wants others says so:
///
/// ```
/// use palisade::{FailureDomain, PlacementProfile, ReplicaPolicy};
///
/// let profile = PlacementProfile {
///     replicas: ReplicaPolicy::majority(5).across_domains(2),
///     ..PlacementProfile::multi_az("aws", "us-east-1")?
/// };
/// assert_eq!(profile.name, "multi-az");
/// assert!(profile.placement.allows(&FailureDomain::new("aws", "us-east-1", "us-east-1b")));
/// assert!(!profile.placement.allows(&FailureDomain::new("aws", "us-west-2", "us-west-2a")));
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementProfile {
    /// What people call it. It decides nothing and is not in the hash.
    pub name: String,
    /// From where the resource may be used.
    pub placement: Placement,
    /// Its replicas.
    pub replicas: ReplicaPolicy,
}

impl PlacementProfile {
    /// One zone: for development, or a deliberately narrow deployment.
    ///
    /// ```
    /// use palisade::{FailureDomain, PlacementProfile};
    ///
    /// let zone = FailureDomain::new("aws", "us-east-1", "us-east-1a");
    /// let profile = PlacementProfile::single_az(&zone)?;
    /// assert!(profile.placement.allows(&zone));
    /// assert!(!profile.placement.allows(&FailureDomain::new("aws", "us-east-1", "us-east-1b")));
    /// # Ok::<(), palisade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that is empty or too long.
    pub fn single_az(zone: &FailureDomain) -> Result<Self, Error> {
        Self::of("single-az", [rule(&zone.provider, Some(&zone.region), Some(&zone.zone))])
    }

    /// All zones of one region.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that is empty or too long.
    pub fn multi_az(provider: &str, region: &str) -> Result<Self, Error> {
        Self::of("multi-az", [rule(provider, Some(region), None)])
    }

    /// All regions of one provider.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that is empty or too long.
    pub fn cross_region(provider: &str) -> Result<Self, Error> {
        Self::of("cross-region", [rule(provider, None, None)])
    }

    /// Several providers: calls from one may be served by workers in another, because all are named.
    ///
    /// ```
    /// use palisade::PlacementProfile;
    ///
    /// let profile = PlacementProfile::cross_provider(["gcp", "aws"])?;
    /// assert_eq!(profile.hash(), PlacementProfile::cross_provider(["aws", "gcp"])?.hash());
    /// assert!(PlacementProfile::cross_provider(["aws"]).is_err());
    /// # Ok::<(), palisade::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for fewer than two providers, more than [`Placement::RULES_MAX`], or a
    /// name that is empty or too long.
    pub fn cross_provider<'a>(providers: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let rules = providers.into_iter().map(|provider| rule(provider, None, None));
        let profile = Self::of("cross-provider", rules)?;
        if profile.placement.rules().len() < 2 {
            return Err(Error::InvalidArgument {
                what: "a cross-provider profile names two providers or more: for one, use \
                       PlacementProfile::cross_region"
                    .to_owned(),
            });
        }
        Ok(profile)
    }

    fn of(name: &str, rules: impl IntoIterator<Item = DomainRule>) -> Result<Self, Error> {
        let placement = Placement::new(rules)?;
        Ok(Self { name: name.to_owned(), placement, replicas: ReplicaPolicy::majority(3) })
    }

    /// The hash of what the profile decides: its rules and its replicas, not its name.
    #[must_use]
    pub fn hash(&self) -> PolicyHash {
        PolicyHash::of_policy(&self.placement, self.replicas)
    }
}

fn rule(provider: &str, region: Option<&str>, zone: Option<&str>) -> DomainRule {
    DomainRule {
        provider: provider.to_owned(),
        region: region.map(str::to_owned),
        zone: zone.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn four() -> [PlacementProfile; 4] {
        let zone = FailureDomain::new("aws", "r1", "a");
        [
            PlacementProfile::single_az(&zone).unwrap(),
            PlacementProfile::multi_az("aws", "r1").unwrap(),
            PlacementProfile::cross_region("aws").unwrap(),
            PlacementProfile::cross_provider(["gcp", "aws"]).unwrap(),
        ]
    }

    /// G9: each wider profile lets in what the narrower one refuses.
    #[test]
    fn profiles_widen_step_by_step() {
        let domains =
            [("aws", "r1", "a"), ("aws", "r1", "b"), ("aws", "r2", "a"), ("gcp", "r1", "a")]
                .map(|(provider, region, zone)| FailureDomain::new(provider, region, zone));
        for (width, profile) in four().iter().enumerate() {
            for (distance, domain) in domains.iter().enumerate() {
                let allowed = profile.placement.allows(domain);
                assert_eq!(allowed, distance <= width, "{} {domain}", profile.name);
            }
            assert!(!profile.placement.allows(&FailureDomain::new("azure", "r1", "a")));
        }
    }

    #[test]
    fn a_profile_of_one_provider_twice_is_none_of_two() {
        for too_few in [&[][..], &["aws"], &["aws", "aws"]] {
            let refused = PlacementProfile::cross_provider(too_few.iter().copied());
            assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{too_few:?}");
        }
        assert!(PlacementProfile::cross_region("").is_err());
        assert!(PlacementProfile::multi_az("aws", &"a".repeat(65)).is_err());
    }

    /// Whoever writes the hash into a log must find the same one in every later release.
    #[test]
    fn the_hash_is_of_the_bytes_that_are_documented() {
        let profile = PlacementProfile {
            replicas: ReplicaPolicy::majority(5).across_domains(2),
            ..PlacementProfile::multi_az("aws", "r1").unwrap()
        };
        // 5 replicas, 2 domains, 1 rule: provider, region, all zones.
        let bytes = b"palisade.profile.v1\0\x05\x02\x01\x03aws\x02r1\x00";
        let expected: [u8; 32] = Sha256::digest(bytes).into();
        assert_eq!(profile.hash().to_bytes(), expected);
        assert_eq!(PolicyHash::from_bytes(expected), profile.hash());
    }

    #[test]
    fn the_name_is_not_in_the_hash_and_the_replicas_are() {
        let [_, profile, ..] = four();
        let named = PlacementProfile { name: "other".to_owned(), ..profile.clone() };
        assert_eq!(named.hash(), profile.hash());
        for replicas in [ReplicaPolicy::majority(5), ReplicaPolicy::majority(3).across_domains(2)] {
            assert_ne!(PlacementProfile { replicas, ..profile.clone() }.hash(), profile.hash());
        }
    }

    fn rules() -> impl Strategy<Value = Vec<DomainRule>> {
        let part = || proptest::option::of("[ab]{1,2}");
        let rule = ("[ab]{1,2}", part(), part()).prop_map(|(provider, region, zone)| DomainRule {
            provider,
            zone: zone.filter(|_| region.is_some()),
            region,
        });
        vec(rule, 1..6)
    }

    proptest! {
        /// Two spellings of one placement are equal, and have one hash.
        #[test]
        fn order_and_repetition_of_rules_do_not_matter(rules in rules(), by in 0_usize..6) {
            let profile = |rules: &[DomainRule]| {
                PlacementProfile::of("p", rules.iter().cloned()).unwrap()
            };
            let mut other = rules.clone();
            other.rotate_left(by % rules.len());
            other.reverse();
            other.push(rules[0].clone());
            prop_assert_eq!(profile(&rules), profile(&other));
            prop_assert_eq!(profile(&rules).hash(), profile(&other).hash());
        }

        /// Other rules, another hash.
        #[test]
        fn hashes_tell_profiles_apart(all in vec(rules(), 1..20)) {
            let mut seen = BTreeMap::new();
            for rules in all {
                let profile = PlacementProfile::of("p", rules).unwrap();
                let found = seen.entry(profile.hash()).or_insert_with(|| profile.clone());
                prop_assert_eq!(&*found, &profile);
            }
        }
    }
}
