//! Disks of ours that count how often they are synced.

use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use palisade::Disk;

/// Syncs of a process so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Syncs(Arc<AtomicU64>);

impl Syncs {
    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A disk whose syncs count.
    pub(crate) fn counted(&self, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Arc::new(Counting { disk, syncs: self.clone() })
    }

    fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Counting {
    disk: Arc<dyn Disk>,
    syncs: Syncs,
}

impl Disk for Counting {
    fn list(&self) -> Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> Result<()> {
        self.disk.create(name, bytes)
    }
    fn len(&self, name: &str) -> Result<u64> {
        self.disk.len(name)
    }
    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk.read_at(name, pos, buffer)
    }
    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> Result<()> {
        self.disk.write_at(name, pos, bytes)
    }
    fn sync(&self, name: &str) -> Result<()> {
        self.syncs.one();
        self.disk.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> Result<()> {
        self.syncs.one();
        self.disk.sync_dir()
    }
}
