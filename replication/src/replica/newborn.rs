//! A first voter begins with nothing, as one that lost its data directory does. What tells them apart
//! is what the others remember.
//!
//! A node with nothing takes no part: it neither votes nor confirms. It becomes a first voter once so
//! many of the others know it in this life, and in no other, that every majority which it may have
//! been part of in an earlier life had one of them in it. Those have written down that they met it
//! before they said so. For three voters that means: a new group begins when all of them are there.

use palisade_wal::{GroupId, Write};
use raft::RawNode;

use super::open::raft_config;
use super::{Replica, invariant};
use crate::entry::AppliedPosition;
use crate::error::NodeError;
use crate::identity::NodeId;
use crate::membership::Membership;
use crate::register::Register;

/// How many others must know a first voter.
fn witnesses(voters: usize) -> usize {
    let majority = voters / 2 + 1;
    (voters - majority + 1).min(voters - 1)
}

impl Replica {
    pub(super) fn on_recognized(&mut self, by: NodeId, same: bool) -> Result<(), NodeError> {
        if !same && self.members.members.is_empty() && self.recognized.get(&by) != Some(&false) {
            tracing::error!(
                node = %self.config.node,
                %by,
                "this data directory is not the one that the group knows: have it replaced"
            );
        }
        self.recognized.insert(by, same);
        self.be_born_if_known()
    }

    /// Becomes a first voter if enough others know this node.
    pub(super) fn be_born_if_known(&mut self) -> Result<(), NodeError> {
        let Some(first) = &self.config.first else { return Ok(()) };
        if !self.members.members.is_empty() || self.incoming.is_some() {
            return Ok(());
        }
        let known = |same| {
            let others = first.members.keys().filter(|id| **id != self.config.node);
            others.filter(|id| self.recognized.get(id) == Some(&same)).count()
        };
        if known(false) > 0 || known(true) < witnesses(first.voters.len()) {
            return Ok(());
        }
        let first = first.clone();
        self.be_born(self.config.group, first)?;
        self.campaign_alone()
    }

    fn be_born(&mut self, group: GroupId, first: Membership) -> Result<(), NodeError> {
        let register = Register::genesis(first);
        let base = AppliedPosition::GENESIS;
        let store = self.raw.store().reborn(&register);
        self.raw =
            RawNode::new(&raft_config(&self.config, base), store, &crate::raft_log::logger())
                .map_err(|error| invariant(format!("raft refused to begin: {error}")))?;
        // What was owed for the node with nothing is answered to nobody.
        self.tickets_before = self.last_ticket;
        self.outstanding.clear();
        (self.emitted, self.applied) = (base, base);
        self.members = register.members.clone();
        self.members_index = register.members_index;
        self.written = register;
        self.register_dirty = true;
        self.resets = vec![Write::Reset { group, up_to: base.index }];
        self.members_changed();
        Ok(())
    }

    /// A single voter need not wait for an election timeout: nobody else can lead.
    pub(super) fn campaign_alone(&mut self) -> Result<(), NodeError> {
        let alone = self.members.other_voters(self.config.node).next().is_none();
        if alone && self.probation.is_none() && self.raw.raft.promotable() {
            self.raw.campaign().map_err(|error| invariant(format!("campaign: {error}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::witnesses;

    /// Any majority with the node in it has a witness in it.
    #[test]
    fn witnesses_meet_every_majority() {
        assert_eq!(witnesses(1), 0);
        for voters in 2..=15 {
            let majority = voters / 2 + 1;
            let others = voters - 1;
            assert!(witnesses(voters) + (majority - 1) > others || witnesses(voters) == others);
        }
    }
}
