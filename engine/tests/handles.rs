//! What the types of the handles promise, checked by the compiler.

#[path = "support/data.rs"]
mod data;

use std::rc::Rc;
use std::time::Duration;

use data::Data;
use palisade::{
    Batch, Consumer, Directory, Engine, EngineBuilder, Error, Group, Guard, Handle, LogPosition,
    LogRetention, LogTail, MapAt, MapRange, MemberChange, ReadConsistency,
    ReplicatedIdempotencyStore, ReplicatedLog, ReplicatedMap, ResourceKind, ResourceSpec, Session,
    Watch, blocking,
};

const fn handle<T: Clone + Send + Sync + 'static>() {}
const fn sent<T: Send + Sync + 'static>() {}
const fn moved<T: Send + 'static>() {}
const fn task<T: Send>(_: &T) {}

/// Whatever it is a handle of.
#[test]
fn every_handle_can_be_cloned_shared_and_sent() {
    handle::<Engine>();
    handle::<Group>();
    handle::<Directory>();
    handle::<Session>();
    handle::<Handle<Rc<()>>>();
    handle::<ReplicatedLog<Rc<()>>>();
    handle::<Consumer>();
    handle::<ReplicatedMap<Rc<()>, Rc<()>>>();
    handle::<MapAt<Rc<()>, Rc<()>>>();
    handle::<ReplicatedIdempotencyStore>();
    handle::<Guard>();
    handle::<EngineBuilder>();
    handle::<ResourceSpec>();
    handle::<Error>();
    // Once committed, a batch is gone.
    sent::<Batch>();
    // One reader has it.
    moved::<LogTail<String>>();
    moved::<Watch<String, String>>();

    handle::<blocking::Engine>();
    handle::<blocking::Group>();
    handle::<blocking::Directory>();
    handle::<blocking::Session>();
    handle::<blocking::Handle<Rc<()>>>();
    handle::<blocking::ReplicatedLog<Rc<()>>>();
    handle::<blocking::Consumer>();
    handle::<blocking::ReplicatedMap<Rc<()>, Rc<()>>>();
    handle::<blocking::MapAt<Rc<()>, Rc<()>>>();
    handle::<blocking::ReplicatedIdempotencyStore>();
    moved::<blocking::LogTail<String>>();
    moved::<blocking::Watch<String, String>>();
}

/// What a handle returns can be awaited by a task of any runtime thread.
#[allow(dead_code, reason = "it compiles or it does not")]
fn futures_are_sent(
    engine: &Engine,
    spec: ResourceSpec,
    log: &ReplicatedLog<String>,
    map: &ReplicatedMap<String, String>,
    requests: &ReplicatedIdempotencyStore,
) {
    let text = String::new();
    task(&engine.data().status());
    task(&engine.data().chain_head());
    task(&engine.data().digest());
    task(&engine.close());
    task(&engine.client_session(Duration::ZERO));
    task(&engine.change_members(MemberChange::AcrossDomains));
    task(&engine.cluster_map());
    let directory = engine.directory();
    task(&directory.list("", None, 1, ReadConsistency::Local));
    task(&directory.create(&ResourceKind::MAP, spec.clone()));
    task(&engine.data().register_client(Duration::ZERO));
    task(&engine.client_session(Duration::ZERO));
    task(&engine.batch().commit());
    task(&ReplicatedLog::<String>::open(engine, spec));
    task(&log.append(&text));
    task(&log.append_all(&[]));
    task(&log.retain(LogRetention::default()));
    task(&log.consumer("c").map(|consumer| async move { consumer.forget().await }));
    let mut tail = log.tail(LogPosition::START);
    task(&tail.next());
    task(&map.put(&text, &text));
    task(&map.get(&text, ReadConsistency::Linearizable));
    task(&map.range(MapRange::all(), ReadConsistency::Local));
    task(&requests.status("r", ReadConsistency::Local));
}
