//! The handles that calls write and read through, opened once for each resource, schema and epoch.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use palisade::{
    Engine, Error, FenceEpoch, LogicalResourceName, ReplicatedIdempotencyStore, ReplicatedLog,
    ReplicatedMap, SchemaId, TraceContext,
};
use palisade_proto::common::v1::Resource;

use super::convert::{Raw, domain, epoch, needed};
use crate::observe::current_trace;

pub(crate) type Log = ReplicatedLog<Raw>;
pub(crate) type Map = ReplicatedMap<Bytes, Raw>;
pub(crate) type Store = ReplicatedIdempotencyStore;

/// Handles of one kind that are kept. Beyond it all of them are opened again as they are needed.
const HANDLES_MAX: usize = 4096;

/// What a call does with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

/// Which handle a call asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    name: LogicalResourceName,
    schema: SchemaId,
    /// None for a handle that only reads.
    epoch: Option<FenceEpoch>,
}

impl Key {
    /// Of the resource that a call names, as its field of that name.
    pub(crate) fn of(resource: Option<&Resource>, field: &str, how: Use) -> Result<Self, Error> {
        let resource = needed(resource, field)?;
        Ok(Self {
            name: LogicalResourceName::new(&resource.name)?,
            schema: SchemaId::new(&resource.schema)?,
            epoch: (how == Use::Write).then(|| epoch(resource.epoch)),
        })
    }
}

/// A handle of any kind.
pub(crate) trait Opened: Clone {
    fn kept(handles: &Handles) -> &Kept<Self>;

    fn existing(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
        epoch: FenceEpoch,
    ) -> impl Future<Output = Result<Self, Error>> + Send;

    fn reader(
        engine: &Engine,
        name: &LogicalResourceName,
        schema: &SchemaId,
    ) -> impl Future<Output = Result<Self, Error>> + Send;

    fn on_behalf(self, caller: palisade::FailureDomain) -> Self;

    fn part_of(self, trace: TraceContext) -> Self;
}

macro_rules! opened {
    ($handle:ty, $kept:ident) => {
        impl Opened for $handle {
            fn kept(handles: &Handles) -> &Kept<Self> {
                &handles.$kept
            }

            async fn existing(
                engine: &Engine,
                name: &LogicalResourceName,
                schema: &SchemaId,
                epoch: FenceEpoch,
            ) -> Result<Self, Error> {
                Self::open_existing(engine, name, schema, epoch).await
            }

            async fn reader(
                engine: &Engine,
                name: &LogicalResourceName,
                schema: &SchemaId,
            ) -> Result<Self, Error> {
                Self::open_reader(engine, name, schema).await
            }

            fn on_behalf(self, caller: palisade::FailureDomain) -> Self {
                self.for_caller(caller)
            }

            fn part_of(self, trace: TraceContext) -> Self {
                self.traced(trace)
            }
        }
    };
}

opened!(Log, logs);
opened!(Map, maps);
opened!(Store, stores);

/// Handles of one kind.
pub(crate) struct Kept<H>(Mutex<BTreeMap<Key, H>>);

impl<H> Default for Kept<H> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<H> Kept<H> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, H>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if there was one.
    fn forget(&self, name: &LogicalResourceName) -> bool {
        let mut kept = self.lock();
        let first = SchemaId::new("0").expect("the least name there is");
        let from = Key { name: name.clone(), schema: first, epoch: None };
        let of = kept.range(from..).map(|(key, _)| key).take_while(|key| key.name == *name);
        let of: Vec<Key> = of.cloned().collect();
        of.iter().for_each(|key| drop(kept.remove(key)));
        !of.is_empty()
    }
}

/// The handles of a node.
pub(crate) struct Handles {
    engine: Engine,
    logs: Kept<Log>,
    maps: Kept<Map>,
    stores: Kept<Store>,
}

impl Handles {
    pub(crate) fn new(engine: Engine) -> Self {
        let (logs, maps, stores) = (Kept::default(), Kept::default(), Kept::default());
        Self { engine, logs, maps, stores }
    }

    /// A handle to the resource that a call names, as its field of that name.
    pub(crate) async fn open<H: Opened>(
        &self,
        resource: Option<&Resource>,
        field: &str,
        how: Use,
    ) -> Result<H, Error> {
        let key = Key::of(resource, field, how)?;
        let found = H::kept(self).lock().get(&key).cloned();
        let handle = match found {
            Some(handle) => handle,
            // On the heap, as below: rare, and each call would carry the room for it.
            None => Box::pin(self.opened(key)).await?,
        };
        let handle = match current_trace().filter(|_| how == Use::Write) {
            Some(trace) => handle.part_of(trace),
            None => handle,
        };
        Ok(match resource.and_then(|resource| resource.caller.as_ref()) {
            Some(caller) => handle.on_behalf(domain(caller)),
            None => handle,
        })
    }

    async fn opened<H: Opened>(&self, key: Key) -> Result<H, Error> {
        let Key { name, schema, epoch } = &key;
        let handle = match epoch {
            Some(epoch) => H::existing(&self.engine, name, schema, *epoch).await?,
            None => H::reader(&self.engine, name, schema).await?,
        };
        let mut kept = H::kept(self).lock();
        if HANDLES_MAX <= kept.len() {
            kept.clear();
        }
        kept.insert(key, handle.clone());
        Ok(handle)
    }

    /// Does a call again if what it met is not what was kept: another resource of that name, which was made
    /// since, or one with another schema beside those that there were. Nothing has happened then. A numbered
    /// command is not done again: the refusal is its answer, and it would be another command.
    pub(crate) async fn afresh<T, F: Future<Output = Result<T, Error>>>(
        &self,
        resources: &[Resource],
        is_numbered: bool,
        call: impl Fn() -> F,
    ) -> Result<T, Error> {
        match call().await {
            Err(error @ (Error::NotFound { .. } | Error::Incompatible { .. })) => {
                if self.forget(resources) && !is_numbered {
                    Box::pin(call()).await
                } else {
                    Err(error)
                }
            }
            done => done,
        }
    }

    /// Forgets the handles to these, and says whether there were any.
    pub(crate) fn forget(&self, resources: &[Resource]) -> bool {
        let names = resources.iter().filter_map(|it| LogicalResourceName::new(&it.name).ok());
        let mut forgotten = false;
        for name in names {
            forgotten |= self.logs.forget(&name);
            forgotten |= self.maps.forget(&name);
            forgotten |= self.stores.forget(&name);
        }
        forgotten
    }
}
