//! The same on real nodes, with real files.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use palisade::{
    ClusterId, Engine, EngineBuilder, Error, Handle, NodeId, ReadConsistency, RebuildStage,
    ReplicaPolicy, ResourceSpec,
};

use super::{Inventory, Second, Stock, group, receive, stock_of_any};

fn spec(replicas: u32) -> ResourceSpec {
    let spec = ResourceSpec::new("shop", "shop.v1").unwrap();
    spec.replicas(ReplicaPolicy::majority(replicas))
}

async fn stock(engine: &Engine) -> Result<Stock, Error> {
    let (name, schema) = (spec(1).name, spec(1).schema);
    let shop = Handle::<Second>::open_reader(engine, &name, &schema).await?;
    let read = shop.read(ReadConsistency::Linearizable, |rows| stock_of_any(rows, "apple")).await;
    Ok(read?.value)
}

fn builder(dir: &Path, addresses: &[SocketAddr], at: usize) -> EngineBuilder {
    let mut builder = Engine::builder(dir.join(format!("node-{at}")))
        .cluster(ClusterId::new(9))
        .node(NodeId::new(at as u64 + 1))
        .listen(addresses[at])
        .request_timeout_ms(20_000);
    for (number, address) in addresses.iter().enumerate() {
        builder = builder.voter(NodeId::new(number as u64 + 1), *address);
    }
    builder
}

/// Three nodes are opened with the second version one after the other, while the others go on: reads and
/// writes never stop, and at the end the first version can be left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_come_to_the_second_version() {
    let dir = tempfile::tempdir().unwrap();
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = listeners.iter().map(|it| it.local_addr().unwrap()).collect();
    drop(listeners);
    let builder = |at| builder(dir.path(), &addresses, at);
    let mut engines = Vec::new();
    for at in 0..3 {
        engines.push(builder(at).projection(Inventory).open().await.unwrap());
    }
    let shop = Handle::<Inventory>::open(&engines[0], spec(3)).await.unwrap();
    let mut received = 0;
    for _ in 0..20 {
        shop.submit(&receive(1)).await.unwrap();
        received += 1;
    }
    drop(shop);
    for (at, engine) in engines.iter_mut().enumerate() {
        engine.close().await.unwrap();
        let both = builder(at).projection(Second).superseding(Inventory);
        *engine = both.open().await.unwrap();
        let shop = Handle::<Second>::open(engine, spec(3)).await.unwrap();
        received += 1;
        assert_eq!(shop.submit(&receive(1)).await.unwrap().outcome.free, received);
    }
    // Each look is a write and a read, which wait for nothing that is under way.
    let shop = Handle::<Second>::open(&engines[1], spec(3)).await.unwrap();
    let mut at = 0;
    loop {
        received += 1;
        assert_eq!(shop.submit(&receive(1)).await.unwrap().outcome.free, received);
        assert_eq!(stock(&engines[at % 3]).await.unwrap().free, received);
        let status = group(&engines[at % 3]).rebuilds().await.unwrap().value;
        if status[0].active == 2 {
            assert_eq!(status[0].stage, RebuildStage::Idle);
            break;
        }
        at += 1;
    }
    for engine in &engines {
        assert_eq!(stock(engine).await.unwrap().free, received);
    }
    for (at, engine) in engines.iter_mut().enumerate() {
        engine.close().await.unwrap();
        *engine = builder(at).projection(Second).open().await.unwrap();
        assert_eq!(stock(engine).await.unwrap().free, received);
    }
    // What nodes say to each other meanwhile, they have said at some time.
    loop {
        let mut digests = Vec::new();
        for engine in &engines {
            stock(engine).await.unwrap();
            digests.push(group(engine).digest().await.unwrap());
        }
        if digests.iter().all(|digest| digest.offset == digests[0].offset) {
            assert!(digests.iter().all(|digest| *digest == digests[0]), "G8: {digests:?}");
            break;
        }
    }
    for engine in engines {
        engine.close().await.unwrap();
    }
}
