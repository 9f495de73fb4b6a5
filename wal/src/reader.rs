//! Reads entries back from the segments, each checked by its own checksum.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::WalError;
use crate::index::Location;
use crate::position::{BytePos, GroupId, LogIndex};
use crate::salvage::is_unreadable;
use crate::segment;
use crate::wal::Shared;

/// A reader of one wal; cheap to clone.
#[derive(Clone)]
pub struct WalReader {
    shared: Arc<Shared>,
}

impl WalReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// First and last entry of a group, or `None` if it has none.
    #[must_use]
    pub fn range(&self, group: GroupId) -> Option<(LogIndex, LogIndex)> {
        let commit = self.shared.commit();
        let found = commit.index.groups.get(&group)?;
        (!found.entries.is_empty()).then(|| (found.first(), found.last()))
    }

    /// Entries `from` up to before `end`, ending early rather than passing `bytes_max`, but never
    /// without the first.
    ///
    /// # Errors
    /// When the first entry was trimmed, is missing or not written yet, or when any of them is
    /// damaged: [`WalError::Corrupt`] names it.
    pub fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        end: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<(LogIndex, Bytes)>, WalError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut index = from;
        while index < end {
            let location = match self.locate(group, index) {
                Ok(location) => location,
                Err(error) if entries.is_empty() => return Err(error),
                Err(_) => break,
            };
            bytes += location.len as usize;
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push((index, self.read_at(group, index, location)?));
            index = index.next();
        }
        Ok(entries)
    }

    fn read_at(
        &self,
        group: GroupId,
        index: LogIndex,
        mut location: Location,
    ) -> Result<Bytes, WalError> {
        loop {
            match read_payload(&*self.shared.disk, group, index, &location) {
                Ok(payload) => return Ok(payload.into()),
                Err(error) => {
                    // The segment may have been recycled between the look-up and the read.
                    let again = self.locate(group, index)?;
                    if again == location {
                        return Err(error);
                    }
                    location = again;
                }
            }
        }
    }

    fn locate(&self, group: GroupId, index: LogIndex) -> Result<Location, WalError> {
        let commit = self.shared.commit();
        let missing = WalError::Missing { group, index };
        let Some(found) = commit.index.groups.get(&group) else { return Err(missing) };
        if index < found.first() {
            return Err(WalError::Trimmed { group, first: found.first() });
        }
        found.entry(index).and_then(|location| commit.readable(location)).ok_or(missing)
    }
}

/// Reads one payload and checks it.
pub(crate) fn read_payload(
    disk: &dyn Disk,
    group: GroupId,
    index: LogIndex,
    location: &Location,
) -> Result<Vec<u8>, WalError> {
    let corrupt = |source| WalError::Corrupt {
        segment: location.segment,
        byte_pos: BytePos::new(u64::from(location.pos)),
        group,
        index,
        source,
    };
    let name = segment::file_name(location.segment);
    let mut payload = vec![0; location.len as usize];
    match disk.read_at(&name, u64::from(location.pos), &mut payload) {
        Ok(()) if crc32fast::hash(&payload) == location.crc => Ok(payload),
        Ok(()) => Err(corrupt(None)),
        Err(error) if is_unreadable(&error) => Err(corrupt(Some(Arc::new(error)))),
        Err(error) => Err(WalError::io("read", &name)(error)),
    }
}
