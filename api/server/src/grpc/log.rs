//! `palisade.log.v1.Log`.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, stream};
use palisade::{
    Batch, Direction, Error, LogEntry, LogPosition, LogRetention, LogTail, OpOutcome,
    ReadConsistency, SCAN_ENTRIES_MAX,
};
use palisade_proto::common::v1 as common;
use palisade_proto::log::v1 as proto;
use palisade_proto::log::v1::log_server::Log as Service;
use tonic::{Request, Response, Status, Streaming};

use super::answers::Room;
use super::append_stream;
use super::convert::{self, Raw, epoch, needed, of_position, position};
use super::endpoint::{Call, Endpoint, refused};
use super::failure::invalid;
use super::handles::{Log, Use};
use crate::security::grants::Right;

fn entry(entry: LogEntry<Raw>) -> proto::Entry {
    proto::Entry {
        position: Some(of_position(entry.position)),
        log_time_ms: entry.log_time.get(),
        value: Some(entry.value.into()),
    }
}

fn of_retention(retention: LogRetention) -> proto::Retention {
    proto::Retention { keep_ms: retention.keep_ms, keep_bytes: retention.keep_bytes }
}

/// Values to append, and the tail that is expected if one is.
pub(super) fn appending(
    values: &[Bytes],
    expected_tail: Option<&common::Position>,
) -> Result<(Vec<Raw>, Option<LogPosition>), Error> {
    if expected_tail.is_some() && values.len() != 1 {
        return Err(invalid("expected_tail is for one value"));
    }
    let values = values.iter().cloned().map(Raw::new).collect();
    Ok((values, expected_tail.map(position).transpose()?))
}

/// The same as a part of a batch.
pub(super) fn append_to(
    batch: Batch,
    log: &Log,
    values: &[Bytes],
    expected_tail: Option<&common::Position>,
) -> Result<Batch, Error> {
    let (values, expected_tail) = appending(values, expected_tail)?;
    Ok(match (&values[..], expected_tail) {
        ([value], Some(tail)) => batch.append_if(log, value, tail),
        (values, _) => batch.append_all(log, values),
    })
}

/// Which way, how many, and from where if that is said.
pub(crate) fn scanning(
    asked: &proto::ScanRequest,
) -> Result<(Direction, usize, Option<LogPosition>), Error> {
    let direction = match asked.direction() {
        proto::Direction::Unspecified | proto::Direction::Forward => Direction::Forward,
        proto::Direction::Backward => Direction::Backward,
    };
    let limit = match asked.limit {
        0 => SCAN_ENTRIES_MAX,
        limit => limit as usize,
    };
    let from = match (&asked.from, direction) {
        (Some(from), _) => Some(position(from)?),
        (None, Direction::Forward) => None,
        (None, Direction::Backward) => Some(LogPosition::END),
    };
    Ok((direction, limit, from))
}

/// What becomes of a consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Consumed {
    Commit(LogPosition),
    Reset(LogPosition),
    Forget,
}

pub(crate) fn consumed(asked: &proto::SetConsumerRequest) -> Result<Consumed, Error> {
    use proto::set_consumer_request::Change;
    Ok(match needed(asked.change.as_ref(), "change")? {
        Change::Commit(to) => Consumed::Commit(position(to)?),
        Change::Reset(to) => Consumed::Reset(position(to)?),
        Change::Forget(_) => Consumed::Forget,
    })
}

/// Before which a log is trimmed.
pub(crate) fn trimming(asked: &proto::TrimRequest) -> Result<LogPosition, Error> {
    position(needed(asked.before.as_ref(), "before")?)
}

impl Endpoint {
    async fn append(
        &self,
        call: &Call,
        asked: &proto::AppendRequest,
    ) -> Result<proto::AppendResponse, Error> {
        let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Write).await?;
        let caller = asked.log.as_ref().and_then(|log| log.caller.as_ref());
        let batch = call.batch(&self.engine, caller, asked.number.clone())?;
        let batch = append_to(batch, &log, &asked.values, asked.expected_tail.as_ref())?;
        let done = call.commit(batch).await?;
        let first = done.outcomes.first().and_then(OpOutcome::appended);
        Ok(proto::AppendResponse {
            receipt: Some(convert::receipt(done.receipt)),
            first: first.map(of_position),
        })
    }

    async fn scan(
        &self,
        call: &Call,
        asked: &proto::ScanRequest,
    ) -> Result<proto::ScanResponse, Error> {
        let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Read).await?;
        let (direction, limit, from) = scanning(asked)?;
        let from = match from {
            Some(from) => from,
            None => log.bounds(ReadConsistency::Local).await?.value.first,
        };
        let options = call.options(asked.options.clone(), log.group())?;
        let read = call.read(log.scan(from, direction, limit, options)).await?;
        Ok(proto::ScanResponse {
            reflected: Some(convert::reflected(&read)),
            entries: read.value.entries.into_iter().map(entry).collect(),
            next: read.value.next.map(of_position),
            first: Some(of_position(read.value.first)),
            tail: Some(of_position(read.value.tail)),
        })
    }

    async fn set_consumer(
        &self,
        call: &Call,
        asked: &proto::SetConsumerRequest,
    ) -> Result<proto::SetConsumerResponse, Error> {
        let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Write).await?;
        let consumer = log.consumer(&asked.consumer)?;
        let consumer = match asked.owner_epoch {
            Some(owner) => consumer.owned_by(epoch(owner)),
            None => consumer,
        };
        let receipt = match consumed(asked)? {
            Consumed::Commit(to) => call.write(consumer.commit(to)).await?,
            Consumed::Reset(to) => call.write(consumer.reset(to)).await?,
            Consumed::Forget => call.write(consumer.forget()).await?,
        };
        Ok(proto::SetConsumerResponse { receipt: Some(convert::receipt(receipt)) })
    }
}

