//! A wal over a disk, driven by its caller: the simulator calls it in line, the writer thread in
//! production. Waiting for the disk never holds the lock that `submit` and readers need.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::commit::{Chunk, Commit, Taken, WalStats};
use crate::disk::Disk;
use crate::error::WalError;
use crate::frame::Write;
use crate::options::WalOptions;
use crate::position::{BatchSeq, SegmentId};
use crate::reader::{WalReader, read_payload};
use crate::recovery::{Recovery, SegmentBytes};
use crate::salvage;
use crate::segment::{
    self, FileKind, SEGMENT_HEADER_BYTES, SegmentHeader, WalIdentity, decode_header, encode_header,
};
use crate::sync::{Mutex, MutexGuard};
use crate::verdict::Recovered;

/// Prewritten files kept ready beside the segments in use.
const SPARES: usize = 2;
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// What the owner of the disk, submitters and readers share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    commit: Mutex<Commit>,
}

impl Shared {
    pub(crate) fn commit(&self) -> MutexGuard<'_, Commit> {
        self.commit.lock().expect("no code panics while it holds the wal")
    }
}

/// One node's log of frames. See the crate's documentation for what it promises.
pub struct Wal {
    pub(crate) shared: Arc<Shared>,
    identity: WalIdentity,
    options: WalOptions,
    /// Names of prewritten files, oldest first.
    spares: Vec<String>,
    next_spare: u64,
    /// Written and not yet synced.
    unsynced: Option<Unsynced>,
    /// Files up to here were found with damage among them: they are not used again.
    suspect_up_to: SegmentId,
}

#[derive(Clone, Copy)]
struct Unsynced {
    segment: SegmentId,
    up_to: BatchSeq,
    /// Nobody waits for a mark: the next sync covers it.
    is_mark: bool,
}

impl Wal {
    /// Reads everything, decides what it means, and goes on behind it.
    ///
    /// # Errors
    /// When the files are someone else's or of an unknown version, or the disk fails. Damage is not
    /// an error: each group has its [`Verdict`](crate::Verdict), and the wal takes writes behind it.
    pub fn open(
        disk: Arc<dyn Disk>,
        identity: WalIdentity,
        options: WalOptions,
    ) -> Result<(Self, Recovered), WalError> {
        options.validate()?;
        let mut segments = BTreeSet::new();
        let mut spares = Vec::new();
        let mut next_spare = 0;
        for name in disk.list().map_err(WalError::io("list", "the wal's directory"))? {
            match segment::kind_of(&name) {
                FileKind::Segment(id) => {
                    segments.insert(id);
                }
                FileKind::Spare(number) => {
                    next_spare = next_spare.max(number + 1);
                    // One that was not finished has another length.
                    let length = disk.len(&name).map_err(WalError::io("stat", &name))?;
                    if length == options.segment_bytes {
                        spares.push(name);
                    } else {
                        disk.remove(&name).map_err(WalError::io("remove", &name))?;
                    }
                }
                FileKind::Other => {}
            }
        }
        if segments.is_empty() {
            // Segments are numbered from 1 again: what was recycled of a former 1 would pass.
            for name in spares.drain(..) {
                disk.remove(&name).map_err(WalError::io("remove", &name))?;
            }
        }
        let recovery = recover(&*disk, &identity, &options, &segments)?;
        let outcome = recovery.finish();
        if let Some(last) = segments.last() {
            let name = segment::file_name(*last);
            if let (true, Some((_, pos))) = (outcome.zero_tail, outcome.start.tail) {
                // It may have been begun when segments were longer.
                let length = disk.len(&name).map_err(WalError::io("stat", &name))?;
                zero(&*disk, &name, pos, length.max(options.segment_bytes))?;
            }
            // What a killed process had written may still be in the page cache alone.
            disk.sync(&name).map_err(|source| WalError::SyncFailed {
                segment: *last,
                source: Arc::new(source),
            })?;
        }
        let is_suspect = outcome.recovered.unlisted_damaged || outcome.start.after_damage;
        let suspect_up_to = segments.last().filter(|_| is_suspect).copied();
        let suspect_up_to = suspect_up_to.unwrap_or(SegmentId::new(0));
        let mut commit =
            Commit::new(options.clone(), identity.domain(), outcome.index, segments, outcome.start);
        commit.spares_free = spares.len();
        let shared = Arc::new(Shared { disk, commit: Mutex::new(commit) });
        let mut wal =
            Self { shared, identity, options, spares, next_spare, unsynced: None, suspect_up_to };
        wal.prepare_spares()?;
        Ok((wal, outcome.recovered))
    }

