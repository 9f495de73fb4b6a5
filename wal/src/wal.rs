//! A wal over a disk, driven by its caller: the simulator calls it in line, the writer thread in
//! production. Waiting for the disk never holds the lock that `submit` and readers need.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError};

use crate::commit::{Chunk, Commit, ReadItem, Taken, WalStats};
use crate::disk::Disk;
use crate::error::{WalError, is_full};
use crate::frame::{ITEM_HEADER_BYTES, Write};
use crate::index::LiveItem;
use crate::keys::Keys;
use crate::note::{self, NOTE_BYTES, NOTE_NAME};
use crate::options::WalOptions;
use crate::position::{BatchSeq, GroupId, LogIndex, SegmentId};
use crate::reader::{WalReader, read_payload};
use crate::recovery::{Outcome, Recovery, SegmentBytes};
use crate::room::{self, Need};
use crate::salvage;
use crate::scrub::WalScrubber;
use crate::sealing::{Opener, TailSeal};
use crate::segment::{
    self, FileKind, NUMBER_FOUND_MAX, SEGMENT_HEADER_BYTES, SegmentHeader, WalIdentity,
    decode_header, encode_header,
};
use crate::sync::{Mutex, MutexGuard};
use crate::sync_times::SyncClock;
use crate::verdict::Recovered;

/// While segments are to be freed, so many bytes of live items are moved for each that callers write.
const MOVED_PER_BYTE: u64 = 2;
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// What the owner of the disk, submitters and readers share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    commit: Mutex<Commit>,
    pub(crate) opener: Opener,
    pub(crate) sync_clock: SyncClock,
}

