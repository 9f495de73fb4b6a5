//! Resources: their names, who may use them from where, and which writer is the current one.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::degradation::DegradationContract;
use crate::error::Error;
use crate::profile::PlacementProfile;
use crate::projections;

/// Longest name of a provider, region or zone.
const DOMAIN_PART_BYTES_MAX: usize = 64;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Longest name, in bytes.
            pub const BYTES_MAX: usize = 128;

            /// Takes letters, digits, `-`, `_`, `.` and `/`, beginning with a letter or digit.
            ///
            /// # Errors
            /// [`Error::InvalidArgument`] for anything else.
            pub fn new(name: &str) -> Result<Self, Error> {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
                let begins = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
                if !begins || name.len() > Self::BYTES_MAX || !name.bytes().all(allowed) {
                    return Err(Error::InvalidArgument {
                        what: format!(
                            concat!(
                                $what,
                                "={:?} must be 1 to {} letters, digits, '-', '_', '.' or '/', ",
                                "beginning with a letter or digit"
                            ),
                            name,
                            Self::BYTES_MAX
                        ),
                    });
                }
                Ok(Self(name.into()))
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// What a resource is called.
    LogicalResourceName, "resource name"
}
name! {
    /// What shape its values have. A handle opened with another schema is refused.
    SchemaId, "schema id"
}

/// What resources have in common that are used together: those of one affinity lie in one group, and can be in
/// one batch. All that say nothing have the same.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::builder(1).data_groups(4).build().unwrap();
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// // With several groups, what is to be in one batch says so when it is made.
/// let of_shop = Affinity::new("shop")?;
/// let stock = ResourceSpec::new("stock", "count.v1")?.affinity(of_shop.clone());
/// let orders = ResourceSpec::new("orders", "order.v1")?.affinity(of_shop);
/// assert_eq!(stock.affinity.as_str(), "shop");
///
/// let stock = ReplicatedMap::<String, u64>::open(&engine, stock).await?;
/// let orders = ReplicatedLog::<String>::open(&engine, orders).await?;
/// assert_eq!(stock.group().id(), orders.group().id());
/// let both = engine.batch().put(&stock, &"apples".to_owned(), &6);
/// both.append(&orders, &"an apple".to_owned()).commit().await?;
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Affinity(Arc<str>);

impl Affinity {
    /// Longest one, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// Takes nothing, or what a name of a resource may be, of up to [`Affinity::BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything else.
    pub fn new(affinity: &str) -> Result<Self, Error> {
        if affinity.len() > Self::BYTES_MAX {
            let what = format!("affinity={affinity:?} has at most {} bytes", Self::BYTES_MAX);
            return Err(Error::InvalidArgument { what });
        }
        if !affinity.is_empty() {
            LogicalResourceName::new(affinity)?;
        }
        Ok(Self(affinity.into()))
    }

