//! The rules of the table of resources once more.

use std::collections::BTreeMap;

use palisade_replication::{LogTime, Offset};

use super::naive::Here;
use crate::alteration::{Alteration, Altered, Revision};
use crate::command::{AlterCommand, OpenCommand};
use crate::outcome::Outcome;
use crate::profile::{PlacementProfile, PolicyHash};
use crate::refusal::Refusal;
use crate::resource::{
    FailureDomain, FenceEpoch, ResourceId, ResourceKind, ResourceSpec, SchemaId,
};

/// A resource that is not gone.
#[derive(Clone, Debug)]
pub(super) struct NaiveResource {
    pub(super) kind: ResourceKind,
    pub(super) spec: ResourceSpec,
    pub(super) policy: PolicyHash,
    pub(super) made: (u64, u64),
    /// Each with whether it is retired.
    pub(super) schemas: Vec<(SchemaId, bool)>,
    /// Since which offset, until when.
    pub(super) deleted: Option<(u64, u64)>,
    pub(super) trail: Vec<Altered>,
}

/// All of them by number, and how many were ever made.
#[derive(Clone, Debug, Default)]
pub(super) struct NaiveTable {
    pub(super) resources: BTreeMap<u32, NaiveResource>,
    pub(super) made: u32,
}

impl NaiveResource {
    pub(super) fn revision(&self) -> Revision {
        Revision::new(self.trail.len() as u64)
    }

    fn gone(&self) -> Refusal {
        let (_, until) = self.deleted.unwrap();
        Refusal::Deleted { resource: self.spec.name.clone(), until: LogTime::new(until) }
    }

    fn from(&self, caller: &FailureDomain) -> Result<(), Refusal> {
        if self.spec.placement.allows(caller) {
            return Ok(());
        }
        let (domain, resource) = (caller.clone(), self.spec.name.clone());
        Err(Refusal::DomainUnavailable { domain, resource })
    }

    fn is_written(&self, schema: &SchemaId) -> bool {
        self.schemas.contains(&(schema.clone(), false))
    }
}

/// A record that takes its policy for another one.
fn mistaken(said: PolicyHash, hash: PolicyHash) -> Refusal {
    Refusal::Incompatible { expected: format!("policy={said}"), found: format!("policy={hash}") }
}

impl NaiveTable {
    pub(super) fn open(&mut self, here: Here, command: &OpenCommand) -> Outcome {
        let OpenCommand { kind, spec, policy, caller, anew, .. } = command;
        let hash = PlacementProfile {
            name: String::new(),
            placement: spec.placement.clone(),
            replicas: spec.replicas,
        }
        .hash();
        if *policy != hash {
            return Outcome::Refused(mistaken(*policy, hash));
        }
        let found = self.resources.iter_mut().find(|(_, found)| found.spec.name == spec.name);
        let Some((id, found)) = found else {
            let new = NaiveResource {
                kind: kind.clone(),
                spec: spec.clone(),
                policy: hash,
                made: (here.offset, here.now),
                schemas: vec![(spec.schema.clone(), false)],
                deleted: None,
                trail: Vec::new(),
            };
            if let Err(refusal) = new.from(caller) {
                return Outcome::Refused(refusal);
            }
            self.made += 1;
            self.resources.insert(self.made, new);
            let schemas = vec![spec.schema.clone()];
            return Outcome::Opened { resource: ResourceId(self.made), schemas };
        };
        let differs = |what: &str, wanted: &str, found: &str| Refusal::Incompatible {
            expected: format!("{what}={wanted}"),
            found: format!("{what}={found}"),
        };
        let refused = if let Err(refusal) = found.from(caller) {
            Some(refusal)
        } else if found.deleted.is_some() {
            Some(found.gone())
        } else if *anew {
            Some(Refusal::AlreadyThere { resource: spec.name.clone() })
        } else if found.kind != *kind {
            Some(differs("kind", kind.as_str(), found.kind.as_str()))
        } else if !found.is_written(&spec.schema) {
            let named = found.schemas.iter().map(|(schema, retired)| {
                if *retired { format!("{schema} (retired)") } else { schema.to_string() }
            });
            let named: Vec<String> = named.collect();
            Some(differs("schema", spec.schema.as_str(), &named.join(", ")))
        } else if found.spec.placement != spec.placement {
            let [wanted, kept] =
                [&spec.placement, &found.spec.placement].map(|p| format!("{:?}", p.rules()));
            Some(differs("placement", &wanted, &kept))
        } else if found.spec.contract != spec.contract {
            let [wanted, kept] = [&spec.contract, &found.spec.contract].map(|contract| {
                contract.as_ref().map_or("none".to_owned(), |kept| kept.hash().to_string())
            });
            Some(differs("contract", &wanted, &kept))
        } else if spec.epoch < found.spec.epoch {
            Some(Refusal::Fenced { current: found.spec.epoch })
        } else {
            None
        };
        match refused {
            Some(refusal) => Outcome::Refused(refusal),
            None => {
                found.spec.epoch = spec.epoch;
                let schemas = found.schemas.iter().map(|(schema, _)| schema.clone()).collect();
                Outcome::Opened { resource: ResourceId(*id), schemas }
            }
        }
    }

