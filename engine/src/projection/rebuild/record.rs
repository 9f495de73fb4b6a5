//! What members say to each other about a rebuild, as records of the group.
//!
//! ```text
//! announce   1, node, kinds: count, each kind, version
//! begin      2, kind, version, members: count, each node
//! ready      3, kind, offset of its beginning, node
//! activate   4, kind, offset of its beginning, voters: count, each node
//! fail       5, kind, offset of its beginning, node, failure
//! again      6, kind
//! ```
//! Behind the version and kind of a command; nodes and kinds rise. See `state.rs` for the rest.

use palisade_replication::{NodeId, Offset};

use super::state::{Newest, RebuildFailure, put_newest, take_newest, take_nodes, take_version};
use crate::codec::{DecodeError, Reader, put_number};
use crate::resource::ResourceKind;
use crate::spec_codec::{put_kind, take_kind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RebuildCommand {
    /// A member can be rebuilt to these; to none, if there are none.
    Announce { node: NodeId, newest: Newest },
    /// Every member can: each builds the version from now on.
    Begin { kind: ResourceKind, version: u32, members: Vec<NodeId> },
    /// A member has it, and keeps it up.
    Ready { kind: ResourceKind, begun: Offset, node: NodeId },
    /// Every voter has: it decides from now on.
    Activate { kind: ResourceKind, begun: Offset, voters: Vec<NodeId> },
    /// It comes to nothing.
    Fail { kind: ResourceKind, begun: Offset, node: NodeId, failure: RebuildFailure },
    /// What failed may be tried again.
    Again { kind: ResourceKind },
}

impl RebuildCommand {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let put_nodes = |out: &mut Vec<u8>, nodes: &[NodeId]| {
            put_number(out, nodes.len() as u64);
            nodes.iter().for_each(|node| put_number(out, node.get()));
        };
        match self {
            Self::Announce { node, newest } => {
                out.push(1);
                put_number(out, node.get());
                put_newest(out, newest);
            }
            Self::Begin { kind, version, members } => {
                out.push(2);
                put_kind(out, kind);
                put_number(out, (*version).into());
                put_nodes(out, members);
            }
            Self::Ready { kind, begun, node } => {
                out.push(3);
                put_kind(out, kind);
                put_number(out, begun.get());
                put_number(out, node.get());
            }
            Self::Activate { kind, begun, voters } => {
                out.push(4);
                put_kind(out, kind);
                put_number(out, begun.get());
                put_nodes(out, voters);
            }
            Self::Fail { kind, begun, node, failure } => {
                out.push(5);
                put_kind(out, kind);
                put_number(out, begun.get());
                put_number(out, node.get());
                failure.put(out);
            }
            Self::Again { kind } => {
                out.push(6);
                put_kind(out, kind);
            }
        }
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let node = |reader: &mut Reader| reader.number("node").map(NodeId::new);
        let begun = |reader: &mut Reader| reader.number("offset").map(Offset::new);
        Ok(match reader.byte("rebuild")? {
            1 => Self::Announce { node: node(reader)?, newest: take_newest(reader)? },
            2 => Self::Begin {
                kind: take_kind(reader)?,
                version: take_version(reader)?,
                members: take_nodes(reader)?,
            },
            3 => {
                Self::Ready { kind: take_kind(reader)?, begun: begun(reader)?, node: node(reader)? }
            }
            4 => Self::Activate {
                kind: take_kind(reader)?,
                begun: begun(reader)?,
                voters: take_nodes(reader)?,
            },
            5 => Self::Fail {
                kind: take_kind(reader)?,
                begun: begun(reader)?,
                node: node(reader)?,
                failure: RebuildFailure::take(reader)?,
            },
            6 => Self::Again { kind: take_kind(reader)? },
            _ => return Err(DecodeError { what: "rebuild" }),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    use super::*;

    fn any_nodes() -> impl Strategy<Value = Vec<NodeId>> {
        btree_set(1_u64.., 0..4).prop_map(|nodes| nodes.into_iter().map(NodeId::new).collect())
    }

    fn any_failure() -> impl Strategy<Value = RebuildFailure> {
        prop_oneof![
            Just(RebuildFailure::NotImportable),
            (1_u64..).prop_map(|offset| RebuildFailure::Disagrees { offset: Offset::new(offset) }),
            ".{0,40}".prop_map(|what| RebuildFailure::Fault { what }),
            any::<u64>().prop_map(|bytes_max| RebuildFailure::QueueFull { bytes_max }),
            Just(RebuildFailure::Unregistered),
        ]
    }

    pub(crate) fn any_rebuild() -> impl Strategy<Value = RebuildCommand> {
        let kind = || "[a-z]{1,9}".prop_map(ResourceKind::of);
        let begun = || (1_u64..).prop_map(Offset::new);
        let node = || (1_u64..).prop_map(NodeId::new);
        prop_oneof![
            (node(), btree_map("[a-z]{1,9}", 1_u32.., 0..4)).prop_map(|(node, newest)| {
                let newest = newest.into_iter().map(|(kind, v)| (ResourceKind::of(kind), v));
                RebuildCommand::Announce { node, newest: newest.collect() }
            }),
            (kind(), 1_u32.., any_nodes()).prop_map(|(kind, version, members)| {
                RebuildCommand::Begin { kind, version, members }
            }),
            (kind(), begun(), node()).prop_map(|(kind, begun, node)| RebuildCommand::Ready {
                kind,
                begun,
                node
            }),
            (kind(), begun(), any_nodes()).prop_map(|(kind, begun, voters)| {
                RebuildCommand::Activate { kind, begun, voters }
            }),
            (kind(), begun(), node(), any_failure()).prop_map(|(kind, begun, node, failure)| {
                RebuildCommand::Fail { kind, begun, node, failure }
            }),
            kind().prop_map(|kind| RebuildCommand::Again { kind }),
        ]
    }

    /// Byte by byte. A change that is meant gets another version of the command.
    #[test]
    fn what_members_say_stays_as_it_is() {
        let (kind, begun) = (ResourceKind::of("stock"), Offset::new(300));
        let (node, nodes) = (NodeId::new(2), vec![NodeId::new(1), NodeId::new(300)]);
        let said = |command: RebuildCommand| {
            let mut raw = Vec::new();
            command.put(&mut raw);
            raw
        };
        let newest = vec![(kind.clone(), 2)];
        assert_eq!(said(RebuildCommand::Announce { node, newest }), b"\x01\x02\x01\x05stock\x02");
        let (members, voters) = (nodes.clone(), nodes);
        let begin = RebuildCommand::Begin { kind: kind.clone(), version: 2, members };
        assert_eq!(said(begin), b"\x02\x05stock\x02\x02\x01\xac\x02");
        let ready = RebuildCommand::Ready { kind: kind.clone(), begun, node };
        assert_eq!(said(ready), b"\x03\x05stock\xac\x02\x02");
        let activate = RebuildCommand::Activate { kind: kind.clone(), begun, voters };
        assert_eq!(said(activate), b"\x04\x05stock\xac\x02\x02\x01\xac\x02");
        let failure = RebuildFailure::Disagrees { offset: Offset::new(7) };
        let fail = RebuildCommand::Fail { kind: kind.clone(), begun, node, failure };
        assert_eq!(said(fail), b"\x05\x05stock\xac\x02\x02\x02\x07");
        assert_eq!(said(RebuildCommand::Again { kind }), b"\x06\x05stock");
    }
}