    /// The affinity itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// That of resources that say nothing.
impl Default for Affinity {
    fn default() -> Self {
        Self("".into())
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writer generation of a resource, only ever rising.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("orders", "order.v1")?;
/// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
/// # let spec = ResourceSpec::new("orders", "order.v1")?;
/// // Whoever takes over opens with a higher epoch than the one that there is.
/// let seen = engine.directory().describe(&spec.name, ReadConsistency::Linearizable).await?.value;
/// assert!(FenceEpoch::zero() < seen.epoch);
/// let next = FenceEpoch::new(seen.epoch.get() + 1);
/// ReplicatedLog::<String>::open(&engine, spec.epoch(next)).await?;
///
/// let fenced = orders.append(&"of the writer before".to_owned()).await;
/// assert!(matches!(fenced, Err(Error::Fenced { current }) if current == next));
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FenceEpoch(u64);

impl FenceEpoch {
    /// Wraps a raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Before any writer.
    #[must_use]
    pub const fn zero() -> Self {
        Self(0)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FenceEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The fencing rule for a resource outside the log: it lets the current writer and no older one.
///
/// ```
/// use palisade::{FenceEpoch, FenceGuard};
///
/// let mut guard = FenceGuard::new(FenceEpoch::new(1));
/// assert!(guard.check(FenceEpoch::new(1)).is_ok());
/// guard.advance(FenceEpoch::new(2)).unwrap();
/// assert!(guard.check(FenceEpoch::new(1)).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceGuard {
    current: FenceEpoch,
}

impl FenceGuard {
    /// Guards with this epoch as the current one.
    #[must_use]
    pub const fn new(current: FenceEpoch) -> Self {
        Self { current }
    }

    /// Lets the current epoch pass.
    ///
    /// # Errors
    /// [`Error::Fenced`] for an older one, [`Error::PreconditionFailed`] for one that was never
    /// opened.
    pub fn check(&self, epoch: FenceEpoch) -> Result<(), Error> {
        match epoch.cmp(&self.current) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(Error::Fenced { current: self.current }),
            std::cmp::Ordering::Greater => Err(Error::PreconditionFailed {
                what: format!("epoch={epoch} was not opened, current={}", self.current),
            }),
        }
    }

    /// Makes a newer epoch the current one; the current one again changes nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`] for an older one.
    pub fn advance(&mut self, epoch: FenceEpoch) -> Result<(), Error> {
        if epoch < self.current {
            return Err(Error::Fenced { current: self.current });
        }
        self.current = epoch;
        Ok(())
    }
}

/// What a resource is: the name of its projection.
///
/// ```
/// use palisade::ResourceKind;
///
/// let kinds = [ResourceKind::LOG, ResourceKind::MAP, ResourceKind::IDEMPOTENCY];
/// assert_eq!(kinds.each_ref().map(ResourceKind::as_str), ["log", "map", "idempotency"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceKind(Cow<'static, str>);

impl ResourceKind {
    /// An ordered log of values.
    pub const LOG: Self = Self(Cow::Borrowed(projections::log::NAME));
    /// An ordered map.
    pub const MAP: Self = Self(Cow::Borrowed(projections::map::NAME));
    /// A table of requests and their results.
    pub const IDEMPOTENCY: Self = Self(Cow::Borrowed(projections::idempotency::NAME));
    /// Longest name of a kind.
    pub(crate) const BYTES_MAX: usize = 32;

    pub(crate) fn of(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many replicas a resource asks for, how many of them make a write durable, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaPolicy {
    pub(crate) replicas: u32,
    pub(crate) domains: u32,
}

impl ReplicaPolicy {
    /// In how many failure domains a write can be demanded to be durable.
    pub const DOMAINS_MAX: u32 = 2;

    /// A majority of so many replicas holds every acknowledged write on stable storage.
    #[must_use]
    pub const fn majority(replicas: u32) -> Self {
        Self { replicas, domains: 1 }
    }

    /// And those are in at least so many failure domains, 1 or 2: the loss of a whole zone takes no
    /// acknowledged write with it. While all other domains are away nothing is acknowledged, however
    /// many replicas are left.
    ///
    /// It holds for the whole group that the resource is in, from the moment it is opened, whoever
    /// leads, and is not taken back. A domain is what [`crate::EngineBuilder::voter_in`] says of each
    /// voter: two zones of one region are two.
    ///
    /// ```
    /// use palisade::ReplicaPolicy;
    ///
    /// let policy = ReplicaPolicy::majority(3).across_domains(2);
    /// assert_eq!((policy.replicas(), policy.domains()), (3, 2));
    /// ```
    #[must_use]
    pub const fn across_domains(self, domains: u32) -> Self {
        Self { domains, ..self }
    }

    /// How many replicas.
    #[must_use]
    pub const fn replicas(self) -> u32 {
        self.replicas
    }

    /// In how many failure domains an acknowledged write is.
    #[must_use]
    pub const fn domains(self) -> u32 {
        self.domains
    }
}

/// Where a node, a caller or a worker is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FailureDomain {
    /// Who runs the machines.
    pub provider: String,
    /// Which of its regions.
    pub region: String,
    /// Which zone of the region.
    pub zone: String,
}

impl FailureDomain {
    /// The provider, the region and the zone of a node of which nothing was said.
    pub(crate) const UNNAMED: &str = "local";

    /// Names a zone of a region of a provider.
    pub fn new(
        provider: impl Into<String>,
        region: impl Into<String>,
        zone: impl Into<String>,
    ) -> Self {
        Self { provider: provider.into(), region: region.into(), zone: zone.into() }
    }

    /// A domain as it is displayed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let [provider, region, zone] = text.split('/').collect::<Vec<_>>().try_into().ok()?;
        let domain = Self::new(provider, region, zone);
        domain.check().is_ok().then_some(domain)
    }

    /// Refuses one with a part that is empty or too long.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let parts = [&self.provider, &self.region, &self.zone];
        if parts.iter().all(|part| (1..=DOMAIN_PART_BYTES_MAX).contains(&part.len())) {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            what: format!(
                "domain={self} needs a provider, region and zone of 1 to {DOMAIN_PART_BYTES_MAX} \
                 bytes"
            ),
        })
    }
}

impl fmt::Display for FailureDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.provider, self.region, self.zone)
    }
}

