//! Marks, reports of what replicas came to at them, and judgement: all of it by records, so that every
//! replica comes to the same.
//!
//! ```text
//! family reports   group 'm'                    the last mark
//!                  group 'r' node 8             what a node reported of it
//!                  group 'd' found 8, node 8    whose state differed
//! mark             offset, log time, records about comparing since, members: count, each node and 1 for a
//!                  voter; judged: count, each node
//! divergence       compared, log time, 1 for a majority, projection, resource or nothing, from, 1 and end
//!                  or 0
//! ```
//! Numbers and byte strings as in `codec`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use palisade_replication::{GroupId, LogTime, MEMBERS_MAX, NodeId, Offset};

use super::counts::Compared;
use super::folds::{Difference, StateSums};
use super::spans;
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::keys;
use crate::outcome::{Branch, Outcome};
use crate::projection::{At, ProjectionFault};
use crate::resource::{LogicalResourceName, ResourceId};
use crate::resource_table::ResourceTable;
use crate::store::{Direction, FamilyId, StateRead, StoreError, Walk};
use crate::view::View;

const FAMILY: FamilyId = FamilyId::REPORTS;
/// How many divergences are kept: the newest.
pub(crate) const DIVERGENCES_KEPT: usize = 64;

/// What a record says about comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CompareCommand {
    /// Everybody is to say what the state came to before this record. Members in order, true for a voter.
    Mark { members: BTreeMap<NodeId, bool> },
    /// What it came to at a node.
    Report { node: NodeId, mark: Offset, sums: StateSums },
}

/// The last mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) offset: Offset,
    pub(crate) log_time: LogTime,
    /// Records since that are about comparing, and no work.
    followed: u64,
    members: BTreeMap<NodeId, bool>,
    judged: BTreeSet<NodeId>,
}

/// A replica whose state was not that of the majority: where the two differed first. The record that showed
/// it is in the log, so every replica tells the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Divergence {
    /// Where it was. It has halted, unless it was rebuilt since.
    pub node: NodeId,
    /// The states up to this record were compared. The difference arose there or before.
    pub compared: Offset,
    /// The record that showed it.
    pub found: Offset,
    /// When that was.
    pub log_time: LogTime,
    /// Whether a majority of the voters agreed on another state. If not, nobody knows whose is right.
    pub has_majority: bool,
    /// The projection, or the engine's own family of rows, in whose rows they differ first.
    pub projection: String,
    /// The resource, where it is known that the range is within one.
    pub resource: Option<LogicalResourceName>,
    /// The first range of rows that differs begins with this key, as it is stored, without its group.
    pub from: Bytes,
    /// It ends before this key, or with the last row.
    pub end: Option<Bytes>,
}

impl CompareCommand {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Mark { members } => {
                out.push(b'm');
                put_members(out, members);
            }
            Self::Report { node, mark, sums } => {
                out.push(b'r');
                put_number(out, node.get());
                put_number(out, mark.get());
                sums.put(out);
            }
        }
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.byte("kind of comparison")? {
            b'm' => Ok(Self::Mark { members: take_members(reader)? }),
            b'r' => Ok(Self::Report {
                node: NodeId::new(reader.number("node")?),
                mark: Offset::new(reader.number("mark")?),
                sums: StateSums::take(reader)?,
            }),
            _ => Err(DecodeError { what: "kind of comparison" }),
        }
    }
}

fn put_members(out: &mut Vec<u8>, members: &BTreeMap<NodeId, bool>) {
    put_number(out, members.len() as u64);
    for (node, votes) in members {
        put_number(out, node.get());
        out.push((*votes).into());
    }
}

fn take_members(reader: &mut Reader) -> Result<BTreeMap<NodeId, bool>, DecodeError> {
    let malformed = DecodeError { what: "members" };
    let count = reader.number("members")?;
    if count > MEMBERS_MAX as u64 {
        return Err(malformed);
    }
    let mut members = BTreeMap::new();
    for _ in 0..count {
        let node = NodeId::new(reader.number("member")?);
        let votes = match reader.byte("vote of a member")? {
            0 => false,
            1 => true,
            _ => return Err(malformed),
        };
        // In order, each once: one form for each value.
        if members.last_key_value().is_some_and(|(last, _)| node <= *last) {
            return Err(malformed);
        }
        members.insert(node, votes);
    }
    Ok(members)
}