impl Shared {
    pub(crate) fn commit(&self) -> MutexGuard<'_, Commit> {
        self.commit.lock().unwrap_or_else(|left| {
            let mut commit = left.into_inner();
            // What it stands at is not known, so nothing more is taken in.
            commit.poison(&WalError::Panicked { what: "the wal was left half changed".to_owned() });
            commit
        })
    }

    /// Also where a panic left it half changed.
    pub(crate) fn commit_as_left(&self) -> MutexGuard<'_, Commit> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// The disk had no space for some of it. Nothing is written past it.
    stalled: Option<Taken>,
    /// Files up to here were found with damage among them: they are not used again.
    suspect_up_to: SegmentId,
    /// As of the last call of `maintain`.
    maintained: WalStats,
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
    /// Nor is a full disk, on file systems that overwrite in place.
    pub fn open(
        disk: Arc<dyn Disk>,
        identity: WalIdentity,
        options: WalOptions,
    ) -> Result<(Self, Recovered), WalError> {
        Self::open_with_keys(disk, identity, options, Keys::none())
    }

    /// The same with keys: what is written from now on is sealed if they have an active epoch, and what is
    /// sealed is opened. See `docs/encryption.md`.
    ///
    /// # Errors
    /// As [`Wal::open`], and [`WalError::Key`] when these keys do not open what is there: nothing is
    /// written then.
    pub fn open_with_keys(
        disk: Arc<dyn Disk>,
        identity: WalIdentity,
        options: WalOptions,
        keys: Keys,
    ) -> Result<(Self, Recovered), WalError> {
        if keys.are_given() {
            options.validate_sealed()?;
        } else {
            options.validate()?;
        }
        // What is seen now is relied on from now on. A killed process may not have come to this.
        disk.sync_dir().map_err(WalError::failed("sync", "the wal's directory"))?;
        let names = disk.list().map_err(WalError::io("list", "the wal's directory"))?;
        let segments: BTreeSet<SegmentId> = names.iter().filter_map(|name| id_of(name)).collect();
        if let Some(last) = segments.last().filter(|last| NUMBER_FOUND_MAX < last.get()) {
            return Err(WalError::Foreign {
                file: segment::file_name(*last),
                difference: "no log comes to this number by itself: move the file away".to_owned(),
            });
        }
        let noted = read_note(&*disk, &identity)?;
        let mut outcome = recover(&*disk, &identity, noted, &options, &segments)?.finish();
        // Nothing was written yet: with the right keys it is all as it was.
        outcome.seals.judge(&keys)?;
        let opener = Opener::new(keys.clone(), identity);
        open_registers(&mut outcome, &opener)?;
        let mut spares = Vec::new();
        let mut next_spare = 0;
        let last = segments.last().copied().unwrap_or(SegmentId::new(0));
        for name in names {
            match segment::kind_of(&name) {
                FileKind::Spare(number) if NUMBER_FOUND_MAX < number => {
                    disk.remove(&name).map_err(WalError::io("remove", &name))?;
                }
                FileKind::Spare(number) => {
                    next_spare = next_spare.max(number + 1);
                    // One that was not finished has another length.
                    let length = disk.len(&name).map_err(WalError::io("stat", &name))?;
                    let is_used = length == options.segment_bytes
                        && (is_spent(&*disk, &identity, &name, last)
                            || wipe(&*disk, &name, length));
                    if is_used {
                        spares.push(name);
                    } else {
                        disk.remove(&name).map_err(WalError::io("remove", &name))?;
                    }
                }
                FileKind::Segment(_) | FileKind::Other => {}
            }
        }
        if segments.is_empty() {
            // Segments are numbered from 1 again: what was recycled of a former 1 would pass.
            for name in spares.drain(..) {
                disk.remove(&name).map_err(WalError::io("remove", &name))?;
            }
        }
        if noted != BatchSeq::ZERO {
            // Damage that it alone tells of would be forgotten with it.
            write_again(&*disk, NOTE_NAME, &[(0, NOTE_BYTES)])?;
            disk.sync(NOTE_NAME).map_err(WalError::failed("sync", NOTE_NAME))?;
        }
        if let Some(last) = segments.last() {
            let name = segment::file_name(*last);
            if let (true, Some((_, pos))) = (outcome.zero_tail, outcome.start.tail) {
                // It may have been begun when segments were longer.
                let length = disk.len(&name).map_err(WalError::io("stat", &name))?;
                zero(&*disk, &name, pos, length.max(options.segment_bytes))?;
            }
            // What a killed process had written may still be in the page cache alone. After a sync that
            // failed, the cache does not even know so: what is written again, a sync covers.
            write_again(&*disk, &name, &outcome.unsure)?;
            disk.sync(&name).map_err(|source| WalError::SyncFailed {
                segment: *last,
                source: Arc::new(source),
            })?;
        }
        let after_damage = outcome.start.after_damage;
        let is_suspect = outcome.recovered.unlisted_damaged || after_damage;
        let suspect_up_to = segments.last().filter(|_| is_suspect).copied();
        let suspect_up_to = suspect_up_to.unwrap_or(SegmentId::new(0));
        let tail = outcome.start.tail.map(|(segment, _)| segment);
        let seal = TailSeal::open(keys, identity, &outcome.seals, tail)?;
        let (index, start) = (outcome.index, outcome.start);
        let mut commit =
            Commit::new(options.clone(), identity.domain(), index, segments, start, seal);
        spares.iter().for_each(|_| commit.room.add_spare());
        let shared = Arc::new(Shared {
            disk,
            commit: Mutex::new(commit),
            opener,
            sync_clock: SyncClock::default(),
        });
        let mut wal = Self {
            shared,
            identity,
            options,
            spares,
            next_spare,
            unsynced: None,
            stalled: None,
            suspect_up_to,
            maintained: WalStats::default(),
        };
        while wal.prepare_spare()? {}
        wal.prepare_note()?;
        if !after_damage {
            // Power may have left the mark and not the note; there may be no other mark for long.
            wal.write_note()?;
        }
        Ok((wal, outcome.recovered))
    }

    /// Without space for it, the wal does without.
    fn prepare_note(&mut self) -> Result<(), WalError> {
        let disk = &*self.shared.disk;
        // A longer one may have been believed: its end is nobody's.
        let is_there = disk.len(NOTE_NAME).is_ok_and(|length| NOTE_BYTES as u64 <= length);
        if is_there {
            return Ok(());
        }
        match disk.create(NOTE_NAME, NOTE_BYTES as u64) {
            Err(error) if is_full(&error) => {
                let _ = disk.remove(NOTE_NAME);
                Ok(())
            }
            Err(error) => Err(WalError::io("create", NOTE_NAME)(error)),
            Ok(()) => self.sync_dir(NOTE_NAME),
        }
    }

    /// Checks a batch and takes it in; nothing is written yet. On a full disk, what adds entries is
    /// refused while what trims, truncates or sets registers still finds room in a reserve.
    ///
    /// # Errors
    /// When the queue or the disk is full (nothing happened), when the batch breaks a rule, or
    /// when the wal failed before.
    pub fn submit(&mut self, batch: &[Write]) -> Result<BatchSeq, WalError> {
        self.shared.commit().submit(batch, Need::Ordinary)
    }

    /// The same for a batch that the caller can no longer refuse: its entries may take the reserve,
    /// too. Who uses it stops taking in more while [`Wal::is_short`].
    ///
    /// # Errors
    /// As [`Wal::submit`].
    pub fn submit_owed(&mut self, batch: &[Write]) -> Result<BatchSeq, WalError> {
        self.shared.commit().submit(batch, Need::Urgent)
    }

    /// The disk had no space when some was wanted: entries should be refused until this is false.
    /// Calls of [`Wal::maintain`] find out, and make room out of what was trimmed.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.shared.commit().room.is_short()
    }

    /// Writes everything taken in. Returns the last batch written, or `None` if there was nothing.
    ///
    /// # Errors
    /// [`WalError::NoSpace`] if the disk has no space for it: nothing is lost, and the next call goes
    /// on with it. Any other failure is final: the wal is poisoned.
    pub fn write_queued(&mut self) -> Result<Option<BatchSeq>, WalError> {
        let stalled = self.stalled.take();
        let taken = stalled.or_else(|| {
            let mut taken = self.shared.commit().take()?;
            taken.tell_synced(&self.identity.domain());
            Some(taken)
        });
        let Some(taken) = taken else { return Ok(None) };
        let up_to = taken.up_to;
        self.write(taken).map(|()| Some(up_to)).inspect_err(|error| self.fail(error))
    }

    /// Every failure but a full disk is final.
    fn fail(&self, error: &WalError) {
        if !matches!(error, WalError::NoSpace) {
            self.shared.commit().poison(error);
        }
    }

    fn write(&mut self, mut taken: Taken) -> Result<(), WalError> {
        let written = self.write_chunks(&mut taken);
        let mut commit = self.shared.commit();
        commit.room.stalled = matches!(written, Err(WalError::NoSpace));
        match written {
            Ok(()) => commit.on_written(taken),
            Err(WalError::NoSpace) => self.stalled = Some(taken),
            Err(_) => {}
        }
        written
    }

    fn write_chunks(&mut self, taken: &mut Taken) -> Result<(), WalError> {
        let Taken { chunks, up_to, is_mark, written, .. } = taken;
        for chunk in &mut chunks[*written..] {
            if let Some(header) = chunk.begins {
                // After it nothing is unsynced: what stalls from here on, no sync reports.
                self.sync_written()?;
                self.begin_segment(header)?;
                chunk.begins = None;
            }
            self.write_chunk(chunk)?;
            let (up_to, is_mark) = (*up_to, *is_mark);
            self.unsynced = Some(Unsynced { segment: chunk.segment, up_to, is_mark });
            *written += 1;
        }
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
        let spare = self.spares[0].clone();
        let name = segment::file_name(header.segment);
        let raw = encode_header(&self.identity, header);
        disk.write_at(&spare, 0, &raw).map_err(WalError::io("write", &spare))?;
        self.sync_file(&spare, header.segment)?;
        disk.rename(&spare, &name).map_err(WalError::io("rename", &spare))?;
        self.spares.remove(0);
        self.sync_dir(&name)
    }

    /// However it fails, it is final: as with files, a later one tells nothing.
    fn sync_dir(&self, name: &str) -> Result<(), WalError> {
        let synced = self.shared.disk.sync_dir();
        synced.map_err(WalError::failed("sync the directory of", name))
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

    /// Frees what is no longer needed, moves what is live out of the oldest segments, gets files ready,
    /// and marks the last batch as synced if there is nothing else to do; to be called after every
    /// sync, when no caller waits for it. How much of that it does follows from how much was written
    /// since the last call.
    ///
    /// # Errors
    /// Any failure but a full disk is final: the wal is poisoned.
    pub fn maintain(&mut self) -> Result<(), WalError> {
        // What it would free may be needed, if somebody left it half changed.
        if let Some(refusal) = &self.shared.commit().refusal {
            return Err(refusal.clone());
        }
        let now = self.stats();
        let before = std::mem::replace(&mut self.maintained, now);
        let written = now.bytes_written - before.bytes_written;
        let begun = written / self.options.segment_bytes;
        // What callers wrote, its copies left out.
        let asked = written.saturating_sub(now.bytes_moved - before.bytes_moved);
        let done = self
            .free_oldest(2 * (begun + 1))
            .and_then(|()| self.note_damage())
            .and_then(|()| self.move_oldest(MOVED_PER_BYTE * asked))
            .and_then(|()| self.prepare_spare().map(|_| ()))
            .and_then(|()| self.mark());
        match done {
            Err(WalError::NoSpace) | Ok(()) => Ok(()),
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    fn free_oldest(&mut self, count_max: u64) -> Result<(), WalError> {
        if self.shared.commit().freeable().is_some() {
            // What was moved from there may lie in the batch that was synced last: damage of that one would look
            // as if it had never been written, and the older copy is about to go. Only where the disk has no
            // space for the note, space goes first.
            self.prepare_note()?;
            self.write_note()?;
            self.sync_note()?;
        }
        for _ in 0..count_max {
            let Some(oldest) = self.shared.commit().freeable() else { break };
            let disk = &*self.shared.disk;
            let name = segment::file_name(oldest);
            let spares_max = room::spares_max(&self.options);
            let is_sound =
                self.suspect_up_to < oldest && !self.shared.commit().is_condemned(oldest);
            let is_kept = is_sound && self.spares.len() < spares_max;
            if is_kept {
                let spare = segment::spare_name(self.next_spare);
                self.next_spare += 1;
                disk.rename(&name, &spare).map_err(WalError::io("rename", &name))?;
                self.spares.push(spare);
            } else {
                disk.remove(&name).map_err(WalError::io("remove", &name))?;
            }
            // Before the next one is freed: what remains must be an unbroken run.
            self.sync_dir(&name)?;
            self.shared.opener.forget(oldest);
            let mut commit = self.shared.commit();
            commit.freed(oldest);
            if is_kept {
                commit.room.add_spare();
            }
        }
        Ok(())
    }

    fn note_damage(&mut self) -> Result<(), WalError> {
        match self.shared.commit().submit_notes() {
            // Without room now, there may be later.
            Err(WalError::Backpressure { .. } | WalError::NoSpace) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn move_oldest(&mut self, bytes_min: u64) -> Result<(), WalError> {
        let target = room::move_bytes_target(&self.options);
        let mut moved = 0;
        loop {
            let items = self.shared.commit().movable();
            let count = items.len();
            let mut done = 0;
            for batch in batches(&items, target) {
                let (read, bytes) = self.read_items(batch)?;
                if !self.stage_moved(&read)? {
                    return Ok(());
                }
                moved += bytes;
                done += read.len();
                if bytes_min <= moved && !read.is_empty() {
                    return Ok(());
                }
            }
            // What cannot be read holds its segment, and with it those behind.
            if count == 0 || done < count {
                return Ok(());
            }
        }
    }

    /// False if there is no room for it now.
    fn stage_moved(&mut self, items: &[ReadItem]) -> Result<bool, WalError> {
        loop {
            let staged = self.shared.commit().submit_moved(items);
            match staged {
                Ok(()) => return Ok(true),
                // Callers took all the files that were ready.
                Err(WalError::Backpressure { .. }) if self.prepare_spare()? => {}
                Err(WalError::Backpressure { .. } | WalError::NoSpace) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// What of these can be read, and how much it is.
    fn read_items(&self, items: &[LiveItem]) -> Result<(Vec<ReadItem>, u64), WalError> {
        let mut read = Vec::with_capacity(items.len());
        let mut bytes = 0;
        for item in items {
            // If it moved or went meanwhile, what was read is not used.
            let Shared { disk, opener, .. } = &*self.shared;
            match read_payload(&**disk, opener, item.group, item.index, &item.location) {
                Ok(payload) => {
                    bytes += ITEM_HEADER_BYTES as u64 + u64::from(item.location.len);
                    read.push((*item, payload));
                }
                Err(WalError::Corrupt { .. }) => self.shared.commit().note_unreadable(item),
                Err(error) => return Err(error),
            }
        }
        Ok((read, bytes))
    }

    /// Writes, and does not sync: what the mark tells holds as soon as it can be read.
    fn mark(&mut self) -> Result<(), WalError> {
        let Some(taken) = self.shared.commit().take_mark() else { return Ok(()) };
        self.write(taken)?;
        self.write_note()
    }

    /// What a full disk or a start without one leaves out, the mark says alone.
    fn write_note(&self) -> Result<(), WalError> {
        let raw = note::encode(&self.identity.domain(), self.durable());
        match self.shared.disk.write_at(NOTE_NAME, 0, &raw) {
            Err(error) if is_full(&error) || error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written.map_err(WalError::io("write", NOTE_NAME)),
        }
    }

    fn sync_note(&self) -> Result<(), WalError> {
        match self.shared.disk.sync(NOTE_NAME) {
            Err(error) if is_full(&error) || error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(WalError::failed("sync", NOTE_NAME)),
        }
    }

    /// Returns whether it made a file that was wanted.
    fn prepare_spare(&mut self) -> Result<bool, WalError> {
        if !self.shared.commit().room.wants_spare() {
            return Ok(false);
        }
        let name = segment::spare_name(self.next_spare);
        self.next_spare += 1;
        let made = match self.shared.disk.create(&name, self.options.segment_bytes) {
            Ok(()) => true,
            Err(error) if is_full(&error) => false,
            Err(error) => return Err(WalError::io("create", &name)(error)),
        };
        if made {
            self.spares.push(name);
        } else {
            // Nothing depends on it yet. If it stays, the next start removes it.
            let _ = self.shared.disk.remove(&name);
        }
        self.shared.commit().room.made_spare(made);
        Ok(made)
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

    /// True if something was taken in that can be written now.
    pub(crate) fn has_queued(&self) -> bool {
        let commit = self.shared.commit();
        commit.refusal.is_none() && commit.has_staged() && !commit.room.stalled
    }

    /// True if something waits for space to be written.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Reads what is written.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader::new(Arc::clone(&self.shared))
    }

    /// Reads all that is written, round after round.
    #[must_use]
    pub fn scrubber(&self) -> WalScrubber {
        WalScrubber::new(Arc::clone(&self.shared), None)
    }

    /// How it is doing.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.shared.commit().stats()
    }
}

/// Cuts items into runs of about so many bytes, at least one item each.
fn batches(items: &[LiveItem], target: usize) -> impl Iterator<Item = &[LiveItem]> {
    let mut bytes = 0;
    items.chunk_by(move |item, next| {
        let next = next.location.len as usize;
        bytes += item.location.len as usize + ITEM_HEADER_BYTES;
        let fits = bytes + next + ITEM_HEADER_BYTES <= target;
        if !fits {
            bytes = 0;
        }
        fits
    })
}

fn id_of(name: &str) -> Option<SegmentId> {
    match segment::kind_of(name) {
        FileKind::Segment(id) => Some(id),
        FileKind::Spare(_) | FileKind::Other => None,
    }
}

/// Gives registers the bytes that their callers handed in. Those of the last frame are the last that were set.
pub(crate) fn open_registers(outcome: &mut Outcome, opener: &Opener) -> Result<(), WalError> {
    for (group, found) in &mut outcome.recovered.groups {
        let location = outcome.index.groups[group].state;
        if let (Some(state), Some(location)) = (&mut found.state, location.filter(|at| at.sealed)) {
            let opened = opener.open(*group, LogIndex::ZERO, &location, state.to_vec())?;
            *state = opened.into();
        }
    }
    let copies: Vec<GroupId> = outcome.start.copies.iter().map(|(group, _)| group).collect();
    outcome.start.copies.clear();
    for group in copies {
        if let Some(state) = &outcome.recovered.groups[&group].state {
            outcome.start.copies.set(group, state);
        }
    }
    Ok(())
}

/// Reads all segments, in order. Headers come first: each tells how far the one before may reach.
pub(crate) fn recover(
    disk: &dyn Disk,
    identity: &WalIdentity,
    noted: BatchSeq,
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
    let mut recovery = Recovery::new(identity.domain(), noted);
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

/// What the note says was synced, or zero. One that cannot be read says nothing.
pub(crate) fn read_note(disk: &dyn Disk, identity: &WalIdentity) -> Result<BatchSeq, WalError> {
    let io = WalError::io("read", NOTE_NAME);
    let raw = match disk.len(NOTE_NAME) {
        Ok(length) => salvage::read(disk, NOTE_NAME, length.min(NOTE_BYTES as u64) as usize),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BatchSeq::ZERO),
        Err(error) => Err(error),
    };
    raw.map(|raw| note::decode(&identity.domain(), &raw.bytes)).map_err(io)
}

/// Whether a spare can become any segment after the last one: no frame in it says that it is of one of those.
fn is_spent(disk: &dyn Disk, identity: &WalIdentity, name: &str, last: SegmentId) -> bool {
    let mut raw = [0; SEGMENT_HEADER_BYTES as usize];
    disk.read_at(name, 0, &mut raw).is_ok() && segment::is_spent(identity, &raw, last)
}

/// Makes a new file of one, in place: on a full disk there may be no room for another. Whether that worked.
fn wipe(disk: &dyn Disk, name: &str, length: u64) -> bool {
    zero(disk, name, 0, length).is_ok() && disk.sync(name).is_ok()
}

/// Writes what stands at these places, to the same places.
fn write_again(disk: &dyn Disk, name: &str, places: &[(u64, usize)]) -> Result<(), WalError> {
    for (pos, bytes) in places {
        let mut held = vec![0; *bytes];
        disk.read_at(name, *pos, &mut held).map_err(WalError::io("read", name))?;
        disk.write_at(name, *pos, &held).map_err(WalError::io("write", name))?;
    }
    Ok(())
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
