//! `palisade.map.v1.Map`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use palisade::{
    Batch, Error, History, MapChange, MapRange, Offset, OpOutcome, RANGE_ROWS_MAX, Version, Watch,
    WatchEvent, WatchOptions,
};
use palisade_proto::map::v1 as proto;
use palisade_proto::map::v1::map_server::Map as Service;
use tonic::{Request, Response, Status};

use super::answers::Room;
use super::convert::{self, Raw, row, version};
use super::endpoint::{Call, Endpoint, refused};
use super::failure::invalid;
use super::handles::{Map, Use};
use super::streams::Messages;
use crate::security::grants::Right;

/// How often the place of a watch is told if its caller does not say.
const PROGRESS: Duration = Duration::from_secs(1);
/// Least and most of what a caller may say.
const PROGRESS_MS: (u64, u64) = (100, 600_000);

/// How a value is put.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Put {
    Always,
    For { ttl_ms: u64 },
    If(Version),
}

pub(crate) fn putting(expected_version: Option<u64>, ttl_ms: u64) -> Result<Put, Error> {
    match (expected_version, ttl_ms) {
        (None, 0) => Ok(Put::Always),
        (None, ttl_ms) => Ok(Put::For { ttl_ms }),
        (Some(expected), 0) => Ok(Put::If(version(expected))),
        (Some(_), _) => Err(invalid("an expected version and ttl_ms do not go together")),
    }
}

/// A batch with a value that is put so.
pub(super) fn put_in(batch: Batch, map: &Map, key: &Bytes, value: &Raw, how: Put) -> Batch {
    match how {
        Put::Always => batch.put(map, key, value),
        Put::For { ttl_ms } => batch.put_with_ttl_ms(map, key, value, ttl_ms),
        Put::If(version) => batch.put_if(map, key, value, version),
    }
}

/// How a map is watched.
pub(crate) fn watching(asked: &proto::WatchRequest) -> WatchOptions {
    let progress = match asked.progress_ms {
        0 => PROGRESS,
        ms => Duration::from_millis(ms.clamp(PROGRESS_MS.0, PROGRESS_MS.1)),
    };
    WatchOptions { prefix: asked.prefix.clone(), progress }
}

impl Endpoint {
    async fn put(
        &self,
        call: &Call,
        asked: &proto::PutRequest,
    ) -> Result<proto::PutResponse, Error> {
        let map: Map = self.handles.open(asked.map.as_ref(), "map", Use::Write).await?;
        let caller = asked.map.as_ref().and_then(|map| map.caller.as_ref());
        let batch = call.batch(&self.engine, caller, asked.number.clone())?;
        let rule = putting(asked.expected.as_ref().map(|it| it.version), asked.ttl_ms)?;
        let batch = put_in(batch, &map, &asked.key, &Raw::new(asked.value.clone()), rule);
        let done = call.commit(batch).await?;
        let replaced = done.outcomes.first().and_then(OpOutcome::replaced);
        Ok(proto::PutResponse {
            receipt: Some(convert::receipt(done.receipt)),
            replaced: replaced.map(|version| version.offset().get()),
        })
    }

    async fn delete(
        &self,
        call: &Call,
        asked: &proto::DeleteRequest,
    ) -> Result<proto::DeleteResponse, Error> {
        let map: Map = self.handles.open(asked.map.as_ref(), "map", Use::Write).await?;
        let caller = asked.map.as_ref().and_then(|map| map.caller.as_ref());
        let batch = call.batch(&self.engine, caller, asked.number.clone())?;
        let batch = match &asked.expected {
            None => batch.delete(&map, &asked.key),
            Some(expected) => batch.delete_if(&map, &asked.key, version(expected.version)),
        };
        let done = call.commit(batch).await?;
        let replaced = done.outcomes.first().and_then(OpOutcome::replaced);
        Ok(proto::DeleteResponse {
            receipt: Some(convert::receipt(done.receipt)),
            replaced: replaced.map(|version| version.offset().get()),
        })
    }

    async fn range(
        &self,
        call: &Call,
        asked: &proto::RangeRequest,
    ) -> Result<proto::RangeResponse, Error> {
        let map: Map = self.handles.open(asked.map.as_ref(), "map", Use::Read).await?;
        let options = call.options(asked.options.clone(), map.group())?;
        let range = range(asked);
        let read = match asked.at {
            0 => call.read(map.range(range, options)).await?,
            at => call.read(map.at(Offset::new(at)).range(range, options)).await?,
        };
        let reflected = convert::reflected(&read);
        let more = read.value.next.is_some();
        let rows = read.value.rows.into_iter().map(|(key, found)| row(key, found)).collect();
        Ok(proto::RangeResponse { rows, more, reflected: Some(reflected) })
    }

    async fn get(
        &self,
        call: &Call,
        asked: &proto::GetRequest,
    ) -> Result<proto::GetResponse, Error> {
        let map: Map = self.handles.open(asked.map.as_ref(), "map", Use::Read).await?;
        let options = call.options(asked.options.clone(), map.group())?;
        let read = match asked.at {
            0 => call.read(map.get_many(&asked.keys, options)).await?,
            at => call.read(map.at(Offset::new(at)).get_many(&asked.keys, options)).await?,
        };
        let reflected = convert::reflected(&read);
        let found = asked.keys.iter().zip(read.value);
        let found = found
            .map(|(key, found)| proto::Found { row: found.map(|found| row(key.clone(), found)) });
        Ok(proto::GetResponse { found: found.collect(), reflected: Some(reflected) })
    }
}

