//! Backups, and restores, without a runtime: see [`crate::backup`].

use palisade_replication::KeyEpoch;

use super::running::OwnRuntime;
use super::{Blocking, Engine};
use crate::backup::{BackupError, BackupId, BackupPlace, BackupSummary, ListedBackup};
#[cfg(feature = "rocksdb")]
use crate::backup::{RestoreTo, Restored};
#[cfg(feature = "rocksdb")]
use crate::builder::EngineBuilder;

/// A backup that is about to be taken: see [`crate::backup::Backup`].
pub type Backup<'a> = Blocking<crate::backup::Backup<'a>>;

impl Engine {
    /// Begins a backup of this node to a place: see [`crate::Engine::backup`].
    pub fn backup<'a>(&self, place: &'a BackupPlace) -> Backup<'a> {
        self.beside(self.of.backup(place))
    }
}

impl Blocking<crate::backup::Backup<'_>> {
    /// Bounds how fast it writes; as fast as the place takes it if never said.
    pub fn bytes_per_second(self, bytes_per_second: u64) -> Self {
        Self { of: self.of.bytes_per_second(bytes_per_second), running: self.running }
    }

    /// Waits for [`Backup::full`](crate::backup::Backup::full).
    ///
    /// # Errors
    /// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
    pub fn full(self, id: &BackupId) -> Result<BackupSummary, BackupError> {
        self.running.wait(self.of.full(id))
    }

    /// Waits for [`Backup::incremental`](crate::backup::Backup::incremental).
    ///
    /// # Errors
    /// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
    pub fn incremental(
        self,
        id: &BackupId,
        parent: &BackupId,
    ) -> Result<BackupSummary, BackupError> {
        self.running.wait(self.of.incremental(id, parent))
    }
}

/// Waits for [`BackupPlace::list`].
///
/// # Errors
/// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
pub fn list(place: &BackupPlace) -> Result<Vec<ListedBackup>, BackupError> {
    OwnRuntime::start()?.wait(place.list())
}

/// Waits for [`BackupPlace::key_epochs`].
///
/// # Errors
/// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
pub fn key_epochs(
    place: &BackupPlace,
    id: &BackupId,
) -> Result<Vec<(BackupId, Option<KeyEpoch>)>, BackupError> {
    OwnRuntime::start()?.wait(place.key_epochs(id))
}

/// Waits for [`crate::backup::verify`].
///
/// # Errors
/// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
pub fn verify(place: &BackupPlace, id: &BackupId) -> Result<Vec<BackupSummary>, BackupError> {
    OwnRuntime::start()?.wait(crate::backup::verify(place, id))
}

/// Waits for [`crate::backup::restore`].
///
/// # Errors
/// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
#[cfg(feature = "rocksdb")]
pub fn restore(
    place: &BackupPlace,
    id: &BackupId,
    builder: &EngineBuilder,
    to: RestoreTo,
) -> Result<Restored, BackupError> {
    OwnRuntime::start()?.wait(crate::backup::restore(place, id, builder, to))
}

/// Waits for [`crate::backup::rehearse`].
///
/// # Errors
/// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
#[cfg(feature = "rocksdb")]
pub fn rehearse(
    place: &BackupPlace,
    id: &BackupId,
    builder: &EngineBuilder,
) -> Result<Restored, BackupError> {
    OwnRuntime::start()?.wait(crate::backup::rehearse(place, id, builder))
}
