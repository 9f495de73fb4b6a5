//! Rows of an older version of a projection as rows of a newer one: where they go, a bounded commit at a time.

use bytes::Bytes;
use palisade_replication::{GroupId, Offset};

use super::ProjectionFault;
use super::rows::check_row;
use crate::keys;
use crate::resource::ResourceId;
use crate::store::{FamilyId, StoreError};

/// A commit of rows is closed once it has so many bytes.
const COMMIT_BYTES_TARGET: usize = 1 << 20;

/// What became of an import: see [`super::Projection::import`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// All rows of the resource are there.
    All,
    /// There is no way from that version to this one.
    Unable,
}

/// Why an import ends before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nobody wants it any more.
    Cancelled,
    /// The store cannot go on.
    Store(StoreError),
    /// The projection cannot.
    Fault(ProjectionFault),
    /// There is no way from that version.
    Unable,
    /// One version refuses what the other has done at this offset.
    Disagrees(Offset),
}

impl From<ProjectionFault> for Stop {
    fn from(fault: ProjectionFault) -> Self {
        match fault.store_cause() {
            Some(cause) => Self::Store(StoreError::of(cause, fault.to_string())),
            None => Self::Fault(fault),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Rows that are committed together.
pub(crate) type RowWrites = Vec<(FamilyId, Vec<u8>, Option<Bytes>)>;

/// Takes the rows of the newer version, of one resource.
pub struct NewRows<'a> {
    prefix: [u8; keys::RESOURCE_PREFIX_BYTES],
    family: FamilyId,
    batch: RowWrites,
    batch_bytes: usize,
    commit: &'a mut dyn FnMut(RowWrites) -> Result<(), Stop>,
    /// Why nothing more is taken.
    stopped: Option<Stop>,
}

impl<'a> NewRows<'a> {
    pub(crate) fn new(
        family: FamilyId,
        group: GroupId,
        resource: ResourceId,
        commit: &'a mut dyn FnMut(RowWrites) -> Result<(), Stop>,
    ) -> Self {
        let prefix = keys::of_resource(group, resource);
        Self { prefix, family, batch: Vec::new(), batch_bytes: 0, commit, stopped: None }
    }

    /// Writes a row.
    ///
    /// # Errors
    /// When the key or the value is longer than [`super::Rows::put`] allows; and when the import is not
    /// wanted any more.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) -> Result<(), ProjectionFault> {
        let value = value.into();
        check_row(key, &value)?;
        let key = [&self.prefix, key].concat();
        self.batch_bytes += key.len() + value.len();
        self.batch.push((self.family, key, Some(value)));
        if self.batch_bytes < COMMIT_BYTES_TARGET {
            return Ok(());
        }
        self.close();
        match &self.stopped {
            None => Ok(()),
            Some(_) => Err(ProjectionFault::new("the import has ended")),
        }
    }

    fn close(&mut self) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if self.stopped.is_none() && !batch.is_empty() {
            self.stopped = (self.commit)(batch).err();
        }
    }

    /// The resource is over: its last rows, and what came of it.
    pub(crate) fn end(mut self, imported: Result<Imported, ProjectionFault>) -> Result<(), Stop> {
        if let Some(stop) = self.stopped {
            return Err(stop);
        }
        match imported {
            Err(fault) => return Err(fault.into()),
            Ok(Imported::Unable) => return Err(Stop::Unable),
            Ok(Imported::All) => self.close(),
        }
        self.stopped.map_or(Ok(()), Err)
    }
}
