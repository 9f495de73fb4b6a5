//! How old this data directory is, so that one which was put back from a copy is noticed: it has forgotten
//! what it promised since the copy was made. See "A directory that was put back" in `docs/protocol.md`.
//!
//! An age is a number that rises with each start and once a minute after it, and a draw that a copy cannot
//! foresee: each start draws a seed, and the draws of its ages follow from it. Peers remember the last age that
//! they were told (`acquaintances.rs`), and say it at each greeting.
//!
//! ```text
//! magic 8 "PLSDAGES", version 4, count 8, put back: who remembers 8 and which count 8, or zeros;
//! then of each start, the oldest first: its first count 8, seed 8; crc32 4
//! ```
//! Little-endian. Written before the age is told. One that was found to be put back says so for good: started
//! often enough, it would have forgotten what the peer holds against it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{Buf, BufMut};
use tokio::sync::watch;

use crate::error::NodeError;
use crate::identity::NodeId;
use crate::small_file::{self, Unfit, write_new};

const MAGIC: &[u8; 8] = b"PLSDAGES";
const VERSION: u32 = 1;
const FILE: &str = "ages";
const START_BYTES: usize = 16;
/// Starts that are remembered. What a peer remembers of before them cannot be judged any more.
const STARTS_MAX: usize = 1024;

/// The age of a data directory at some moment. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Age {
    pub(crate) count: u64,
    pub(crate) draw: u64,
}

/// All ages that a directory has had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    count: u64,
    /// Which node remembers it at which count, if it was found to be put back from a copy.
    put_back: Option<(u64, u64)>,
    /// Of each start, the oldest first, its first count and its seed.
    starts: Vec<(u64, u64)>,
}

impl History {
    /// A start with a fresh random seed.
    pub(crate) fn begin(&mut self, seed: u64) {
        self.count += 1;
        if self.starts.len() == STARTS_MAX {
            self.starts.remove(0);
        }
        self.starts.push((self.count, seed));
    }

    /// It is older by one.
    pub(crate) fn grow(&mut self) {
        self.count += 1;
    }

    /// The age of now; none before the first start.
    pub(crate) fn age(&self) -> Age {
        self.at(self.count).unwrap_or_default()
    }

    /// Whether this directory has been of this age. One that a peer remembers and that is not here is of what the
    /// directory has forgotten.
    pub(crate) fn holds(&self, remembered: Age) -> bool {
        match self.at(remembered.count) {
            Some(age) => age == remembered,
            None => remembered.count <= self.count,
        }
    }

    /// None of what is before the oldest start that is known, or still to come.
    fn at(&self, count: u64) -> Option<Age> {
        let start = self.starts.iter().rfind(|(first, _)| *first <= count)?;
        (count <= self.count).then(|| Age { count, draw: mixed(start.1, count) })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = small_file::begin(MAGIC, VERSION);
        out.put_u64_le(self.count);
        let (by, remembered) = self.put_back.unwrap_or_default();
        out.put_u64_le(by);
        out.put_u64_le(remembered);
        for (first, seed) in &self.starts {
            out.put_u64_le(*first);
            out.put_u64_le(*seed);
        }
        small_file::end(out)
    }

    pub(crate) fn decode(raw: &[u8]) -> Result<Self, Unfit> {
        let (_, fields) = small_file::fields(raw, MAGIC, VERSION)?;
        Self::of_fields(fields).ok_or(Unfit::Damaged)
    }

    fn of_fields(mut fields: &[u8]) -> Option<Self> {
        if fields.len() < 24 {
            return None;
        }
        let count = fields.get_u64_le();
        let (by, remembered) = (fields.get_u64_le(), fields.get_u64_le());
        let put_back = (by != 0).then_some((by, remembered));
        if by == 0 && remembered != 0 {
            return None;
        }
        if !fields.len().is_multiple_of(START_BYTES) || fields.len() > STARTS_MAX * START_BYTES {
            return None;
        }
        let mut starts = Vec::with_capacity(fields.len() / START_BYTES);
        while fields.has_remaining() {
            starts.push((fields.get_u64_le(), fields.get_u64_le()));
        }
        let firsts = starts.iter().map(|(first, _)| *first).chain([count.checked_add(1)?]);
        (firsts.clone().is_sorted_by(|one, next| one < next) && firsts.min() != Some(0))
            .then_some(Self { count, put_back, starts })
    }
}

/// Another number for each count of a start (the finalizer of splitmix64).
fn mixed(seed: u64, count: u64) -> u64 {
    let mut draw = seed ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    draw ^ (draw >> 31)
}

/// The ages of the directory of a node that is up.
pub(crate) struct Ages {
    data_dir: PathBuf,
    /// There was no start before this one.
    is_first: bool,
    history: watch::Sender<History>,
    /// One at a time changes it. The seed of this start, as long as that could not be written.
    writing: Mutex<Option<u64>>,
}

