//! A node's replicas over one wal, without I/O: both drivers run this.
//!
//! Inputs are queued by group; a step lets every group that has some take them, and puts together
//! what they owe: one batch of writes for all groups as far as it fits, and one message of
//! heartbeats for each peer, however many groups beat. While the wal has no room, peers are not
//! listened to and callers are refused, so what waits stays bounded (G12).

use std::collections::{BTreeMap, VecDeque};

use palisade_wal::{BatchSeq, GroupId, WalError, Write};

use crate::effects::{Effects, Input, Ticket, WallTime};
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId};
use crate::replica::Replica;
use crate::wire::{Beat, Body, Envelope, NO_GROUP};

/// Writes of several groups share a batch of the wal up to about this size.
const BATCH_BYTES_TARGET: usize = 4 << 20;

struct Hosted {
    replica: Replica,
    inputs: Vec<Input>,
}

/// Whose writes a batch holds.
type Tickets = Vec<(GroupId, Ticket)>;

/// The replicas of one node.
pub(crate) struct Host {
    node: NodeId,
    groups: BTreeMap<GroupId, Hosted>,
    /// Groups with inputs.
    busy: Vec<GroupId>,
    /// Submitted batches of the wal and whose tickets each answers, in order.
    submitted: VecDeque<(BatchSeq, Tickets)>,
    /// Batches the wal had no room for; nothing is appended past them.
    unsubmitted: VecDeque<(Vec<Write>, Tickets)>,
}

/// What a step of the whole node owes beside its writes, which are with the wal already.
#[must_use = "dropped effects are lost messages"]
#[derive(Debug, Default)]
pub(crate) struct HostEffects {
    /// May leave now.
    pub(crate) send: Vec<Envelope>,
    /// What each group owes beside messages and writes.
    pub(crate) groups: Vec<(GroupId, Effects)>,
}

impl Host {
    pub(crate) fn new(node: NodeId, replicas: BTreeMap<GroupId, Replica>) -> Self {
        let host = |(group, replica)| (group, Hosted { replica, inputs: Vec::new() });
        Self {
            node,
            busy: replicas.keys().copied().collect(),
            groups: replicas.into_iter().map(host).collect(),
            submitted: VecDeque::new(),
            unsubmitted: VecDeque::new(),
        }
    }

    pub(crate) fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.groups.get(&group).map(|hosted| &hosted.replica)
    }

    pub(crate) fn replicas(&self) -> impl Iterator<Item = (GroupId, &Replica)> {
        self.groups.iter().map(|(group, hosted)| (*group, &hosted.replica))
    }

    /// True while the wal has no room for what is owed.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.unsubmitted.is_empty()
    }

    /// Queues an input for a group; one that is not hosted ignores it.
    pub(crate) fn input(&mut self, group: GroupId, input: Input) {
        let Some(hosted) = self.groups.get_mut(&group) else { return };
        if hosted.inputs.is_empty() {
            self.busy.push(group);
        }
        hosted.inputs.push(input);
    }

    /// One tick passed for all groups.
    pub(crate) fn tick(&mut self) {
        for (group, hosted) in &mut self.groups {
            if hosted.inputs.is_empty() {
                self.busy.push(*group);
            }
            hosted.inputs.push(Input::Tick);
        }
    }

    /// A node was met, in this life of it.
    pub(crate) fn meet(&mut self, node: NodeId, life: Incarnation) {
        for hosted in self.groups.values_mut() {
            hosted.replica.meet(node, life);
        }
    }

    /// A node says whether it knows this one in this life, and in no other.
    pub(crate) fn recognized(&mut self, by: NodeId, same: bool) {
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.input(group, Input::Recognized { by, same });
        }
    }

    /// A message arrived, from this life of its sender.
    pub(crate) fn deliver(&mut self, envelope: Envelope, life: Incarnation) {
        if self.is_stuck() || envelope.to != self.node {
            return;
        }
        match envelope.body {
            Body::Beats(beats) => {
                for beat in beats {
                    self.input(beat.group, Input::Beat { from: envelope.from, life, beat });
                }
            }
            _ => self.input(envelope.group, Input::Peer { envelope, life }),
        }
    }

    /// Everything up to this batch is durable.
    pub(crate) fn durable(&mut self, up_to: BatchSeq) {
        while self.submitted.front().is_some_and(|(seq, _)| *seq <= up_to) {
            let (_, tickets) = self.submitted.pop_front().expect("front was there");
            for (group, ticket) in tickets {
                self.input(group, Input::Durable { ticket });
            }
        }
    }

    /// Lets every group with inputs take them. `submit` gives a batch to the wal.
    pub(crate) fn step(
        &mut self,
        now: WallTime,
        mut submit: impl FnMut(&[Write]) -> Result<BatchSeq, WalError>,
    ) -> Result<HostEffects, NodeError> {
        let mut all = HostEffects::default();
        let mut batch = Batch::default();
        let mut beats: BTreeMap<NodeId, Vec<Beat>> = BTreeMap::new();
        let mut busy = std::mem::take(&mut self.busy);
        // Whatever order inputs came in, groups step in theirs.
        busy.sort_unstable();
        busy.dedup();
        for group in &busy {
            let hosted = self.groups.get_mut(group).expect("only hosted groups are busy");
            let mut effects = hosted.replica.step(now, hosted.inputs.drain(..))?;
            for write in effects.writes.drain(..) {
                batch.add(*group, write.ticket, write.writes, &mut self.unsubmitted);
            }
            for envelope in effects.send.drain(..) {
                match envelope.body {
                    Body::Beats(mut own) => beats.entry(envelope.to).or_default().append(&mut own),
                    _ => all.send.push(envelope),
                }
            }
            if effects.owes_more() {
                all.groups.push((*group, effects));
            }
        }
        busy.clear();
        self.busy = busy;
        batch.close(&mut self.unsubmitted);
        // The disk first: it is the slowest.
        while let Some((writes, tickets)) = self.unsubmitted.pop_front() {
            match submit(&writes) {
                Ok(seq) => self.submitted.push_back((seq, tickets)),
                Err(WalError::Backpressure { .. } | WalError::NoSpace) => {
                    self.unsubmitted.push_front((writes, tickets));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let from = self.node;
        all.send.extend(beats.into_iter().map(|(to, beats)| Envelope {
            group: NO_GROUP,
            from,
            to,
            body: Body::Beats(beats),
        }));
        Ok(all)
    }
}

/// Writes on their way into one batch of the wal.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    tickets: Tickets,
    bytes: usize,
}

impl Batch {
    /// Each group's write stays whole.
    fn add(
        &mut self,
        group: GroupId,
        ticket: Ticket,
        writes: Vec<Write>,
        full: &mut VecDeque<(Vec<Write>, Tickets)>,
    ) {
        let bytes: usize = writes.iter().map(write_bytes).sum();
        if self.bytes + bytes > BATCH_BYTES_TARGET {
            self.close(full);
        }
        self.bytes += bytes;
        self.writes.extend(writes);
        self.tickets.push((group, ticket));
    }

    fn close(&mut self, full: &mut VecDeque<(Vec<Write>, Tickets)>) {
        if !self.writes.is_empty() {
            full.push_back((std::mem::take(&mut self.writes), std::mem::take(&mut self.tickets)));
            self.bytes = 0;
        }
    }
}

fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Append { payload, .. } | Write::SetState { payload, .. } => payload.len() + 64,
        _ => 64,
    }
}
