//! The bytes of a resource's spec, in records and in the table of resources.
//!
//! ```text
//! spec    name, schema, epoch, replicas, placement, contract, affinity;
//!         in replicas, from bit 32 on, the failure domains that a commit must reach beyond one
//! placement  rules: count, each provider, region or nothing, zone or nothing
//! contract  as `degradation::contract` says, or nothing
//! domain  provider, region, zone
//! ```
//! Numbers and byte strings as in `codec`.

use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::degradation::DegradationContract;
use crate::resource::{
    Affinity, DomainRule, FailureDomain, FenceEpoch, LogicalResourceName, Placement, ReplicaPolicy,
    ResourceKind, ResourceSpec, SchemaId,
};

const DOMAIN_PART_BYTES_MAX: usize = 64;

pub(crate) fn put_kind(out: &mut Vec<u8>, kind: &ResourceKind) {
    put_bytes(out, kind.as_str().as_bytes());
}

pub(crate) fn take_kind(reader: &mut Reader) -> Result<ResourceKind, DecodeError> {
    Ok(ResourceKind::of(reader.text(ResourceKind::BYTES_MAX, "resource kind")?))
}

pub(crate) fn encode_spec(out: &mut Vec<u8>, spec: &ResourceSpec) {
    put_bytes(out, spec.name.as_str().as_bytes());
    put_schema(out, &spec.schema);
    put_number(out, spec.epoch.get());
    let beyond = u64::from(spec.replicas.domains.saturating_sub(1));
    put_number(out, u64::from(spec.replicas.replicas) | beyond << 32);
    put_placement(out, &spec.placement);
    put_contract(out, spec.contract.as_ref());
    put_bytes(out, spec.affinity.as_str().as_bytes());
}

pub(crate) fn put_contract(out: &mut Vec<u8>, contract: Option<&DegradationContract>) {
    // None has no bytes, so nothing can stand for none.
    put_bytes(out, &contract.map(DegradationContract::to_bytes).unwrap_or_default());
}

pub(crate) fn take_contract(
    reader: &mut Reader,
) -> Result<Option<DegradationContract>, DecodeError> {
    let raw = reader.bytes(DegradationContract::BYTES_MAX, "degradation contract")?;
    (!raw.is_empty()).then(|| DegradationContract::from_bytes(&raw)).transpose()
}

pub(crate) fn put_schema(out: &mut Vec<u8>, schema: &SchemaId) {
    put_bytes(out, schema.as_str().as_bytes());
}

pub(crate) fn take_schema(reader: &mut Reader) -> Result<SchemaId, DecodeError> {
    let schema = reader.text(SchemaId::BYTES_MAX, "schema id")?;
    SchemaId::new(&schema).map_err(malformed("schema id"))
}

pub(crate) fn put_placement(out: &mut Vec<u8>, placement: &Placement) {
    put_number(out, placement.rules.len() as u64);
    for rule in &placement.rules {
        put_bytes(out, rule.provider.as_bytes());
        // A rule's names are never empty, so nothing can stand for all.
        put_bytes(out, rule.region.as_deref().unwrap_or("").as_bytes());
        put_bytes(out, rule.zone.as_deref().unwrap_or("").as_bytes());
    }
}

pub(crate) fn take_placement(reader: &mut Reader) -> Result<Placement, DecodeError> {
    let count = reader.number("placement")?;
    if count > Placement::RULES_MAX as u64 {
        return Err(DecodeError { what: "placement" });
    }
    let mut rules = Vec::new();
    for _ in 0..count {
        let provider = reader.text(DOMAIN_PART_BYTES_MAX, "provider")?;
        let region = reader.text(DOMAIN_PART_BYTES_MAX, "region")?;
        let zone = reader.text(DOMAIN_PART_BYTES_MAX, "zone")?;
        let some = |part: String| (!part.is_empty()).then_some(part);
        rules.push(DomainRule { provider, region: some(region), zone: some(zone) });
    }
    let placement = Placement::new(rules.clone()).map_err(malformed("placement"))?;
    // A placement has one form, and so have its bytes.
    if placement.rules != rules {
        return Err(DecodeError { what: "placement" });
    }
    Ok(placement)
}

fn malformed<E>(what: &'static str) -> impl FnOnce(E) -> DecodeError {
    move |_| DecodeError { what }
}

pub(crate) fn decode_spec(reader: &mut Reader) -> Result<ResourceSpec, DecodeError> {
    let name = take_name(reader)?;
    let schema = take_schema(reader)?;
    let epoch = FenceEpoch::new(reader.number("epoch")?);
    let replicas = reader.number("replicas")?;
    let beyond = (replicas >> 32) as u32;
    let domains = beyond.checked_add(1).ok_or(DecodeError { what: "replicas" })?;
    let replicas = ReplicaPolicy::majority(replicas as u32).across_domains(domains);
    let placement = take_placement(reader)?;
    Ok(ResourceSpec {
        name,
        schema,
        epoch,
        replicas,
        placement,
        contract: take_contract(reader)?,
        affinity: take_affinity(reader)?,
    })
}

pub(crate) fn take_name(reader: &mut Reader) -> Result<LogicalResourceName, DecodeError> {
    let name = reader.text(LogicalResourceName::BYTES_MAX, "resource name")?;
    LogicalResourceName::new(&name).map_err(malformed("resource name"))
}

pub(crate) fn take_affinity(reader: &mut Reader) -> Result<Affinity, DecodeError> {
    let affinity = reader.text(Affinity::BYTES_MAX, "affinity")?;
    Affinity::new(&affinity).map_err(malformed("affinity"))
}

pub(crate) fn put_domain(out: &mut Vec<u8>, domain: &FailureDomain) {
    for part in [&domain.provider, &domain.region, &domain.zone] {
        put_bytes(out, part.as_bytes());
    }
}

pub(crate) fn take_domain(reader: &mut Reader) -> Result<FailureDomain, DecodeError> {
    Ok(FailureDomain {
        provider: reader.text(DOMAIN_PART_BYTES_MAX, "provider")?,
        region: reader.text(DOMAIN_PART_BYTES_MAX, "region")?,
        zone: reader.text(DOMAIN_PART_BYTES_MAX, "zone")?,
    })
}
