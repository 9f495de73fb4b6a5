//! Reads entries back from the segments, each checked by its own checksum.

use std::sync::Arc;

use bytes::Bytes;

use crate::commit::WalStats;
use crate::disk::Disk;
use crate::error::WalError;
use crate::index::Location;
use crate::keys::epoch_of;
use crate::position::{BytePos, GroupId, LogIndex};
use crate::salvage::is_unreadable;
use crate::sealing::Opener;
use crate::segment;
use crate::sync_times::SyncTimes;
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

    /// How the wal is doing.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.shared.commit().stats()
    }

    /// How long its syncs took. A wal without a thread of its own counts none.
    #[must_use]
    pub fn sync_times(&self) -> SyncTimes {
        self.shared.sync_clock.times()
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
            bytes += location.content_len();
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
            match read_payload(&*self.shared.disk, &self.shared.opener, group, index, &location) {
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

/// Reads one payload, checks it, and opens it if it is sealed.
pub(crate) fn read_payload(
    disk: &dyn Disk,
    opener: &Opener,
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
    // What was recycled under the reader may pass the checksum by chance.
    let names_epoch = |payload: &[u8]| !location.sealed || epoch_of(payload).is_some();
    let mut payload = vec![0; location.len as usize];
    match disk.read_at(&name, u64::from(location.pos), &mut payload) {
        Ok(()) if crc32fast::hash(&payload) == location.crc && names_epoch(&payload) => {
            Ok(opener.open(group, index, location, payload)?)
        }
        Ok(()) => Err(corrupt(None)),
        Err(error) if is_unreadable(&error) => Err(corrupt(Some(Arc::new(error)))),
        Err(error) => Err(WalError::io("read", &name)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Write;
    use crate::segment::WalIdentity;
    use crate::sim::SimDisk;
    use crate::wal::Wal;
    use crate::{Disposition, WalOptions};

    const GROUP: GroupId = GroupId::new(1);

    /// Five entries of a hundred bytes, and one that is not written yet.
    fn written() -> (SimDisk, Wal) {
        let disk = SimDisk::from_seed(1);
        let identity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
        let options = WalOptions {
            segment_bytes: 64 << 10,
            batch_bytes_max: 8 << 10,
            queued_bytes_max: 64 << 10,
            live_multiple_max: 3,
        };
        let (mut wal, _) = Wal::open(Arc::new(disk.clone()), identity, options).unwrap();
        for index in 1..=6 {
            let payload = Bytes::from(vec![index as u8; 100]);
            let index = LogIndex::new(index);
            wal.submit(&[Write::Append { group: GROUP, index, payload }]).unwrap();
            if index < LogIndex::new(6) {
                wal.write_queued().unwrap();
            }
        }
        (disk, wal)
    }

    fn indexes(wal: &Wal, from: u64, end: u64, bytes_max: usize) -> Vec<u64> {
        let (from, end) = (LogIndex::new(from), LogIndex::new(end));
        let entries = wal.reader().read(GROUP, from, end, bytes_max).unwrap();
        entries.into_iter().map(|(index, _)| index.get()).collect()
    }

    #[test]
    fn a_read_ends_before_it_passes_its_bound_but_has_the_first() {
        let (_, wal) = written();
        assert_eq!(indexes(&wal, 1, 6, usize::MAX), [1, 2, 3, 4, 5]);
        assert_eq!(indexes(&wal, 1, 6, 300), [1, 2, 3]);
        assert_eq!(indexes(&wal, 1, 6, 299), [1, 2]);
        assert_eq!(indexes(&wal, 2, 6, 1), [2]);
        assert_eq!(indexes(&wal, 2, 4, 300), [2, 3]);
        assert_eq!(indexes(&wal, 4, 4, 300), [0; 0]);
    }

    #[test]
    fn what_is_not_written_is_missing() {
        let (_, mut wal) = written();
        let (from, end) = (LogIndex::new(6), LogIndex::new(7));
        let error = wal.reader().read(GROUP, from, end, 1).unwrap_err();
        assert!(matches!(error, WalError::Missing { .. }), "{error}");
        assert_eq!(indexes(&wal, 4, 7, 1000), [4, 5], "up to there");
        wal.write_queued().unwrap();
        assert_eq!(indexes(&wal, 6, 7, 1), [6]);
    }

    /// A file that is not there is no bad sector: nothing could be restored into it.
    #[test]
    fn a_refused_read_is_no_damage_of_the_entry() {
        let (disk, wal) = written();
        disk.lose_file(&segment::file_name(crate::SegmentId::new(1)));
        let (from, end) = (LogIndex::new(1), LogIndex::new(2));
        let error = wal.reader().read(GROUP, from, end, 1).unwrap_err();
        assert!(!matches!(error, WalError::Corrupt { .. }), "{error}");
        assert_eq!(error.disposition(), Disposition::Halt);
    }
}
