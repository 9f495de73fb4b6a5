//! Batches.

use bytes::Bytes;
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::batch::v1 as proto;
use palisade_proto::batch::v1::batch_client::BatchClient;
use palisade_proto::common::v1 as common;

use crate::client::Client;
use crate::error::Error;
use crate::idempotency::Requests;
use crate::log::Log;
use crate::map::Map;
use crate::resource::receipt;
use crate::stored::{Key, Stored};

/// Operations on several resources of one group that take effect together, at one offset, or not at all.
///
/// ```no_run
/// # use palisade_client::*;
/// # async fn example(client: &Client) -> Result<(), Error> {
/// let requests = client.requests("report-requests", "request.v1");
/// let reports = client.log::<String>("reports", "report.v1");
/// let status = client.map::<String, String>("report-status", "status.v1");
/// let (id, report) = ("r1".to_owned(), "a report".to_owned());
/// let done = client
///     .batch()
///     .reserve(&requests, &id, [7; 32], 1)
///     .append(&reports, &[report])
///     .put(&status, &id, &"accepted".to_owned())
///     .complete(&requests, &id, 1, "accepted".into())
///     .commit()
///     .await?;
/// println!("{} duplicate={}", done.receipt.offset, done.receipt.duplicate);
/// # Ok(())
/// # }
/// ```
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    client: Client,
    asked: proto::CommitRequest,
    in_otherwise: bool,
    bytes: usize,
}

/// A batch that took effect, or had taken effect before.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchDone {
    /// Where it took effect.
    pub receipt: common::Receipt,
    /// Which operations were done; unspecified for a duplicate.
    pub branch: proto::Branch,
    /// What each of them says, in the order they were added; nothing for a duplicate.
    pub outcomes: Vec<proto::Outcome>,
}

impl Batch {
    pub(crate) fn new(client: Client) -> Self {
        let asked = proto::CommitRequest::default();
        Self { client, asked, in_otherwise: false, bytes: 0 }
    }

    fn require(mut self, guard: proto::guard::Guard) -> Self {
        self.asked.guards.push(proto::Guard { guard: Some(guard) });
        self
    }

    /// Demands that a key has this version; 0 if it must not be there.
    pub fn require_version<K: Key, V: Stored>(
        self,
        map: &Map<K, V>,
        key: &K,
        version: u64,
    ) -> Self {
        let map = Some(map.named().resource());
        let key = key.to_bytes();
        self.require(proto::guard::Guard::VersionIs(proto::VersionIs { map, key, version }))
    }

    /// Demands that the tail of a log is this.
    pub fn require_tail<T: Stored>(self, log: &Log<T>, tail: common::Position) -> Self {
        let log = Some(log.named().resource());
        self.require(proto::guard::Guard::TailIs(proto::TailIs { log, tail: Some(tail) }))
    }

    /// Operations that are added from here on are done if any demand does not hold, in place of those before.
    pub fn otherwise(mut self) -> Self {
        self.in_otherwise = true;
        self
    }

    fn operation(mut self, operation: proto::operation::Operation, bytes: usize) -> Self {
        let operation = proto::Operation { operation: Some(operation) };
        self.bytes += bytes;
        if self.in_otherwise {
            self.asked.otherwise.push(operation);
        } else {
            self.asked.then.push(operation);
        }
        self
    }

    /// Adds values to a log.
    pub fn append<T: Stored>(self, log: &Log<T>, values: &[T]) -> Self {
        let values: Vec<Bytes> = values.iter().map(Stored::to_bytes).collect();
        let bytes = values.iter().map(Bytes::len).sum();
        let log = Some(log.named().resource());
        let append = proto::Append { log, values, expected_tail: None };
        self.operation(proto::operation::Operation::Append(append), bytes)
    }

    /// Sets a key of a map.
    pub fn put<K: Key, V: Stored>(self, map: &Map<K, V>, key: &K, value: &V) -> Self {
        self.change(map, key, value, None)
    }

    /// Sets a key of a map if its version is this one; otherwise the whole batch is refused.
    pub fn put_if<K: Key, V: Stored>(
        self,
        map: &Map<K, V>,
        key: &K,
        value: &V,
        version: u64,
    ) -> Self {
        self.change(map, key, value, Some(version))
    }

    fn change<K: Key, V: Stored>(
        self,
        map: &Map<K, V>,
        key: &K,
        value: &V,
        expected_version: Option<u64>,
    ) -> Self {
        let (key, value) = (key.to_bytes(), value.to_bytes());
        let bytes = key.len() + value.len();
        let map = Some(map.named().resource());
        let put = proto::Put { map, key, value, expected_version, ttl_ms: 0 };
        self.operation(proto::operation::Operation::Put(put), bytes)
    }

    /// Removes a key from a map.
    pub fn delete<K: Key, V: Stored>(self, map: &Map<K, V>, key: &K) -> Self {
        let key = key.to_bytes();
        let (map, bytes) = (Some(map.named().resource()), key.len());
        let delete = proto::Delete { map, key, expected_version: None };
        self.operation(proto::operation::Operation::Delete(delete), bytes)
    }

    /// Reserves a request: see [`Requests::reserve`]. If it was completed before, the whole batch is a
    /// duplicate.
    pub fn reserve(
        self,
        requests: &Requests,
        key: &str,
        fingerprint: [u8; 32],
        owner_epoch: u64,
    ) -> Self {
        let reserve = proto::Reserve {
            store: Some(requests.named().resource()),
            key: key.to_owned(),
            fingerprint: Bytes::copy_from_slice(&fingerprint),
            owner_epoch,
            issued_ms: None,
        };
        self.operation(proto::operation::Operation::Reserve(reserve), key.len())
    }

    /// Completes a request with its result.
    pub fn complete(self, requests: &Requests, key: &str, owner_epoch: u64, result: Bytes) -> Self {
        let bytes = key.len() + result.len();
        let store = Some(requests.named().resource());
        let complete = proto::Complete { store, key: key.to_owned(), owner_epoch, result };
        self.operation(proto::operation::Operation::Complete(complete), bytes)
    }

    /// Commits the batch, once, however often it has to be sent.
    ///
    /// # Errors
    /// What the node says: any refusal leaves the batch without effect. `DISCONNECTED` of disposition
    /// `Indeterminate` if nobody has answered in time.
    pub async fn commit(self) -> Result<BatchDone, Error> {
        let Self { client, mut asked, bytes, .. } = self;
        let Some(name) = named(&asked) else {
            return Err(Error::invalid("a batch has at least one operation"));
        };
        let numbered = client.numbered(&name.name).await?;
        asked.number = Some(numbered.told());
        let call = numbered.call(bytes);
        let done = client.call(call, asked, |channel, request| async {
            BatchClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .commit(request)
                .await
        });
        let done = numbered.settle(done.await, |done| done.receipt.as_ref())?;
        let branch = done.branch();
        Ok(BatchDone { receipt: receipt(done.receipt)?, branch, outcomes: done.outcomes })
    }
}

/// A resource of the batch: all of them are of one group.
fn named(asked: &proto::CommitRequest) -> Option<common::Resource> {
    use proto::operation::Operation;
    let first = asked.then.first().or(asked.otherwise.first())?;
    match first.operation.as_ref()? {
        Operation::Append(append) => append.log.clone(),
        Operation::Put(put) => put.map.clone(),
        Operation::Delete(delete) => delete.map.clone(),
        Operation::Reserve(reserve) => reserve.store.clone(),
        Operation::Complete(complete) => complete.store.clone(),
    }
}
