//! Keys where the log meets them: which segment is sealed with what, who seals the tail, who opens what is read.
//!
//! A segment is sealed with one epoch, which its header names; so does each sealed item, for the case that
//! the header goes bad. What is sealed opens at its place alone: segment, byte, group and index.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::index::Location;
use crate::keys::{FileKey, KeyEpoch, KeyError, KeyHold, Keys, Sealer, epoch_of};
use crate::position::{GroupId, LogIndex, SegmentId};
use crate::segment::{self, WalIdentity};

/// What a header says of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealMark {
    pub(crate) epoch: KeyEpoch,
    /// The first bytes of the key's check.
    pub(crate) check: [u8; 3],
}

/// What the files of a wal are sealed with, as they say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seals {
    /// By header.
    pub(crate) marks: BTreeMap<SegmentId, SealMark>,
    /// By items, of segments whose header does not hold.
    pub(crate) orphans: BTreeMap<SegmentId, Vec<KeyEpoch>>,
    /// The first item that is sealed in a clear segment, or clear in a sealed one: nobody wrote that.
    pub(crate) odd: Option<(SegmentId, u64, KeyEpoch)>,
}

impl Seals {
    /// Takes an entry or register: where it lies, what its segment's header says of sealing if it holds, and
    /// the epoch that it names if it is sealed.
    pub(crate) fn item(
        &mut self,
        (segment, pos): (SegmentId, u64),
        header: Option<Option<SealMark>>,
        epoch: Option<KeyEpoch>,
    ) {
        match (header, epoch) {
            (None, None) => {}
            (None, Some(epoch)) => {
                let epochs = self.orphans.entry(segment).or_default();
                if !epochs.contains(&epoch) {
                    epochs.push(epoch);
                }
            }
            (Some(mark), epoch) => {
                let said = mark.map(|mark| mark.epoch);
                if said != epoch {
                    let named = epoch.or(said).expect("they differ");
                    self.odd = self.odd.or(Some((segment, pos, named)));
                }
            }
        }
    }

    /// Every segment with each epoch that it needs.
    pub(crate) fn needs(&self) -> impl Iterator<Item = (SegmentId, KeyEpoch)> + '_ {
        let orphans = self.orphans.iter();
        let orphans = orphans.flat_map(|(id, epochs)| epochs.iter().map(|epoch| (*id, *epoch)));
        self.marks.iter().map(|(id, mark)| (*id, mark.epoch)).chain(orphans)
    }

    /// Refuses what these keys do not open.
    pub(crate) fn judge(&self, keys: &Keys) -> Result<(), KeyError> {
        if let Some((segment, byte_pos, epoch)) = self.odd {
            return Err(KeyError::Tampered { file: segment::file_name(segment), byte_pos, epoch });
        }
        for (segment, epoch) in self.needs() {
            keys.hold(epoch, &segment::file_name(segment))?;
        }
        let wrong =
            |(_, mark): &(&SegmentId, &SealMark)| keys.check(mark.epoch) != Some(mark.check);
        match self.marks.iter().find(wrong) {
            None => Ok(()),
            Some((segment, mark)) => {
                Err(KeyError::Wrong { file: segment::file_name(*segment), epoch: mark.epoch })
            }
        }
    }
}

/// What a segment's key is derived for.
fn context(owner: &WalIdentity, segment: SegmentId) -> Vec<u8> {
    let mut context = b"wal".to_vec();
    context.extend_from_slice(&owner.cluster.to_le_bytes());
    context.extend_from_slice(&owner.node.to_le_bytes());
    context.extend_from_slice(&owner.incarnation.to_le_bytes());
    context.extend_from_slice(&segment.get().to_le_bytes());
    context
}

/// Where in its segment a payload is sealed for.
pub(crate) fn place(byte_pos: u64, group: GroupId, index: LogIndex) -> [u8; 24] {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&byte_pos.to_le_bytes());
    place[8..16].copy_from_slice(&group.get().to_le_bytes());
    place[16..].copy_from_slice(&index.get().to_le_bytes());
    place
}

/// Opens what is read back. Shared by readers; keeps the keys of the segments there are.
pub(crate) struct Opener {
    keys: Keys,
    owner: WalIdentity,
    derived: Mutex<BTreeMap<(SegmentId, KeyEpoch), Arc<FileKey>>>,
}

impl Opener {
    pub(crate) fn new(keys: Keys, owner: WalIdentity) -> Self {
        Self { keys, owner, derived: Mutex::default() }
    }

    pub(crate) fn owner(&self) -> WalIdentity {
        self.owner
    }

    /// What a location holds, as its caller handed it in.
    pub(crate) fn open(
        &self,
        group: GroupId,
        index: LogIndex,
        location: &Location,
        stored: Vec<u8>,
    ) -> Result<Vec<u8>, KeyError> {
        if !location.sealed {
            return Ok(stored);
        }
        let (segment, byte_pos) = (location.segment, u64::from(location.pos));
        let epoch = epoch_of(&stored).expect("an item without an epoch is none");
        let place = place(byte_pos, group, index);
        let tampered = || KeyError::Tampered { file: segment::file_name(segment), byte_pos, epoch };
        self.key(segment, epoch)?.open(&place, &stored).ok_or_else(tampered)
    }