impl Ages {
    /// Takes up what was written, and begins a start.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn open(data_dir: &Path, seed: u64) -> Result<Self, NodeError> {
        let history = match small_file::read(data_dir, FILE)? {
            Some(raw) => History::decode(&raw)
                .map_err(|unfit| unfit.of(data_dir, FILE, "replace this node"))?,
            None => History::default(),
        };
        if let Some((by, remembered)) = history.put_back {
            return Err(NodeError::PutBack { by: NodeId::new(by), remembered });
        }
        let is_first = history.count == 0;
        let (history, _) = watch::channel(history);
        let writing = Mutex::new(Some(seed));
        let ages = Self { data_dir: data_dir.to_owned(), is_first, history, writing };
        ages.write(|_| ());
        Ok(ages)
    }

    /// It was put back from a copy, and is never taken up again.
    pub(crate) fn condemn(&self, by: NodeId, remembered: Age) {
        self.write(|history| history.put_back = Some((by.get(), remembered.count)));
    }

    /// It is older, and its peers are to know.
    pub(crate) fn grow(&self) {
        self.write(History::grow);
    }

    /// An age counts once it is written. On a full disk it stays what it was, and the node goes on; its start
    /// begins with the next age that can be written, or it would go through those of a copy once more.
    fn write(&self, change: impl FnOnce(&mut History)) {
        let mut start = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.history.borrow().clone();
        if let Some(seed) = *start {
            next.begin(seed);
        }
        change(&mut next);
        match write_new(&self.data_dir, FILE, &next.encode()) {
            Ok(()) => {
                *start = None;
                self.history.send_replace(next);
            }
            Err(error) => tracing::warn!(%error, "the age of the data directory was not written"),
        }
    }

    /// The ages as they become.
    pub(crate) fn follow(&self) -> watch::Receiver<History> {
        self.history.subscribe()
    }

    /// This is the first start there was.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// As [`History::holds`].
    pub(crate) fn holds(&self, remembered: Age) -> bool {
        self.history.borrow().holds(remembered)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// Some starts, each of which grows so often.
    fn lived(starts: &[(u64, u8)]) -> History {
        let mut history = History::default();
        for (seed, grown) in starts {
            history.begin(*seed);
            (0..*grown).for_each(|_| history.grow());
        }
        history
    }

    fn starts() -> impl Strategy<Value = Vec<(u64, u8)>> {
        proptest::collection::vec((any::<u64>(), 0u8..5), 1..6)
    }

    proptest! {
        /// Whatever a peer remembers of the directory itself, however long ago, is there.
        #[test]
        fn what_was_told_is_never_taken_for_a_copys(before in starts(), after in starts()) {
            let remembered = lived(&before).age();
            prop_assert!(lived(&[before, after].concat()).holds(remembered));
        }

        /// A copy that lives on by itself never comes to what the first one told after it was made.
        #[test]
        fn a_copy_is_known_by_what_it_missed(
            before in starts(),
            first in starts(),
            copy in starts(),
        ) {
            let told = lived(&[&before[..], &first].concat()).age();
            prop_assert!(!lived(&[&before[..], &copy].concat()).holds(told));
            prop_assert!(!lived(&before).holds(told));
        }

        #[test]
        fn the_file_round_trips(starts in starts()) {
            let history = lived(&starts);
            prop_assert_eq!(History::decode(&history.encode()), Ok(history));
        }
    }

    #[test]
    fn starts_of_long_ago_are_forgotten_and_not_held_against_it() {
        let mut history = lived(&[(7, 0)]);
        let first = history.age();
        (0..2 * STARTS_MAX as u64).for_each(|seed| history.begin(seed));
        assert!(history.holds(first) && history.holds(Age::default()));
        assert_eq!(History::decode(&history.encode()), Ok(history));
    }

    #[test]
    fn what_was_found_to_be_put_back_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let ages = Ages::open(dir.path(), 3).unwrap();
        ages.condemn(NodeId::new(2), Age { count: 9, draw: 1 });
        for seed in 4..6 {
            let Err(NodeError::PutBack { by, remembered }) = Ages::open(dir.path(), seed).map(drop)
            else {
                panic!("it is not taken up again")
            };
            assert_eq!((by, remembered), (NodeId::new(2), 9));
        }
    }

    /// On a full disk, say. A copy of the directory would have the same ages otherwise, and nobody could tell.
    #[test]
    fn a_start_that_could_not_be_written_is_begun_with_the_next_age() {
        let dir = tempfile::tempdir().unwrap();
        drop(Ages::open(dir.path(), 3).unwrap());
        let in_its_way = dir.path().join(format!("{FILE}.new"));
        fs::create_dir(&in_its_way).unwrap();
        let ages = Ages::open(dir.path(), 4).unwrap();
        assert!(!ages.is_first());
        ages.grow();
        assert_eq!(*ages.follow().borrow(), lived(&[(3, 0)]));
        fs::remove_dir(&in_its_way).unwrap();
        ages.grow();
        assert_eq!(*ages.follow().borrow(), lived(&[(3, 0), (4, 1)]));
        ages.grow();
        assert_eq!(*ages.follow().borrow(), lived(&[(3, 0), (4, 2)]));
    }

    #[test]
    fn each_start_is_another_age_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let age = |seed| Ages::open(dir.path(), seed).unwrap().follow().borrow().age();
        let (one, two) = (age(3), age(3));
        assert!(one.count < two.count && one.draw != two.draw);
        let ages = Ages::open(dir.path(), 4).unwrap();
        assert!(ages.holds(one) && ages.holds(two));
        ages.grow();
        let grown = ages.follow().borrow().age();
        assert!(Ages::open(dir.path(), 5).unwrap().holds(grown));
        let path = dir.path().join(FILE);
        let mut raw = fs::read(&path).unwrap();
        raw[14] ^= 1;
        fs::write(&path, raw).unwrap();
        assert!(matches!(Ages::open(dir.path(), 6), Err(NodeError::Damaged { .. })));
    }
}
