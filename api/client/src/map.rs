//! Maps.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1::{Kind as ResourceKind, Spec};
use palisade_proto::map::v1 as proto;
use palisade_proto::map::v1::map_client::MapClient;
use tonic::Streaming;

use crate::client::Call;
use crate::error::Error;
use crate::log::go_on;
use crate::resource::{Consistency, Named, receipt};
use crate::retry::Kind;
use crate::stored::{Key, Stored, decoded, value};

/// A map from `K` to `V`.
pub struct Map<K, V> {
    named: Arc<Named>,
    rows: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { named: Arc::clone(&self.named), rows: PhantomData }
    }
}

/// A value, and when it was last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<K, V> {
    /// Its key.
    pub key: K,
    /// The value.
    pub value: V,
    /// The offset of the change that made it.
    pub version: u64,
    /// When it is removed by itself, in log time; 0 for never.
    pub ends_at_ms: u64,
}

/// Rows of a range, all of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<K, V> {
    /// In the order of their keys.
    pub rows: Vec<Row<K, V>>,
    /// There are more behind the last of them.
    pub more: bool,
    /// The moment: every record up to this one is reflected.
    pub offset: u64,
}

/// Which rows are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// Of which keys.
    pub keys: proto::range_request::Keys,
    /// The highest first.
    pub backward: bool,
    /// At most so many; 0 for as many as an answer has.
    pub limit: u32,
    /// As the map was once every record up to this offset was applied; 0 for now.
    pub at: u64,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<K, V> {
    /// The key.
    pub key: K,
    /// What it has now; nothing if it was removed.
    pub now: Option<Row<K, V>>,
    /// What it had before.
    pub before: Option<Row<K, V>>,
    /// It was removed because its time had come.
    pub ended: bool,
}

/// What a watch tells: the changes of one record, or none if its place was reached without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<K, V> {
    /// Everything up to it was told.
    pub position: u64,
    /// The changes.
    pub changes: Vec<Change<K, V>>,
}

fn row<K: Key, V: Stored>(row: proto::Row) -> Result<Row<K, V>, Error> {
    Ok(Row {
        key: decoded(&row.key)?,
        value: value(row.value.as_ref())?,
        version: row.version,
        ends_at_ms: row.ends_at_ms,
    })
}

fn change<K: Key, V: Stored>(change: proto::Change) -> Result<Change<K, V>, Error> {
    Ok(Change {
        key: decoded(&change.key)?,
        now: change.now.map(row).transpose()?,
        before: change.before.map(row).transpose()?,
        ended: change.ended,
    })
}

impl<K: Key, V: Stored> Map<K, V> {
    pub(crate) fn new(named: Named) -> Self {
        Self { named: Arc::new(named), rows: PhantomData }
    }

    pub(crate) fn named(&self) -> &Named {
        &self.named
    }

    /// Opens it for writing, and makes it if it is not there.
    ///
    /// # Errors
    /// What the node says, as `FENCED` or `INCOMPATIBLE`.
    pub async fn open(&self) -> Result<(), Error> {
        self.open_as(Spec::default()).await
    }

    /// The same, with what else is to be said of it: see [`crate::Log::open_as`].
    ///
    /// # Errors
    /// As [`Map::open`].
    pub async fn open_as(&self, spec: Spec) -> Result<(), Error> {
        self.named.open(Spec { kind: ResourceKind::Map.into(), ..spec }).await.map(|_| ())
    }

    /// Writes as the writer of this epoch, which somebody has opened it with; of 1 if nothing is said.
    #[must_use]
    pub fn writing_as(self, epoch: u64) -> Self {
        self.named.write_as(epoch);
        self
    }

