//! How a node opens the disks it keeps its log and its snapshots on.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use palisade_wal::{Disk, FileDisk, WalError};

type Over = dyn Fn(&Path, Arc<dyn Disk>) -> Arc<dyn Disk> + Send + Sync;

/// How the files of a directory are opened: as the file system has them, which is the default, or
/// with something before them that measures, slows down or fails.
#[derive(Clone, Default)]
pub struct OpenDisk(Option<Arc<Over>>);

impl OpenDisk {
    /// Puts a disk before the files of each directory.
    #[must_use]
    pub fn over(
        over: impl Fn(&Path, Arc<dyn Disk>) -> Arc<dyn Disk> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(over)))
    }

    pub(crate) fn open(&self, dir: &Path) -> Result<Arc<dyn Disk>, WalError> {
        let files: Arc<dyn Disk> = Arc::new(FileDisk::open(dir)?);
        Ok(match &self.0 {
            Some(over) => over(dir, files),
            None => files,
        })
    }
}

impl fmt::Debug for OpenDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "over the files" } else { "files" })
    }
}
