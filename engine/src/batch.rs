//! Batches: operations on several resources that take effect at one offset, or not at all (G7).

use bytes::Bytes;

use crate::command::{
    Action, BATCH_OPS_MAX, Command, Fingerprint, KEY_BYTES_MAX, Op, VALUE_BYTES_MAX, Version,
};
use crate::engine::Engine;
use crate::error::Error;
use crate::idempotency::ReplicatedIdempotencyStore;
use crate::log::ReplicatedLog;
use crate::machine::appends_twice;
use crate::map::ReplicatedMap;
use crate::receipt::Receipt;
use crate::resource::{FailureDomain, FenceEpoch};
use crate::stored::{Key, Stored};

/// A batch in the making. Operations are done in the order they were added; the first that cannot
/// be done leaves the whole batch without effect.
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    engine: Engine,
    caller: FailureDomain,
    ops: Vec<Op>,
    bytes: usize,
}

impl Batch {
    pub(crate) fn new(engine: Engine) -> Self {
        let caller = engine.domain().clone();
        Self { engine, caller, ops: Vec::new(), bytes: 0 }
    }

    /// On whose behalf: the domain that placement is judged by. This node's own if never said.
    pub fn caller(mut self, domain: FailureDomain) -> Self {
        self.caller = domain;
        self
    }

    /// Adds a value to a log.
    pub fn append<T: Stored>(self, log: &ReplicatedLog<T>, value: &T) -> Self {
        self.op(log.resource, log.epoch, Action::Append { payload: value.to_bytes() })
    }

    /// Sets a key of a map.
    pub fn put<K: Key, V: Stored>(self, map: &ReplicatedMap<K, V>, key: &K, value: &V) -> Self {
        let (key, value) = (key.to_bytes(), value.to_bytes());
        self.op(map.resource, map.epoch, Action::Put { guard: None, key, value })
    }

    /// Sets a key of a map if its version is this one.
    pub fn put_if<K: Key, V: Stored>(
        self,
        map: &ReplicatedMap<K, V>,
        key: &K,
        value: &V,
        version: Version,
    ) -> Self {
        let (key, value) = (key.to_bytes(), value.to_bytes());
        self.op(map.resource, map.epoch, Action::Put { guard: Some(version), key, value })
    }

    /// Removes a key from a map.
    pub fn delete<K: Key, V: Stored>(self, map: &ReplicatedMap<K, V>, key: &K) -> Self {
        self.op(map.resource, map.epoch, Action::Delete { guard: None, key: key.to_bytes() })
    }

    /// Removes a key from a map if its version is this one.
    pub fn delete_if<K: Key, V: Stored>(
        self,
        map: &ReplicatedMap<K, V>,
        key: &K,
        version: Version,
    ) -> Self {
        let action = Action::Delete { guard: Some(version), key: key.to_bytes() };
        self.op(map.resource, map.epoch, action)
    }

    /// Reserves a request. If it was completed before, the whole batch is a duplicate: it has no
    /// effect, and the receipt is the first one again.
    pub fn reserve(
        self,
        store: &ReplicatedIdempotencyStore,
        key: &str,
        fingerprint: Fingerprint,
        owner: FenceEpoch,
    ) -> Self {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.op(store.resource, store.epoch, Action::Reserve { owner, fingerprint, key })
    }

    /// Completes a request with its result.
    pub fn complete(
        self,
        store: &ReplicatedIdempotencyStore,
        key: &str,
        owner: FenceEpoch,
        result: Bytes,
    ) -> Self {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.op(store.resource, store.epoch, Action::Complete { owner, key, result })
    }

    fn op(
        mut self,
        resource: crate::resource::ResourceId,
        epoch: FenceEpoch,
        action: Action,
    ) -> Self {
        self.bytes += sizes(&action).iter().sum::<usize>();
        self.ops.push(Op { resource, epoch, action });
        self
    }

    /// Commits the batch. The receipt comes once a quorum has it on stable storage and this node
    /// has applied it.
    ///
    /// # Errors
    /// Any refusal leaves the batch without effect. With [`Error::Disconnected`] and an unknown
    /// outcome it may have taken effect: commit the same batch again, with the same reservation.
    pub async fn commit(self) -> Result<Receipt, Error> {
        self.check()?;
        let command = Command::Batch { caller: self.caller, ops: self.ops };
        self.engine.commit(&command).await
    }

    fn check(&self) -> Result<(), Error> {
        self.caller.check()?;
        let longest_key = self.ops.iter().map(|op| sizes(&op.action)[0]).max();
        let broken = if self.ops.is_empty() {
            Some("a batch has at least one operation".to_owned())
        } else if self.ops.len() > BATCH_OPS_MAX {
            Some(format!("a batch has at most {BATCH_OPS_MAX} operations"))
        } else if longest_key > Some(KEY_BYTES_MAX) {
            Some(format!("a key has at most {KEY_BYTES_MAX} bytes"))
        } else if self.bytes > VALUE_BYTES_MAX {
            Some(format!("a value, and a batch as a whole, has at most {VALUE_BYTES_MAX} bytes"))
        } else if appends_twice(&self.ops) {
            Some("a batch appends to the same log at most once".to_owned())
        } else {
            None
        };
        broken.map_or(Ok(()), |what| Err(Error::InvalidArgument { what }))
    }
}

/// Bytes of an operation's key and of its value.
fn sizes(action: &Action) -> [usize; 2] {
    match action {
        Action::Append { payload } => [0, payload.len()],
        Action::Put { key, value, .. } => [key.len(), value.len()],
        Action::Delete { key, .. } | Action::Reserve { key, .. } => [key.len(), 0],
        Action::Complete { key, result, .. } => [key.len(), result.len()],
    }
}