    /// Sets a key.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn put(&self, key: &K, value: &V) -> Result<common::Receipt, Error> {
        self.change(key, value, None, 0).await
    }

    /// Sets a key if its version is this one; 0 if it must not be there.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` of kind `VERSION_MISMATCH` if it is another, and as [`Map::put`].
    pub async fn put_if(&self, key: &K, value: &V, version: u64) -> Result<common::Receipt, Error> {
        self.change(key, value, Some(proto::Expected { version }), 0).await
    }

    /// Sets a key that is removed by itself so many milliseconds of log time later.
    ///
    /// # Errors
    /// As [`Map::put`].
    pub async fn put_with_ttl_ms(
        &self,
        key: &K,
        value: &V,
        ttl_ms: u64,
    ) -> Result<common::Receipt, Error> {
        if ttl_ms == 0 {
            return Err(Error::invalid("a time to live is at least a millisecond"));
        }
        self.change(key, value, None, ttl_ms).await
    }

    async fn change(
        &self,
        key: &K,
        value: &V,
        expected: Option<proto::Expected>,
        ttl_ms: u64,
    ) -> Result<common::Receipt, Error> {
        let (key, value) = (key.to_bytes(), value.to_bytes());
        let bytes = key.len() + value.len();
        let numbered = self.named.number().await?;
        let asked = proto::PutRequest {
            map: Some(self.named.resource()),
            key,
            value,
            expected,
            ttl_ms,
            number: Some(numbered.told()),
        };
        let call = numbered.call(bytes);
        let done = self.named.client.call(call, asked, |channel, request| async {
            MapClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).put(request).await
        });
        receipt(numbered.settle(done.await, |done| done.receipt.as_ref())?.receipt)
    }

    /// Removes a key; one that is not there stays so.
    ///
    /// # Errors
    /// As [`Map::put`].
    pub async fn delete(&self, key: &K) -> Result<common::Receipt, Error> {
        self.remove(key, None).await
    }

    /// Removes a key if its version is this one.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` of kind `VERSION_MISMATCH` if it is another, and as [`Map::put`].
    pub async fn delete_if(&self, key: &K, version: u64) -> Result<common::Receipt, Error> {
        self.remove(key, Some(proto::Expected { version })).await
    }

    async fn remove(
        &self,
        key: &K,
        expected: Option<proto::Expected>,
    ) -> Result<common::Receipt, Error> {
        let key = key.to_bytes();
        let numbered = self.named.number().await?;
        let call = numbered.call(key.len());
        let asked = proto::DeleteRequest {
            map: Some(self.named.resource()),
            key,
            expected,
            number: Some(numbered.told()),
        };
        let done = self.named.client.call(call, asked, |channel, request| async {
            MapClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .delete(request)
                .await
        });
        receipt(numbered.settle(done.await, |done| done.receipt.as_ref())?.receipt)
    }

    /// The value of a key, linearizable.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn get(&self, key: &K) -> Result<Option<Row<K, V>>, Error> {
        self.get_as(key, Consistency::Linearizable).await
    }

    /// The value of a key, as fresh as asked.
    ///
    /// # Errors
    /// As [`Map::get`].
    pub async fn get_as(
        &self,
        key: &K,
        consistency: Consistency,
    ) -> Result<Option<Row<K, V>>, Error> {
        self.get_at(key, 0, consistency).await
    }

    /// The value of a key as it was once every record up to an offset was applied; 0 for now.
    ///
    /// # Errors
    /// `NOT_FOUND` of kind `COMPACTED` if the map does not reach back so far, and as [`Map::get`].
    pub async fn get_at(
        &self,
        key: &K,
        at: u64,
        consistency: Consistency,
    ) -> Result<Option<Row<K, V>>, Error> {
        let asked = proto::GetRequest {
            map: Some(self.named.resource()),
            keys: vec![key.to_bytes()],
            options: Some(consistency.options()),
            at,
        };
        let read = self.named.client.call(Call::read(), asked, |channel, request| async {
            MapClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).get(request).await
        });
        let read = read.await?;
        read.reflected.iter().for_each(|it| self.named.client.seen().note_reflected(it));
        read.found.into_iter().next().and_then(|found| found.row).map(row).transpose()
    }

    /// The rows of the keys that begin with this, in their order.
    ///
    /// # Errors
    /// As [`Map::get`].
    pub async fn range(
        &self,
        prefix: &[u8],
        limit: u32,
        consistency: Consistency,
    ) -> Result<Rows<K, V>, Error> {
        let keys = proto::range_request::Keys::Prefix(Bytes::copy_from_slice(prefix));
        self.range_of(Range { keys, backward: false, limit, at: 0 }, consistency).await
    }

    /// The rows of a range.
    ///
    /// # Errors
    /// As [`Map::get_at`].
    pub async fn range_of(
        &self,
        range: Range,
        consistency: Consistency,
    ) -> Result<Rows<K, V>, Error> {
        let Range { keys, backward, limit, at } = range;
        let asked = proto::RangeRequest {
            map: Some(self.named.resource()),
            keys: Some(keys),
            backward,
            limit,
            options: Some(consistency.options()),
            at,
        };
        let read = self.named.client.call(Call::read(), asked, |channel, request| async {
            MapClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .range(request)
                .await
        });
        let read = read.await?;
        read.reflected.iter().for_each(|it| self.named.client.seen().note_reflected(it));
        Ok(Rows {
            rows: read.rows.into_iter().map(row).collect::<Result<_, _>>()?,
            more: read.more,
            offset: read.reflected.map_or(0, |reflected| reflected.offset),
        })
    }

    /// From which offset on the map can be read as it was, and watched, and how many keys it has.
    ///
    /// # Errors
    /// As [`Map::get`].
    pub async fn bounds(
        &self,
        consistency: Consistency,
    ) -> Result<proto::GetBoundsResponse, Error> {
        let options = Some(consistency.options());
        let asked = proto::GetBoundsRequest { map: Some(self.named.resource()), options };
        let read = self.named.client.call(Call::read(), asked, |channel, request| async {
            MapClient::new(channel).get_bounds(request).await
        });
        let read = read.await?;
        read.reflected.iter().for_each(|it| self.named.client.seen().note_reflected(it));
        Ok(read)
    }

    /// Sets for how long earlier versions are kept, and how many changes at most.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn set_history(
        &self,
        keep_ms: u64,
        changes_max: u64,
    ) -> Result<common::Receipt, Error> {
        let map = Some(self.named.resource());
        let asked = proto::SetHistoryRequest { map, keep_ms, changes_max };
        let call = Call::write(self.named.group().await?, Kind::Write, 0);
        let done = self.named.client.call(call, asked, |channel, request| async {
            MapClient::new(channel).set_history(request).await
        });
        self.named.noted(done.await?.receipt)
    }

    /// Tells every change behind an offset of keys that begin with this, over whichever node serves.
    #[must_use]
    pub fn watch(&self, from: u64, prefix: &[u8]) -> Watch<K, V> {
        let prefix = Bytes::copy_from_slice(prefix);
        Watch { map: self.clone(), from, prefix, stream: None }
    }
}

