//! Sessions: who reads sees what he has written and what he has seen, whichever replica he asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Freshness;
use crate::stored::Stored;

const VERSION: u8 = 1;
/// Most groups of a token: those of one cluster.
const GROUPS_MAX: u64 = 65;
/// How long a read waits for what the session has seen, if nothing else is said.
const SESSION_WAIT: Duration = Duration::from_secs(1);

/// What a session has written and seen, of each group; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    offsets: Arc<Mutex<BTreeMap<GroupId, Offset>>>,
}

impl Seen {
    pub(crate) fn note(&self, group: GroupId, offset: Offset) {
        let mut offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = offsets.entry(group).or_insert(offset);
        *seen = (*seen).max(offset);
    }

    pub(crate) fn of(&self, group: GroupId) -> Offset {
        let offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        offsets.get(&group).copied().unwrap_or(Offset::ZERO)
    }

    fn all(&self) -> Vec<(GroupId, Offset)> {
        let offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        offsets.iter().map(|(group, offset)| (*group, *offset)).collect()
    }
}

/// A client's view over time. Handles that are opened through [`Session::engine`] carry it by themselves:
///
/// - they read what was written through them (F2), and never less than was read through them (F1), also
///   with [`crate::ReadConsistency::Local`];
/// - a replica that is behind is waited for, up to a second or as long as the read says, and then
///   answers [`Error::NotYetApplied`].
///
/// [`Session::token`] takes it to another process or replica, [`Engine::resume`] goes on there. Tokens can
/// be kept for ever, and given to others: who resumes sees at least as much.
///
/// ```
/// # use palisade::*;
/// # async fn example(here: &Engine, there: &Engine, spec: ResourceSpec) -> Result<(), Error> {
/// let session = here.session();
/// let map: ReplicatedMap<String, String> =
///     ReplicatedMap::open(session.engine(), spec.clone()).await?;
/// map.put(&"k".to_owned(), &"v".to_owned()).await?;
///
/// // On another replica, which may be behind.
/// let session = there.resume(&session.token())?;
/// let map: ReplicatedMap<String, String> = ReplicatedMap::open(session.engine(), spec).await?;
/// let read = map.get(&"k".to_owned(), ReadConsistency::Local).await?;
/// assert!(read.value.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    engine: Engine,
    seen: Seen,
}

impl Session {
    pub(crate) fn new(engine: &Engine) -> Self {
        let seen = Seen::default();
        Self { engine: engine.with_session(seen.clone()), seen }
    }

    /// Goes on where a token was taken.
    pub(crate) fn resume(engine: &Engine, token: &Bytes) -> Result<Self, Error> {
        let malformed = |error: DecodeError| Error::InvalidArgument {
            what: format!("the bytes are no token of a session: {error}"),
        };
        let session = Self::new(engine);
        for freshness in decode(token).map_err(malformed)? {
            freshness.check(engine.cluster(), freshness.group)?;
            session.seen.note(freshness.group, freshness.offset);
        }
        Ok(session)
    }

    /// The engine, for handles that carry the session.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What it has written and seen: one token for each group.
    #[must_use]
    pub fn freshness(&self) -> Vec<Freshness> {
        let cluster = self.engine.cluster();
        let token = |(group, offset)| Freshness { cluster, group, offset };
        self.seen.all().into_iter().map(token).collect()
    }

    /// The same as bytes: see [`Engine::resume`].
    #[must_use]
    pub fn token(&self) -> Bytes {
        let tokens = self.freshness();
        let mut out = vec![VERSION];
        put_number(&mut out, tokens.len() as u64);
        tokens.iter().for_each(|token| put_bytes(&mut out, &token.to_bytes()));
        out.into()
    }

    /// How long its reads wait for a replica that is behind, if they do not say.
    pub(crate) const WAIT: Duration = SESSION_WAIT;
}

fn decode(token: &Bytes) -> Result<Vec<Freshness>, DecodeError> {
    const FRESHNESS_BYTES_MAX: usize = 1 + 16 + 2 * 10;
    let mut reader = Reader::new(token.clone());
    if reader.byte("session version")? != VERSION {
        return Err(DecodeError { what: "session version" });
    }
    let count = reader.number("group count")?;
    if count > GROUPS_MAX {
        return Err(DecodeError { what: "group count" });
    }
    let mut take = || Freshness::from_bytes(&reader.bytes(FRESHNESS_BYTES_MAX, "freshness")?);
    let tokens = (0..count).map(|_| take()).collect::<Result<_, _>>()?;
    reader.end("session")?;
    Ok(tokens)
}
