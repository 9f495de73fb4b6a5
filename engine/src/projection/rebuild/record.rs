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

use super::state::{
    Newest, RebuildFailure, put_newest, take_newest, take_nodes, take_version,
};
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
            3 => Self::Ready {
                kind: take_kind(reader)?,
                begun: begun(reader)?,
                node: node(reader)?,
            },
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