    fn key(&self, segment: SegmentId, epoch: KeyEpoch) -> Result<Arc<FileKey>, KeyError> {
        let mut derived = self.derived.lock().expect("no code panics while it holds the keys");
        if let Some(key) = derived.get(&(segment, epoch)) {
            return Ok(Arc::clone(key));
        }
        let (context, file) = (context(&self.owner, segment), segment::file_name(segment));
        let key = Arc::new(self.keys.file_key(epoch, &context, &file)?);
        derived.insert((segment, epoch), Arc::clone(&key));
        Ok(key)
    }

    /// The segment is gone.
    pub(crate) fn forget(&self, segment: SegmentId) {
        let mut derived = self.derived.lock().expect("no code panics while it holds the keys");
        derived.retain(|(of, _), _| *of != segment);
    }
}

/// Seals what is written, and holds the epochs of what is there.
pub(crate) struct TailSeal {
    keys: Keys,
    owner: WalIdentity,
    holds: BTreeMap<SegmentId, Vec<KeyHold>>,
    /// Of the last segment; none if it is clear.
    sealer: Option<Sealer>,
}

/// A segment that is about to be begun.
pub(crate) struct Begun {
    sealed: Option<(Sealer, KeyHold)>,
    pub(crate) mark: Option<SealMark>,
}

impl TailSeal {
    /// `tail` is the segment that is gone on with, if one is.
    pub(crate) fn open(
        keys: Keys,
        owner: WalIdentity,
        seals: &Seals,
        tail: Option<SegmentId>,
    ) -> Result<Self, KeyError> {
        let mut holds: BTreeMap<SegmentId, Vec<KeyHold>> = BTreeMap::new();
        for (segment, epoch) in seals.needs() {
            let hold = keys.hold(epoch, &segment::file_name(segment))?;
            holds.entry(segment).or_default().push(hold);
        }
        let marked = tail.and_then(|tail| Some((tail, seals.marks.get(&tail)?)));
        let sealer = match marked {
            None => None,
            Some((segment, mark)) => {
                let (context, file) = (context(&owner, segment), segment::file_name(segment));
                Some(keys.sealer(mark.epoch, &context, &file)?)
            }
        };
        Ok(Self { keys, owner, holds, sealer })
    }

    /// The epoch that is to seal from now on. It stays in the ring as long as that is not dropped.
    pub(crate) fn active(&self) -> Option<KeyHold> {
        self.keys.hold_active()
    }

    /// Whether the last segment may be gone on with. On a full disk, one of a former epoch may; a clear one
    /// never, once anything is to be sealed.
    pub(crate) fn goes_on(&self, active: Option<KeyEpoch>, is_short: bool) -> bool {
        let tail = self.sealer.as_ref().map(|sealer| sealer.key.epoch);
        tail == active || is_short && active.is_some() && tail.is_some()
    }

    /// Gets a segment's key ready. Nothing changes before [`TailSeal::begun`].
    pub(crate) fn begin(
        &self,
        segment: SegmentId,
        active: Option<KeyHold>,
    ) -> Result<Begun, KeyError> {
        let Some(hold) = active else { return Ok(Begun { sealed: None, mark: None }) };
        let epoch = hold.epoch();
        let (context, file) = (context(&self.owner, segment), segment::file_name(segment));
        let sealer = self.keys.sealer(epoch, &context, &file)?;
        let check = self.keys.check(epoch).expect("it is held");
        Ok(Begun { sealed: Some((sealer, hold)), mark: Some(SealMark { epoch, check }) })
    }

    pub(crate) fn begun(&mut self, segment: SegmentId, begun: Begun) {
        let (sealer, hold) = begun.sealed.unzip();
        self.sealer = sealer;
        if let Some(hold) = hold {
            self.holds.entry(segment).or_default().push(hold);
        }
    }

    /// Whether a segment is sealed, or clear, as nothing is any more that is written now: it is left as soon as
    /// may be, so that the epoch can be retired.
    pub(crate) fn is_former(&self, segment: SegmentId) -> bool {
        let active = self.keys.active();
        let mut epochs =
            self.holds.get(&segment).into_iter().flatten().map(KeyHold::epoch).peekable();
        match active {
            None => epochs.peek().is_some(),
            Some(_) => epochs.peek().is_none() || epochs.any(|epoch| Some(epoch) != active),
        }
    }

    /// Whether what is clear there would be sealed elsewhere, and be longer by that.
    pub(crate) fn would_seal(&self, segment: SegmentId) -> bool {
        self.keys.active().is_some() && !self.holds.contains_key(&segment)
    }

    /// Who seals what is written to the last segment.
    pub(crate) fn sealer(&mut self) -> Option<&mut Sealer> {
        self.sealer.as_mut()
    }

    /// The segment is gone.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.holds.remove(&segment);
    }
}

#[cfg(test)]
mod tests;