/// A map that is watched: see [`Map::watch`].
pub struct Watch<K, V> {
    map: Map<K, V>,
    from: u64,
    prefix: Bytes,
    stream: Option<Streaming<proto::WatchResponse>>,
}

impl<K: Key, V: Stored> Watch<K, V> {
    /// What happens next. A stream that breaks is begun again where it was, at another node if need be: no
    /// change is left out, and none told twice.
    ///
    /// # Errors
    /// What the node says, as `NOT_FOUND` of kind `COMPACTED`, or `DISCONNECTED` if no node serves for as long
    /// as a call is tried.
    pub async fn next(&mut self) -> Result<Event<K, V>, Error> {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => none.insert(begin(&self.map, self.from, &self.prefix).await?),
            };
            match stream.message().await {
                Ok(Some(told)) => {
                    let changes = told.changes.into_iter().map(change).collect::<Result<_, _>>();
                    // What cannot be read is not passed over: it is met again.
                    let changes = changes.inspect_err(|_| self.stream = None)?;
                    self.from = told.position;
                    return Ok(Event { position: told.position, changes });
                }
                Ok(None) => self.stream = None,
                Err(status) => {
                    self.stream = None;
                    go_on(&self.map.named.client, &Error::of(&status, false))?;
                }
            }
        }
    }
}

async fn begin<K: Key, V: Stored>(
    map: &Map<K, V>,
    from: u64,
    prefix: &Bytes,
) -> Result<Streaming<proto::WatchResponse>, Error> {
    let asked = proto::WatchRequest {
        map: Some(map.named.resource()),
        from,
        prefix: prefix.clone(),
        progress_ms: 0,
    };
    let begun = map.named.client.call(Call::read(), asked, |channel, mut request| async {
        // The stream has no end; that it begins has.
        request.metadata_mut().remove("grpc-timeout");
        MapClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).watch(request).await
    });
    begun.await
}