    /// Checks a batch and takes it in; nothing is written yet.
    ///
    /// # Errors
    /// When the queue or the disk is full (nothing happened), when the batch breaks a rule, or
    /// when the wal failed before.
    pub fn submit(&mut self, batch: &[Write]) -> Result<BatchSeq, WalError> {
        self.shared.commit().submit(batch)
    }

    /// Writes everything taken in. Returns the last batch written, or `None` if there was nothing.
    ///
    /// # Errors
    /// Any failure is final: the wal is poisoned.
    pub fn write_queued(&mut self) -> Result<Option<BatchSeq>, WalError> {
        let Some(taken) = self.shared.commit().take() else { return Ok(None) };
        let up_to = taken.up_to;
        match self.write(taken) {
            Ok(()) => Ok(Some(up_to)),
            Err(error) => {
                self.shared.commit().poison(&error);
                Err(error)
            }
        }
    }

    fn write(&mut self, taken: Taken) -> Result<(), WalError> {
        for chunk in &taken.chunks {
            if let Some(header) = chunk.begins {
                self.sync_written()?;
                self.begin_segment(header)?;
            }
            self.write_chunk(chunk)?;
            let Taken { up_to, is_mark, .. } = taken;
            self.unsynced = Some(Unsynced { segment: chunk.segment, up_to, is_mark });
        }
        self.shared.commit().on_written(taken);
        Ok(())
    }

    fn write_chunk(&self, chunk: &Chunk) -> Result<(), WalError> {
        let name = segment::file_name(chunk.segment);
        self.shared
            .disk
            .write_at(&name, chunk.pos, &chunk.bytes)
            .map_err(WalError::io("write", &name))
    }

    /// Turns a spare into a segment: header, sync, name, sync of the name.
    fn begin_segment(&mut self, header: SegmentHeader) -> Result<(), WalError> {
        let disk = &*self.shared.disk;
        assert!(!self.spares.is_empty(), "a segment was planned without a file for it");
        let spare = self.spares.remove(0);
        let name = segment::file_name(header.segment);
        let raw = encode_header(&self.identity, header);
        disk.write_at(&spare, 0, &raw).map_err(WalError::io("write", &spare))?;
        self.sync_file(&spare, header.segment)?;
        disk.rename(&spare, &name).map_err(WalError::io("rename", &spare))?;
        disk.sync_dir().map_err(WalError::io("sync the directory of", &name))
    }

    fn sync_file(&self, name: &str, segment: SegmentId) -> Result<(), WalError> {
        self.shared
            .disk
            .sync(name)
            .map_err(|source| WalError::SyncFailed { segment, source: Arc::new(source) })
    }

    fn sync_written(&mut self) -> Result<(), WalError> {
        if let Some(Unsynced { segment, .. }) = self.unsynced.take() {
            self.sync_file(&segment::file_name(segment), segment)?;
        }
        Ok(())
    }

    /// Makes everything written durable. Returns the last durable batch.
    ///
    /// # Errors
    /// Any failure is final: the wal is poisoned, and what was written may be lost.
    pub fn sync(&mut self) -> Result<BatchSeq, WalError> {
        if let Some(refusal) = &self.shared.commit().refusal {
            return Err(refusal.clone());
        }
        let Some(Unsynced { up_to, is_mark: false, .. }) = self.unsynced else {
            return Ok(self.durable());
        };
        if let Err(error) = self.sync_written() {
            self.shared.commit().poison(&error);
            return Err(error);
        }
        let mut commit = self.shared.commit();
        commit.on_synced(up_to);
        Ok(commit.durable)
    }

    /// Frees what is no longer needed, gets files ready, and marks the last batch as synced if there
    /// is nothing else to do; to be called now and then, when no caller waits for it. At most one
    /// segment is freed or moved a call.
    ///
    /// # Errors
    /// Any failure but a full disk is final: the wal is poisoned.
    pub fn maintain(&mut self) -> Result<(), WalError> {
        let done = self
            .free_oldest()
            .and_then(|()| self.move_oldest())
            .and_then(|()| self.prepare_spares())
            .and_then(|()| self.mark());
        if let Err(error) = &done {
            self.shared.commit().poison(error);
        }
        done
    }

    fn free_oldest(&mut self) -> Result<(), WalError> {
        let Some(oldest) = self.shared.commit().freeable() else { return Ok(()) };
        let disk = &*self.shared.disk;
        let name = segment::file_name(oldest);
        if self.spares.len() <= SPARES && self.suspect_up_to < oldest {
            let spare = segment::spare_name(self.next_spare);
            self.next_spare += 1;
            disk.rename(&name, &spare).map_err(WalError::io("rename", &name))?;
            self.spares.push(spare);
            self.shared.commit().spares_free += 1;
        } else {
            disk.remove(&name).map_err(WalError::io("remove", &name))?;
        }
        // Before the next one is freed: what remains must be an unbroken run.
        disk.sync_dir().map_err(WalError::io("sync the directory of", &name))?;
        self.shared.commit().freed(oldest);
        Ok(())
    }

