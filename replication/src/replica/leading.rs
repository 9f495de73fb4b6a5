//! Proposals: what a leader packs into entries, and what everyone else forwards to it.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::StateRole;

use super::probation::Recounts;
use super::{Replica, invariant};
use crate::effects::{Effects, WallTime};
use crate::entry::{EntryBody, ProposalId, RECORD_HEADER_BYTES, Record};
use crate::error::NodeError;
use crate::identity::{LogTime, NodeId, Offset, Term};
use crate::proposals::ProposedInTerm;
use crate::wire::{Body, FORWARDED_HEADER_BYTES, Forward};

/// What only a leader has.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) term: Term,
    /// The tick at which it began.
    pub(super) since: u64,
    pub(super) next_offset: Offset,
    log_time: LogTime,
    proposed: ProposedInTerm,
    /// Who lost what it had confirmed, and is counted anew.
    pub(super) recounts: Recounts,
    /// Records taken in and not yet proposed.
    pub(super) batch: VecDeque<Record>,
    pub(super) batch_bytes: usize,
}

/// What a record costs in memory beside its payload, give or take.
pub(super) const RECORD_BYTES: usize = 128;

impl Leading {
    fn take_in(&mut self, id: ProposalId, payload: Bytes) {
        self.batch_bytes += payload.len();
        self.batch.push_back(Record { id, payload });
    }

    /// What it and a further record of this size would hold.
    fn bytes_with(&self, payload_bytes: usize) -> usize {
        self.batch_bytes + payload_bytes + (self.batch.len() + 1) * RECORD_BYTES
    }

    /// True if records wait to be proposed.
    pub(super) fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }
}

impl Replica {
    /// Reacts to a change of leader or term since the last look.
    pub(super) fn notice_leadership(&mut self, effects: &mut Effects) -> Result<(), NodeError> {
        let term = Term::new(self.raw.raft.term);
        let known = (self.leader(), term);
        if known != self.known {
            self.known = known;
            self.vitals.led(known);
            // Whoever was to confirm the barrier is gone.
            self.reads.restart(u64::MAX);
            self.report_flushed(effects);
        }
        let leads = self.raw.raft.state == StateRole::Leader;
        if let Some(leading) = self.leading.take_if(|leading| !leads || leading.term != term) {
            // Own records that were not proposed can go to the next leader at once.
            let session = self.config.session;
            let own = leading.batch.iter().filter(|record| record.id.session == session);
            self.pending.unsend(own.map(|record| record.id.seq));
            self.stop_leading(effects);
        }
        if leads && self.leading.is_none() {
            // Everything before this term is in the store; the term's own empty entry, which may
            // not be there yet, takes no offset.
            let store = self.raw.store();
            let (offset, log_time) = store.tail(store.last())?;
            self.leading = Some(Leading {
                term,
                since: self.tick,
                next_offset: offset.next(),
                log_time,
                proposed: ProposedInTerm::default(),
                recounts: Recounts::default(),
                batch: VecDeque::new(),
                batch_bytes: 0,
            });
            self.assign_domains();
        }
        Ok(())
    }

    /// Room for what every member may have pending. Callers who give up make room for others at
    /// their own node, but what they proposed waits on at the leader, so it counts for itself.
    fn intake_bytes_max(&self) -> usize {
        let options = &self.config.options;
        let member = options.proposals_bytes_max + options.proposals_max * RECORD_BYTES;
        member * self.members.members.len().max(1)
    }

    /// True if what waits to be proposed leaves room for a record of this size.
    pub(super) fn has_room(&self, payload_bytes: usize) -> bool {
        let leading = self.leading.as_ref();
        leading.is_none_or(|leading| leading.bytes_with(payload_bytes) <= self.intake_bytes_max())
    }

    pub(super) fn on_forward(&mut self, forward: Forward) {
        let intake_bytes_max = self.intake_bytes_max();
        let Some(leading) = self.leading.as_mut().filter(|l| l.term == forward.term) else {
            return;
        };
        leading.proposed.resolved(forward.session, forward.resolved_up_to);
        for (seq, payload) in forward.records {
            // A record that finds no room is not remembered, so the origin's next try counts.
            if leading.bytes_with(payload.len()) > intake_bytes_max {
                break;
            }
            if leading.proposed.first_time(forward.session, seq) {
                leading.take_in(ProposalId { session: forward.session, seq }, payload);
            }
        }
    }

