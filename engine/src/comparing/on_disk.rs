//! What rots on a disk, on three nodes with real files: the one replica halts and says where, the others go
//! on, and one call makes it whole.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{ClusterId, GroupId, NodeId};

use crate::backend::race;
use crate::digest::StateDigest;
use crate::engine::Engine;
use crate::error::Error;
use crate::keys;
use crate::map::ReplicatedMap;
use crate::projection::Registry;
use crate::resource::{ReplicaPolicy, ResourceSpec};
use crate::store::{
    Direction, FamilyId, RocksStore, StateMemory, StateRead, StateStore, Walk, WriteSet, rot,
};

/// Where the map lies.
const GROUP: GroupId = GroupId::new(1);
const SYSTEM: GroupId = GroupId::new(0);
const KEYS: u64 = 300;
/// More than anything takes here.
const A_MINUTE: Duration = Duration::from_secs(60);
const NEEDLE: &[u8] = b"the value of key 150";

struct Cluster {
    dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    engines: Vec<Option<Engine>>,
}

impl Cluster {
    async fn new() -> Self {
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        drop(listeners);
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self { dir, addresses, engines: vec![None, None, None] };
        for at in 0..3 {
            cluster.open(at).await;
        }
        cluster
    }

    async fn open(&mut self, at: usize) {
        let mut builder = Engine::builder(self.dir.path().join(format!("node-{at}")))
            .cluster(ClusterId::new(9))
            .node(NodeId::new(at as u64 + 1))
            .listen(self.addresses[at]);
        for (number, address) in self.addresses.iter().enumerate() {
            builder = builder.voter(NodeId::new(number as u64 + 1), *address);
        }
        self.engines[at] = Some(builder.open().await.unwrap());
    }

    async fn close(&mut self, at: usize) {
        self.engines[at].take().unwrap().close().await.unwrap();
    }

    fn engine(&self, at: usize) -> &Engine {
        self.engines[at].as_ref().unwrap()
    }

    async fn map(&self, at: usize) -> ReplicatedMap<String, String> {
        let spec = ResourceSpec::new("values", "value.v1").unwrap();
        let spec = spec.replicas(ReplicaPolicy::majority(3));
        ReplicatedMap::open(self.engine(at), spec).await.unwrap()
    }

    /// The state's own files of a node that is closed.
    fn state(&self, at: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("node-{at}")).join("state")
    }

    /// Why the group has halted there, once it has.
    async fn halted(&self, at: usize) -> String {
        let backend = self.engine(at).backend();
        let halts = async {
            loop {
                match backend.applied(GROUP) {
                    Err(Error::InternalError { what }) => return what,
                    _ => backend.sleep(Duration::from_millis(20)).await,
                }
            }
        };
        race(halts, backend.sleep(A_MINUTE)).await.unwrap()
    }

    /// What the state comes to, once a node has applied as much as another.
    async fn digest(&self, at: usize, other: usize) -> StateDigest {
        let group = self.engine(at).group(GROUP).unwrap();
        let wanted = self.engine(other).group(GROUP).unwrap().applied().unwrap();
        group.wait_applied(wanted, A_MINUTE).await.unwrap();
        group.digest().await.unwrap()
    }

    /// One call, and everything is as it was.
    async fn is_made_anew(&mut self, victim: usize) {
        let others = [(victim + 1) % 3, (victim + 2) % 3];
        let go_on = self.map(others[0]).await;
        go_on.put(&"after".to_owned(), &"the others go on".to_owned()).await.unwrap();
        let group = self.engine(victim).group(GROUP).unwrap();
        group.rebuild_replica().await.unwrap();
        let map = self.map(victim).await;
        map.put(&"again".to_owned(), &"so does it".to_owned()).await.unwrap();
        for other in others {
            // Marks may come between two digests, but not for long.
            let same = async {
                while self.digest(victim, other).await != self.digest(other, victim).await {}
            };
            race(same, self.engine(other).backend().sleep(A_MINUTE)).await.unwrap();
        }
        let restarted = self.engine(victim).group(GROUP).unwrap().applied().unwrap();
        self.close(victim).await;
        self.open(victim).await;
        let group = self.engine(victim).group(GROUP).unwrap();
        group.wait_applied(restarted, A_MINUTE).await.unwrap();
        assert!(group.stopped().is_none(), "it is whole for good");
    }
}