impl Mark {
    /// The last mark, if there was one.
    pub(crate) fn load(
        read: &dyn StateRead,
        group: GroupId,
    ) -> Result<Option<Self>, ProjectionFault> {
        let Some(raw) = read.get(FAMILY, &keys::mark(group))? else { return Ok(None) };
        let mut reader = Reader::new(raw);
        let mut mark = Self {
            offset: Offset::new(reader.number("mark")?),
            log_time: LogTime::new(reader.number("log time of a mark")?),
            followed: reader.number("records since a mark")?,
            members: take_members(&mut reader)?,
            judged: BTreeSet::new(),
        };
        for _ in 0..reader.number("judged")? {
            mark.judged.insert(NodeId::new(reader.number("judged")?));
        }
        reader.end("mark")?;
        Ok(Some(mark))
    }

    fn store(&self, view: &mut View<'_>, group: GroupId) {
        let mut out = Vec::new();
        put_number(&mut out, self.offset.get());
        put_number(&mut out, self.log_time.get());
        put_number(&mut out, self.followed);
        put_members(&mut out, &self.members);
        put_number(&mut out, self.judged.len() as u64);
        self.judged.iter().for_each(|node| put_number(&mut out, node.get()));
        view.put(FAMILY, keys::mark(group), out.into());
    }

    /// How many records up to this one were more than talk about the mark.
    pub(crate) fn work_since(&self, applied: Offset) -> u64 {
        applied.get().saturating_sub(self.offset.get() + self.followed)
    }

    /// Whether the node is to report, and has not.
    pub(crate) fn waits_for(
        &self,
        read: &dyn StateRead,
        group: GroupId,
        node: NodeId,
    ) -> Result<bool, StoreError> {
        Ok(self.members.contains_key(&node)
            && read.get(FAMILY, &keys::report(group, node))?.is_none())
    }
}

/// What this replica came to at a mark, as it noted itself.
pub(crate) fn own_sums(
    read: &dyn StateRead,
    group: GroupId,
    mark: Offset,
) -> Result<Option<Bytes>, ProjectionFault> {
    let Some(raw) = read.get(FamilyId::META, &keys::own_sums(group))? else { return Ok(None) };
    let mut reader = Reader::new(raw);
    let found = reader.number("own mark")? == mark.get();
    Ok(found.then(|| reader.rest()))
}

/// Applies a record about comparing, at a node that has a name.
pub(crate) fn apply(
    resources: &ResourceTable,
    view: &mut View<'_>,
    at: At,
    own: Option<NodeId>,
    command: CompareCommand,
    compared: &mut Compared,
) -> Result<Outcome, ProjectionFault> {
    match command {
        CompareCommand::Mark { members } => make_mark(view, at, own, members)?,
        CompareCommand::Report { node, mark, sums } => {
            if let Some(last) = Mark::load(view, at.group)? {
                *compared += report(resources, view, at, own, last, (node, mark, sums))?;
            }
        }
    }
    Ok(Outcome::Applied { branch: Branch::Then, outcomes: Vec::new() })
}

fn make_mark(
    view: &mut View<'_>,
    at: At,
    own: Option<NodeId>,
    members: BTreeMap<NodeId, bool>,
) -> Result<(), ProjectionFault> {
    let group = at.group;
    if own.is_some() {
        let sums = sums_before(view, group)?;
        let mut raw = Vec::new();
        put_number(&mut raw, at.offset.get());
        sums.put(&mut raw);
        view.put(FamilyId::META, keys::own_sums(group), raw.into());
    }
    for node in reports(view, group)?.into_keys() {
        view.remove(FAMILY, keys::report(group, node));
    }
    let (offset, log_time, judged) = (at.offset, at.log_time, BTreeSet::new());
    Mark { offset, log_time, followed: 0, members, judged }.store(view, group);
    Ok(())
}

/// What the state comes to before the record that is being applied, however records are put together in
/// commits.
fn sums_before(view: &View<'_>, group: GroupId) -> Result<StateSums, StoreError> {
    let base = view.base();
    let changed = spans::changes(base, group, &view.pending())?;
    let mut over = View::new(base);
    for (family, from, end) in &changed.cleared {
        over.clear(*family, from, end);
    }
    for (family, key, value) in changed.writes {
        match value {
            Some(value) => over.put(family, key, value),
            None => over.remove(family, key),
        }
    }
    StateSums::of(&over, group)
}

