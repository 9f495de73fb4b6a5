//! Whoever does the work: us in one of our ways, or a peer.

use std::path::Path;
use std::time::Duration;

use palisade_benches::{cpu_seconds_of, disk_bytes_written};
use tokio::time::timeout;

use crate::embedded::Embedded;
use crate::goals::Peer;
use crate::load::{Cost, Load, Run, Told};
use crate::parties::{Echo, Etcd, Jetstream, Postgres, Redis, Zookeeper};
use crate::server::Unavailable;

/// One that is up and can be loaded.
#[tonic::async_trait]
pub(crate) trait Party: Send {
    /// The processes whose work counts.
    fn processes(&self) -> Vec<u32>;

    /// Does the work in a closed loop.
    async fn load(&mut self, load: &Load) -> Result<Told, String>;

    /// Has this many writers store values of this size, kills whoever leads, and says how long nobody was
    /// answered. One that was killed does not come up again.
    async fn failover(&mut self, load: &Load) -> Result<Duration, String> {
        Err(not_offered(load))
    }

    /// Syncs so far, where they are counted.
    async fn syncs(&mut self) -> Result<Option<u64>, String> {
        Ok(None)
    }

    /// Ends its processes.
    async fn stop(self: Box<Self>);
}

/// Starts a peer with its data below a folder.
pub(crate) async fn start(peer: Peer, dir: &Path) -> Result<Box<dyn Party>, Unavailable> {
    Ok(match peer {
        Peer::Echo => Box::new(Echo::start().await?),
        Peer::Etcd => Box::new(Etcd::start(dir).await?),
        Peer::Zookeeper => Box::new(Zookeeper::start(dir).await?),
        Peer::Jetstream => Box::new(Jetstream::start(dir, false).await?),
        Peer::JetstreamAlways => Box::new(Jetstream::start(dir, true).await?),
        Peer::Redis => Box::new(Redis::start(dir).await?),
        Peer::Postgres => Box::new(Postgres::start(dir).await?),
        Peer::RaftEngine | Peer::Rocksdb | Peer::Redb | Peer::Fjall => {
            Box::new(Embedded::start(peer.name(), dir).await?)
        }
    })
}

#[cfg(test)]
impl Peer {
    /// A library in a process of ours, and not a server.
    pub(crate) fn is_embedded(self) -> bool {
        matches!(self, Self::RaftEngine | Self::Rocksdb | Self::Redb | Self::Fjall)
    }
}

/// One run, bounded in time, with what the servers took for it. Their data lies on the disk below the folder.
pub(crate) async fn measured(
    party: &mut dyn Party,
    load: &Load,
    dir: &Path,
) -> Result<Run, String> {
    let processes = party.processes();
    let disk = || disk_bytes_written(dir).ok();
    let before = (cpu_seconds_of(&processes)?, disk(), party.syncs().await?);
    let patience = load.length.patience();
    let told = timeout(patience, party.load(load)).await;
    let told = told.map_err(|_| format!("a run has not ended after {patience:?}"))??;
    let since = |(after, before): (u64, u64)| after.saturating_sub(before);
    let cost = Cost {
        cpu_seconds: cpu_seconds_of(&processes)? - before.0,
        disk_bytes: disk().zip(before.1).map(since),
        syncs: party.syncs().await?.zip(before.2).map(since),
    };
    Ok(Run::of(told, cost))
}

/// What a peer does not offer.
pub(crate) fn not_offered(load: &Load) -> String {
    format!("{:?} is not offered", load.work)
}