/// A set of failure domains: a provider, one of its regions, or one zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainRule {
    /// Who runs the machines.
    pub provider: String,
    /// Which region, or all.
    pub region: Option<String>,
    /// Which zone, or all.
    pub zone: Option<String>,
}

impl DomainRule {
    fn allows(&self, domain: &FailureDomain) -> bool {
        self.provider == domain.provider
            && self.region.as_ref().is_none_or(|region| *region == domain.region)
            && self.zone.as_ref().is_none_or(|zone| *zone == domain.zone)
    }
}

/// From where a resource may be used. Placement is authorization (G9): everywhere else it is
/// refused, and nothing is tried elsewhere behind the caller's back.
///
/// ```
/// use palisade::{DomainRule, FailureDomain, Placement};
///
/// let rule = |region: &str| DomainRule {
///     provider: "aws".to_owned(),
///     region: Some(region.to_owned()),
///     zone: None,
/// };
/// let placement = Placement::new([rule("us-east-1"), rule("us-west-2")])?;
/// assert!(placement.allows(&FailureDomain::new("aws", "us-west-2", "us-west-2b")));
/// assert!(!placement.allows(&FailureDomain::new("aws", "eu-west-1", "eu-west-1a")));
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub(crate) rules: Vec<DomainRule>,
}

impl Placement {
    /// Most rules that one placement holds.
    pub const RULES_MAX: usize = 32;

    /// Allows what any of the rules allows. Their order does not matter, nor does a repetition: two
    /// spellings of one placement are equal.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without a rule, with too many, or for a zone without its region.
    pub fn new(rules: impl IntoIterator<Item = DomainRule>) -> Result<Self, Error> {
        let mut rules: Vec<_> = rules.into_iter().collect();
        let broken = if rules.is_empty() || rules.len() > Self::RULES_MAX {
            Some("a placement has 1 to 32 rules")
        } else if rules.iter().any(|rule| rule.zone.is_some() && rule.region.is_none()) {
            Some("a rule that names a zone names its region")
        } else if rules.iter().any(|rule| {
            let parts = [Some(&rule.provider), rule.region.as_ref(), rule.zone.as_ref()];
            parts.into_iter().flatten().any(|part| part.is_empty() || part.len() > 64)
        }) {
            Some("names in a rule have 1 to 64 bytes")
        } else {
            None
        };
        match broken {
            Some(what) => Err(Error::InvalidArgument { what: what.to_owned() }),
            None => {
                rules.sort_unstable();
                rules.dedup();
                Ok(Self { rules })
            }
        }
    }

    /// The rules, each once, in their order.
    #[must_use]
    pub fn rules(&self) -> &[DomainRule] {
        &self.rules
    }

    /// Allows every domain of any provider named here.
    ///
    /// ```
    /// use palisade::{FailureDomain, Placement};
    ///
    /// let placement = Placement::providers(["aws", "gcp"])?;
    /// assert!(placement.allows(&FailureDomain::new("gcp", "europe-west4", "europe-west4-a")));
    /// assert_eq!(placement.rules().len(), 2);
    /// # Ok::<(), palisade::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Placement::new`].
    pub fn providers<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        Self::new(names.into_iter().map(|provider| DomainRule {
            provider: provider.to_owned(),
            region: None,
            zone: None,
        }))
    }

    /// True if the resource may be used from there.
    #[must_use]
    pub fn allows(&self, domain: &FailureDomain) -> bool {
        self.rules.iter().any(|rule| rule.allows(domain))
    }
}

