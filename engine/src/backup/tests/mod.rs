//! Chains of backups: whole, damaged, cut short, and restored.

mod chains;
mod crashes;
mod formats;
#[cfg(feature = "rocksdb")]
mod rehearsals;
mod restores;
mod store;

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use palisade_replication::{ClusterId, Options};

use super::*;
use crate::error::Error;
use crate::idempotency::ReplicatedIdempotencyStore;
use crate::log::ReplicatedLog;
use crate::map::ReplicatedMap;
use crate::projection::Registry;
use crate::projections::idempotency::Fingerprint;
use crate::resource::{FenceEpoch, ResourceSpec};

pub(super) const CLUSTER: ClusterId = ClusterId::new(7);
const GROUP: GroupId = GroupId::new(1);
const OWNER: FenceEpoch = FenceEpoch::new(1);

fn id(id: &str) -> BackupId {
    BackupId::new(id).unwrap()
}

fn registry() -> Registry {
    Registry::new(&[]).unwrap()
}

fn spec(name: &str, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(name, "test.v1").unwrap().epoch(FenceEpoch::new(epoch))
}

/// A service with something of each kind, which numbers what it writes.
struct Service {
    engine: Engine,
    log: ReplicatedLog<String>,
    map: ReplicatedMap<String, String>,
    requests: ReplicatedIdempotencyStore,
}

impl Service {
    async fn of(engine: Engine) -> Self {
        let session = engine.client_session(std::time::Duration::from_secs(3600)).await.unwrap();
        let engine = session.engine().clone();
        Self {
            log: ReplicatedLog::open(&engine, spec("log", 1)).await.unwrap(),
            map: ReplicatedMap::open(&engine, spec("map", 1)).await.unwrap(),
            requests: ReplicatedIdempotencyStore::open(&engine, spec("requests", 1)).await.unwrap(),
            engine,
        }
    }

    /// On a node of this process whose log keeps everything.
    async fn open(dir: &tempfile::TempDir) -> Self {
        let options = Options { kept_entries: 1 << 20, ..Options::default() };
        let builder = Engine::builder(dir.path()).cluster(CLUSTER).options(options);
        Self::of(builder.open().await.unwrap()).await
    }

    /// A request, a refusal, a change and a removal.
    async fn submit(&self, number: u64) {
        let (request, text) = (format!("r{number}"), format!("text {number}"));
        self.engine
            .batch()
            .reserve(&self.requests, &request, Fingerprint::of(text.as_bytes()), OWNER)
            .append(&self.log, &text)
            .put(&self.map, &format!("k{}", number % 5), &text)
            .complete(&self.requests, &request, OWNER, "done".into())
            .commit()
            .await
            .unwrap();
        if number.is_multiple_of(3) {
            self.map.delete(&format!("k{}", number % 4)).await.unwrap();
            let absent = crate::Version::ABSENT;
            self.map.put_if(&"there".into(), &text, absent).await.ok();
        }
    }

    fn backup<'a>(&self, place: &'a BackupPlace) -> Backup<'a> {
        self.engine.backup(place)
    }
}

fn place(store: &Arc<InMemory>) -> BackupPlace {
    let store: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(store);
    BackupPlace::new(store, "backups/prod").unwrap()
}

/// Every file below the prefix, in order.
async fn files(store: &InMemory) -> Vec<String> {
    let mut folders = vec![object_store::path::Path::from("backups/prod")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let listed = store.list_with_delimiter(Some(&folder)).await.unwrap();
        folders.extend(listed.common_prefixes);
        let names = listed.objects.into_iter().map(|object| object.location.to_string());
        found.extend(names.map(|name| name.strip_prefix("backups/prod/").unwrap().to_owned()));
    }
    found.sort();
    found
}

fn path(file: &str) -> object_store::path::Path {
    object_store::path::Path::from(format!("backups/prod/{file}"))
}

async fn contents(store: &InMemory, file: &str) -> bytes::Bytes {
    store.get(&path(file)).await.unwrap().bytes().await.unwrap()
}

/// What a backup returns can be awaited by a task of any runtime thread.
#[allow(dead_code, reason = "it compiles or it does not")]
fn futures_are_sent(engine: &Engine, place: &BackupPlace) {
    fn task<T: Send>(_: &T) {}
    let (full, last) = (id("full"), id("last"));
    task(&engine.backup(place).full(&full));
    task(&engine.backup(place).incremental(&last, &full));
}

/// The file that an error names.
fn named(error: &BackupError) -> &str {
    match error {
        BackupError::Missing { file }
        | BackupError::Damaged { file, .. }
        | BackupError::UnknownFormat { file, .. }
        | BackupError::Foreign { file, .. }
        | BackupError::BrokenChain { file, .. }
        | BackupError::AlreadyExists { file }
        | BackupError::Store { file, .. } => file,
        other => panic!("{other:?} names no file"),
    }
}
