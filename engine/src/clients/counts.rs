//! What a session's token says of its clients.

use std::time::Duration;

use super::{CLIENT_TTL_MAX, ClientId, Clients};
use crate::bounds::DATA_GROUPS_MAX;
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::engine::Engine;
use crate::error::Error;
use crate::stored::Stored;

/// Most numbers that a client can have given: there are as many again above it.
const GIVEN_MAX: u64 = 1 << 63;
const CLIENT_BYTES_MAX: usize = 1 + 16 + 2 * 10;

/// The clients of a session, in the order of their groups, and how many numbers each has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    ttl: Duration,
    clients: Vec<(ClientId, u64)>,
}

impl Counts {
    pub(crate) fn of(clients: &Clients) -> Self {
        Self { ttl: clients.ttl(), clients: clients.counted() }
    }

    /// Goes on counting. What was under way then is not repeated: it is given up.
    pub(crate) fn resume(self, engine: &Engine) -> Result<Clients, Error> {
        for (client, _) in &self.clients {
            client.check(engine)?;
        }
        Ok(Clients::new(self.ttl, self.clients))
    }

    pub(crate) fn put(counts: Option<Self>, out: &mut Vec<u8>) {
        let Some(Self { ttl, clients }) = counts else { return put_number(out, 0) };
        put_number(out, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        put_number(out, clients.len() as u64);
        for (client, given) in clients {
            put_bytes(out, &client.to_bytes());
            put_number(out, given);
        }
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        let ttl = Duration::from_millis(reader.number("client ttl")?);
        if ttl.is_zero() {
            return Ok(None);
        }
        if CLIENT_TTL_MAX < ttl {
            return Err(DecodeError { what: "client ttl" });
        }
        let count = reader.number("clients")?;
        if DATA_GROUPS_MAX < count {
            return Err(DecodeError { what: "clients" });
        }
        let mut clients: Vec<(ClientId, u64)> = Vec::new();
        for _ in 0..count {
            let client = ClientId::from_bytes(&reader.bytes(CLIENT_BYTES_MAX, "client")?)?;
            let given = reader.number("command number")?;
            if GIVEN_MAX < given {
                return Err(DecodeError { what: "command number" });
            }
            if clients.last().is_some_and(|(before, _)| client.group <= before.group) {
                return Err(DecodeError { what: "clients" });
            }
            clients.push((client, given));
        }
        Ok(Some(Self { ttl, clients }))
    }
}
