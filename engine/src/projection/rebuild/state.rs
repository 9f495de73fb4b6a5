//! How far the group is with each kind: the same at every replica.
//!
//! ```text
//! resources  'v' kind    active version, since which offset, or 0 as made;
//!                        0, or 1 and of a rebuild: version, offset of its beginning, who is ready: count,
//!                        each node;
//!                        0, or 1 and of the last one that failed: version, offset, node, failure
//! resources  'm' node 8  what a member can be rebuilt to: count, each kind, version
//! ```
//! Numbers and byte strings as in `codec`, those in keys big-endian.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use palisade_replication::{GroupId, NodeId, Offset};

use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::keys;
use crate::projection::{Kind, Registry};
use crate::resource::ResourceKind;
use crate::resource_row::Resource;
use crate::spec_codec::{put_kind, take_kind};
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};

use super::local::held;

/// Longest words of a fault that are kept.
const WORDS_BYTES_MAX: usize = 512;
/// Most members whose announcements are kept, and most that a record names.
pub(super) const MEMBERS_MAX: usize = 64;

/// Why a rebuild ended, and the older version stays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebuildFailure {
    /// The newer version says that there is no way from the older one.
    NotImportable,
    /// The newer version refuses what the older one has done at this offset, or the other way round.
    Disagrees {
        /// Of the record.
        offset: Offset,
    },
    /// The newer version cannot go on, or has panicked.
    Fault {
        /// What it says.
        what: String,
    },
    /// More was written meanwhile than may be kept to be done later.
    QueueFull {
        /// Bytes that may be kept.
        bytes_max: u64,
    },
    /// A member was opened without the version that the rebuild is to.
    Unregistered,
}

impl fmt::Display for RebuildFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotImportable => write!(f, "the newer version cannot import rows of the older"),
            Self::Disagrees { offset } => {
                write!(f, "one version refuses what the other does, offset={offset}")
            }
            Self::Fault { what } => f.write_str(what),
            Self::QueueFull { bytes_max } => {
                write!(f, "too much was written meanwhile, queue_bytes_max={bytes_max}")
            }
            Self::Unregistered => write!(f, "a member was opened without the newer version"),
        }
    }
}

impl RebuildFailure {
    /// A fault in few enough words.
    pub(super) fn fault(what: &str) -> Self {
        let mut end = what.len().min(WORDS_BYTES_MAX);
        while !what.is_char_boundary(end) {
            end -= 1;
        }
        Self::Fault { what: what[..end].to_owned() }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::NotImportable => out.push(1),
            Self::Disagrees { offset } => {
                out.push(2);
                put_number(out, offset.get());
            }
            Self::Fault { what } => {
                out.push(3);
                put_bytes(out, what.as_bytes());
            }
            Self::QueueFull { bytes_max } => {
                out.push(4);
                put_number(out, *bytes_max);
            }
            Self::Unregistered => out.push(5),
        }
    }

    pub(super) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        const WHAT: &str = "rebuild failure";
        Ok(match reader.byte(WHAT)? {
            1 => Self::NotImportable,
            2 => Self::Disagrees { offset: Offset::new(reader.number(WHAT)?) },
            3 => Self::Fault { what: reader.text(WORDS_BYTES_MAX, WHAT)? },
            4 => Self::QueueFull { bytes_max: reader.number(WHAT)? },
            5 => Self::Unregistered,
            _ => return Err(DecodeError { what: WHAT }),
        })
    }
}

/// A rebuild that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) version: u32,
    /// The record that began it: its name.
    pub(crate) begun: Offset,
    pub(crate) ready: BTreeSet<NodeId>,
}

/// A rebuild that ended without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) version: u32,
    /// The record that ended it.
    pub(crate) offset: Offset,
    /// Who said so.
    pub(crate) node: NodeId,
    pub(crate) failure: RebuildFailure,
}

impl Failed {
    /// Whether that version is not begun again by itself. One that a member did not have was not tried: it is
    /// begun again when all have announced it again.
    pub(super) fn stops(&self, version: u32) -> bool {
        self.version == version && self.failure != RebuildFailure::Unregistered
    }
}

/// How far a kind is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KindState {
    /// Decides and serves.
    pub(crate) active: u32,
    /// The record that made it so.
    pub(crate) since: Offset,
    pub(crate) target: Option<Target>,
    pub(crate) failed: Option<Failed>,
}

