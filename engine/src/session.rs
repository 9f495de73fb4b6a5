//! Sessions: who reads sees what he has written and what he has seen, whichever replica he asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use crate::clients::{ClientId, Clients, Counts};
use crate::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::engine::Engine;
use crate::error::Error;
use crate::freshness::Freshness;
use crate::stored::Stored;

const VERSION: u8 = 3;
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
/// One that was begun with [`Engine::client_session`] also numbers what is written through it: each write then
/// takes effect at most once (G6), and is repeated by itself where it is not known what became of it. If the group
/// has forgotten its client, the calls that were under way say [`Error::ClientEvicted`] and are not repeated,
/// and later calls are those of a new client.
///
/// [`Session::token`] takes it to another process or replica, [`Engine::resume`] goes on there. Tokens can
/// be kept for ever, and given to others: who resumes sees at least as much. Only one at a time may write
/// with those of a client session.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(3);
/// # let spec = ResourceSpec::new("states", "state.v1").unwrap().replicas(ReplicaPolicy::majority(3));
/// let [here, there]: [Engine; 2] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
/// # fabric.block_on(async {
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
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Session {
    engine: Engine,
    seen: Seen,
    clients: Option<Arc<Clients>>,
}

impl Session {
    pub(crate) fn new(engine: &Engine, clients: Option<Arc<Clients>>) -> Self {
        let seen = Seen::default();
        Self { engine: engine.with_session(seen.clone(), clients.clone()), seen, clients }
    }

    /// Goes on where a token was taken.
    pub(crate) fn resume(engine: &Engine, token: &Bytes) -> Result<Self, Error> {
        let malformed = |error: DecodeError| Error::InvalidArgument {
            what: format!("the bytes are no token of a session: {error}"),
        };
        let (seen, counts) = decode(token).map_err(malformed)?;
        let clients = counts.map(|counts| counts.resume(engine)).transpose()?;
        let session = Self::new(engine, clients.map(Arc::new));
        for freshness in seen {
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
    ///
    /// ```
    /// # use palisade::{sim::SimFabric, *};
    /// # let mut fabric = SimFabric::new(1);
    /// # let engine = fabric.engine(fabric.node(1));
    /// # fabric.block_on(async {
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
    /// # let spec = ResourceSpec::new("stock", "count.v1")?;
    /// let session: Session = engine.session();
    /// let stock = ReplicatedMap::<String, u64>::open(session.engine(), spec).await?;
    /// let receipt = stock.put(&"apples".to_owned(), &7).await?;
    /// assert_eq!(session.freshness(), [receipt.freshness()]);
    /// // It numbers nothing: that is what `Engine::client_session` is for.
    /// assert_eq!(session.client(receipt.group), None);
    /// # Ok::<(), Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn freshness(&self) -> Vec<Freshness> {
        let cluster = self.engine.cluster();
        let token = |(group, offset)| Freshness { cluster, group, offset };
        self.seen.all().into_iter().map(token).collect()
    }

    /// The client that numbers what is written through it to a group. Nothing in a session that numbers nothing,
    /// and while one that was told [`Error::ClientEvicted`] could not be registered anew.
    #[must_use]
    pub fn client(&self, group: GroupId) -> Option<ClientId> {
        Some(self.clients.as_ref()?.of(group).client()?.0)
    }

    /// The same as bytes: see [`Engine::resume`].
    ///
    /// Of a client session, with the number of its next command in each group. A process that stores it before a write,
    /// with no other under way, can make that write again when it comes back, and it takes effect once:
    ///
    /// ```
    /// # use palisade::*;
    /// # use palisade::sim::SimFabric;
    /// # use std::time::Duration;
    /// # let mut fabric = SimFabric::new(3);
    /// # let [engine, other] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
    /// # let spec = ResourceSpec::new("orders", "order.v1")?.replicas(ReplicaPolicy::majority(3));
    /// let order = "an apple".to_owned();
    /// # let (stored, first) = fabric.block_on(async {
    /// let session = engine.client_session(Duration::from_secs(3600)).await?;
    /// let orders: ReplicatedLog<String> = ReplicatedLog::open(session.engine(), spec.clone()).await?;
    /// let stored = session.token(); // to a file of the process
    /// let first = orders.append(&order).await?.receipt;
    /// # Ok::<_, Error>((stored, first))
    /// # })?;
    /// # fabric.crash(engine.node());
    /// # fabric.block_on(async {
    /// // ... the process dies before it has noted the answer, and comes back, perhaps elsewhere.
    /// let session = other.resume(&stored)?;
    /// let orders: ReplicatedLog<String> = ReplicatedLog::open(session.engine(), spec).await?;
    /// let again = orders.append(&order).await?.receipt;
    /// assert!(again.duplicate && again.offset == first.offset);
    /// # Ok::<_, Error>(())
    /// # })?;
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn token(&self) -> Bytes {
        encode(&self.freshness(), self.clients.as_ref().map(|clients| Counts::of(clients)))
    }

    /// How long its reads wait for a replica that is behind, if they do not say.
    pub(crate) const WAIT: Duration = SESSION_WAIT;
}

/// The bytes of a token.
///
/// ```text
/// version 1 byte (3), groups: count, each a freshness token; time to live of clients in ms, or 0 for a
/// session without; and if it is not 0: clients: count, each the client, how many numbers it has given
/// ```
fn encode(seen: &[Freshness], counts: Option<Counts>) -> Bytes {
    let mut out = vec![VERSION];
    put_number(&mut out, seen.len() as u64);
    seen.iter().for_each(|token| put_bytes(&mut out, &token.to_bytes()));
    Counts::put(counts, &mut out);
    out.into()
}

fn decode(token: &Bytes) -> Result<(Vec<Freshness>, Option<Counts>), DecodeError> {
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
    let counts = Counts::take(&mut reader)?;
    reader.end("session")?;
    Ok((tokens, counts))
}

#[cfg(test)]
mod tests {
    use palisade_replication::ClusterId;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_have_one_form(
            seen in proptest::collection::vec((0_u64..3, 1_u64..300), 0..3),
            clients in proptest::option::of((1_u64..1_000, proptest::collection::btree_map(1_u64..9, (1_u64..300, 0_u64..300), 0..4))),
            at: usize,
            byte: u8,
        ) {
            let cluster = ClusterId::new(7);
            let seen: Vec<_> = seen
                .into_iter()
                .map(|(group, offset)| {
                    let (group, offset) = (GroupId::new(group), Offset::new(offset));
                    Freshness { cluster, group, offset }
                })
                .collect();
            let counts = clients.map(|(ttl, clients)| {
                let clients = clients.into_iter().map(|(group, (offset, given))| {
                    let (group, offset) = (GroupId::new(group), Offset::new(offset));
                    (ClientId { cluster, group, offset }, given)
                });
                Counts::of(&Clients::new(Duration::from_millis(ttl), clients))
            });
            let token = encode(&seen, counts.clone());
            prop_assert_eq!(decode(&token), Ok((seen, counts)));
            let mut raw = token.to_vec();
            let at = at % raw.len();
            raw[at] = byte;
            if let Ok((seen, counts)) = decode(&raw.clone().into()) {
                prop_assert_eq!(encode(&seen, counts), raw);
            }
        }
    }
}
