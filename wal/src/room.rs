//! How much disk a wal takes, and what it still can do when the disk gives no more.
//!
//! Files that are ready to become segments are kept beside those in use. The last of them is the
//! **reserve**: writes that add entries never take it. What takes it are writes that make room or
//! keep a promise: trims, registers, moved entries, and entries that a caller has promised to store.
//!
//! A segment is only ever freed at the front. So what is live there is moved to the end once there are
//! more segments than the live bytes justify, whatever it is: a log of which a part never changes goes
//! round. `docs/space.md` has the bound that follows, and what it costs.

use crate::options::WalOptions;

/// Files kept ready to become segments, the reserve among them.
const SPARES: usize = 2;
/// So many of them are not for ordinary writes.
const RESERVE: usize = 1;
/// After each failure to make a file, more calls of `maintain` pass before the next try, up to this:
/// every try fills the disk for a moment.
const PATIENCE_MAX: u32 = 64;

/// What a frame is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It can be refused.
    Ordinary,
    /// It may take the reserve of a full disk.
    Urgent,
    /// The wal's own: the same, and room in the queue beside what callers wait for.
    Own,
}

/// The files that are ready, and whether more can be had.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Files ready to become segments, those that staged chunks need not counted.
    spares_free: usize,
    /// No file could be made when one was wanted last.
    full: bool,
    /// A write found no space and waits to be tried again.
    pub(crate) stalled: bool,
    /// Calls to let pass before the next try to make a file, and how many it was the last time.
    skips: u32,
    patience: u32,
}

impl Room {
    /// The disk gives no more: what can be refused should be, from now on.
    pub(crate) fn is_short(&self) -> bool {
        self.full || self.stalled
    }

    /// True if not even the rest of the last segment is for this: that one was the reserve.
    pub(crate) fn refuses(&self, need: Need) -> bool {
        let on_reserve = self.full && self.spares_free < RESERVE;
        need == Need::Ordinary && (self.stalled || on_reserve)
    }

    pub(crate) fn add_spare(&mut self) {
        self.spares_free += 1;
        if SPARES <= self.spares_free {
            (self.full, self.skips, self.patience) = (false, 0, 0);
        }
    }

    /// Takes a file for a segment. Returns whether there is one for this need. While the disk is not
    /// known to be full, another file is on its way, and the reserve remains.
    pub(crate) fn take_spare(&mut self, need: Need) -> bool {
        let kept = if need == Need::Ordinary || !self.is_short() { RESERVE } else { 0 };
        let is_there = kept < self.spares_free;
        self.spares_free -= usize::from(is_there);
        is_there
    }

    /// True if a file is to be made now.
    pub(crate) fn wants_spare(&mut self) -> bool {
        let wanted = self.spares_free < SPARES;
        let now = wanted && self.skips == 0;
        self.skips = self.skips.saturating_sub(1);
        now
    }

    /// A file was made, or the disk had no space for it.
    pub(crate) fn made_spare(&mut self, made: bool) {
        if made {
            (self.full, self.patience) = (false, 0);
            self.add_spare();
        } else {
            self.patience = (2 * self.patience).clamp(1, PATIENCE_MAX);
            self.skips = self.patience;
            self.full = true;
        }
    }

    /// True if live items of the first segment are to be moved, of which `first_bytes` are live.
    pub(crate) fn is_move_due(
        &self,
        options: &WalOptions,
        segments: u64,
        live_bytes: u64,
        first_bytes: u64,
    ) -> bool {
        let dense = live_bytes.div_ceil(options.segment_bytes);
        if self.is_short() {
            // Whatever frees more than it takes, and surely fits into the reserve.
            return dense + 1 < segments && 4 * first_bytes <= 3 * options.segment_bytes;
        }
        (options.live_multiple_max - 1) * dense + 2 < segments
    }
}

/// More than `SPARES` are kept when segments are freed, if one full queue may need them.
pub(crate) fn spares_max(options: &WalOptions) -> usize {
    SPARES + options.queued_bytes_max.div_ceil(options.segment_bytes as usize)
}

/// Items are moved in batches of about so many bytes: small enough that a few fill a segment well.
pub(crate) fn move_bytes_target(options: &WalOptions) -> usize {
    (options.batch_bytes_max / 2).min((options.segment_bytes / 8) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_is_not_for_ordinary_writes() {
        let mut room = Room::default();
        room.made_spare(true);
        assert!(!room.take_spare(Need::Ordinary));
        room.made_spare(true);
        assert!(room.take_spare(Need::Ordinary));
        assert!(!room.take_spare(Need::Ordinary));
        assert!(!room.take_spare(Need::Urgent), "another may be on its way");
        room.made_spare(false);
        assert!(!room.refuses(Need::Ordinary), "the last segment's rest is not the reserve");
        assert!(!room.take_spare(Need::Ordinary));
        assert!(room.take_spare(Need::Urgent));
        assert!(room.refuses(Need::Ordinary));
        assert!(!room.refuses(Need::Urgent));
        assert!(!room.take_spare(Need::Own));
    }

    #[test]
    fn a_full_disk_is_asked_more_and_more_seldom_and_forgotten_when_files_are_back() {
        let mut room = Room::default();
        let mut asked = Vec::new();
        for call in 0..400 {
            if room.wants_spare() {
                room.made_spare(false);
                asked.push(call);
            }
        }
        assert_eq!(asked, [0, 2, 5, 10, 19, 36, 69, 134, 199, 264, 329, 394]);
        assert!(room.is_short());
        room.add_spare();
        assert!(room.is_short());
        room.add_spare();
        assert!(!room.is_short());
    }

    #[test]
    fn what_is_live_moves_when_the_multiple_is_passed_or_when_it_frees_space_on_a_full_disk() {
        let options =
            WalOptions { segment_bytes: 800, live_multiple_max: 4, ..WalOptions::default() };
        let mut room = Room::default();
        // Two segments full of live bytes, so eight and the one being filled are justified.
        assert!(!room.is_move_due(&options, 8, 1600, 800));
        assert!(room.is_move_due(&options, 9, 1600, 800));
        room.made_spare(false);
        assert!(room.is_move_due(&options, 4, 1600, 600));
        assert!(!room.is_move_due(&options, 4, 1600, 601));
        assert!(!room.is_move_due(&options, 3, 1600, 600));
    }
}