    fn move_oldest(&mut self) -> Result<(), WalError> {
        let disk = Arc::clone(&self.shared.disk);
        let items = self.shared.commit().movable();
        let mut moved = Vec::with_capacity(items.len());
        for item in items {
            // If it moved or went meanwhile, what was read is not used.
            match read_payload(&*disk, item.group, item.index, &item.location) {
                Ok(payload) => moved.push((item, payload)),
                // It holds its segment until whoever reads it finds out and restores it.
                Err(WalError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut commit = self.shared.commit();
        match commit.submit_notes().and_then(|()| commit.submit_moved(&moved)) {
            // Without room now, there may be later.
            Err(WalError::Backpressure { .. } | WalError::NoSpace) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes, and does not sync: what the mark tells holds as soon as it can be read.
    fn mark(&mut self) -> Result<(), WalError> {
        let taken = self.shared.commit().take_mark();
        taken.map_or(Ok(()), |taken| self.write(taken))
    }

    fn prepare_spares(&mut self) -> Result<(), WalError> {
        if self.shared.commit().spares_free >= SPARES {
            return Ok(());
        }
        let name = segment::spare_name(self.next_spare);
        self.next_spare += 1;
        match self.shared.disk.create(&name, self.options.segment_bytes) {
            Ok(()) => {
                self.spares.push(name);
                let mut commit = self.shared.commit();
                commit.spares_free += 1;
                commit.no_space = false;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // Nothing depends on it yet. Whatever was made of it is removed again.
                let _ = self.shared.disk.remove(&name);
                self.shared.commit().no_space = true;
                Ok(())
            }
            Err(error) => Err(WalError::io("create", &name)(error)),
        }
    }

    /// Says that every group that may have been lost without a trace has been written to since: what
    /// is not listed from now on is new. It counts for the segments that are begun from here on.
    pub fn forget_unlisted(&mut self) {
        self.shared.commit().index.unlisted = None;
    }

    /// The last durable batch.
    #[must_use]
    pub fn durable(&self) -> BatchSeq {
        self.shared.commit().durable
    }

    /// True if something was taken in and not yet written.
    pub(crate) fn has_queued(&self) -> bool {
        let commit = self.shared.commit();
        commit.refusal.is_none() && commit.has_staged()
    }

    /// Reads what is written.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader::new(Arc::clone(&self.shared))
    }

    /// How it is doing.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.shared.commit().stats()
    }
}

/// Reads all segments, in order. Headers come first: each tells how far the one before may reach.
fn recover(
    disk: &dyn Disk,
    identity: &WalIdentity,
    options: &WalOptions,
    segments: &BTreeSet<SegmentId>,
) -> Result<Recovery, WalError> {
    let mut headers = Vec::with_capacity(segments.len());
    for id in segments {
        let name = segment::file_name(*id);
        let length = disk.len(&name).map_err(WalError::io("stat", &name))?;
        let header = salvage::read(disk, &name, length.min(SEGMENT_HEADER_BYTES) as usize)
            .map_err(WalError::io("read", &name))?;
        let header = decode_header(identity, &name, &header.bytes)?;
        headers.push((*id, name, length, header.filter(|header| header.segment == *id)));
    }
    let mut recovery = Recovery::new(identity.domain());
    for (number, (id, name, length, header)) in headers.iter().enumerate() {
        // A longer file is not of this wal; reading as much as a segment holds is enough.
        let length = (*length).min(options.segment_bytes.max(u64::from(u32::MAX)));
        let file =
            salvage::read(disk, name, length as usize).map_err(WalError::io("read", name))?;
        let later = &headers[number + 1..];
        let next = later.iter().find_map(|(.., header)| *header);
        let told = next.filter(|next| next.segment == id.next()).map(|next| next.prev_first);
        recovery.segment(&SegmentBytes {
            id: *id,
            header: *header,
            raw: &file.bytes,
            read_from: file.read_from,
            first_told: told.unwrap_or(BatchSeq::ZERO),
            is_followed: !later.is_empty(),
            seq_end: next.map_or(BatchSeq::new(u64::MAX), |next| next.first_seq),
        });
    }
    Ok(recovery)
}

fn zero(disk: &dyn Disk, name: &str, from: u64, end: u64) -> Result<(), WalError> {
    let zeros = vec![0; ZEROS];
    let mut pos = from;
    while pos < end {
        let count = (end - pos).min(ZEROS as u64);
        disk.write_at(name, pos, &zeros[..count as usize]).map_err(WalError::io("write", name))?;
        pos += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
