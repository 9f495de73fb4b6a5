//! What becomes of a numbered command, and which clients a group knows.

use bytes::Bytes;
use palisade_replication::{GroupId, LogTime, Offset};

use super::reply::{Reply, digest, length};
use super::rows::{Client, FAMILY, Header, Queue, client_key, last_two, replies, reply_key};
use super::{CLIENT_COMMANDS_MAX, REPLY_BYTES_MAX, Registrant};
use crate::command::{BatchCommand, Number};
use crate::error::Error;
use crate::outcome::{Outcome, Stamp};
use crate::projection::{At, ProjectionFault, Registry};
use crate::refusal::Refusal;
use crate::store::{Direction, StateRead, Walk};
use crate::view::View;

/// How much older a client's last use is before it moves. A client is known for so much longer than it asks.
const USE_MOVES_MS: u64 = 60_000;
/// What a client counts as beside its answers, and an answer beside its bytes: about what their rows take.
pub(super) const CLIENT_BYTES: u64 = 128;
pub(super) const ANSWER_BYTES: u64 = 64;

/// How many clients a group knows, and how much of them. Part of the format: replicas must agree on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientBounds {
    pub(crate) clients: u64,
    pub(crate) bytes: u64,
}

impl Default for ClientBounds {
    fn default() -> Self {
        Self { clients: 65_536, bytes: 256 << 20 }
    }
}

/// Why a command has no effect, whatever it is: its number says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberRefusal {
    /// The client is not known any more, and with it what it has done.
    Evicted { client: Offset },
    /// Somebody else registered the client.
    OfAnother { client: Offset },
    /// The number is that of another command.
    OtherCommand,
    /// The number is too low or too high.
    OutOfWindow { seq: u64, first: u64, last: u64 },
}

impl From<NumberRefusal> for Error {
    fn from(refusal: NumberRefusal) -> Self {
        match refusal {
            NumberRefusal::Evicted { client } => Self::ClientEvicted { client },
            NumberRefusal::OfAnother { client } => Self::ClientOfAnother { client },
            NumberRefusal::OtherCommand => Self::IdempotencyConflict { op: None },
            NumberRefusal::OutOfWindow { seq, first, last } => Self::InvalidArgument {
                what: format!(
                    "command number {seq} is outside of its client's window, {first} to {last}: \
                     the client went beyond it, or is too far ahead"
                ),
            },
        }
    }
}