/// The next page of a tail, once there is one, and room for it.
async fn followed(tail: &mut LogTail<Raw>, room: &Room) -> Result<Vec<LogEntry<Raw>>, Error> {
    loop {
        tail.ready().await?;
        room.take().await;
        let page = tail.read_page().await?;
        if !page.is_empty() {
            return Ok(page);
        }
        room.give_back();
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Endpoint {
    type AppendStreamStream = Answers<proto::AppendStreamResponse>;
    type TailStream = Answers<proto::TailResponse>;

    async fn append(
        &self,
        request: Request<proto::AppendRequest>,
    ) -> Result<Response<proto::AppendResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Append, asked.log.as_slice(), asked.number.is_some(), || {
            self.append(&call, &asked)
        })
        .await
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<proto::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let (call, messages) = self.begin(request)?;
        let answers = append_stream::begin(self.clone(), call, messages);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn scan(
        &self,
        request: Request<proto::ScanRequest>,
    ) -> Result<Response<proto::ScanResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Read, asked.log.as_slice(), false, || self.scan(&call, &asked))
            .await
    }

    async fn tail(
        &self,
        request: Request<proto::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let (call, asked) = self.begin(request)?;
        if let Some(log) = &asked.log {
            self.allow_use(&call, Right::Read, log)?;
        }
        let opened = self.handles.afresh(asked.log.as_slice(), false, || async {
            let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Read).await?;
            let first = log.bounds(ReadConsistency::Local).await?.value.first;
            Ok((log, first))
        });
        let (log, first) = opened.await.map_err(refused)?;
        let from = asked.from.as_ref().map_or(Ok(first), position).map_err(refused)?;
        let tail = log.tail(from);
        let room = call.room();
        let messages = stream::unfold(Some(tail), move |tail| {
            let room = room.clone();
            async move {
                let mut tail = tail?;
                match followed(&mut tail, &room).await {
                    Ok(page) => {
                        let entries = page.into_iter().map(entry).collect();
                        let next = Some(of_position(tail.position()));
                        Some((Ok(proto::TailResponse { entries, next }), Some(tail)))
                    }
                    Err(error) => Some((Err(refused(error)), None)),
                }
            }
        });
        let name = asked.log.map(|log| log.name).unwrap_or_default();
        Ok(Response::new(self.while_allowed(call, Right::Read, name, messages)))
    }

    async fn get_bounds(
        &self,
        request: Request<proto::GetBoundsRequest>,
    ) -> Result<Response<proto::GetBoundsResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Read, asked.log.as_slice(), false, || async {
            let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Read).await?;
            let options = call.options(asked.options.clone(), log.group())?;
            let read = call.read(log.bounds(options)).await?;
            Ok(proto::GetBoundsResponse {
                reflected: Some(convert::reflected(&read)),
                first: Some(of_position(read.value.first)),
                tail: Some(of_position(read.value.tail)),
                entries: read.value.entries,
                bytes: read.value.bytes,
                retention: Some(of_retention(read.value.retention)),
            })
        })
        .await
    }

    async fn set_retention(
        &self,
        request: Request<proto::SetRetentionRequest>,
    ) -> Result<Response<proto::SetRetentionResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        let wanted = asked.retention.unwrap_or_default();
        let retention = LogRetention { keep_ms: wanted.keep_ms, keep_bytes: wanted.keep_bytes };
        self.serve(&call, Right::Admin, asked.log.as_slice(), false, || async {
            let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Write).await?;
            let receipt = Some(convert::receipt(call.write(log.retain(retention)).await?));
            Ok(proto::SetRetentionResponse { receipt })
        })
        .await
    }

    async fn trim(
        &self,
        request: Request<proto::TrimRequest>,
    ) -> Result<Response<proto::TrimResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Admin, asked.log.as_slice(), false, || async {
            let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Write).await?;
            let done = call.write(log.trim_before(trimming(&asked)?)).await?;
            Ok(proto::TrimResponse {
                receipt: Some(convert::receipt(done.receipt)),
                first: Some(of_position(done.outcome.first)),
                complete: done.outcome.complete,
            })
        })
        .await
    }

    async fn get_consumer(
        &self,
        request: Request<proto::GetConsumerRequest>,
    ) -> Result<Response<proto::GetConsumerResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Read, asked.log.as_slice(), false, || async {
            let log: Log = self.handles.open(asked.log.as_ref(), "log", Use::Read).await?;
            let options = call.options(asked.options.clone(), log.group())?;
            let read = call.read(log.consumer(&asked.consumer)?.position(options)).await?;
            let reflected = Some(convert::reflected(&read));
            let position = Some(of_position(read.value));
            Ok(proto::GetConsumerResponse { position, reflected })
        })
        .await
    }

    async fn set_consumer(
        &self,
        request: Request<proto::SetConsumerRequest>,
    ) -> Result<Response<proto::SetConsumerResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Append, asked.log.as_slice(), false, || {
            self.set_consumer(&call, &asked)
        })
        .await
    }
}
