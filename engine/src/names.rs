//! Which group a name belongs to: kept in the system group, and never changed once it is said.
//!
//! ```text
//! 'g'        how many data groups there are, how many names; of each group, how many labels
//! 'l' label  the group of all names of that affinity
//! 'k' name   the group, the record that claimed the name, the affinity
//! ```
//! A claim is a record of the system group, and what it answers is decided where it is applied: two that claim
//! one name at once are told one group. Whether there is a resource of the name is that group's to say: a
//! claim that nothing followed is harmless.
//!
//! All names of one affinity are in one group. One that is new is given to the data group with the fewest
//! affinities, the lowest of them on a tie.

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use crate::bounds::{DATA_GROUPS_MAX, SYSTEM_GROUP};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::command::ClaimCommand;
use crate::keys;
use crate::outcome::Outcome;
use crate::projection::{At, ProjectionFault};
use crate::refusal::Refusal;
use crate::resource::{Affinity, LogicalResourceName};
use crate::spec_codec::take_affinity;
use crate::store::{FamilyId, StateRead, StoreError};
use crate::view::View;

/// Most names of a cluster. They are kept for ever.
pub(crate) const NAMES_MAX: u64 = 1 << 20;
/// Most affinities of a cluster. They are kept for ever, too.
pub(crate) const AFFINITIES_MAX: u64 = 4096;

/// Where a name belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) group: GroupId,
    /// The record that claimed it.
    pub(crate) by: Offset,
    pub(crate) affinity: Affinity,
}

/// How much there is of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counts {
    names: u64,
    /// Of each data group, how many affinities it has.
    affinities: Vec<u64>,
}

/// Says where a name belongs, from now on or since long ago.
pub(crate) fn claim(
    view: &mut View<'_>,
    at: At,
    command: ClaimCommand,
) -> Result<Outcome, ProjectionFault> {
    let ClaimCommand { name, affinity, data_groups } = command;
    let differs = |what: &str, expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
        let (expected, found) = (format!("{what}={expected}"), format!("{what}={found}"));
        Ok(Outcome::Refused(Refusal::Incompatible { expected, found }))
    };
    if at.group != SYSTEM_GROUP {
        return differs("group", &SYSTEM_GROUP, &at.group);
    }
    let none = || Counts { names: 0, affinities: vec![0; data_groups as usize] };
    let mut counts = counts(view)?.unwrap_or_else(none);
    if counts.affinities.len() as u64 != data_groups {
        return differs("data_groups", &data_groups, &counts.affinities.len());
    }
    if let Some(found) = find(view, &name)? {
        if found.affinity != affinity {
            return differs("affinity", &affinity, &found.affinity);
        }
        return Ok(Outcome::Claimed { group: found.group, by: found.by });
    }
    if counts.names >= NAMES_MAX {
        return Ok(Outcome::Refused(Refusal::TooManyNames { most: NAMES_MAX }));
    }
    let group = match view.get(FamilyId::RESOURCES, &keys::affinity(&affinity))? {
        Some(raw) => take_group(raw)?,
        None if counts.affinities.iter().sum::<u64>() >= AFFINITIES_MAX => {
            return Ok(Outcome::Refused(Refusal::TooManyAffinities { most: AFFINITIES_MAX }));
        }
        None => {
            let group = counts.give();
            view.put(FamilyId::RESOURCES, keys::affinity(&affinity), encode_group(group));
            group
        }
    };
    counts.names += 1;
    view.put(FamilyId::RESOURCES, keys::name_counts(), counts.encode());
    let claimed = Claimed { group, by: at.offset, affinity };
    view.put(FamilyId::RESOURCES, keys::claimed_name(name.as_str()), claimed.encode());
    Ok(Outcome::Claimed { group, by: at.offset })
}

/// Where a name belongs, in the state of one moment.
pub(crate) fn find(
    read: &dyn StateRead,
    name: &LogicalResourceName,
) -> Result<Option<Claimed>, StoreError> {
    let raw = read.get(FamilyId::RESOURCES, &keys::claimed_name(name.as_str()))?;
    raw.map(Claimed::decode).transpose().map_err(malformed)
}

/// How many data groups the cluster has, once a name was claimed.
pub(crate) fn data_groups(read: &dyn StateRead) -> Result<Option<u64>, StoreError> {
    Ok(counts(read)?.map(|counts| counts.affinities.len() as u64))
}

fn counts(read: &dyn StateRead) -> Result<Option<Counts>, StoreError> {
    let raw = read.get(FamilyId::RESOURCES, &keys::name_counts())?;
    raw.map(Counts::decode).transpose().map_err(malformed)
}

fn malformed(error: DecodeError) -> StoreError {
    StoreError::new(error.to_string())
}

fn encode_group(group: GroupId) -> Bytes {
    let mut raw = Vec::new();
    put_number(&mut raw, group.get());
    raw.into()
}

fn take_group(raw: Bytes) -> Result<GroupId, DecodeError> {
    let mut reader = Reader::new(raw);
    let group = GroupId::new(reader.number("group")?);
    reader.end("group")?;
    Ok(group)
}

impl Counts {
    /// The group of a new affinity.
    fn give(&mut self) -> GroupId {
        let groups = self.affinities.iter_mut().zip(1..);
        let (count, group) =
            groups.min_by_key(|(count, group)| (**count, *group)).expect("one at least");
        *count += 1;
        GroupId::new(group)
    }

    fn encode(&self) -> Bytes {
        let mut raw = Vec::new();
        put_number(&mut raw, self.affinities.len() as u64);
        put_number(&mut raw, self.names);
        self.affinities.iter().for_each(|count| put_number(&mut raw, *count));
        raw.into()
    }

    fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let groups = reader.number("data groups")?;
        if !(1..=DATA_GROUPS_MAX).contains(&groups) {
            return Err(DecodeError { what: "data groups" });
        }
        let names = reader.number("names")?;
        let affinities = (0..groups).map(|_| reader.number("affinities"));
        let affinities = affinities.collect::<Result<_, _>>()?;
        reader.end("counts of names")?;
        Ok(Self { names, affinities })
    }
}

impl Claimed {
    fn encode(&self) -> Bytes {
        let mut raw = Vec::new();
        put_number(&mut raw, self.group.get());
        put_number(&mut raw, self.by.get());
        put_bytes(&mut raw, self.affinity.as_str().as_bytes());
        raw.into()
    }

    fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let group = GroupId::new(reader.number("group")?);
        let by = Offset::new(reader.number("offset")?);
        let affinity = take_affinity(&mut reader)?;
        reader.end("claimed name")?;
        Ok(Self { group, by, affinity })
    }
}

#[cfg(test)]
mod tests;
