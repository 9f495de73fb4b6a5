//! A node of a new cluster, made of a chain of backups.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_replication::{
    ClusterId, DOMAIN_BYTES_MAX, Founding, Member, NodeId, Offset, OpenDisk, WalOptions,
};

use super::layout::Contents;
use super::rebuild::{Rebuild, Restored, on_thread, refuse_unregistered};
use super::{BackupError, BackupId, BackupPlace};
use crate::builder::open_store;
use crate::engine::GROUP;
use crate::error::Error;
use crate::projection::{AnyProjection, Erased, Projection, Registry};
use crate::resource::FailureDomain;

/// What a restore makes, and where. There is no list of voters: the node is the only one until others join.
#[derive(Clone)]
#[must_use = "nothing is restored until it is asked for"]
pub struct RestoreOptions {
    dir: PathBuf,
    cluster: ClusterId,
    node: NodeId,
    at: Option<Offset>,
    domain: FailureDomain,
    listen: Option<SocketAddr>,
    wal: WalOptions,
    disk: OpenDisk,
    projections: Vec<Arc<dyn AnyProjection>>,
}

impl RestoreOptions {
    /// Restores the end of the chain into an empty directory, as a node of a new cluster. Open it with the
    /// same cluster and node.
    pub fn new(dir: impl AsRef<Path>, cluster: ClusterId, node: NodeId) -> Self {
        Self {
            dir: dir.as_ref().to_owned(),
            cluster,
            node,
            at: None,
            domain: FailureDomain::new("local", "local", "local"),
            listen: None,
            wal: WalOptions::default(),
            disk: OpenDisk::default(),
            projections: Vec::new(),
        }
    }

    /// Restores the state as it was at this offset.
    pub fn at(mut self, offset: Offset) -> Self {
        self.at = Some(offset);
        self
    }

    /// Where the node is, as [`crate::EngineBuilder::voter_in`] would say it; `local/local/local` if never
    /// said.
    pub fn domain(mut self, domain: FailureDomain) -> Self {
        self.domain = domain;
        self
    }

    /// Where the node will listen for those who join it.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Bounds of the write-ahead log, as the engine will be opened with.
    pub fn wal(mut self, wal: WalOptions) -> Self {
        self.wal = wal;
        self
    }

    /// How the files of the log are opened, as the engine will be opened with.
    pub fn disk(mut self, disk: OpenDisk) -> Self {
        self.disk = disk;
        self
    }

    /// Adds a kind of resource, as the engine will be opened with.
    pub fn projection(mut self, projection: impl Projection) -> Self {
        self.projections.push(Arc::new(Erased(projection)));
        self
    }

    /// Where it ends. Nothing has been written yet.
    fn check(&self, chain: &[Contents]) -> Result<Offset, BackupError> {
        let invalid = |what: String| Err(BackupError::InvalidArgument { what });
        let (first, last) = (&chain[0], &chain[chain.len() - 1]);
        let (floor, end) = (first.data().to.0, last.data().to.0);
        let at = self.at.unwrap_or(end);
        if at < floor {
            return Err(BackupError::Compacted { floor });
        }
        if end < at {
            return invalid(format!("the chain ends at offset={end}, which is before {at}"));
        }
        if self.cluster == last.cluster {
            return invalid(format!(
                "cluster={} is the one the backup is of: a restored one needs another",
                self.cluster
            ));
        }
        self.domain.check()?;
        if DOMAIN_BYTES_MAX < self.domain.to_string().len() {
            let domain = &self.domain;
            return invalid(format!("domain={domain} is longer than {DOMAIN_BYTES_MAX} bytes"));
        }
        Ok(at)
    }
}

/// Makes a node of a new cluster out of a backup and all before it, down to the full one. See
/// `docs/backup.md` for what is checked, in which order things become durable, and what is refused.
///
/// ```no_run
/// use palisade::backup::{BackupError, BackupId, BackupPlace, RestoreOptions, restore};
/// use palisade::{ClusterId, Engine, NodeId};
///
/// # async fn example(place: &BackupPlace) -> Result<(), BackupError> {
/// let (cluster, node) = (ClusterId::new(8), NodeId::new(1));
/// let options = RestoreOptions::new("restored", cluster, node);
/// restore(place, &BackupId::new("2026-11-17")?, options).await?;
/// let engine = Engine::builder("restored").cluster(cluster).node(node).open().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`BackupError::Missing`], [`BackupError::Damaged`] or [`BackupError::BrokenChain`] with the first file that is
/// not what it should be; [`BackupError::Compacted`] for an offset before the chain begins;
/// [`BackupError::InvalidArgument`] for one behind its end, for the same cluster, and for a directory that is
/// not empty. After an error that is none of the last the directory is refused by whoever opens it.
pub async fn restore(
    place: &BackupPlace,
    id: &BackupId,
    options: RestoreOptions,
) -> Result<Restored, BackupError> {
    let chain = place.chain(id).await?;
    let at = options.check(&chain)?;
    let registry = Registry::new(&options.projections)?;
    refuse_unregistered(&chain, &registry)?;
    let (dir, families) = (options.dir.clone(), registry.families().clone());
    let store = on_thread(move || {
        make_empty(&dir)?;
        let (store, _) = open_store(&dir, families)?;
        Ok(store)
    })
    .await?;
    let (rebuild, restored) = Rebuild::run(place, &chain, at, store, registry).await?;
    on_thread(move || {
        let RestoreOptions { dir, cluster, node, domain, listen, wal, disk, .. } = options;
        let domain = domain.to_string();
        let member = Member { address: listen, domain, ..Member::default() };
        let groups = [(GROUP, (at, restored.log_time))].into();
        let founding = Founding { data_dir: dir, disk, wal, cluster, node, member, groups };
        founding.found().map_err(Error::from)?;
        rebuild.end(cluster, node)?;
        Ok(restored)
    })
    .await
}

/// Makes a directory, or takes one that is empty.
fn make_empty(dir: &Path) -> Result<(), BackupError> {
    let failed = |error: std::io::Error| Error::InternalError {
        what: format!("could not make {}: {error}", dir.display()),
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    match std::fs::read_dir(dir).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::InvalidArgument {
            what: format!("{} is not empty: a restore needs a directory of its own", dir.display()),
        }),
    }
}