impl KindState {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(32);
        put_number(&mut out, self.active.into());
        put_number(&mut out, self.since.get());
        out.push(self.target.is_some().into());
        if let Some(target) = &self.target {
            put_number(&mut out, target.version.into());
            put_number(&mut out, target.begun.get());
            put_number(&mut out, target.ready.len() as u64);
            target.ready.iter().for_each(|node| put_number(&mut out, node.get()));
        }
        out.push(self.failed.is_some().into());
        if let Some(failed) = &self.failed {
            put_number(&mut out, failed.version.into());
            put_number(&mut out, failed.offset.get());
            put_number(&mut out, failed.node.get());
            failed.failure.put(&mut out);
        }
        out.into()
    }

    pub(crate) fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let active = take_version(&mut reader)?;
        let since = Offset::new(reader.number("offset")?);
        let target = match take_flag(&mut reader)? {
            false => None,
            true => Some(Target {
                version: take_version(&mut reader)?,
                begun: Offset::new(reader.number("offset")?),
                ready: take_nodes(&mut reader)?.into_iter().collect(),
            }),
        };
        let failed = match take_flag(&mut reader)? {
            false => None,
            true => Some(Failed {
                version: take_version(&mut reader)?,
                offset: Offset::new(reader.number("offset")?),
                node: NodeId::new(reader.number("node")?),
                failure: RebuildFailure::take(&mut reader)?,
            }),
        };
        reader.end("state of a kind")?;
        Ok(Self { active, since, target, failed })
    }
}

pub(super) fn take_version(reader: &mut Reader) -> Result<u32, DecodeError> {
    const WHAT: &str = "projection version";
    u32::try_from(reader.number(WHAT)?).map_err(|_| DecodeError { what: WHAT })
}

fn take_flag(reader: &mut Reader) -> Result<bool, DecodeError> {
    match reader.byte("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError { what: "flag" }),
    }
}

/// Nodes in rising order.
pub(super) fn take_nodes(reader: &mut Reader) -> Result<Vec<NodeId>, DecodeError> {
    const WHAT: &str = "nodes";
    let count = reader.number(WHAT)?;
    if count > MEMBERS_MAX as u64 {
        return Err(DecodeError { what: WHAT });
    }
    let mut nodes = Vec::new();
    for _ in 0..count {
        let node = NodeId::new(reader.number(WHAT)?);
        if nodes.last().is_some_and(|last| node <= *last) {
            return Err(DecodeError { what: WHAT });
        }
        nodes.push(node);
    }
    Ok(nodes)
}

/// What members can be rebuilt to, by kind. In order, each kind once.
pub(crate) type Newest = Vec<(ResourceKind, u32)>;

pub(super) fn put_newest(out: &mut Vec<u8>, newest: &Newest) {
    put_number(out, newest.len() as u64);
    for (kind, version) in newest {
        put_kind(out, kind);
        put_number(out, (*version).into());
    }
}

pub(super) fn take_newest(reader: &mut Reader) -> Result<Newest, DecodeError> {
    const WHAT: &str = "kinds";
    let count = reader.number(WHAT)?;
    if count > MEMBERS_MAX as u64 {
        return Err(DecodeError { what: WHAT });
    }
    let mut newest = Newest::new();
    for _ in 0..count {
        let kind = take_kind(reader)?;
        if newest.last().is_some_and(|(last, _)| kind.as_str() <= last.as_str()) {
            return Err(DecodeError { what: WHAT });
        }
        newest.push((kind, take_version(reader)?));
    }
    Ok(newest)
}

/// What each member has announced that it can be rebuilt to.
pub(super) fn announced(
    read: &dyn StateRead,
    group: GroupId,
) -> Result<BTreeMap<NodeId, Newest>, StoreError> {
    let (from, end) = keys::announced(group);
    let (mut found, mut broken) = (BTreeMap::new(), Ok(()));
    read.walk(FamilyId::RESOURCES, &from, &end, Direction::Forward, &mut |key, value| {
        let mut reader = Reader::new(Bytes::copy_from_slice(value));
        let newest =
            take_newest(&mut reader).and_then(|newest| reader.end("kinds").map(|()| newest));
        match (key.last_chunk(), newest) {
            (Some(node), Ok(newest)) => {
                found.insert(NodeId::new(u64::from_be_bytes(*node)), newest);
                Walk::Next
            }
            _ => {
                broken = Err(malformed("an announcement"));
                Walk::Stop
            }
        }
    })?;
    broken.map(|()| found)
}

fn malformed(what: &str) -> StoreError {
    StoreError::new(format!("{what} is not what was written"))
}

/// How far a kind is, if it was ever to be rebuilt.
fn stored(
    read: &dyn StateRead,
    group: GroupId,
    kind: &str,
) -> Result<Option<KindState>, StoreError> {
    let raw = read.get(FamilyId::RESOURCES, &keys::kind(group, kind))?;
    raw.map(|raw| KindState::decode(raw).map_err(|_| malformed("the state of a kind"))).transpose()
}

