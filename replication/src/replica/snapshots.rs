//! Snapshots: exported for whom the log can help no more, received, and installed.
//!
//! ```text
//!   leader                                              follower
//!   raft needs entries that are trimmed
//!   Export ... Exported: an offer
//!   MsgSnapshot with the manifest  ------------------>  Begin: which chunks are missing?
//!                                  <------------------  Fetch, a few at a time, at a bounded rate
//!   Serve                          ------------------>  Store: checked, written, synced
//!                                                       all there: raft takes the snapshot,
//!                                                       the log begins anew (durable),
//!                                                       then the state is installed
//! ```
//!
//! The receiver asks, so it sets the pace, and it goes on where it was after a crash of either side
//! as long as the leader offers the same snapshot. Nothing of it counts before all of it is there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use palisade_wal::LogIndex;
use raft::eraftpb::{Message, MessageType, Snapshot};
use raft::{ProgressState, SnapshotStatus};

use super::Replica;
use crate::effects::{Effects, ShelfEffect};
use crate::error::NodeError;
use crate::identity::NodeId;
use crate::log_store::Offer;
use crate::membership::Membership;
use crate::snapshot::{CHUNK_BYTES_TARGET, Manifest, SnapshotId};
use crate::wire::Body;

/// Chunks asked for and not yet stored.
const FETCHES_MAX: usize = 4;

/// What is sent from here.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// An export is under way that began when this was applied: it will stand there or later.
    exporting: Option<LogIndex>,
    /// The tick at which the offer was made: whom it is for has not been sent it yet.
    fresh: Option<u64>,
    /// Who was sent an offer and has not caught up since.
    helped: BTreeMap<NodeId, Helped>,
}

#[derive(Clone, Copy, Debug)]
struct Helped {
    /// When it was last sent an offer, asked for a chunk or confirmed more.
    tick: u64,
    /// It needs the log from here on.
    from: LogIndex,
}

impl Outgoing {
    /// From where the log is needed while snapshots are under way.
    pub(super) fn held_from(&self, offer: Option<&Offer>) -> Option<LogIndex> {
        let fresh = offer.filter(|_| self.fresh.is_some());
        let fresh = fresh.map(|offer| offer.manifest.position.index);
        let helped = self.helped.values().map(|helped| helped.from);
        // Trimmed beyond it meanwhile, a long export would be of use to nobody, and so the next.
        helped.chain(fresh).chain(self.exporting).min()
    }

    /// True if nothing is sent, nor about to be.
    pub(super) fn is_idle(&self) -> bool {
        self.exporting.is_none() && self.fresh.is_none() && self.helped.is_empty()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.helped.retain(|node, _| keep(*node));
    }
}

/// What is being received.
#[derive(Debug)]
pub(super) struct Incoming {
    from: NodeId,
    message: Message,
    manifest: Manifest,
    id: SnapshotId,
    /// What was not asked for yet; `None` until the disk has said.
    missing: Option<BTreeSet<u32>>,
    /// When each was asked for.
    asked: BTreeMap<u32, u64>,
    /// Arrived, on their way to the disk.
    storing: BTreeSet<u32>,
    /// Bytes that may be asked for now.
    credit: u64,
    heard: u64,
}

impl Replica {
    /// Asks for an export if raft wants to send a snapshot that is not there.
    pub(super) fn want_export(&mut self, effects: &mut Effects) {
        if self.raw.store().take_wanted()
            && self.outgoing.exporting.is_none()
            && self.installing.is_none()
        {
            self.outgoing.exporting = Some(self.applied.index);
            self.raw.mut_store().set_offer(None);
            effects.shelf.push(ShelfEffect::Export);
        }
    }

    pub(super) fn on_exported(&mut self, manifest: Option<Manifest>) {
        self.outgoing.exporting = None;
        let Some(manifest) = manifest else { return };
        let index = manifest.position.index;
        let store = self.raw.store();
        // The membership is that of the last change: of an older state it is not known here.
        let Some(term) = store.term_of(index).filter(|_| self.members_index <= index) else {
            return;
        };
        let members = super::members::conf_state(&self.members);
        let data = encode_offer(&self.members, &manifest);
        self.raw.mut_store().set_offer(Some(Offer { manifest, term, members, data }));
        self.outgoing.fresh = Some(self.tick);
    }

