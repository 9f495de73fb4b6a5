//! What raft wants done, as effects: writes, messages that may leave at once or only after them,
//! committed entries.

use palisade_wal::{LogIndex, Write};
use protobuf::Message as _;
use raft::Ready;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::probation::confirms;
use super::raft_codec;
use super::{Outstanding, Replica, invariant};
use crate::effects::{Apply, Effects, Ticket, WriteEffect};
use crate::entry::{AppliedPosition, CommittedEntry, EntryBody};
use crate::error::NodeError;
use crate::identity::{NodeId, Term};
use crate::log_store::encode_entry;
use crate::register::Register;
use crate::wire::{Beat, Body, Envelope};

/// A register that only lags in its commit index is written again after this many entries.
const COMMIT_LAG_MAX: u64 = 1024;

impl Replica {
    pub(super) fn take_ready(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        let mut ready = self.raw.ready();
        let install = if ready.snapshot().is_empty() {
            None
        } else {
            Some(self.restore(ready.snapshot(), effects)?)
        };
        for message in ready.take_messages() {
            effects.send.push(self.raft_envelope(&message)?);
            self.note_snapshot_sent(&message);
        }
        for read in ready.take_read_states() {
            self.on_read_state(&read, effects);
        }
        let committed = ready.take_committed_entries();
        let promises = ready.take_persisted_messages();
        let (writes, entries) = self.writes_of(&mut ready);
        let number = ready.number();
        self.raw.advance_append_async(ready);
        let owed = Outstanding { number, entries, promises, install };
        self.owe(owed, writes, effects)?;
        for entry in committed {
            self.emit(entry, effects)?;
        }
        Ok(())
    }

    /// What a ready wants on disk, and which entries those are.
    fn writes_of(&mut self, ready: &mut Ready) -> (Vec<Write>, Option<(u64, u64)>) {
        let group = self.config.group;
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        self.note_demands(&entries);
        // A log that begins anew does so before it grows again.
        let mut writes: Vec<Write> = self.resets.drain(..).collect();
        writes.extend(entries.iter().map(|entry| Write::Append {
            group,
            index: LogIndex::new(entry.index),
            payload: encode_entry(entry),
        }));
        let raft = &self.raw.raft;
        let base = self.raw.store().base();
        let commit = LogIndex::new(raft.raft_log.committed);
        let lag = commit.get() - self.written.commit.get().min(commit.get());
        let moved = (Term::new(raft.term), raft.vote, base)
            != (self.written.term, self.written.vote, self.written.base);
        if moved || self.register_dirty || lag >= COMMIT_LAG_MAX {
            let register = Register {
                term: Term::new(raft.term),
                vote: raft.vote,
                commit,
                base,
                members_index: self.members_index,
                probation: self.probation.is_some(),
                members: self.members.clone(),
            };
            writes.push(Write::SetState { group, payload: register.encode() });
            self.written = register;
            self.register_dirty = false;
        }
        writes.append(&mut self.trims);
        let range =
            entries.first().zip(entries.last()).map(|(first, last)| (first.index, last.index));
        (writes, range)
    }

    /// Hands out the writes of a ready; its promises leave when they and all before are durable.
    fn owe(
        &mut self,
        owed: Outstanding,
        writes: Vec<Write>,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        if !writes.is_empty() {
            self.last_ticket = owed.number + self.tickets_before;
            effects.writes.push(WriteEffect { ticket: Ticket(self.last_ticket), writes });
            self.outstanding.push_back(owed);
        } else if let Some(last) = self.outstanding.back_mut() {
            // Nothing of its own to write, but it may promise what an earlier write holds.
            last.promises.extend(owed.promises);
        } else {
            self.raw.on_persist_ready(owed.number);
            self.promise(owed.promises, effects)?;
        }
        Ok(())
    }

    /// What these messages promise is durable: they may leave.
    pub(super) fn promise(
        &mut self,
        messages: Vec<Message>,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        for message in messages {
            self.note_confirmed(&message);
            effects.send.push(self.raft_envelope(&message)?);
        }
        Ok(())
    }

