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
    exporting: bool,
    /// When each follower was last sent an offer or asked for a chunk.
    heard: BTreeMap<NodeId, u64>,
}

impl Outgoing {
    /// From where the log is needed while snapshots are under way.
    pub(super) fn held_from(&self, offer: Option<&Offer>) -> Option<LogIndex> {
        let busy = !self.heard.is_empty();
        offer.filter(|_| busy).map(|offer| offer.manifest.position.index)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.heard.retain(|node, _| keep(*node));
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
        if self.raw.store().take_wanted() && !self.outgoing.exporting && self.installing.is_none() {
            self.outgoing.exporting = true;
            self.raw.mut_store().set_offer(None);
            effects.shelf.push(ShelfEffect::Export);
        }
    }

    pub(super) fn on_exported(&mut self, manifest: Option<Manifest>) {
        self.outgoing.exporting = false;
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
    }

    pub(super) fn note_snapshot_sent(&mut self, message: &Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.outgoing.heard.insert(NodeId::new(message.to), self.tick);
        }
    }

    pub(super) fn on_fetch(
        &mut self,
        from: NodeId,
        snapshot: SnapshotId,
        chunk: u32,
        effects: &mut Effects,
    ) {
        if let Some(heard) = self.outgoing.heard.get_mut(&from) {
            *heard = self.tick;
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
        let Some((_, manifest)) = decode_offer(message.get_snapshot()) else {
            tracing::warn!(%from, "ignored an unreadable offer of a snapshot");
            return Ok(());
        };
        let committed = self.raw.raft.raft_log.committed;
        if manifest.position.index.get() <= committed || message.term < self.raw.raft.term {
            // raft knows what to answer.
            return self.step_raft(message);
        }
        if self.installing.is_some() {
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
        missing: Vec<u32>,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.id == snapshot)
        else {
            return Ok(());
        };
        incoming.missing = Some(missing.into_iter().collect());
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
            if incoming.heard + patience < tick {
                // What is stored stays, and counts if the same snapshot is offered again.
                self.incoming = None;
            }
            self.fetch(effects);
        }
        if self.outgoing.heard.is_empty() {
            return;
        }
        let leads = self.leads();
        let mut lost = Vec::new();
        let prs = self.raw.raft.prs();
        self.outgoing.heard.retain(|node, heard| {
            let sending = leads
                && prs
                    .get(node.get())
                    .is_some_and(|progress| progress.state == ProgressState::Snapshot);
            if sending && *heard + patience < tick {
                lost.push(*node);
            }
            sending && *heard + patience >= tick
        });
        for node in lost {
            self.raw.report_snapshot(node.get(), SnapshotStatus::Failure);
        }
    }
}

/// What a snapshot's message says beside raft's part.
fn encode_offer(members: &Membership, manifest: &Manifest) -> Bytes {
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