    pub(super) fn alter(&mut self, here: Here, command: &AlterCommand) -> Outcome {
        match self.altered(here, command) {
            Ok(revision) => Outcome::Altered { revision },
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn altered(&mut self, here: Here, command: &AlterCommand) -> Result<Revision, Refusal> {
        let AlterCommand { resource, expected, node, caller, reason, alteration, policy } = command;
        let found = self.resources.get_mut(&resource.0);
        let found = found.ok_or(Refusal::UnknownResource { resource: *resource })?;
        found.from(caller)?;
        if *expected != found.revision() {
            let (expected, found) = (*expected, found.revision());
            return Err(Refusal::RevisionDiffers { expected, found });
        }
        let mut hash = found.policy;
        if let Alteration::Place(placement) = alteration {
            let (name, placement, replicas) =
                (String::new(), placement.clone(), found.spec.replicas);
            hash = PlacementProfile { name, placement, replicas }.hash();
            if *policy != Some(hash) {
                return Err(mistaken(policy.unwrap(), hash));
            }
        }
        if found.deleted.is_some() && *alteration != Alteration::Undelete {
            return Err(found.gone());
        }
        let unalterable = |what: String| Err(Refusal::Unalterable { what });
        match alteration {
            Alteration::AddSchema(schema) => {
                if found.is_written(schema) {
                    return unalterable(format!("schema={schema} is there already"));
                }
                match found.schemas.iter_mut().find(|(known, _)| known == schema) {
                    Some((_, retired)) => *retired = false,
                    None => found.schemas.push((schema.clone(), false)),
                }
            }
            Alteration::RetireSchema(schema) => {
                if !found.is_written(schema) {
                    return unalterable(format!(
                        "schema={schema} is not there, or retired already"
                    ));
                }
                if found.schemas.iter().filter(|(_, retired)| !retired).count() == 1 {
                    return unalterable(format!(
                        "schema={schema} is the last that may be written: add another first"
                    ));
                }
                let kept = found.schemas.iter_mut().find(|(known, _)| known == schema);
                kept.unwrap().1 = true;
            }
            Alteration::Place(placement) => {
                found.spec.placement = placement.clone();
                found.policy = hash;
            }
            Alteration::Declare(contract) => found.spec.contract = contract.clone(),
            Alteration::Delete { retain_ms } => {
                found.deleted = Some((here.offset, here.now + retain_ms));
            }
            Alteration::Undelete if found.deleted.is_none() => {
                return unalterable("it is not deleted".to_owned());
            }
            Alteration::Undelete => found.deleted = None,
        }
        let revision = found.revision().next();
        found.trail.push(Altered {
            revision,
            offset: Offset::new(here.offset),
            log_time: LogTime::new(here.now),
            node: *node,
            domain: caller.clone(),
            reason: reason.clone(),
            alteration: alteration.clone(),
        });
        Ok(revision)
    }

    pub(super) fn admit(
        &self,
        id: ResourceId,
        epoch: FenceEpoch,
        caller: &FailureDomain,
    ) -> Result<(), Refusal> {
        let found = self.resources.get(&id.0);
        let found = found.ok_or(Refusal::UnknownResource { resource: id })?;
        let current = found.spec.epoch;
        if found.deleted.is_some() {
            return Err(found.gone());
        }
        if epoch < current {
            return Err(Refusal::Fenced { current });
        }
        if epoch > current {
            return Err(Refusal::NotOpened { epoch, current });
        }
        found.from(caller)
    }

    /// Whether it is deleted, and whether it is gone with this.
    pub(super) fn tidy(&mut self, here: Here, id: ResourceId) -> (bool, bool) {
        let deleted = self.resources.get(&id.0).and_then(|found| found.deleted);
        let is_gone = deleted.is_some_and(|(_, until)| until <= here.now);
        if is_gone {
            self.resources.remove(&id.0);
        }
        (deleted.is_some(), is_gone)
    }

    /// The last that was made of those of a kind.
    pub(super) fn newest(&self, kind: &ResourceKind) -> Option<u32> {
        let mut ids = self.resources.iter().filter(|(_, found)| found.kind == *kind);
        ids.next_back().map(|(id, _)| *id)
    }
}
