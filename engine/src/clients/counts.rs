//! What a session's token says of its client.

use std::time::Duration;

use super::{CLIENT_TTL_MAX, ClientId, ClientNumbers};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::engine::Engine;
use crate::error::Error;
use crate::stored::Stored;

/// Most numbers that a client can have given: there are as many again above it.
const GIVEN_MAX: u64 = 1 << 63;
const CLIENT_BYTES_MAX: usize = 1 + 16 + 2 * 10;

/// A client and how many numbers it has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    ttl: Duration,
    client: Option<(ClientId, u64)>,
}

impl Counts {
    pub(crate) fn of(numbers: &ClientNumbers) -> Self {
        Self { ttl: numbers.ttl(), client: numbers.client() }
    }

    /// Goes on counting. What was under way then is not repeated: it is given up.
    pub(crate) fn resume(self, engine: &Engine) -> Result<ClientNumbers, Error> {
        if let Some((client, _)) = self.client {
            client.check(&engine.data())?;
        }
        Ok(ClientNumbers::new(self.ttl, self.client))
    }

    pub(crate) fn put(counts: Option<Self>, out: &mut Vec<u8>) {
        let Some(Self { ttl, client }) = counts else { return put_number(out, 0) };
        put_number(out, u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        match client {
            None => put_bytes(out, &[]),
            Some((client, given)) => {
                put_bytes(out, &client.to_bytes());
                put_number(out, given);
            }
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
        let raw = reader.bytes(CLIENT_BYTES_MAX, "client")?;
        if raw.is_empty() {
            return Ok(Some(Self { ttl, client: None }));
        }
        let client = ClientId::from_bytes(&raw)?;
        let given = reader.number("command number")?;
        if GIVEN_MAX < given {
            return Err(DecodeError { what: "command number" });
        }
        Ok(Some(Self { ttl, client: Some((client, given)) }))
    }
}