    pub(super) fn dispatch_proposals(
        &mut self,
        now: WallTime,
        effects: &mut Effects,
    ) -> Result<(), NodeError> {
        let options = &self.config.options;
        let (session, tick) = (self.config.session, self.tick);
        if let Some(leading) = &mut self.leading {
            for (seq, payload) in self.pending.send(leading.term, tick) {
                if leading.proposed.first_time(session, seq) {
                    leading.take_in(ProposalId { session, seq }, payload);
                }
            }
            leading.proposed.resolved(session, self.pending.resolved_up_to());
            let busy = self.outstanding.len() >= options.appends_in_flight_max
                || self.backlog_bytes > options.apply_backlog_bytes_max
                || self.disk_is_full;
            if !busy && !leading.batch.is_empty() {
                return self.propose_entry(now);
            }
        } else if let Some(leader) = self.leader().filter(|leader| *leader != self.config.node) {
            let term = Term::new(self.raw.raft.term);
            let records = self.pending.send(term, tick);
            self.forward(leader, term, records, effects);
        }
        Ok(())
    }

    /// Sends records to the leader, in messages of a bounded size.
    pub(super) fn forward(
        &self,
        leader: NodeId,
        term: Term,
        records: Vec<(u64, Bytes)>,
        effects: &mut Effects,
    ) {
        let session = self.config.session;
        let resolved_up_to = self.pending.resolved_up_to();
        let mut send = |records| {
            let forward = Forward { term, session, resolved_up_to, records };
            effects.send.push(self.envelope(leader, Body::Forward(forward)));
        };
        let mut message = Vec::new();
        let mut bytes = 0;
        for (seq, payload) in records {
            let adds = FORWARDED_HEADER_BYTES + payload.len();
            if bytes + adds > self.config.options.message_bytes_max && !message.is_empty() {
                send(std::mem::take(&mut message));
                bytes = 0;
            }
            bytes += adds;
            message.push((seq, payload));
        }
        if !message.is_empty() {
            send(message);
        }
    }