/// The reports of the last mark, as they came.
fn reports(
    read: &dyn StateRead,
    group: GroupId,
) -> Result<BTreeMap<NodeId, Bytes>, ProjectionFault> {
    let mut found = BTreeMap::new();
    let (from, end) = keys::reports(group);
    read.walk(FAMILY, &from, &end, Direction::Forward, &mut |key, raw| {
        if let Some(node) = key.last_chunk::<8>() {
            let node = NodeId::new(u64::from_be_bytes(*node));
            found.insert(node, Bytes::copy_from_slice(raw));
        }
        Walk::Next
    })?;
    Ok(found)
}

fn report(
    resources: &ResourceTable,
    view: &mut View<'_>,
    at: At,
    own: Option<NodeId>,
    mut mark: Mark,
    (node, of, sums): (NodeId, Offset, StateSums),
) -> Result<Compared, ProjectionFault> {
    mark.followed += 1;
    let (mut found, mut compared) = (None, Compared::default());
    if of == mark.offset && mark.waits_for(view, at.group, node)? {
        let mut raw = Vec::new();
        sums.put(&mut raw);
        view.put(FAMILY, keys::report(at.group, node), raw.into());
        let reports = reports(view, at.group)?;
        let (agreed, differing) = judge(&mark, &reports);
        compared = Compared { digests: 1, differing: differing.len() as u64 };
        for node in differing {
            let divergence = divergence(resources, view, at, &mark, (node, agreed), &reports)?;
            keep(view, at.group, &divergence)?;
            mark.judged.insert(node);
            // What a state was that is there no more says nothing of the one that is.
            let noted = own_sums(view, at.group, mark.offset)?;
            let is_so = noted.is_some_and(|noted| reports[&node] == noted);
            if own == Some(node) && is_so {
                found = Some(divergence);
            }
        }
    }
    mark.store(view, at.group);
    // The record stands everywhere else; here it is not applied, and what it says is kept aside.
    found.map_or(Ok(compared), |found| Err(ProjectionFault::of_state(found.to_string())))
}

/// What a majority of the voters agree on, and whose report differs from it and was not judged yet. Once all
/// voters have reported and no majority agrees, that is everybody's.
fn judge<'a>(
    mark: &Mark,
    reports: &'a BTreeMap<NodeId, Bytes>,
) -> (Option<&'a Bytes>, Vec<NodeId>) {
    let voters: Vec<&NodeId> =
        mark.members.iter().filter(|(_, votes)| **votes).map(|(node, _)| node).collect();
    let cast: Vec<&Bytes> = voters.iter().filter_map(|node| reports.get(node)).collect();
    let votes = |sums: &Bytes| cast.iter().filter(|other| ***other == *sums).count();
    let agreed = cast.iter().copied().find(|sums| voters.len() < 2 * votes(sums));
    let is_over = cast.len() == voters.len();
    let differs = |sums: &Bytes| agreed.map_or(is_over, |agreed| agreed != sums);
    let differing = reports.iter().filter(|(_, sums)| differs(sums)).map(|(node, _)| *node);
    (agreed, differing.filter(|node| !mark.judged.contains(node)).collect())
}

/// Says where a node's state differs first: from what was agreed on, or from another's.
fn divergence(
    resources: &ResourceTable,
    read: &dyn StateRead,
    at: At,
    mark: &Mark,
    (node, agreed): (NodeId, Option<&Bytes>),
    reports: &BTreeMap<NodeId, Bytes>,
) -> Result<Divergence, ProjectionFault> {
    let own = &reports[&node];
    let other = agreed.or_else(|| reports.values().find(|other| *other != own)).unwrap_or(own);
    let [own, other] = [own, other].map(|raw| StateSums::take(&mut Reader::new(raw.clone())));
    let difference = own?.difference(&other?);
    // Reports that are told otherwise and say the same come from no release of ours.
    let Difference { family, from, end, last } = difference.unwrap_or_else(|| Difference {
        family: String::new(),
        from: Bytes::new(),
        end: None,
        last: None,
    });
    let id = |key: &Bytes| key.first_chunk::<4>().map(|raw| ResourceId(u32::from_be_bytes(*raw)));
    let is_of_resources =
        read.families().find(family.as_bytes()).is_some_and(FamilyId::is_of_resources);
    let one = last.and_then(|last| id(&last)).filter(|last| id(&from) == Some(*last));
    let resource = one.filter(|_| is_of_resources).and_then(|id| resources.get(id));
    Ok(Divergence {
        node,
        compared: Offset::new(mark.offset.get().saturating_sub(1)),
        found: at.offset,
        log_time: at.log_time,
        has_majority: agreed.is_some(),
        projection: family,
        resource: resource.map(|resource| resource.spec.name.clone()),
        from,
        end,
    })
}

