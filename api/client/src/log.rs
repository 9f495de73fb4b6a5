//! Logs.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1::{Kind as ResourceKind, Spec};
use palisade_proto::log::v1 as proto;
use palisade_proto::log::v1::log_client::LogClient;
use tonic::Streaming;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::resource::{Consistency, Named, receipt};
use crate::stored::{Stored, value};

/// A log of `T`.
pub struct Log<T> {
    named: Arc<Named>,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self { named: Arc::clone(&self.named), values: PhantomData }
    }
}

/// What was appended, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// Where it took effect.
    pub receipt: common::Receipt,
    /// Of the first value; the others follow at the next indexes. Nothing for a duplicate whose first answer
    /// is not known any more.
    pub first: Option<common::Position>,
}

/// A value in a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<T> {
    /// Its place.
    pub position: common::Position,
    /// The stamp on its record, in milliseconds.
    pub log_time_ms: u64,
    /// The value.
    pub value: T,
}

/// A part of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The values, in their order.
    pub entries: Vec<Entry<T>>,
    /// Where to go on, or `None` if there was nothing more.
    pub next: Option<common::Position>,
    /// Behind the last entry that was removed.
    pub first: common::Position,
    /// Behind the last entry that was appended.
    pub tail: common::Position,
}

fn entry<T: Stored>(entry: proto::Entry) -> Result<Entry<T>, Error> {
    Ok(Entry {
        value: value(entry.value.as_ref())?,
        log_time_ms: entry.log_time_ms,
        position: entry.position.unwrap_or_default(),
    })
}

impl<T: Stored> Log<T> {
    pub(crate) fn new(named: Named) -> Self {
        Self { named: Arc::new(named), values: PhantomData }
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

    /// The same, with what else is to be said of it: epoch, replicas, placement, affinity, contract. Its
    /// name, schema and kind are those of this log.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub async fn open_as(&self, spec: Spec) -> Result<(), Error> {
        self.named.open(Spec { kind: ResourceKind::Log.into(), ..spec }).await.map(|_| ())
    }

    /// Writes as the writer of this epoch, which somebody has opened it with; of 1 if nothing is said.
    #[must_use]
    pub fn writing_as(self, epoch: u64) -> Self {
        self.named.write_as(epoch);
        self
    }

    /// Appends values in one record: all of them or none, once, however often it has to be sent.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if nobody has answered in time.
    pub async fn append(&self, values: &[T]) -> Result<Appended, Error> {
        self.append_at(values, None).await
    }

    /// Appends a value if the log ends here.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` of kind `TAIL_MISMATCH` if it ends elsewhere, and as [`Log::append`].
    pub async fn append_if(&self, value: T, tail: common::Position) -> Result<Appended, Error> {
        self.append_at(&[value], Some(tail)).await
    }

    async fn append_at(
        &self,
        values: &[T],
        expected_tail: Option<common::Position>,
    ) -> Result<Appended, Error> {
        let values: Vec<Bytes> = values.iter().map(Stored::to_bytes).collect();
        let bytes = values.iter().map(Bytes::len).sum();
        let numbered = self.named.number().await?;
        let asked = proto::AppendRequest {
            log: Some(self.named.resource()),
            values,
            expected_tail,
            number: Some(numbered.told()),
        };
        let call = numbered.call(bytes);
        let done = self.named.client.call(call, asked, |channel, request| async {
            LogClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .append(request)
                .await
        });
        let done = numbered.settle(done.await, |done| done.receipt.as_ref())?;
        Ok(Appended { receipt: receipt(done.receipt)?, first: done.first })
    }

    /// Entries from a position on, the oldest first; from the first that is there if none is named.
    ///
    /// # Errors
    /// What the node says, as `NOT_FOUND` of kind `TRIMMED`.
    pub async fn scan(
        &self,
        from: Option<common::Position>,
        limit: u32,
        consistency: Consistency,
    ) -> Result<Page<T>, Error> {
        self.read(from, proto::Direction::Forward, limit, consistency).await
    }

    /// Entries before a position, the newest first; from the end if none is named.
    ///
    /// # Errors
    /// As [`Log::scan`].
    pub async fn scan_back(
        &self,
        before: Option<common::Position>,
        limit: u32,
        consistency: Consistency,
    ) -> Result<Page<T>, Error> {
        self.read(before, proto::Direction::Backward, limit, consistency).await
    }

    async fn read(
        &self,
        from: Option<common::Position>,
        direction: proto::Direction,
        limit: u32,
        consistency: Consistency,
    ) -> Result<Page<T>, Error> {
        let asked = proto::ScanRequest {
            log: Some(self.named.resource()),
            from,
            direction: direction.into(),
            limit,
            options: Some(consistency.options()),
        };
        let read = self.named.client.call(Call::read(), asked, |channel, request| async {
            LogClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).scan(request).await
        });
        let read = read.await?;
        read.reflected.iter().for_each(|it| self.named.client.seen().note_reflected(it));
        Ok(Page {
            entries: read.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
            next: read.next,
            first: read.first.unwrap_or_default(),
            tail: read.tail.unwrap_or_default(),
        })
    }

    /// Follows the log from a position on, over whichever node serves.
    #[must_use]
    pub fn tail(&self, from: Option<common::Position>) -> Tail<T> {
        Tail { log: self.clone(), from, held: VecDeque::new(), stream: None }
    }
}

/// A log that is followed: see [`Log::tail`].
pub struct Tail<T> {
    log: Log<T>,
    from: Option<common::Position>,
    held: VecDeque<proto::Entry>,
    stream: Option<Streaming<proto::TailResponse>>,
}

impl<T: Stored> Tail<T> {
    /// The next entry, once there is one. A stream that breaks is begun again where it was, at another node if
    /// need be: nothing is left out, and nothing told twice.
    ///
    /// # Errors
    /// What the node says, as `NOT_FOUND` of kind `TRIMMED`, or `DISCONNECTED` if no node serves for as long as
    /// a call is tried.
    pub async fn next(&mut self) -> Result<Entry<T>, Error> {
        loop {
            if let Some(held) = self.held.front() {
                // Told once it is decoded: what cannot be read is not passed over.
                let told = entry(held.clone())?;
                self.held.pop_front();
                return Ok(told);
            }
            let stream = match &mut self.stream {
                Some(stream) => stream,
                none => none.insert(begin(&self.log, self.from).await?),
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.from = message.next.or(self.from);
                    self.held = message.entries.into();
                }
                Ok(None) => self.stream = None,
                Err(status) => {
                    self.stream = None;
                    go_on(&self.log.named.client, &Error::of(&status, false))?;
                }
            }
        }
    }
}

async fn begin<T: Stored>(
    log: &Log<T>,
    from: Option<common::Position>,
) -> Result<Streaming<proto::TailResponse>, Error> {
    let asked = proto::TailRequest { log: Some(log.named.resource()), from };
    let call = Call::read();
    let begun = log.named.client.call(call, asked, |channel, mut request| async {
        // The stream has no end; that it begins has.
        request.metadata_mut().remove("grpc-timeout");
        LogClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).tail(request).await
    });
    begun.await
}

/// Whether a stream that ended with this can be begun anew.
pub(crate) fn go_on(client: &Client, error: &Error) -> Result<(), Error> {
    if client.goes_on_after(error) { Ok(()) } else { Err(error.clone()) }
}
