//! Opening a resource for writing: what is judged here, what the log judges, and what the whole group
//! must have agreed to before there is a handle.

use std::collections::BTreeSet;
use std::time::Duration;

use palisade_replication::{
    ChangeRefusal, Disposition, MemberChange, MemberRole, Membership, NodeError, NodeId, Offset,
};

use crate::command::{Command, OpenCommand};
use crate::engine::unexpected;
use crate::error::Error;
use crate::group::Group;
use crate::outcome::Outcome;
use crate::profile::PolicyHash;
use crate::projection::rebuild::{self, Kinds};
use crate::read::ReadConsistency;
use crate::resource::{
    FailureDomain, LogicalResourceName, Placement, ReplicaPolicy, ResourceId, ResourceKind,
    ResourceSpec, SchemaId,
};
use crate::resource_row;
use crate::schemas::Schemas;

/// Between two looks whether a demand is met.
const DEMAND_PAUSE: Duration = Duration::from_millis(20);

impl Group {
    /// Opens a resource for writing, making it if it is not there; `anew` if it must not be.
    pub(crate) async fn open_resource(
        &self,
        kind: ResourceKind,
        spec: ResourceSpec,
        claim: Offset,
        anew: bool,
    ) -> Result<(ResourceId, Schemas), Error> {
        let (name, own) = (spec.name.clone(), spec.schema.clone());
        self.check_opening(&spec).await?;
        let (domains, caller) = (spec.replicas.domains(), self.engine.domain().clone());
        let mut version = self.version_to_open(&kind).await?;
        let policy = PolicyHash::of_spec(&spec);
        let mut command = OpenCommand { anew, claim, kind, version, spec, policy, caller };
        let opened = loop {
            match self.propose(&Command::Open(command.clone())).await? {
                (_, Outcome::Opened { resource, schemas }) => {
                    break (resource, Schemas::new(&own, schemas)?);
                }
                (_, Outcome::Refused(refusal)) => {
                    // A newer version may have taken its place meanwhile: versions only rise.
                    version = self.version_to_open(&command.kind).await?;
                    if version <= command.version {
                        return Err(refusal.into());
                    }
                    command.version = version;
                }
                (_, other) => return Err(unexpected(&other)),
            }
        };
        // There is no handle, and so no write, before all that the resource needs is committed as it demands:
        // its group, and the one that knows its name.
        if domains > 1 {
            for group in [&self.engine.system(), self] {
                self.engine.within(group.demand_domains(&name), true).await?;
            }
        }
        Ok(opened)
    }

    /// Refuses what a resource cannot be opened as, as far as this node knows the members of the group.
    pub(crate) async fn check_opening(&self, spec: &ResourceSpec) -> Result<(), Error> {
        let name = &spec.name;
        // G1: a resource that asks for more copies than there can be is not made with fewer.
        let members = self.status().await?.members;
        let is_voter = |(_, role): &(NodeId, MemberRole)| *role == MemberRole::Voter;
        let voters = members.roles().filter(is_voter).count();
        // A node that has heard of nobody yet cannot tell; the leader's domain checks still hold.
        if voters > 0 && spec.replicas.replicas() as usize > voters {
            return Err(Error::Incompatible {
                expected: format!("replicas={} of resource={name}", spec.replicas.replicas()),
                found: format!("voters={voters}"),
            });
        }
        if !spec.placement.allows(self.engine.domain()) {
            return Err(Error::DomainUnavailable {
                domain: self.engine.domain().to_string(),
                resource: name.to_string(),
            });
        }
        all_placed(&members, name, &spec.placement)?;
        let domains = spec.replicas.domains();
        if !(1..=ReplicaPolicy::DOMAINS_MAX).contains(&domains) {
            return Err(Error::InvalidArgument {
                what: format!("a write can be demanded in 1 or 2 domains, domains={domains}"),
            });
        }
        let found = members.voter_domains();
        if voters > 0 && domains as usize > 1.max(found.len()) {
            return Err(one_domain(name, &found));
        }
        Ok(())
    }