    pub(super) fn note_snapshot_sent(&mut self, message: &Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let from = LogIndex::new(message.get_snapshot().get_metadata().index);
            self.outgoing.helped.insert(NodeId::new(message.to), Helped { tick: self.tick, from });
        }
    }

    pub(super) fn on_fetch(
        &mut self,
        from: NodeId,
        snapshot: SnapshotId,
        chunk: u32,
        effects: &mut Effects,
    ) {
        if let Some(helped) = self.outgoing.helped.get_mut(&from) {
            helped.tick = self.tick;
        }
        effects.shelf.push(ShelfEffect::Serve { to: from, snapshot, chunk });
    }

    /// A leader offers a snapshot.
    pub(super) fn on_offer(
        &mut self,
        message: Message,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let from = NodeId::new(message.from);
        let Some((members, manifest)) = decode_offer(message.get_snapshot()) else {
            tracing::warn!(%from, "ignored an unreadable offer of a snapshot");
            return Ok(());
        };
        let named = members.member(self.config.node).and_then(|member| member.incarnation);
        if self.members.members.is_empty() && named != Some(self.config.incarnation) {
            // Meant for another life of this node, as far as anyone can tell.
            return Ok(());
        }
        let committed = self.raw.raft.raft_log.committed;
        if manifest.position.index.get() <= committed || message.term < self.raw.raft.term {
            // raft knows what to answer.
            return self.step_raft(message);
        }
        // One that raft has taken, in this very step perhaps, must stay where it is until the state
        // has it: room for another would be made in its place.
        if self.installing.is_some() || self.raw.raft.raft_log.unstable.snapshot.is_some() {
            return Ok(());
        }
        let id = manifest.id();
        if let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.id == id) {
            (incoming.from, incoming.message, incoming.heard) = (from, message, self.tick);
            return Ok(());
        }
        effects.shelf.push(ShelfEffect::Begin { manifest: manifest.clone() });
        self.incoming = Some(Incoming {
            from,
            message,
            manifest,
            id,
            missing: None,
            asked: BTreeMap::new(),
            storing: BTreeSet::new(),
            credit: 0,
            heard: self.tick,
        });
        Ok(())
    }

    pub(super) fn on_begun(
        &mut self,
        snapshot: SnapshotId,
        missing: Option<Vec<u32>>,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.id == snapshot)
        else {
            return Ok(());
        };
        let Some(missing) = missing else {
            // The leader offers it again.
            self.incoming = None;
            return Ok(());
        };
        incoming.missing = Some(missing.into_iter().collect());
        incoming.heard = self.tick;
        self.fetch(effects);
        self.take_if_whole()
    }

    pub(super) fn on_chunk(
        &mut self,
        from: NodeId,
        snapshot: SnapshotId,
        chunk: u32,
        bytes: Bytes,
        effects: &mut Effects,
    ) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.id == snapshot)
        else {
            return;
        };
        if incoming.asked.remove(&chunk).is_none() {
            return;
        }
        tracing::trace!(%from, chunk, "a chunk of a snapshot arrived");
        incoming.heard = self.tick;
        incoming.storing.insert(chunk);
        let manifest = incoming.manifest.clone();
        effects.shelf.push(ShelfEffect::Store { manifest, chunk, bytes });
    }

    pub(super) fn on_stored(
        &mut self,
        snapshot: SnapshotId,
        chunk: u32,
        held: bool,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.id == snapshot)
        else {
            return Ok(());
        };
        incoming.storing.remove(&chunk);
        incoming.heard = self.tick;
        if !held && let Some(missing) = &mut incoming.missing {
            // Altered on its way.
            missing.insert(chunk);
        }
        self.fetch(effects);
        self.take_if_whole()
    }

    /// Hands the snapshot to raft once all of it is here.
    fn take_if_whole(&mut self) -> Result<(), NodeError> {
        let whole = |incoming: &mut Incoming| {
            incoming.missing.as_ref().is_some_and(BTreeSet::is_empty)
                && incoming.asked.is_empty()
                && incoming.storing.is_empty()
        };
        match self.incoming.take_if(whole) {
            Some(incoming) => self.step_raft(incoming.message),
            None => Ok(()),
        }
    }

    /// Asks for as many chunks as the window and the rate allow.
    fn fetch(&mut self, effects: &mut Effects) {
        let Some(incoming) = &mut self.incoming else { return };
        let Some(missing) = &mut incoming.missing else { return };
        while incoming.asked.len() + incoming.storing.len() < FETCHES_MAX {
            let Some(chunk) = missing.first().copied() else { break };
            let length = u64::from(incoming.manifest.chunks[chunk as usize].length);
            if incoming.credit < length {
                break;
            }
            incoming.credit -= length;
            missing.remove(&chunk);
            incoming.asked.insert(chunk, self.tick);
            let body = Body::Fetch { snapshot: incoming.id, chunk };
            let (group, from, to) = (self.config.group, self.config.node, incoming.from);
            effects.send.push(crate::wire::Envelope { group, from, to, body });
        }
    }

    /// Repeats what was lost on its way, and gives up what leads nowhere.
    pub(super) fn mind_snapshots(&mut self, effects: &mut Effects) {
        let options = &self.config.options;
        let patience = u64::from(options.snapshot_patience_ticks);
        let lag_entries_max = options.lag_entries_max;
        let (tick, resend) = (self.tick, u64::from(options.resend_ticks));
        let per_tick = options.snapshot_bytes_per_second * options.tick_ms / 1000;
        if let Some(incoming) = &mut self.incoming {
            incoming.credit = (incoming.credit + per_tick)
                .min((FETCHES_MAX * 2 * CHUNK_BYTES_TARGET) as u64 + per_tick);
            if let Some(missing) = &mut incoming.missing {
                let lost: Vec<u32> = incoming
                    .asked
                    .extract_if(.., |_, at| *at + resend < tick)
                    .map(|(n, _)| n)
                    .collect();
                missing.extend(lost);
            }
            // Its own disk is no reason to give up: what it was asked for it answers.
            let waits_for_disk = incoming.missing.is_none() || !incoming.storing.is_empty();
            if !waits_for_disk && incoming.heard + patience < tick {
                // What is stored stays, and counts if the same snapshot is offered again.
                self.incoming = None;
            }
            self.fetch(effects);
        }
        self.outgoing.fresh.take_if(|at| *at + patience < tick);
        if self.outgoing.helped.is_empty() {
            return;
        }
        let leads = self.leads();
        let caught_up = self.raw.raft.raft_log.last_index().saturating_sub(lag_entries_max);
        let mut lost = Vec::new();
        let prs = self.raw.raft.prs();
        self.outgoing.helped.retain(|node, helped| {
            let Some(progress) = prs.get(node.get()).filter(|_| leads) else { return false };
            if helped.from.get() < progress.matched {
                // What it was sent took so long that the log would be gone again by now.
                *helped = Helped { tick, from: LogIndex::new(progress.matched) };
            }
            let patient = helped.tick + patience >= tick;
            let sending = progress.state == ProgressState::Snapshot;
            if sending && !patient {
                lost.push(*node);
            }
            patient && (sending || helped.from.get() < caught_up)
        });
        for node in lost {
            self.raw.report_snapshot(node.get(), SnapshotStatus::Failure);
        }
    }
}

