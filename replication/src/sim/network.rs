//! Simulated ways between nodes: what is lost, late, doubled, altered or cut off.

use std::collections::BTreeSet;

use bytes::BytesMut;

use super::{Event, SimCluster, SimMachine};
use crate::frame::{Frame, put_frame, take_frame};
use crate::identity::{Incarnation, NodeId};
use crate::wire::Envelope;

/// A message on its way, and whom the connection it is on was greeted by.
pub(super) struct Parcel {
    pub(super) envelope: Envelope,
    /// Which lives the two ends of the connection are in.
    from: Incarnation,
    to: Incarnation,
    altered: bool,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    blocked: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    pub(super) fn set_blocked(&mut self, from: NodeId, to: NodeId, blocked: bool) {
        if blocked {
            self.blocked.insert((from, to));
        } else {
            self.blocked.remove(&(from, to));
        }
    }

    pub(super) fn heal(&mut self) {
        self.blocked.clear();
    }
}

impl<M: SimMachine> SimCluster<M> {
    pub(super) fn send(&mut self, envelope: Envelope) {
        if !self.nodes.contains_key(&envelope.to) {
            return;
        }
        if self.random.per_mille(self.options.loss_per_mille) {
            self.count("message lost");
            return;
        }
        let from = self.nodes[&envelope.from].incarnation;
        let to = self.nodes[&envelope.to].incarnation;
        if self.random.per_mille(self.options.duplicate_per_mille) {
            self.count("message doubled");
            let delay = self.random.below(10 * self.options.delay_us_max);
            let parcel = Parcel { envelope: envelope.clone(), from, to, altered: false };
            self.schedule(delay, Event::Deliver(parcel));
        }
        let altered = self.random.per_mille(self.options.corrupt_per_mille);
        let delay = 20 + self.random.below(self.options.delay_us_max);
        self.schedule(delay, Event::Deliver(Parcel { envelope, from, to, altered }));
    }

    pub(super) fn deliver(&mut self, parcel: Parcel) {
        let (from, to) = (parcel.envelope.from, parcel.envelope.to);
        if self.network.blocked.contains(&(from, to)) {
            self.count("message cut off");
            return;
        }
        // Both sides of a connection remember the life of the other that they met first.
        let receiver = self.nodes[&to].incarnation;
        self.acquaint(from, to, receiver);
        self.acquaint(to, from, parcel.from);
        // A connection ends with either of its ends.
        if parcel.to != receiver || parcel.from != self.nodes[&from].incarnation {
            return;
        }
        if parcel.altered {
            self.check_altered(&parcel.envelope);
            return;
        }
        let size = parcel.envelope.encoded_bytes() as u64;
        self.note(&size.to_le_bytes(), to.get() << 32 | from.get());
        self.running(to).host.deliver(parcel.envelope, parcel.from);
        if !self.gathers() {
            self.step(to);
        }
    }

    /// A node with nothing asks the others who it is, as it dials them.
    pub(super) fn greet(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        let Some(first) = node.first.as_ref().filter(|_| !node.running().is_born()) else { return };
        let life = node.incarnation;
        let others: Vec<NodeId> = first.members.keys().copied().filter(|o| *o != id).collect();
        for other in others {
            let cut =
                [(id, other), (other, id)].iter().any(|way| self.network.blocked.contains(way));
            if cut || self.nodes[&other].running.is_none() {
                continue;
            }
            let met = self.nodes[&other].incarnation;
            self.acquaint(id, other, met);
            self.acquaint(other, id, life);
            let same = self.nodes[&other].acquaintances[&id] == life;
            self.running(id).host.recognized(other, same);
        }
    }

    fn acquaint(&mut self, who: NodeId, of: NodeId, life: Incarnation) {
        let node = self.nodes.get_mut(&who).expect("a known node");
        if node.acquaintances.contains_key(&of) {
            return;
        }
        node.acquaintances.insert(of, life);
        if let Some(running) = &mut node.running {
            running.host.meet(of, life);
        }
    }

    /// An altered frame never passes for a message.
    fn check_altered(&mut self, envelope: &Envelope) {
        self.count("message altered");
        let mut raw = BytesMut::new();
        put_frame(&mut raw, envelope);
        // The length is not covered by the checksum: a wrong one waits for bytes that never come,
        // or finds a wrong checksum.
        let at = self.random.below(raw.len() as u64) as usize;
        let bit = self.random.below(8);
        raw[at] ^= 1 << bit;
        assert!(
            !matches!(take_frame(&mut raw), Ok(Some(Frame::Message(_)))),
            "an altered message passed"
        );
    }
}