/// Keeps what was found, and so much of what was found before.
fn keep(
    view: &mut View<'_>,
    group: GroupId,
    divergence: &Divergence,
) -> Result<(), ProjectionFault> {
    let mut found = Vec::new();
    let (from, end) = keys::divergences(group);
    view.walk(FAMILY, &from, &end, Direction::Backward, &mut |key, _| {
        found.push(key.to_vec());
        Walk::Next
    })?;
    for old in found.into_iter().skip(DIVERGENCES_KEPT - 1) {
        view.remove(FAMILY, old);
    }
    let mut key = keys::divergence(group, divergence.found);
    key.extend_from_slice(&divergence.node.get().to_be_bytes());
    view.put(FAMILY, key, divergence.encode());
    Ok(())
}

/// Everything that was found and is kept, the newest first.
pub(crate) fn divergences(
    read: &dyn StateRead,
    group: GroupId,
) -> Result<Vec<Divergence>, ProjectionFault> {
    let mut found = Vec::new();
    let (from, end) = keys::divergences(group);
    read.walk(FAMILY, &from, &end, Direction::Backward, &mut |key, raw| {
        found.push(Divergence::decode(key, Bytes::copy_from_slice(raw)));
        Walk::Next
    })?;
    Ok(found.into_iter().collect::<Result<_, _>>()?)
}

impl Divergence {
    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_number(&mut out, self.compared.get());
        put_number(&mut out, self.log_time.get());
        out.push(self.has_majority.into());
        put_bytes(&mut out, self.projection.as_bytes());
        let resource = self.resource.as_ref().map_or("", LogicalResourceName::as_str);
        put_bytes(&mut out, resource.as_bytes());
        put_bytes(&mut out, &self.from);
        out.push(self.end.is_some().into());
        put_bytes(&mut out, self.end.as_deref().unwrap_or_default());
        out.into()
    }

    fn decode(key: &[u8], raw: Bytes) -> Result<Self, DecodeError> {
        let malformed = DecodeError { what: "divergence" };
        let (rest, node) = key.split_last_chunk::<8>().ok_or(malformed)?;
        let found = rest.last_chunk::<8>().ok_or(malformed)?;
        let mut reader = Reader::new(raw);
        let most = usize::MAX;
        let compared = Offset::new(reader.number("compared offset")?);
        let log_time = LogTime::new(reader.number("log time of a divergence")?);
        let has_majority = reader.byte("majority")? == 1;
        let projection = reader.text(most, "projection")?;
        let resource = reader.text(most, "resource")?;
        let resource = Some(resource).filter(|name| !name.is_empty());
        let resource = resource.map(|name| LogicalResourceName::new(&name)).transpose();
        let from = reader.bytes(most, "from")?;
        let has_end = reader.byte("end")? == 1;
        let end = reader.bytes(most, "end")?;
        reader.end("divergence")?;
        Ok(Self {
            node: NodeId::new(u64::from_be_bytes(*node)),
            compared,
            found: Offset::new(u64::from_be_bytes(*found)),
            log_time,
            has_majority,
            projection,
            resource: resource.map_err(|_| malformed)?,
            from,
            end: has_end.then_some(end),
        })
    }
}

/// A range of rows for people.
pub(super) fn range_text(from: &[u8], end: Option<&[u8]>) -> String {
    let end = end.map_or("the last".to_owned(), |end| format!("\"{}\"", end.escape_ascii()));
    format!("keys from=\"{}\" end={end}", from.escape_ascii())
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whose =
            if self.has_majority { "the majority's" } else { "others', and none is agreed on" };
        let Self { compared, projection, .. } = self;
        let resource = self.resource.as_ref().map_or("?", LogicalResourceName::as_str);
        let range = range_text(&self.from, self.end.as_deref());
        write!(
            f,
            "the state is not {whose}, offset={compared} projection={projection} \
             resource={resource} {range}"
        )
    }
}