/// What a snapshot's message says beside raft's part.
pub(super) fn encode_offer(members: &Membership, manifest: &Manifest) -> Bytes {
    let mut out = BytesMut::new();
    members.encode(&mut out);
    out.put_slice(&manifest.encode());
    out.freeze()
}

pub(super) fn decode_offer(snapshot: &Snapshot) -> Option<(Membership, Manifest)> {
    let mut raw = &snapshot.data[..];
    let members = Membership::decode(&mut raw)?;
    let manifest = Manifest::decode(raw.chunk())?;
    let metadata = snapshot.get_metadata();
    let agrees = manifest.position.index.get() == metadata.index
        && super::members::conf_state(&members) == *metadata.get_conf_state();
    agrees.then_some((members, manifest))
}

#[cfg(test)]
mod tests {
    use super::super::conf_state;
    use super::super::scenarios::{Replicas, life, options};
    use super::*;
    use crate::effects::{Input, WallTime};
    use crate::entry::AppliedPosition;
    use crate::identity::Term;
    use crate::membership::Member;
    use crate::snapshot::ChunkSum;
    use crate::wire::Envelope;

    fn step(replica: &mut Replica, input: Input) -> Effects {
        let (effects, ended) = replica.step(WallTime::from_ms(1), [input]);
        ended.unwrap();
        effects
    }

