//! What resources are to be, as messages say it.

use palisade::degradation::{
    DegradationContract, DegradationMode, DegradationRule, RecoveryAction,
};
use palisade::{
    Affinity, Alteration, Described, DomainRule, Error, Failure, FailureDomain, LogTime, Placement,
    ReplicaPolicy, ResourceKind, ResourceSpec, ResourceState, SchemaId,
};
use palisade_proto::directory::v1 as proto;
use palisade_proto::failure::Code;

use super::convert::{epoch, needed};
use super::failure::invalid;

/// Shortest list of what may be said.
fn listed(names: impl IntoIterator<Item = &'static str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(crate) fn placement(rules: &[proto::DomainRule]) -> Result<Placement, Error> {
    Placement::new(rules.iter().map(|rule| DomainRule {
        provider: rule.provider.clone(),
        region: some(&rule.region),
        zone: some(&rule.zone),
    }))
}

pub(crate) fn of_placement(placement: &Placement) -> Vec<proto::DomainRule> {
    let rule = |rule: &DomainRule| proto::DomainRule {
        provider: rule.provider.clone(),
        region: rule.region.clone().unwrap_or_default(),
        zone: rule.zone.clone().unwrap_or_default(),
    };
    placement.rules().iter().map(rule).collect()
}

fn failure(code: &str) -> Result<Failure, Error> {
    let found = Code::parse(code).map(|code| Failure::ALL[code as usize]);
    found.ok_or_else(|| {
        let known = listed(Code::ALL.map(Code::as_str));
        invalid(format!("failure={code:?} is none of {known}"))
    })
}

fn action(rule: &proto::Rule) -> Result<Option<RecoveryAction>, Error> {
    let per_second = rule.per_second;
    let known = [
        RecoveryAction::Failover,
        RecoveryAction::Throttle { per_second },
        RecoveryAction::ReplicaAdd,
        RecoveryAction::ReplicaRemove,
        RecoveryAction::TierDown,
        RecoveryAction::TierUp,
    ];
    if rule.action.is_empty() {
        return Ok(None);
    }
    let found = known.into_iter().find(|action| action.as_str() == rule.action);
    found.map(Some).ok_or_else(|| {
        let known = listed(known.map(|action| action.as_str()));
        invalid(format!("action={:?} is none of {known}", rule.action))
    })
}

pub(crate) fn contract(contract: &proto::Contract) -> Result<DegradationContract, Error> {
    let mut builder = DegradationContract::builder();
    for rule in &contract.rules {
        let when = rule.when.iter().map(|code| failure(code)).collect::<Result<Vec<_>, _>>()?;
        let mode = DegradationMode::ALL.into_iter().find(|mode| mode.as_str() == rule.mode);
        let mode = mode.ok_or_else(|| {
            let known = listed(DegradationMode::ALL.map(DegradationMode::as_str));
            invalid(format!("mode={:?} is none of {known}", rule.mode))
        })?;
        let made = DegradationRule::new(when, mode);
        builder = builder.rule(match action(rule)? {
            Some(action) => made.action(action),
            None => made,
        });
    }
    builder.build()
}

fn of_rule(rule: &DegradationRule) -> proto::Rule {
    let per_second = match rule.action {
        Some(RecoveryAction::Throttle { per_second }) => per_second,
        _ => 0,
    };
    proto::Rule {
        when: rule.when.iter().map(|when| Code::ALL[*when as usize].as_str().to_owned()).collect(),
        mode: rule.mode.as_str().to_owned(),
        action: rule.action.map(|action| action.as_str().to_owned()).unwrap_or_default(),
        per_second,
    }
}

fn of_contract(contract: &DegradationContract) -> proto::Contract {
    proto::Contract { rules: contract.rules().iter().map(of_rule).collect() }
}

pub(crate) fn alteration(asked: &proto::Alteration) -> Result<Alteration, Error> {
    use proto::alteration::Alteration as Asked;
    Ok(match needed(asked.alteration.as_ref(), "alteration")? {
        Asked::AddSchema(schema) => Alteration::AddSchema(SchemaId::new(schema)?),
        Asked::RetireSchema(schema) => Alteration::RetireSchema(SchemaId::new(schema)?),
        Asked::Place(place) => Alteration::Place(placement(&place.rules)?),
        Asked::Declare(declared) if declared.rules.is_empty() => Alteration::Declare(None),
        Asked::Declare(declared) => Alteration::Declare(Some(contract(declared)?)),
        Asked::Delete(delete) => Alteration::Delete { retain_ms: delete.retain_ms },
        Asked::Undelete(_) => Alteration::Undelete,
    })
}