    /// The version of a kind that is in use here, or that others have too who were not opened with the newest.
    async fn version_to_open(&self, kind: &ResourceKind) -> Result<u32, Error> {
        let registry = self.engine.registry();
        let (newest, oldest) = (registry.find(kind.as_str()), registry.oldest(kind.as_str()));
        let (Some(newest), Some(oldest)) = (newest, oldest) else {
            return Err(Error::Incompatible {
                expected: format!("an engine that was opened with projection={kind}"),
                found: format!("{registry:?}"),
            });
        };
        let newest = newest.projection.version();
        if oldest == newest {
            return Ok(newest);
        }
        let kind = kind.clone();
        let read = self.read(ReadConsistency::Local.into(), move |read, group| {
            rebuild::in_use(read, group, &Kinds::load(read, group)?, &kind)
        });
        Ok(read.await?.value.unwrap_or(oldest))
    }

    /// Whether every replica is where this placement would have it.
    pub(crate) async fn check_placed(
        &self,
        name: &LogicalResourceName,
        placement: &Placement,
    ) -> Result<(), Error> {
        all_placed(&self.status().await?.members, name, placement)
    }

    /// Finds a resource for reading, or also for writing. Nothing is made, and no writer is fenced.
    pub(crate) async fn find_resource(
        &self,
        kind: &ResourceKind,
        name: &LogicalResourceName,
        schema: &SchemaId,
        writes: bool,
    ) -> Result<(ResourceId, Schemas), Error> {
        let wanted = name.clone();
        let find = |options: ReadConsistency| {
            let wanted = wanted.clone();
            self.read(options.into(), move |read, group| {
                Ok(resource_row::find(read, group, &wanted)?)
            })
        };
        // A replica that has heard of it needs nobody else.
        let found = match find(ReadConsistency::Local).await?.value {
            None => find(ReadConsistency::Linearizable).await?.value,
            found => found,
        };
        let Some((id, found)) = found else {
            return Err(Error::NotFound { what: format!("resource={name}") });
        };
        if found.deleted.is_some() {
            return Err(found.refusal().into());
        }
        let differs = |what: &str, wanted: &str, found: &str| Error::Incompatible {
            expected: format!("{what}={wanted}"),
            found: format!("{what}={found}"),
        };
        if found.kind != *kind {
            return Err(differs("kind", kind.as_str(), found.kind.as_str()));
        }
        if let Some((expected, found)) = found.schema_differs(schema, writes) {
            return Err(Error::Incompatible { expected, found });
        }
        if !found.spec.placement.allows(self.engine.domain()) {
            let (domain, resource) = (self.engine.domain().to_string(), name.to_string());
            return Err(Error::DomainUnavailable { domain, resource });
        }
        Ok((id, Schemas::new(schema, found.schema_ids())?))
    }

    /// Resolves once every commit of the group reaches two failure domains.
    async fn demand_domains(&self, name: &LogicalResourceName) -> Result<(), Error> {
        loop {
            match self.engine.backend().change(self.id(), MemberChange::AcrossDomains).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(ChangeRefusal::OneDomain { domains })) => {
                    return Err(one_domain(name, &domains.iter().map(String::as_str).collect()));
                }
                Ok(Err(refusal @ ChangeRefusal::DomainsAtRisk { .. })) => {
                    let what = NodeError::Change(refusal).to_string();
                    return Err(Error::Degraded { what });
                }
                Err(error) if error.disposition() == Disposition::Halt => return Err(error),
                // It is the same demand however often it is made.
                Ok(Err(_)) | Err(_) => self.engine.backend().sleep(DEMAND_PAUSE).await,
            }
        }
    }
}

/// G9: what is not to leave a place is not given to a replica elsewhere. Members without a domain cannot be
/// judged.
fn all_placed(
    members: &Membership,
    name: &LogicalResourceName,
    placement: &Placement,
) -> Result<(), Error> {
    let mut placed = members.member_domains().filter_map(FailureDomain::parse);
    match placed.find(|domain| !placement.allows(domain)) {
        None => Ok(()),
        Some(outside) => Err(Error::DomainUnavailable {
            domain: format!("{outside}, where a replica of the group is"),
            resource: name.to_string(),
        }),
    }
}

/// A demand that the voters of the group could never meet.
fn one_domain(name: &LogicalResourceName, found: &BTreeSet<&str>) -> Error {
    Error::Incompatible {
        expected: format!(
            "voters in 2 failure domains, as resource={name} demands: name each voter's domain \
             with EngineBuilder::voter_in, and have voters in two"
        ),
        found: format!("voters known to be in {found:?}"),
    }
}