/// Does a numbered command, or says what it has answered the first time. What the record leaves stands.
pub(crate) fn numbered(
    view: &mut View<'_>,
    registry: &Registry,
    at: At,
    bounds: ClientBounds,
    number: Number,
    batch: BatchCommand,
    effect: impl FnOnce(&mut View<'_>, BatchCommand) -> Result<Outcome, ProjectionFault>,
) -> Result<Outcome, ProjectionFault> {
    let Number { client: id, seq, acked_up_to, registrant } = number;
    let Some(mut client) = Client::load(view, at.group, id)? else {
        return Ok(Outcome::Unnumbered(NumberRefusal::Evicted { client: id }));
    };
    // Before anything is told of what the client has done.
    if client.registrant != registrant {
        return Ok(Outcome::Unnumbered(NumberRefusal::OfAnother { client: id }));
    }
    let digest = digest(&batch);
    if let Some(raw) = view.get(FAMILY, &reply_key(at.group, id, seq))? {
        let Reply { stamp, digest: first, outcome } = Reply::decode(raw, registry)?;
        return Ok(if first == digest {
            Outcome::Repeated { first: stamp, outcome: Box::new(outcome) }
        } else {
            Outcome::Unnumbered(NumberRefusal::OtherCommand)
        });
    }
    let acked = client.acked_up_to.max(acked_up_to);
    let last = acked.saturating_add(CLIENT_COMMANDS_MAX as u64);
    if seq <= acked || last < seq {
        let first = acked.saturating_add(1);
        return Ok(Outcome::Unnumbered(NumberRefusal::OutOfWindow { seq, first, last }));
    }
    let outcome = match effect(view, batch)? {
        outcome if length(&outcome) > REPLY_BYTES_MAX => {
            Outcome::Refused(Refusal::ReplyTooLong { bytes: length(&outcome) })
        }
        outcome => outcome,
    };
    if !outcome.stands() {
        view.drop_record();
    }
    let stamp = Stamp { offset: at.offset, log_time: at.log_time };
    let reply = Reply { stamp, digest, outcome };
    let raw = reply.encode()?;
    let mut table = ClientTable::load(view, at, bounds)?;
    if client.acked_up_to < acked {
        table.forget_replies(id, client.acked_up_to + 1, Some(acked))?;
        client.acked_up_to = acked;
    }
    table.keep_reply(id, client, seq, raw)?;
    view.keep_record();
    Ok(reply.outcome)
}

/// From which log time on there may be a client to forget.
pub(crate) fn due(
    read: &dyn StateRead,
    group: GroupId,
) -> Result<Option<LogTime>, ProjectionFault> {
    let from = Header::load(read, group)?.ends_from;
    Ok(first(read, group, Queue::End, from, None)?.map(|(time, _)| time))
}

/// The clients of a group while a record is applied.
pub(crate) struct ClientTable<'v, 's> {
    view: &'v mut View<'s>,
    at: At,
    header: Header,
    bounds: ClientBounds,
}

impl<'v, 's> ClientTable<'v, 's> {
    pub(crate) fn load(
        view: &'v mut View<'s>,
        at: At,
        bounds: ClientBounds,
    ) -> Result<Self, ProjectionFault> {
        let header = Header::load(view, at.group)?;
        Ok(Self { view, at, header, bounds })
    }

    /// Adds a client: its id is where this record is.
    pub(crate) fn register(
        mut self,
        ttl_ms: u64,
        registrant: Option<Registrant>,
    ) -> Result<Outcome, ProjectionFault> {
        let (id, now) = (self.at.offset, self.at.log_time);
        let ends = end(now, ttl_ms);
        if self.header.clients == 0 {
            (self.header.used_from, self.header.ends_from) = (now, ends);
        }
        self.header.clients += 1;
        self.header.bytes += CLIENT_BYTES;
        self.queue(Queue::Use, now, id);
        self.queue(Queue::End, ends, id);
        let client = Client { ttl_ms, used: now, acked_up_to: 0, ends, registrant };
        client.store(self.view, self.at.group, id);
        self.make_room(id)?;
        self.header.store(self.view, self.at.group);
        Ok(Outcome::Registered { client: id })
    }

    /// Forgets clients whose time is over, up to about so many rows.
    pub(crate) fn tidy(mut self, rows_max: usize) -> Result<(), ProjectionFault> {
        let before = self.header;
        let mut rows = 0;
        while rows < rows_max {
            let (group, from) = (self.at.group, self.header.ends_from);
            let Some((time, id)) = first(self.view, group, Queue::End, from, None)? else { break };
            self.header.ends_from = time;
            if self.at.log_time < time {
                break;
            }
            let mut client = self.client(id)?;
            let ends = end(client.used, client.ttl_ms);
            if ends <= self.at.log_time {
                rows += self.forget(id)?;
            } else {
                // It was used since.
                self.unqueue(Queue::End, client.ends, id);
                self.queue(Queue::End, ends, id);
                client.ends = ends;
                client.store(self.view, group, id);
                rows += 3;
            }
        }
        if self.header != before {
            self.header.store(self.view, self.at.group);
        }
        Ok(())
    }

    /// Keeps an answer, as the client's last use.
    fn keep_reply(
        &mut self,
        id: Offset,
        mut client: Client,
        seq: u64,
        raw: Bytes,
    ) -> Result<(), ProjectionFault> {
        let (group, now) = (self.at.group, self.at.log_time);
        self.header.bytes += ANSWER_BYTES + raw.len() as u64;
        self.view.put(FAMILY, reply_key(group, id, seq), raw);
        if now.get().saturating_sub(client.used.get()) >= USE_MOVES_MS {
            self.unqueue(Queue::Use, client.used, id);
            self.queue(Queue::Use, now, id);
            client.used = now;
        }
        client.store(self.view, group, id);
        self.make_room(id)?;
        self.header.store(self.view, group);
        Ok(())
    }

    /// Forgets those whose last use is longest ago until the bounds hold, but not this one.
    fn make_room(&mut self, own: Offset) -> Result<(), ProjectionFault> {
        while self.bounds.clients < self.header.clients || self.bounds.bytes < self.header.bytes {
            let (group, from) = (self.at.group, self.header.used_from);
            let Some((time, id)) = first(self.view, group, Queue::Use, from, Some(own))? else {
                break;
            };
            self.header.used_from = time.min(self.client(own)?.used);
            self.forget(id)?;
        }
        Ok(())
    }

    /// Takes all rows of a client, and says how many that were.
    fn forget(&mut self, id: Offset) -> Result<usize, ProjectionFault> {
        let client = self.client(id)?;
        let replies = self.forget_replies(id, client.acked_up_to.saturating_add(1), None)?;
        self.unqueue(Queue::Use, client.used, id);
        self.unqueue(Queue::End, client.ends, id);
        self.view.remove(FAMILY, client_key(self.at.group, id));
        self.header.clients = self.header.clients.saturating_sub(1);
        self.header.bytes = self.header.bytes.saturating_sub(CLIENT_BYTES);
        Ok(3 + replies)
    }

    /// Takes the answers of a client from a number on, and says how many those were.
    fn forget_replies(
        &mut self,
        id: Offset,
        from: u64,
        up_to: Option<u64>,
    ) -> Result<usize, ProjectionFault> {
        let (from, end) = replies(self.at.group, id, from, up_to);
        let mut gone = Vec::new();
        self.view.walk(FAMILY, &from, &end, Direction::Forward, &mut |key, value| {
            gone.push((key.to_vec(), value.len() as u64));
            Walk::Next
        })?;
        let count = gone.len();
        for (key, length) in gone {
            self.header.bytes = self.header.bytes.saturating_sub(ANSWER_BYTES + length);
            self.view.remove(FAMILY, key);
        }
        Ok(count)
    }

    /// A client that a queue names.
    fn client(&self, id: Offset) -> Result<Client, ProjectionFault> {
        Client::load(self.view, self.at.group, id)?
            .ok_or_else(|| ProjectionFault::new(format!("client={id} is queued, and has no row")))
    }

    fn queue(&mut self, queue: Queue, time: LogTime, id: Offset) {
        let from = match queue {
            Queue::Use => &mut self.header.used_from,
            Queue::End => &mut self.header.ends_from,
        };
        *from = time.min(*from);
        self.view.put(FAMILY, queue.key(self.at.group, time, id), Bytes::new());
    }

    fn unqueue(&mut self, queue: Queue, time: LogTime, id: Offset) {
        self.view.remove(FAMILY, queue.key(self.at.group, time, id));
    }
}

/// From when on a client may be forgotten that was used then, if it is not used again.
fn end(used: LogTime, ttl_ms: u64) -> LogTime {
    LogTime::new(used.get().saturating_add(ttl_ms).saturating_add(USE_MOVES_MS))
}

/// The first of a queue, but for one, and its time.
fn first(
    read: &dyn StateRead,
    group: GroupId,
    queue: Queue,
    from: LogTime,
    but: Option<Offset>,
) -> Result<Option<(LogTime, Offset)>, ProjectionFault> {
    let (from, end) = queue.from(group, from);
    let mut found = None;
    read.walk(FAMILY, &from, &end, Direction::Forward, &mut |key, _| {
        let row = last_two(key).map(|(time, id)| (LogTime::new(time), Offset::new(id)));
        if row.is_ok_and(|(_, id)| Some(id) == but) {
            return Walk::Next;
        }
        found = Some(row);
        Walk::Stop
    })?;
    Ok(found.transpose()?)
}