/// Where the rows of a resource are in the state of one moment, and of which version they are. `first` is
/// the first family of its projection.
pub(crate) fn rows_of(
    read: &dyn StateRead,
    group: GroupId,
    first: FamilyId,
    resource: &Resource,
) -> Result<(FamilyId, u32), StoreError> {
    if read.families().other(first).is_none() {
        return Ok((first, resource.version));
    }
    let state = stored(read, group, resource.kind.as_str())?;
    let version = state.map_or(resource.version, |state| state.active);
    Ok((held(read, group, first)?, version))
}

/// All kinds of a group that are or were to be rebuilt, and which of their families are served: what is
/// stored, kept in memory.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    pub(super) states: BTreeMap<ResourceKind, KindState>,
    /// Whose second family is served: the first.
    pub(super) moved: BTreeSet<FamilyId>,
}

impl Kinds {
    pub(crate) fn load(read: &dyn StateRead, group: GroupId) -> Result<Self, StoreError> {
        let mut kinds = Self::default();
        let (from, end) = keys::kinds(group);
        let mut broken = Ok(());
        read.walk(FamilyId::RESOURCES, &from, &end, Direction::Forward, &mut |key, value| {
            let name = String::from_utf8(key[from.len()..].to_vec());
            match (name, KindState::decode(Bytes::copy_from_slice(value))) {
                (Ok(name), Ok(state)) => {
                    kinds.states.insert(ResourceKind::of(name), state);
                    Walk::Next
                }
                _ => {
                    broken = Err(malformed("the state of a kind"));
                    Walk::Stop
                }
            }
        })?;
        broken?;
        for family in read.families().ids() {
            if held(read, group, family)? != family {
                kinds.moved.insert(family);
            }
        }
        Ok(kinds)
    }

    /// The version of a resource's rows.
    pub(crate) fn version(&self, resource: &Resource) -> u32 {
        self.states.get(&resource.kind).map_or(resource.version, |state| state.active)
    }

    /// The version that decides for a kind, if it was ever to be rebuilt.
    pub(crate) fn active(&self, kind: &ResourceKind) -> Option<u32> {
        self.states.get(kind).map(|state| state.active)
    }

    /// The projection that decides for a resource, and where its rows are.
    pub(crate) fn find<'a>(&self, registry: &'a Registry, resource: &Resource) -> Option<Kind<'a>> {
        let kind = registry.find_version(resource.kind.as_str(), self.version(resource))?;
        Some(Kind { family: self.held(registry, kind.family), ..kind })
    }

    /// The family that is served of a projection, by its first.
    pub(super) fn held(&self, registry: &Registry, first: FamilyId) -> FamilyId {
        match registry.families().other(first) {
            Some(second) if self.moved.contains(&first) => second,
            _ => first,
        }
    }

    /// Rebuilds under way.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (&ResourceKind, u32, &Target)> {
        self.states
            .iter()
            .filter_map(|(kind, state)| Some((kind, state.active, state.target.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> KindState {
        let ready = [NodeId::new(1), NodeId::new(3)].into();
        let target = Some(Target { version: 3, begun: Offset::new(300), ready });
        let failure = RebuildFailure::Fault { what: "no rows".to_owned() };
        let failed = Failed { version: 2, offset: Offset::new(9), node: NodeId::new(1), failure };
        KindState { active: 1, since: Offset::ZERO, target, failed: Some(failed) }
    }

    /// Byte by byte.
    #[test]
    fn the_state_of_a_kind_stays_as_it_is() {
        let wanted = b"\x01\0\x01\x03\xac\x02\x02\x01\x03\x01\x02\x09\x01\x03\x07no rows";
        assert_eq!(state().encode()[..], wanted[..]);
        let plain = KindState { target: None, failed: None, ..state() };
        assert_eq!(plain.encode()[..], *b"\x01\0\0\0");
    }

    #[test]
    fn words_of_a_fault_are_cut_between_characters() {
        let long = "\u{e9}".repeat(WORDS_BYTES_MAX);
        let RebuildFailure::Fault { what } = RebuildFailure::fault(&format!("x{long}")) else {
            panic!("it is a fault")
        };
        assert_eq!(what.len(), WORDS_BYTES_MAX - 1);
    }

    proptest! {
        /// E8.
        #[test]
        fn what_is_read_has_one_form(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3)) {
            let mut raw = state().encode().to_vec();
            for (at, byte) in changes {
                let at = at % raw.len();
                raw[at] = byte;
            }
            if let Ok(state) = KindState::decode(raw.clone().into()) {
                prop_assert_eq!(state.encode(), raw);
            }
        }
    }
}