/// What a resource is to be, or is expected to be, when it is opened for writing.
///
/// It begins as an [`EngineBuilder`](crate::EngineBuilder) does: one replica, and placed where a node is
/// that never said where. Placement is authorization (G9), so who says where nodes are says here as well
/// from where the resource may be used, best by a profile.
///
/// ```
/// use palisade::{FenceEpoch, PlacementProfile, ReplicaPolicy, ResourceSpec};
///
/// let spec = ResourceSpec::new("reports", "report.v1")?
///     .profile(&PlacementProfile::multi_az("aws", "us-east-1")?)
///     .epoch(FenceEpoch::new(2));
/// assert_eq!(spec.replicas, ReplicaPolicy::majority(3));
/// # Ok::<(), palisade::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceSpec {
    /// Its name.
    pub name: LogicalResourceName,
    /// The shape of its values.
    pub schema: SchemaId,
    /// The writer generation to open with. A higher one than the current fences all older writers.
    pub epoch: FenceEpoch,
    /// Its replicas.
    pub replicas: ReplicaPolicy,
    /// From where it may be used.
    pub placement: Placement,
    /// What it does when something has failed. Nothing declared: each call is tried.
    pub contract: Option<DegradationContract>,
    /// Which others it is used together with.
    pub affinity: Affinity,
}

impl ResourceSpec {
    /// A resource of this name, whose values have this schema. If nothing else is said: epoch 1, one
    /// replica, placed on the provider `local`, no contract for failures, and no affinity.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] as [`LogicalResourceName::new`] and [`SchemaId::new`].
    pub fn new(name: &str, schema: &str) -> Result<Self, Error> {
        let provider = FailureDomain::UNNAMED.to_owned();
        let rules = vec![DomainRule { provider, region: None, zone: None }];
        Ok(Self {
            name: LogicalResourceName::new(name)?,
            schema: SchemaId::new(schema)?,
            epoch: FenceEpoch::new(1),
            replicas: ReplicaPolicy::majority(1),
            placement: Placement { rules },
            contract: None,
            affinity: Affinity::default(),
        })
    }

    /// Why it may not be used from one of these domains, if it may not (G9).
    pub(crate) fn misplaced(&self, domains: &[FailureDomain]) -> Option<Error> {
        let outside = domains.iter().find(|domain| !self.placement.allows(domain))?;
        let (domain, resource) = (outside.to_string(), self.name.to_string());
        Some(Error::DomainUnavailable { domain, resource })
    }

    /// The writer generation to open with.
    #[must_use]
    pub fn epoch(self, epoch: FenceEpoch) -> Self {
        Self { epoch, ..self }
    }

    /// Its replicas.
    #[must_use]
    pub fn replicas(self, replicas: ReplicaPolicy) -> Self {
        Self { replicas, ..self }
    }

    /// From where it may be used.
    ///
    /// ```
    /// use palisade::degradation::{DegradationContract, DegradationMode, DegradationRule};
    /// use palisade::{Failure, Placement, ResourceSpec};
    ///
    /// // Without a quorum it is read stale, and not written.
    /// let rule = DegradationRule::new([Failure::Disconnected], DegradationMode::StaleReadsOk);
    /// let spec = ResourceSpec::new("reports", "report.v1")?
    ///     .placement(Placement::providers(["aws"])?)
    ///     .contract(DegradationContract::builder().rule(rule).build()?);
    /// assert!(spec.contract.is_some());
    /// # Ok::<(), palisade::Error>(())
    /// ```
    #[must_use]
    pub fn placement(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }

    /// What it does when something has failed.
    #[must_use]
    pub fn contract(self, contract: DegradationContract) -> Self {
        Self { contract: Some(contract), ..self }
    }

    /// Which others it is used together with: see [`Affinity`]. A name keeps the one it was first opened with.
    #[must_use]
    pub fn affinity(self, affinity: Affinity) -> Self {
        Self { affinity, ..self }
    }

    /// Its replicas and from where it may be used, as a profile has them.
    #[must_use]
    pub fn profile(self, profile: &PlacementProfile) -> Self {
        self.replicas(profile.replicas).placement(profile.placement.clone())
    }
}

