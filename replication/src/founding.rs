//! A node that begins with a state somebody has put there: a restored one.
//!
//! To its log the state is what a log that was trimmed up to it would have led to. So the log is made
//! like that: it is empty, and its register says that it begins behind the state, with this node as the
//! only voter. Others join it and get a snapshot. Two voters that begin with states of their own would be
//! two histories under one name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use palisade_wal::{GroupId, Keys, Wal, WalIdentity, WalOptions, Write};

use crate::directory;
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::{ClusterId, Incarnation, LogTime, NodeId, Offset};
use crate::membership::{Member, Membership};
use crate::open_disk::OpenDisk;
use crate::register::Register;

/// What a node begins with.
#[derive(Clone)]
pub struct Founding {
    /// Where its log and its identity are to be. There must not be any yet.
    pub data_dir: PathBuf,
    /// How its files are opened.
    pub disk: OpenDisk,
    /// As it will be opened with.
    pub wal: WalOptions,
    /// What the log is sealed with, if with anything.
    pub keys: Keys,
    /// The cluster it founds, which must not be the one that the state comes from: to the members of
    /// that one it would be one of them.
    pub cluster: ClusterId,
    /// Which node it is.
    pub node: NodeId,
    /// How the others know it. The incarnation is that of the new directory.
    pub member: Member,
    /// The last record that the state of each group holds, and its log time.
    pub groups: BTreeMap<GroupId, (Offset, LogTime)>,
}

impl Founding {
    /// Where the state of a group stands that holds so many records.
    #[must_use]
    pub fn position(offset: Offset, log_time: LogTime) -> AppliedPosition {
        AppliedPosition { offset, log_time, ..AppliedPosition::FOUNDED }
    }

    /// Makes the node's directory and log, and syncs them. The state must be durable before, at
    /// [`Founding::position`]: a log without it is refused when the node is opened. If power fails
    /// inside, so is the state without its log; then empty the directory and begin again.
    ///
    /// # Errors
    /// When the directory holds a node already, or cannot be written.
    pub fn found(self) -> Result<Incarnation, NodeError> {
        if directory::is_claimed(&self.data_dir) {
            return Err(NodeError::InvalidArgument {
                what: format!("{} holds a node already: choose another", self.data_dir.display()),
            });
        }
        let incarnation = directory::claim(&self.data_dir, self.cluster, self.node)?;
        let member = Member { incarnation: Some(incarnation), ..self.member };
        let members = Membership::of_voters([(self.node, member)].into());
        let disk = self.disk.open(&directory::wal_dir(&self.data_dir))?;
        let identity = WalIdentity {
            cluster: self.cluster.get(),
            node: self.node.get(),
            incarnation: incarnation.get(),
        };
        let (mut wal, _) = Wal::open_with_keys(disk, identity, self.wal, self.keys)?;
        // All groups or none: a node that had some would begin the others anew.
        let writes = self.groups.into_iter().flat_map(|(group, (offset, log_time))| {
            let base = Self::position(offset, log_time);
            let register = Register {
                base,
                commit: base.index,
                members_index: base.members_index,
                ..Register::genesis(members.clone())
            };
            [
                Write::Reset { group, up_to: base.index },
                Write::SetState { group, payload: register.encode() },
            ]
        });
        let writes: Vec<Write> = writes.collect();
        wal.submit(&writes)?;
        wal.write_queued()?;
        wal.sync()?;
        Ok(incarnation)
    }
}
