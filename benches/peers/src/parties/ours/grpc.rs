//! Calls over gRPC with the generated clients alone: what any language has.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use palisade_benches::{GrpcCalls, Payloads, Shape, closed_loop, connect};
use palisade_proto::batch::v1 as batch;
use palisade_proto::batch::v1::batch_client::BatchClient;
use palisade_proto::batch::v1::operation::Operation as Op;
use palisade_proto::common::v1::read_options::Consistency;
use palisade_proto::common::v1::{Linearizable, ReadOptions, Resource};
use palisade_proto::map::v1::map_client::MapClient;
use palisade_proto::map::v1::{Expected, GetRequest, PutRequest};
use tonic::transport::Channel;

use super::in_process::key;
use super::{LOG, MAP, REQUESTS, SCHEMA, STATUS};
use crate::load::{BATCH, CONNECTIONS, Load, Told, Way};
use crate::parties::pool::Pool;
use crate::parties::{fingerprint, run_id};
use crate::server::text;

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { name: name.into(), schema: SCHEMA.into(), ..Resource::default() })
}

/// One record to a call.
pub(in crate::parties) async fn unary_puts(at: SocketAddr, load: &Load) -> Result<Told, String> {
    let calls = GrpcCalls::connect(at, CONNECTIONS, load.bytes).await?;
    Ok(calls.unary(load.in_flight as usize, load.length).await?.into())
}

/// Records on one stream, with as many to a message as the way says.
pub(in crate::parties) async fn streams(at: SocketAddr, load: &Load) -> Result<Told, String> {
    let records = if load.way == Way::Batched { BATCH } else { 1 };
    let window = (load.in_flight / records).max(1) as usize;
    let shape = Shape { streams: 1, window, records: records as usize };
    let calls = GrpcCalls::connect(at, 1, load.bytes).await?;
    Ok(calls.streams(shape, load.length).await?.into())
}

/// Reads of one key each.
pub(in crate::parties) struct GrpcReads {
    pub(in crate::parties) channels: Vec<Channel>,
    /// An offset that the answer must reflect; everything that was acknowledged before if none is given.
    pub(in crate::parties) at_least: Option<u64>,
}

impl GrpcReads {
    pub(super) async fn connect(at: SocketAddr, at_least: Option<u64>) -> Result<Self, String> {
        Ok(Self { channels: connect(at, CONNECTIONS).await?, at_least })
    }

    pub(in crate::parties) async fn run(self, load: &Load) -> Result<Told, String> {
        let consistency = match self.at_least {
            None => Consistency::Linearizable(Linearizable {}),
            Some(offset) => Consistency::AtLeastOffset(offset),
        };
        let options = ReadOptions { consistency: Some(consistency), ..ReadOptions::default() };
        let (keys, map) = (load.keys, resource(MAP));
        let get = move |number: u64| {
            let channel = &self.channels[number as usize % self.channels.len()];
            let mut client = MapClient::new(channel.clone());
            let keys = vec![Bytes::from(key(keys.key(number)))];
            let (map, options) = (map.clone(), Some(options.clone()));
            async move {
                let request = GetRequest { map, keys, options, at: 0 };
                let found = client.get(request).await.map_err(text)?.into_inner().found;
                let is_there = found.first().is_some_and(|found| found.row.is_some());
                if is_there { Ok(()) } else { Err("a key is not there".to_owned()) }
            }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, get).await?.into())
    }
}

/// Replaces of values whose version is known.
pub(super) async fn cas(at: SocketAddr, load: &Load) -> Result<Told, String> {
    let channels = connect(at, CONNECTIONS).await?;
    let (map, payloads) = (resource(MAP), Payloads::of(load.bytes));
    let put = move |number: u64, key: Bytes, version: Option<u64>| {
        let mut client = MapClient::new(channels[number as usize % channels.len()].clone());
        let (map, value) = (map.clone(), payloads.get(number));
        async move {
            let expected = version.map(|version| Expected { version });
            let request = PutRequest { map, key, value, expected, ..PutRequest::default() };
            let answer = client.put(request).await.map_err(text)?.into_inner();
            answer.receipt.map(|receipt| receipt.offset).ok_or("no receipt".to_owned())
        }
    };
    let mut known = Vec::new();
    for at in 0..load.in_flight {
        let key = Bytes::from(format!("cas-{at}"));
        known.push((key.clone(), put(at, key, None).await?));
    }
    let known = Pool::of(known);
    let replace = move |number| {
        let (put, known) = (put.clone(), known.clone());
        async move {
            let (key, version) = known.take()?;
            let version = put(number, key.clone(), Some(version)).await?;
            known.put((key, version));
            Ok(())
        }
    };
    Ok(closed_loop(load.in_flight as usize, load.length, replace).await?.into())
}

/// Requests that have effect once: reserved, recorded, noted and completed in one batch.
pub(super) async fn submits(at: SocketAddr, load: &Load) -> Result<Told, String> {
    let channels = connect(at, CONNECTIONS).await?;
    let payloads = Payloads::of(load.bytes);
    let run: Arc<str> = run_id()?.into();
    let submit = move |number: u64| {
        let mut client = BatchClient::new(channels[number as usize % channels.len()].clone());
        let (id, value) = (format!("{run}-{number}"), payloads.get(number));
        async move {
            let store = || resource(REQUESTS);
            let fingerprint = Bytes::from(fingerprint(&value));
            let reserve = batch::Reserve {
                store: store(),
                key: id.clone(),
                fingerprint,
                owner_epoch: 1,
                ..batch::Reserve::default()
            };
            let append = batch::Append {
                log: resource(LOG),
                values: vec![value],
                ..batch::Append::default()
            };
            let put = batch::Put {
                map: resource(STATUS),
                key: id.clone().into(),
                value: Bytes::from_static(b"done"),
                ..batch::Put::default()
            };
            let complete = batch::Complete {
                store: store(),
                key: id,
                owner_epoch: 1,
                result: Bytes::from_static(b"done"),
            };
            let then =
                [Op::Reserve(reserve), Op::Append(append), Op::Put(put), Op::Complete(complete)]
                    .map(|operation| batch::Operation { operation: Some(operation) })
                    .to_vec();
            let request = batch::CommitRequest { then, ..batch::CommitRequest::default() };
            client.commit(request).await.map(|_| ()).map_err(text)
        }
    };
    Ok(closed_loop(load.in_flight as usize, load.length, submit).await?.into())
}