/// Short name of a resource within its group, given when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId(pub(crate) u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_once() {
        for good in ["report-requests", "report-command.v1", "a/b_c", "0"] {
            assert_eq!(LogicalResourceName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a b", "ä", &"a".repeat(129)] {
            assert!(LogicalResourceName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_spec_begins_as_an_engine_does() {
        let spec = ResourceSpec::new("orders", "order.v1").unwrap();
        assert_eq!((spec.name.as_str(), spec.schema.as_str()), ("orders", "order.v1"));
        assert_eq!((spec.epoch, spec.replicas), (FenceEpoch::new(1), ReplicaPolicy::majority(1)));
        assert_eq!(spec.placement, Placement::providers([FailureDomain::UNNAMED]).unwrap());
        for (name, schema) in [("", "order.v1"), ("orders", "")] {
            assert!(ResourceSpec::new(name, schema).is_err());
        }
        let profile = PlacementProfile::cross_region("aws").unwrap();
        let wide = spec.profile(&profile);
        assert_eq!((wide.placement, wide.replicas), (profile.placement, profile.replicas));
    }

    #[test]
    fn a_rule_allows_what_it_names_and_what_it_leaves_open() {
        let rule = |region: Option<&str>, zone: Option<&str>| DomainRule {
            provider: "aws".into(),
            region: region.map(Into::into),
            zone: zone.map(Into::into),
        };
        let at = |provider, region, zone| FailureDomain::new(provider, region, zone);
        let zone = Placement::new([rule(Some("r1"), Some("a"))]).unwrap();
        assert!(zone.allows(&at("aws", "r1", "a")));
        assert!(!zone.allows(&at("aws", "r1", "b")));
        let region = Placement::new([rule(Some("r1"), None)]).unwrap();
        assert!(region.allows(&at("aws", "r1", "b")));
        assert!(!region.allows(&at("aws", "r2", "b")));
        let provider = Placement::providers(["aws"]).unwrap();
        assert!(provider.allows(&at("aws", "r2", "b")));
        assert!(!provider.allows(&at("gcp", "r2", "b")));
        assert!(Placement::new([rule(None, Some("a"))]).is_err());
        assert!(Placement::new([]).is_err());
        let spelled = [rule(Some("r1"), None), rule(None, None), rule(Some("r1"), None)];
        let placement = Placement::new(spelled).unwrap();
        assert_eq!(placement.rules(), [rule(None, None), rule(Some("r1"), None)]);
    }

    /// G3: the current writer passes, no older one, and none that was never opened.
    #[test]
    fn a_guard_lets_only_the_current_epoch_pass() {
        let mut guard = FenceGuard::new(FenceEpoch::new(2));
        let fenced = |result: Result<(), Error>, current| matches!(result, Err(Error::Fenced { current: found }) if found.get() == current);
        assert!(guard.check(FenceEpoch::new(2)).is_ok());
        assert!(fenced(guard.check(FenceEpoch::new(1)), 2));
        let ahead = guard.check(FenceEpoch::new(3)).unwrap_err();
        assert!(matches!(ahead, Error::PreconditionFailed { .. }), "{ahead}");

        assert!(fenced(guard.advance(FenceEpoch::new(1)), 2));
        guard.advance(FenceEpoch::new(2)).unwrap();
        assert!(guard.check(FenceEpoch::new(2)).is_ok(), "the current one changes nothing");
        guard.advance(FenceEpoch::new(5)).unwrap();
        assert!(guard.check(FenceEpoch::new(5)).is_ok());
        assert!(fenced(guard.check(FenceEpoch::new(2)), 5));
    }

    #[test]
    fn names_and_rules_are_bounded() {
        assert!(LogicalResourceName::new(&"a".repeat(128)).is_ok());
        let rule =
            |provider: &str| DomainRule { provider: provider.to_owned(), region: None, zone: None };
        assert!(Placement::new([rule(&"a".repeat(64))]).is_ok());
        assert!(Placement::new([rule(&"a".repeat(65))]).is_err());
        assert!(Placement::new([rule("")]).is_err());
        assert!(Placement::new(vec![rule("a"); Placement::RULES_MAX]).is_ok());
        assert!(Placement::new(vec![rule("a"); Placement::RULES_MAX + 1]).is_err());
    }
}
