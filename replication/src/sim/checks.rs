//! What the cluster checks by itself, whatever it is used for.

use std::collections::BTreeMap;

use palisade_wal::{GroupId, LogIndex};

use super::{SimCluster, SimMachine};
use crate::effects::Role;
use crate::entry::{AppliedPosition, CommittedEntry};
use crate::identity::{NodeId, Offset};
use crate::node_load::QueueLoad;
use crate::replica::Replica;

impl<M: SimMachine> SimCluster<M> {
    /// G2: an offset holds one record for ever, wherever it is applied.
    pub(super) fn check_records(&mut self, group: GroupId, entry: &CommittedEntry) {
        let mut offset = entry.first_offset;
        for record in &entry.records {
            let agreed = self.agreed.entry((group, offset));
            let agreed = agreed.or_insert_with(|| record.payload.clone());
            assert_eq!(*agreed, record.payload, "G2: group={group} offset={offset}");
            offset = offset.next();
        }
        let (index, term) = (entry.index, entry.term);
        let agreed = *self.terms.entry((group, index)).or_insert(term);
        assert_eq!(agreed, term, "G2: group={group} index={index}");
    }

    /// G8: equal offsets, equal histories.
    pub(super) fn check_head(&mut self, id: NodeId, group: GroupId) {
        let machine = &self.nodes[&id].machine;
        let (offset, head) = (machine.applied(group).offset, machine.head(group));
        let agreed = self.heads.entry((group, offset)).or_insert(head);
        assert_eq!(*agreed, head, "G8: node={id} group={group} offset={offset}");
        let index = machine.applied(group).index;
        let applied = self.applied.entry(group).or_insert(index);
        *applied = index.max(*applied);
    }

    /// At most one leader a term.
    pub(super) fn check_leaders(&mut self, id: NodeId) {
        let Some(running) = &self.nodes[&id].running else { return };
        let mut news = Vec::new();
        for (group, replica) in running.host.replicas().filter(|(_, replica)| replica.leads()) {
            let term = replica.term();
            let leader = *self.leaders.entry((group, term)).or_insert_with(|| {
                news.push(format!("group {group}: node {id} leads in term {term}"));
                id
            });
            assert_eq!(leader, id, "two leaders: group={group} term={term}");
        }
        for news in news {
            self.tell(|| news);
        }
    }

    /// G10: what a node had durable, and anybody has applied, it still has when it comes back, or it
    /// knows that it has not.
    pub(super) fn check_kept(&self, id: NodeId) {
        let node = &self.nodes[&id];
        let Some(running) = &node.running else { return };
        for (group, kept) in &node.kept {
            let Some(replica) = running.host.replica(*group) else { continue };
            if replica.is_on_probation() {
                continue;
            }
            let last = replica.status(0).last_index;
            assert!(
                *kept <= last,
                "G10: node={id} group={group} had kept index={kept}, ends at {last} and says nothing"
            );
            // What was trimmed has no term any more.
            if let (Some(agreed), Some(found)) =
                (self.terms.get(&(*group, *kept)), replica.term_of(*kept))
            {
                assert_eq!(*agreed, found, "G10: node={id} group={group} index={kept} is another");
            }
        }
    }

    /// Before a node goes down: what it must still have when it comes back. An entry of its own that
    /// another has been agreed on in place of is none of it.
    pub(super) fn note_kept(&mut self, id: NodeId) {
        self.check_kept(id);
        let (applied, terms) = (&self.applied, &self.terms);
        let node = self.nodes.get_mut(&id).expect("a known node");
        let Some(running) = &node.running else { return };
        // Nobody can know of a write that was lost before anything was written behind it.
        if node.disk.hides_a_loss() {
            return;
        }
        for (group, replica) in running.host.replicas().filter(|(_, r)| !r.is_on_probation()) {
            let applied = applied.get(&group).copied().unwrap_or(LogIndex::ZERO);
            let last = replica.persisted().min(applied);
            let is_other = |index: &LogIndex| {
                let agreed = terms.get(&(group, *index));
                agreed.is_some() && agreed != replica.term_of(*index).as_ref()
            };
            let indices = (0..=last.get()).rev().map(LogIndex::new);
            let kept = indices.into_iter().find(|index| !is_other(index)).unwrap_or_default();
            // Where every log begins is no entry. Who is just becoming a first voter may have nothing durable.
            if AppliedPosition::GENESIS.index < kept {
                node.kept.insert(group, kept);
            }
        }
    }

    /// G12: what waits in a replica stays within its bounds.
    pub(super) fn check_loads(&self, id: NodeId) {
        let Some(running) = &self.nodes[&id].running else { return };
        for (group, replica) in running.host.replicas() {
            for QueueLoad { queue, held, held_max } in replica.loads() {
                assert!(
                    held <= held_max,
                    "G12: node={id} group={group} {queue}: {held} of {held_max}"
                );
            }
        }
    }

    /// Says how every node sees a group.
    pub fn tell_group(&self, group: GroupId) {
        for (id, node) in &self.nodes {
            let replica = node.running.as_ref().and_then(|running| running.host.replica(group));
            let told = replica.map(Replica::told);
            let told = told.unwrap_or_else(|| format!("{:#?}", self.status(*id, group)));
            self.tell(|| format!("node {id} group {group}: {told} {:?}", node.halted));
        }
    }

    /// Every group's digest of every node in it is the same, at the same place, and every one of them
    /// may vote.
    ///
    /// # Panics
    /// When replicas differ (G8), or have not made up for what they lost, naming them.
    pub fn assert_converged(&self) {
        for id in self.nodes.keys() {
            self.check_kept(*id);
        }
        for group in self.groups() {
            for id in self.members(group) {
                let status = self.status(id, group);
                let role = status.as_ref().map(|status| status.role);
                let is_lost = self.is_lost(id, group);
                if is_lost || role.is_none_or(|role| role == Role::Repairing) {
                    self.tell_group(group);
                    panic!("liveness: node={id} of group={group} is {role:?}");
                }
            }
            let mut states: BTreeMap<(LogIndex, Offset, [u8; 32]), Vec<NodeId>> = BTreeMap::new();
            for id in self.members(group) {
                let machine = &self.nodes[&id].machine;
                let position = machine.applied(group);
                let digest = machine.digest(group);
                states.entry((position.index, position.offset, digest)).or_default().push(id);
            }
            if states.len() != 1 {
                self.tell_group(group);
            }
            assert_eq!(states.len(), 1, "G8: group={group} did not converge: {states:?}");
        }
    }
}