    fn offer((from, to): (NodeId, NodeId), members: &Membership, manifest: &Manifest) -> Body {
        let AppliedPosition { index, term, .. } = manifest.position;
        let mut snapshot =
            Snapshot { data: encode_offer(members, manifest), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index.get(), term.get());
        metadata.set_conf_state(conf_state(members));
        let (from, to, term) = (from.get(), to.get(), term.get());
        let mut message = Message { from, to, term, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.set_snapshot(snapshot);
        Body::Raft(protobuf::Message::write_to_bytes(&message).unwrap().into())
    }

    /// A node with nothing takes what is meant for it, and nothing that is meant for the life before, whose
    /// members it would have.
    #[test]
    fn a_snapshot_for_another_life_is_not_taken() {
        let three = Replicas::new(3, &options());
        let (from, to) = (NodeId::new(1), NodeId::new(4));
        let node = &three.nodes[&from];
        let mut config = node.replica.config.clone();
        (config.node, config.incarnation, config.first) = (to, life(to), None);
        let (group, index) = (config.group, LogIndex::new(100));
        let applied = AppliedPosition::ZERO;
        let wal = three.nodes[&NodeId::new(2)].wal.reader();
        let mut replica = Replica::open(config, None, wal, applied).unwrap();
        let position = AppliedPosition { index, term: Term::new(2), ..AppliedPosition::GENESIS };
        let manifest = Manifest { group, position, chunks: vec![ChunkSum::of(b"rows")] };
        let mut members = node.replica.members.clone();
        members.learners.insert(to);
        for (incarnation, is_taken) in
            [(Some(life(from)), false), (None, false), (Some(life(to)), true)]
        {
            members.members.insert(to, Member { incarnation, ..Member::default() });
            let envelope =
                Envelope { group, from, to, body: offer((from, to), &members, &manifest) };
            let effects = step(&mut replica, Input::Peer { envelope, life: life(from) });
            let begun =
                effects.shelf.iter().any(|effect| matches!(effect, ShelfEffect::Begin { .. }));
            assert_eq!(begun, is_taken, "{incarnation:?}");
        }
    }

    /// A disk that takes its time is no peer that has gone: begun anew, it would take as long again.
    #[test]
    fn a_transfer_waits_for_its_own_disk() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let leader = three.leader();
        let follower = *three.nodes.keys().find(|id| **id != leader).unwrap();
        let replica = &mut three.nodes.get_mut(&follower).unwrap().replica;
        let term = replica.raw.raft.term;
        let (group, index) = (replica.config.group, LogIndex::new(100));
        let chunk = Bytes::from_static(b"rows");
        let position = AppliedPosition { index, term: Term::new(term), ..AppliedPosition::GENESIS };
        let manifest = Manifest { group, position, chunks: vec![ChunkSum::of(&chunk)] };
        let from_leader = |body| Input::Peer {
            envelope: Envelope { group, from: leader, to: follower, body },
            life: life(leader),
        };
        let offer = offer((leader, follower), &replica.members, &manifest);
        let effects = step(replica, from_leader(offer));
        assert!(matches!(effects.shelf[..], [ShelfEffect::Begin { .. }]));

        let patience = replica.config.options.snapshot_patience_ticks;
        let wait = |replica: &mut Replica| {
            for _ in 0..3 * patience {
                let _ = step(replica, Input::Tick);
            }
        };
        wait(replica);
        let snapshot = manifest.id();
        let effects = step(replica, Input::Begun { snapshot, missing: Some(vec![0]) });
        let fetches = |effects: &Effects| {
            effects.send.iter().filter(|e| matches!(e.body, Body::Fetch { .. })).count()
        };
        assert_eq!(fetches(&effects), 1, "it goes on");
        let effects = step(replica, from_leader(Body::Chunk { snapshot, chunk: 0, bytes: chunk }));
        assert!(matches!(effects.shelf[..], [ShelfEffect::Store { .. }]));
        wait(replica);
        let effects = step(replica, Input::Stored { snapshot, chunk: 0, held: true });
        assert_eq!(replica.installing, Some(index), "all of it is there");
        assert!(!effects.writes.is_empty());
    }

    /// And a disk without room says so: the leader offers it again.
    #[test]
    fn a_transfer_that_finds_no_room_is_given_up() {
        let mut three = Replicas::new(3, &options());
        three.tick(40);
        let follower = *three.nodes.keys().find(|id| **id != three.leader()).unwrap();
        let replica = &mut three.nodes.get_mut(&follower).unwrap().replica;
        let position = AppliedPosition::GENESIS;
        let manifest = Manifest { group: replica.config.group, position, chunks: Vec::new() };
        let id = manifest.id();
        replica.incoming = Some(Incoming {
            from: follower,
            message: Message::default(),
            manifest,
            id,
            missing: None,
            asked: BTreeMap::new(),
            storing: BTreeSet::new(),
            credit: 0,
            heard: 0,
        });
        let _ = step(replica, Input::Begun { snapshot: id, missing: None });
        assert!(replica.incoming.is_none());
    }
}