pub(crate) fn range(asked: &proto::RangeRequest) -> MapRange<Bytes> {
    use proto::range_request::Keys;
    let range = match &asked.keys {
        None => MapRange::all(),
        Some(Keys::Prefix(prefix)) => MapRange::prefix(prefix),
        Some(Keys::Interval(proto::Interval { from, end })) => {
            let from = MapRange::from(from);
            if end.is_empty() { from } else { from.before(end) }
        }
    };
    let range = range.limit(match asked.limit {
        0 => RANGE_ROWS_MAX,
        limit => limit as usize,
    });
    if asked.backward { range.backward() } else { range }
}

fn change(change: MapChange<Bytes, Raw>) -> proto::Change {
    let MapChange { key, now, before, ended } = change;
    proto::Change {
        now: now.map(|found| row(key.clone(), found)),
        before: before.map(|found| row(key.clone(), found)),
        key,
        ended,
    }
}

fn told(event: WatchEvent<Bytes, Raw>, position: Offset) -> proto::WatchResponse {
    let position = position.get();
    match event {
        WatchEvent::Changes { offset, log_time, changes } => proto::WatchResponse {
            position,
            changes: changes.into_iter().map(change).collect(),
            offset: offset.get(),
            log_time_ms: log_time.get(),
        },
        WatchEvent::Progress { .. } => proto::WatchResponse { position, ..Default::default() },
    }
}

/// What a watch tells next, once there is something and room for it. The room is kept for as long as it has read
/// more than it has told.
async fn watched(
    watch: &mut Watch<Bytes, Raw>,
    room: &Room,
) -> Result<WatchEvent<Bytes, Raw>, Error> {
    loop {
        watch.ready().await?;
        room.take().await;
        if let Some(event) = watch.read_next().await? {
            room.keep(watch.holds());
            return Ok(event);
        }
        room.give_back();
    }
}

#[tonic::async_trait]
impl Service for Endpoint {
    type WatchStream = Messages<proto::WatchResponse>;

    async fn get(
        &self,
        request: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Read, asked.map.as_slice(), false, || self.get(&call, &asked))
            .await
    }

    async fn put(
        &self,
        request: Request<proto::PutRequest>,
    ) -> Result<Response<proto::PutResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Append, asked.map.as_slice(), asked.number.is_some(), || {
            self.put(&call, &asked)
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Append, asked.map.as_slice(), asked.number.is_some(), || {
            self.delete(&call, &asked)
        })
        .await
    }

    async fn range(
        &self,
        request: Request<proto::RangeRequest>,
    ) -> Result<Response<proto::RangeResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Read, asked.map.as_slice(), false, || self.range(&call, &asked))
            .await
    }

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (call, asked) = self.begin(request)?;
        if let Some(map) = &asked.map {
            self.allow_use(&call, Right::Read, map)?;
        }
        let opened = self.handles.afresh(asked.map.as_slice(), false, || async {
            let map: Map = self.handles.open(asked.map.as_ref(), "map", Use::Read).await?;
            // Also finds out whether it is still there.
            map.bounds(palisade::ReadConsistency::Local).await?;
            Ok(map)
        });
        let map = opened.await.map_err(refused)?;
        let watch = map.watch(Offset::new(asked.from), watching(&asked));
        let room = call.room();
        let events = stream::unfold(Some(watch), move |watch| {
            let room = room.clone();
            async move {
                let mut watch = watch?;
                Some(match watched(&mut watch, &room).await {
                    Ok(event) => (Ok(told(event, watch.position())), Some(watch)),
                    Err(error) => (Err(refused(error)), None),
                })
            }
        });
        let name = asked.map.map(|map| map.name).unwrap_or_default();
        Ok(Response::new(self.while_allowed(call, Right::Read, name, events)))
    }

    async fn get_bounds(
        &self,
        request: Request<proto::GetBoundsRequest>,
    ) -> Result<Response<proto::GetBoundsResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        self.serve(&call, Right::Read, asked.map.as_slice(), false, || async {
            let map: Map = self.handles.open(asked.map.as_ref(), "map", Use::Read).await?;
            let options = call.options(asked.options.clone(), map.group())?;
            let read = call.read(map.bounds(options)).await?;
            let reflected = Some(convert::reflected(&read));
            let (floor, keys) = (read.value.floor.get(), read.value.keys);
            Ok(proto::GetBoundsResponse { floor, keys, reflected })
        })
        .await
    }

    async fn set_history(
        &self,
        request: Request<proto::SetHistoryRequest>,
    ) -> Result<Response<proto::SetHistoryResponse>, Status> {
        let (call, asked) = self.begin(request)?;
        let history = History { keep_ms: asked.keep_ms, changes_max: asked.changes_max };
        self.serve(&call, Right::Admin, asked.map.as_slice(), false, || async {
            let map: Map = self.handles.open(asked.map.as_ref(), "map", Use::Write).await?;
            let receipt = Some(convert::receipt(call.write(map.keep(history)).await?));
            Ok(proto::SetHistoryResponse { receipt })
        })
        .await
    }
}
