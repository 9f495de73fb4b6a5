//! Calls in the process of the node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use palisade::{
    Engine, FenceEpoch, Fingerprint, Offset, ReadConsistency, ReadOptions,
    ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap, Version,
};
use palisade_benches::{Payloads, Until, closed_loop, spec};

use super::{LOG, MAP, REQUESTS, STATUS};
use crate::load::{Load, Told, Work};
use crate::parties::pool::Pool;
use crate::parties::run_id;
use crate::party::not_offered;
use crate::server::text;

const OWNER: FenceEpoch = FenceEpoch::new(1);
/// Keys that are filled at once.
const FILL_CALLERS: usize = 64;
/// How long a follower that is behind is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// What is loaded.
#[derive(Clone)]
pub(super) struct Resources {
    engine: Engine,
    pub(super) log: ReplicatedLog<Bytes>,
    map: ReplicatedMap<String, Bytes>,
    status: ReplicatedMap<String, Bytes>,
    requests: ReplicatedIdempotencyStore,
}

/// The name of a key.
pub(super) fn key(at: u64) -> String {
    format!("key-{at}")
}

impl Resources {
    pub(super) async fn open(engine: &Engine) -> Result<Self, String> {
        Ok(Self {
            engine: engine.clone(),
            log: ReplicatedLog::open(engine, spec(LOG)?).await.map_err(text)?,
            map: ReplicatedMap::open(engine, spec(MAP)?).await.map_err(text)?,
            status: ReplicatedMap::open(engine, spec(STATUS)?).await.map_err(text)?,
            requests: ReplicatedIdempotencyStore::open(engine, spec(REQUESTS)?)
                .await
                .map_err(text)?,
        })
    }

    pub(super) async fn fill(&self, keys: u64, bytes: usize) -> Result<(), String> {
        let (map, payloads) = (self.map.clone(), Payloads::of(bytes));
        let put = move |number: u64| {
            let (map, value) = (map.clone(), payloads.get(number));
            async move { map.put(&key(number), &value).await.map(|_| ()).map_err(text) }
        };
        closed_loop(FILL_CALLERS, Until::Requests(keys), put).await.map(|_| ())
    }

    pub(super) async fn run(&self, load: &Load, at_least: u64) -> Result<Told, String> {
        match load.work {
            Work::Put => self.appends(load).await,
            Work::Get => self.gets(load, ReadConsistency::Linearizable.into()).await,
            Work::GetAtLeast => {
                let fresh = ReadConsistency::AtLeastOffset(Offset::new(at_least));
                self.gets(load, ReadOptions::from(fresh).wait(WAIT)).await
            }
            Work::Cas => self.cas(load).await,
            Work::Submit => self.submits(load).await,
            Work::Failover | Work::Wal | Work::WalInFlight => Err(not_offered(load)),
        }
    }

    async fn appends(&self, load: &Load) -> Result<Told, String> {
        let (log, payloads) = (self.log.clone(), Payloads::of(load.bytes));
        let append = move |number| {
            let (log, value) = (log.clone(), payloads.get(number));
            async move { log.append(&value).await.map(|_| ()).map_err(text) }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, append).await?.into())
    }

    async fn gets(&self, load: &Load, options: ReadOptions) -> Result<Told, String> {
        let (map, keys) = (self.map.clone(), load.keys);
        let get = move |number| {
            let (map, key) = (map.clone(), key(keys.key(number)));
            async move {
                let row = map.get(&key, options).await.map_err(text)?.value;
                row.map(|_| ()).ok_or_else(|| format!("{key} is not there"))
            }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, get).await?.into())
    }

    async fn cas(&self, load: &Load) -> Result<Told, String> {
        let (map, payloads) = (self.map.clone(), Payloads::of(load.bytes));
        let mut known = Vec::new();
        for at in 0..load.in_flight {
            let key = format!("cas-{at}");
            let receipt = map.put(&key, &payloads.get(at)).await.map_err(text)?;
            known.push((key, Version::at(receipt.offset)));
        }
        let known = Pool::of(known);
        let replace = move |number| {
            let (map, known, value) = (map.clone(), known.clone(), payloads.get(number));
            async move {
                let (key, version) = known.take()?;
                let receipt = map.put_if(&key, &value, version).await.map_err(text)?;
                known.put((key, Version::at(receipt.offset)));
                Ok(())
            }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, replace).await?.into())
    }

    async fn submits(&self, load: &Load) -> Result<Told, String> {
        let (resources, payloads) = (self.clone(), Payloads::of(load.bytes));
        let run: Arc<str> = run_id()?.into();
        let submit = move |number| {
            let (own, value) = (resources.clone(), payloads.get(number));
            let id = format!("{run}-{number}");
            async move {
                let done = own
                    .engine
                    .batch()
                    .reserve(&own.requests, &id, Fingerprint::of(&value), OWNER)
                    .append(&own.log, &value)
                    .put(&own.status, &id, &Bytes::from_static(b"done"))
                    .complete(&own.requests, &id, OWNER, Bytes::from_static(b"done"))
                    .commit();
                done.await.map(|_| ()).map_err(text)
            }
        };
        Ok(closed_loop(load.in_flight as usize, load.length, submit).await?.into())
    }
}