async fn written() -> Cluster {
    let cluster = Cluster::new().await;
    let map = cluster.map(0).await;
    for n in 0..KEYS {
        map.put(&format!("key {n:03}"), &format!("the value of key {n:03}")).await.unwrap();
    }
    cluster.digest(2, 0).await;
    cluster
}

fn open_state(dir: &Path) -> RocksStore {
    let families = Registry::new(&[]).unwrap().families().clone();
    RocksStore::open(dir, families, StateMemory::default()).unwrap()
}

/// A row of a closed state is written over, past all sums.
fn flip_a_bit(dir: &Path) {
    let store = open_state(dir);
    let (from, end) = keys::of_group(FamilyId::MAP, GROUP).unwrap();
    let mut found = None;
    let mut look = |key: &[u8], value: &[u8]| {
        if !value.ends_with(NEEDLE) {
            return Walk::Next;
        }
        found = Some((key.to_vec(), value.to_vec()));
        Walk::Stop
    };
    store.walk(FamilyId::MAP, &from, &end, Direction::Forward, &mut look).unwrap();
    let (key, mut value) = found.unwrap();
    *value.last_mut().unwrap() ^= 1;
    let row = (FamilyId::MAP, key, Some(Bytes::from(value)));
    store.commit(WriteSet::rows(vec![row])).unwrap();
    store.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flips_in_rocksdb_halts_its_replica_alone() {
    let mut cluster = written().await;
    cluster.close(2).await;
    flip_a_bit(&cluster.state(2));
    cluster.open(2).await;
    let what = cluster.halted(2).await;
    assert!(what.contains("the state is damaged, projection=map resource=values"), "{what}");
    // A restart changes nothing.
    cluster.close(2).await;
    cluster.open(2).await;
    assert!(cluster.halted(2).await.contains("the state is damaged"));
    cluster.is_made_anew(2).await;
}

/// Bytes of a file are others: RocksDB cannot read the block any more. The scrub finds it, or the record that
/// writes to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_cannot_be_read_halts_its_replica_alone() {
    let mut cluster = written().await;
    cluster.close(1).await;
    // In one file, so that RocksDB has none to put together before the block is read.
    open_state(&cluster.state(1)).compact();
    assert!(rot(&cluster.state(1), &NEEDLE[..8]) > 0, "no file has the rows");
    cluster.open(1).await;
    let go_on = cluster.map(0).await;
    for n in 0..KEYS {
        go_on.put(&format!("key {n:03}"), &"the others go on".to_owned()).await.unwrap();
    }
    let what = cluster.halted(1).await;
    assert!(what.contains("block checksum mismatch"), "{what}");
    assert_eq!([0, 1].map(|at| cluster.engine(at).state_is_damaged()), [false, true]);
    let made = ResourceSpec::new("after", "value.v1").unwrap();
    let made = made.replicas(ReplicaPolicy::majority(3));
    ReplicatedMap::<String, String>::open(cluster.engine(0), made).await.unwrap();
    let system = cluster.engine(0).group(SYSTEM).unwrap().applied().unwrap();
    // Its other groups go on there.
    cluster.engine(1).group(SYSTEM).unwrap().wait_applied(system, A_MINUTE).await.unwrap();
    let refused = cluster.engine(1).group(GROUP).unwrap().rebuild_replica().await.unwrap_err();
    assert!(refused.to_string().contains("replace the node"), "{refused}");
    // A restart changes nothing.
    cluster.close(1).await;
    cluster.open(1).await;
    assert!(cluster.halted(1).await.contains("block checksum mismatch"));
    assert!(cluster.engine(1).state_is_damaged());
}