    fn raft_envelope(&self, message: &Message) -> Result<Envelope, NodeError> {
        let to = NodeId::new(message.to);
        let answer = message.get_msg_type() == MessageType::MsgHeartbeatResponse;
        if (answer || message.get_msg_type() == MessageType::MsgHeartbeat)
            && message.context.is_empty()
        {
            // Many groups beat at once: the host puts these together.
            let beat = Beat {
                group: self.config.group,
                term: Term::new(message.term),
                commit: LogIndex::new(message.commit),
                answer,
            };
            return Ok(self.envelope(to, Body::Beats(vec![beat])));
        }
        let bytes = message
            .write_to_bytes()
            .map_err(|error| invariant(format!("raft message does not encode: {error}")))?;
        let bytes = bytes.into();
        let body = if confirms(message) {
            Body::Confirm { stand: self.stand, message: bytes }
        } else {
            Body::Raft(bytes)
        };
        Ok(self.envelope(to, body))
    }

    /// Hands a committed entry to apply, and settles own proposals by it.
    fn emit(&mut self, entry: Entry, effects: &mut Effects) -> Result<(), NodeError> {
        let index = LogIndex::new(entry.index);
        let term = Term::new(entry.term);
        assert_eq!(index, self.emitted.index.next(), "entries are committed in order");
        assert!(self.emitted.term <= term, "terms never fall along the log");
        let unreadable = |error: &dyn std::fmt::Display| NodeError::Damaged {
            what: format!("entry index={index}: {error}"),
        };
        let bytes = entry.data.len();
        let next = self.emitted.offset.next();
        let changes = entry.get_entry_type() != EntryType::EntryNormal;
        if changes {
            let change =
                raft_codec::conf_change(&entry.data).map_err(|error| unreadable(&error))?;
            // After a restart the register may hold it already.
            if self.members_index < index {
                self.apply_change(index, &change)?;
            }
            self.settle_change(index, effects);
        }
        let (first_offset, log_time, records) = if changes || entry.data.is_empty() {
            (next, self.emitted.log_time, Vec::new())
        } else {
            let body = EntryBody::decode(entry.data).map_err(|error| unreadable(&error))?;
            (body.first_offset, body.log_time, body.records)
        };
        // G2: what the leader assigned is what follows here.
        if first_offset != next || log_time < self.emitted.log_time {
            return Err(invariant(format!(
                "entry index={index} starts at offset={first_offset}, expected={next}"
            )));
        }
        for record in &records {
            if record.id.session == self.config.session {
                self.pending.resolve(record.id.seq);
            }
        }
        if self.emitted.term < term {
            self.pending.lost(term);
        }
        let members_index = if changes { index } else { self.emitted.members_index };
        let entry = CommittedEntry { index, term, log_time, first_offset, records, members_index };
        self.emitted = entry.end();
        self.backlog.push_back((index, bytes));
        self.backlog_bytes += bytes;
        effects.apply.push(Apply::Entry(entry));
        Ok(())
    }

    /// A snapshot takes the place of the log; the state follows once that is durable.
    fn restore(
        &mut self,
        snapshot: &raft::eraftpb::Snapshot,
        effects: &mut Effects,
    ) -> Result<AppliedPosition, NodeError> {
        let metadata = snapshot.get_metadata();
        let (members, manifest) = super::snapshots::decode_offer(snapshot)
            .ok_or_else(|| invariant("raft restores a snapshot that was not offered".into()))?;
        let base = manifest.position;
        assert_eq!((base.index.get(), base.term.get()), (metadata.index, metadata.term));
        let group = self.config.group;
        tracing::info!(%group, offset = %base.offset, "a snapshot takes the place of the log");
        self.raw.mut_store().reset(base);
        // What was to be written of the old log is gone with it.
        self.trims.clear();
        self.resets = vec![Write::Reset { group, up_to: base.index }];
        self.members = members;
        self.members_index = base.index;
        self.register_dirty = true;
        self.demanded = None;
        self.members_changed();
        effects.members_changed = true;
        self.emitted = base;
        self.installing = Some(base.index);
        // What was sent may be committed in what is skipped: nobody here will see it.
        effects.unknown.extend(self.pending.give_up_sent());
        Ok(base)
    }
}
