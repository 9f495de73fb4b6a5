//! The rows of clients, in the family `sessions`: which there are is told in `docs/sessions.md`.

use bytes::Bytes;
use palisade_replication::{GroupId, LogTime, Offset};

use super::Registrant;
use crate::codec::{DecodeError, Reader, put_number};
use crate::keys;
use crate::projection::ProjectionFault;
use crate::store::{FamilyId, StateRead};
use crate::view::View;

pub(super) const FAMILY: FamilyId = FamilyId::SESSIONS;

/// What the table as a whole comes to, and where its queues begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) clients: u64,
    /// What the clients and their answers are counted as.
    pub(crate) bytes: u64,
    /// No client was used before. Spares who looks for the first the walk over all that are gone.
    pub(super) used_from: LogTime,
    /// No client is to be looked at before.
    pub(super) ends_from: LogTime,
}

/// A client, but for its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) ttl_ms: u64,
    /// Its place in the queue by use.
    pub(crate) used: LogTime,
    pub(crate) acked_up_to: u64,
    /// Its place in the queue by end.
    pub(crate) ends: LogTime,
    /// For whom alone it is, if it is.
    pub(crate) registrant: Option<Registrant>,
}

fn key(group: GroupId, tag: u8, rest: &[u64]) -> Vec<u8> {
    let mut key = group.get().to_be_bytes().to_vec();
    key.push(tag);
    rest.iter().for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
    key
}

fn header_key(group: GroupId) -> Vec<u8> {
    key(group, b'h', &[])
}

pub(super) fn client_key(group: GroupId, client: Offset) -> Vec<u8> {
    key(group, b'c', &[client.get()])
}

pub(super) fn reply_key(group: GroupId, client: Offset, seq: u64) -> Vec<u8> {
    key(group, b'r', &[client.get(), seq])
}

/// A queue of clients by a time.
#[derive(Clone, Copy)]
pub(super) enum Queue {
    Use,
    End,
}

impl Queue {
    const fn tag(self) -> u8 {
        match self {
            Self::Use => b'u',
            Self::End => b'e',
        }
    }

    pub(super) fn key(self, group: GroupId, time: LogTime, client: Offset) -> Vec<u8> {
        key(group, self.tag(), &[time.get(), client.get()])
    }

    /// All of it from a time on.
    pub(super) fn from(self, group: GroupId, time: LogTime) -> (Vec<u8>, Vec<u8>) {
        (key(group, self.tag(), &[time.get()]), key(group, self.tag() + 1, &[]))
    }
}

/// The last two numbers of a key, which is longer.
pub(super) fn last_two(key: &[u8]) -> Result<(u64, u64), DecodeError> {
    let malformed = DecodeError { what: "key of a client" };
    let (rest, second) = key.split_last_chunk::<8>().ok_or(malformed)?;
    let (_, first) = rest.split_last_chunk::<8>().ok_or(malformed)?;
    Ok((u64::from_be_bytes(*first), u64::from_be_bytes(*second)))
}

impl Header {
    pub(crate) fn load(read: &dyn StateRead, group: GroupId) -> Result<Self, ProjectionFault> {
        let Some(raw) = read.get(FAMILY, &header_key(group))? else {
            let never = LogTime::new(0);
            return Ok(Self { clients: 0, bytes: 0, used_from: never, ends_from: never });
        };
        let mut reader = Reader::new(raw);
        let header = Self {
            clients: reader.number("client count")?,
            bytes: reader.number("client bytes")?,
            used_from: LogTime::new(reader.number("first use")?),
            ends_from: LogTime::new(reader.number("first end")?),
        };
        reader.end("client header")?;
        Ok(header)
    }

    pub(super) fn store(&self, view: &mut View<'_>, group: GroupId) {
        let mut out = Vec::with_capacity(24);
        put_number(&mut out, self.clients);
        put_number(&mut out, self.bytes);
        put_number(&mut out, self.used_from.get());
        put_number(&mut out, self.ends_from.get());
        view.put(FAMILY, header_key(group), out.into());
    }
}

impl Client {
    pub(crate) fn load(
        read: &dyn StateRead,
        group: GroupId,
        client: Offset,
    ) -> Result<Option<Self>, ProjectionFault> {
        let Some(raw) = read.get(FAMILY, &client_key(group, client))? else { return Ok(None) };
        Ok(Some(Self::decode(raw)?))
    }

    fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let client = Self {
            ttl_ms: reader.number("client ttl")?,
            used: LogTime::new(reader.number("client use")?),
            acked_up_to: reader.number("acked up to")?,
            ends: LogTime::new(reader.number("client end")?),
            registrant: Registrant::take(&mut reader)?,
        };
        reader.end("client")?;
        Ok(client)
    }

    pub(super) fn store(&self, view: &mut View<'_>, group: GroupId, client: Offset) {
        let mut out = Vec::with_capacity(40);
        put_number(&mut out, self.ttl_ms);
        put_number(&mut out, self.used.get());
        put_number(&mut out, self.acked_up_to);
        put_number(&mut out, self.ends.get());
        Registrant::put(self.registrant, &mut out);
        view.put(FAMILY, client_key(group, client), out.into());
    }
}

/// The answers of a client from a number on: up to another one, or all.
pub(super) fn replies(
    group: GroupId,
    client: Offset,
    from: u64,
    up_to: Option<u64>,
) -> (Vec<u8>, Vec<u8>) {
    let next = up_to.and_then(|seq| seq.checked_add(1));
    let all = || keys::after(&key(group, b'r', &[client.get()]));
    let end = next.map_or_else(all, |seq| reply_key(group, client, seq));
    (reply_key(group, client, from), end)
}