    /// Packs what has arrived into one entry. Called while the disk has room for another append, so
    /// the size of a batch follows from what arrives during a sync, and no timer is involved.
    fn propose_entry(&mut self, now: WallTime) -> Result<(), NodeError> {
        let leading = self.leading.as_mut().expect("only a leader proposes");
        let log_time = leading.log_time.max(LogTime::new(now.as_ms()));
        let mut records = Vec::with_capacity(leading.batch.len());
        let (mut bytes, mut entry_bytes) = (0, 0);
        while let Some(record) = leading.batch.front() {
            // Empty records count too: what a message may hold has a bound.
            entry_bytes += RECORD_HEADER_BYTES + record.payload.len();
            if entry_bytes > self.config.options.entry_bytes_target && !records.is_empty() {
                break;
            }
            bytes += record.payload.len();
            records.extend(leading.batch.pop_front());
        }
        leading.batch_bytes -= bytes;
        let body = EntryBody { first_offset: leading.next_offset, log_time, records };
        match self.raw.propose(Vec::new(), body.encode().into()) {
            Ok(()) => {
                leading.next_offset = body.last_offset().next();
                leading.log_time = log_time;
                Ok(())
            }
            Err(raft::Error::ProposalDropped) => {
                // Too much is uncommitted, or leadership is being handed over: the records keep
                // their place and are tried again with the next input.
                leading.batch_bytes += bytes;
                for record in body.records.into_iter().rev() {
                    leading.batch.push_front(record);
                }
                Ok(())
            }
            Err(error) => Err(invariant(format!("raft refused an entry: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::Input;
    use crate::options::Options;
    use crate::replica::scenarios::Replicas;

    /// Callers who give up leave their records with a leader whose disk is slow: it takes no more
    /// than it has room for, whether they come from its own callers or over other nodes.
    #[test]
    fn records_of_callers_who_gave_up_are_bounded_too() {
        const RECORD: usize = 1 << 10;
        let options = Options {
            proposals_max: 16,
            proposals_bytes_max: 16 * RECORD,
            record_bytes_max: RECORD,
            ..Options::default()
        };
        let mut three = Replicas::new(3, &options);
        three.tick(100);
        let leader = three.leader();
        let replica = three.replica(leader);
        let now = WallTime::from_ms(1);
        let mut taken = 0;
        for seq in 1..=1000 {
            if replica.refusal(RECORD).is_some() {
                break;
            }
            taken += 1;
            // Its writes are never done.
            let payload = Bytes::from(vec![0; RECORD]);
            replica.step(now, [Input::Propose { seq, payload }]).1.unwrap();
            replica.step(now, [Input::Abandon { seq }]).1.unwrap();
        }
        assert!(taken < 200, "{taken} records were taken");
        for small in [false, true] {
            let records =
                (1..=1000).map(|seq| (seq, Bytes::from(vec![0; if small { 0 } else { RECORD }])));
            let (term, session) = (replica.term(), 77 + u64::from(small));
            let records = records.collect();
            replica.on_forward(Forward { term, session, resolved_up_to: 0, records });
            let leading = replica.leading.as_ref().unwrap();
            assert!(leading.batch.len() < 500, "{} records wait", leading.batch.len());
        }
    }

    const TARGET: usize = 2 * (RECORD_HEADER_BYTES + 8);

    /// A leader that packs entries of at most `TARGET` bytes, with records of these sizes to propose,
    /// numbered from 1.
    fn leader_with(sizes: &[usize]) -> (Replicas, NodeId) {
        let mut three = Replicas::new(3, &Options::default());
        three.tick(100);
        let leader = three.leader();
        let replica = three.replica(leader);
        replica.config.options.entry_bytes_target = TARGET;
        let records = (1..).zip(sizes.iter().map(|size| Bytes::from(vec![0; *size]))).collect();
        let term = replica.term();
        replica.on_forward(Forward { term, session: 77, resolved_up_to: 0, records });
        (three, leader)
    }

    /// What waits to be proposed, which is what is counted as such.
    fn waiting(replica: &Replica) -> Vec<u64> {
        let leading = replica.leading.as_ref().unwrap();
        let bytes: usize = leading.batch.iter().map(|record| record.payload.len()).sum();
        assert_eq!(leading.batch_bytes, bytes);
        leading.batch.iter().map(|record| record.id.seq).collect()
    }

    fn proposed(replica: &mut Replica) -> Vec<u64> {
        replica.propose_entry(WallTime::from_ms(1)).unwrap();
        let entries = &replica.raw.raft.raft_log.unstable.entries;
        let body = EntryBody::decode(entries.last().unwrap().data.clone()).unwrap();
        let next_offset = replica.leading.as_ref().unwrap().next_offset;
        assert_eq!(body.last_offset().next(), next_offset);
        body.records.iter().map(|record| record.id.seq).collect()
    }

    /// What an entry holds is bounded by its bytes, headers included; what is longer goes alone.
    #[test]
    fn an_entry_takes_what_fits_and_at_least_one_record() {
        let (mut three, leader) = leader_with(&[8, 8, 0, TARGET, 8, 9, 0, 0, 0, 16]);
        let replica = three.replica(leader);
        assert_eq!(waiting(replica), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(proposed(replica), [1, 2], "just full");
        assert_eq!(waiting(replica), [3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(proposed(replica), [3]);
        assert_eq!(proposed(replica), [4], "longer than any entry is to be");
        assert_eq!(waiting(replica), [5, 6, 7, 8, 9, 10]);
        assert_eq!(proposed(replica), [5], "one byte too many for both");
        assert_eq!(proposed(replica), [6, 7]);
        assert_eq!(proposed(replica), [8, 9], "their headers fill it");
        assert_eq!(waiting(replica), [10]);
        assert_eq!(proposed(replica), [10]);
        assert_eq!(waiting(replica), [0; 0]);
    }

    /// While leadership is handed over raft takes nothing: the records keep their places and offsets.
    #[test]
    fn what_raft_does_not_take_keeps_its_place() {
        let (mut three, leader) = leader_with(&[8, 7, 1]);
        let to = three.ids().into_iter().find(|id| *id != leader).unwrap();
        let replica = three.replica(leader);
        let next_offset = replica.leading.as_ref().unwrap().next_offset;
        let last_index = replica.status(0).last_index;
        replica.on_transfer(to);
        replica.propose_entry(WallTime::from_ms(1)).unwrap();
        assert_eq!(waiting(replica), [1, 2, 3]);
        assert_eq!(replica.leading.as_ref().unwrap().next_offset, next_offset);
        assert_eq!(replica.status(0).last_index, last_index);
        replica.raw.raft.abort_leader_transfer();
        assert_eq!(proposed(replica), [1, 2]);
        assert_eq!(waiting(replica), [3]);
    }

    /// What raft did not take is tried again with the next tick, which must not be left out.
    #[test]
    fn a_leader_with_records_to_propose_does_not_rest() {
        let (mut three, leader) = leader_with(&[]);
        let rests = (0..10).any(|_| {
            three.tick(1);
            three.replica(leader).rest().ticks > 0
        });
        assert!(rests, "it has nothing to do");
        let replica = three.replica(leader);
        let (term, records) = (replica.term(), vec![(1, Bytes::from_static(b"record"))]);
        replica.on_forward(Forward { term, session: 77, resolved_up_to: 0, records });
        assert_eq!(waiting(replica), [1]);
        assert_eq!(replica.rest().ticks, 0);
    }
}