/// None for one that a newer engine knows.
pub(crate) fn of_alteration(alteration: &Alteration) -> proto::Alteration {
    use proto::alteration::Alteration as Told;
    let told = match alteration {
        Alteration::AddSchema(schema) => Some(Told::AddSchema(schema.as_str().to_owned())),
        Alteration::RetireSchema(schema) => Some(Told::RetireSchema(schema.as_str().to_owned())),
        Alteration::Place(placement) => {
            Some(Told::Place(proto::Placement { rules: of_placement(placement) }))
        }
        Alteration::Declare(contract) => {
            Some(Told::Declare(contract.as_ref().map(of_contract).unwrap_or_default()))
        }
        Alteration::Delete { retain_ms } => {
            Some(Told::Delete(proto::Delete { retain_ms: *retain_ms }))
        }
        Alteration::Undelete => Some(Told::Undelete(proto::Undelete {})),
        _ => None,
    };
    proto::Alteration { alteration: told }
}

/// A spec, and the kind of what it describes. `own` is where a resource is placed that does not say.
pub(crate) fn spec(
    spec: &proto::Spec,
    own: &FailureDomain,
) -> Result<(ResourceKind, ResourceSpec), Error> {
    let kind = match spec.kind() {
        proto::Kind::Unspecified => return Err(invalid("field kind is needed")),
        proto::Kind::Log => ResourceKind::LOG,
        proto::Kind::Map => ResourceKind::MAP,
        proto::Kind::Idempotency => ResourceKind::IDEMPOTENCY,
    };
    let placement = match &spec.placement[..] {
        [] => Placement::new([DomainRule {
            provider: own.provider.clone(),
            region: None,
            zone: None,
        }]),
        rules => placement(rules),
    };
    let replicas = ReplicaPolicy::majority(spec.replicas.max(1));
    let mut made = ResourceSpec::new(&spec.name, &spec.schema)?
        .epoch(epoch(spec.epoch))
        .replicas(replicas.across_domains(spec.domains.max(1)))
        .placement(placement?)
        .affinity(Affinity::new(&spec.affinity)?);
    if let Some(declared) = &spec.contract {
        made = made.contract(contract(declared)?);
    }
    Ok((kind, made))
}

fn of_kind(kind: &ResourceKind) -> proto::Kind {
    [
        (ResourceKind::LOG, proto::Kind::Log),
        (ResourceKind::MAP, proto::Kind::Map),
        (ResourceKind::IDEMPOTENCY, proto::Kind::Idempotency),
    ]
    .into_iter()
    .find(|(known, _)| known == kind)
    .map_or(proto::Kind::Unspecified, |(_, kind)| kind)
}

pub(crate) fn described(found: &Described) -> proto::Described {
    let schema = found.schemas.last().map(|schema| schema.id.as_str().to_owned());
    proto::Described {
        spec: Some(proto::Spec {
            name: found.name.as_str().to_owned(),
            schema: schema.unwrap_or_default(),
            kind: of_kind(&found.kind).into(),
            epoch: found.epoch.get(),
            replicas: found.replicas.replicas(),
            domains: found.replicas.domains(),
            placement: of_placement(&found.placement),
            affinity: found.affinity.as_str().to_owned(),
            contract: found.contract.as_ref().map(of_contract),
        }),
        group: found.group.get(),
        revision: found.revision.get(),
        schemas: found
            .schemas
            .iter()
            .map(|schema| proto::Schema {
                id: schema.id.as_str().to_owned(),
                retired: schema.retired,
            })
            .collect(),
        policy_hash: found.policy.to_string(),
        made_offset: found.made.get(),
        made_at_ms: found.made_at.get(),
        deleted_until_ms: match found.state {
            ResourceState::Deleted { until, .. } => LogTime::get(until),
            _ => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> proto::Spec {
        proto::Spec {
            name: "orders".to_owned(),
            schema: "order.v1".to_owned(),
            kind: proto::Kind::Map.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_spec_that_says_little_is_placed_where_it_is_asked() {
        let own = FailureDomain::new("aws", "r1", "a");
        let (kind, made) = spec(&asked(), &own).unwrap();
        assert_eq!(kind, ResourceKind::MAP);
        assert_eq!(made.placement, Placement::providers(["aws"]).unwrap());
        assert_eq!((made.epoch.get(), made.replicas), (1, ReplicaPolicy::majority(1)));
    }

    #[test]
    fn a_contract_is_read_and_told_by_name() {
        let rule = proto::Rule {
            when: vec!["RATE_LIMITED".to_owned()],
            mode: "Normal".to_owned(),
            action: "Throttle".to_owned(),
            per_second: 10,
        };
        let contract = contract(&proto::Contract { rules: vec![rule.clone()] }).unwrap();
        let told: Vec<_> = contract.rules().iter().map(of_rule).collect();
        assert_eq!(told, std::slice::from_ref(&rule));
        for wrong in [
            proto::Rule { when: vec!["rate".to_owned()], ..rule.clone() },
            proto::Rule { mode: "normal".to_owned(), ..rule.clone() },
            proto::Rule { action: "Reboot".to_owned(), ..rule },
        ] {
            let error = super::contract(&proto::Contract { rules: vec![wrong] }).unwrap_err();
            assert!(error.to_string().contains("is none of"), "{error}");
        }
    }
}
