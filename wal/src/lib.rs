//! One node's durable, ordered frames for many groups.
//!
//! A wal is a run of numbered batches in segment files. A batch changes the logs of one or more
//! groups, whole or not at all; each group's log is a run of entries with an index, a small
//! register beside it, and a trimmed front. One sync makes the batches of all groups durable.
//!
//! It has never heard of consensus: what a payload means is its caller's affair. What it promises:
//!
//! - **W1** A batch that was reported durable is found by every later recovery, or each group that
//!   it may have changed has the verdict [`Verdict::Damaged`]. It is never silently missing.
//! - **W2** A batch counts whole or not at all, over all its groups.
//! - **W3** A failed sync is final: nothing is reported durable after it.
//! - **W4** Bytes that were not written by this owner, for this place of this segment, never pass.
//! - **W5** A damaged group stays damaged until its caller says [`Write::Repaired`], and a repair never
//!   covers damage that came later.
//!
//! The files are described byte by byte in `docs/format.md`.

mod bell;
mod chain;
mod commit;
mod copies;
mod disk;
mod error;
mod frame;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod index;
mod inspect;
mod keys;
mod note;
mod options;
mod panic;
mod position;
mod read_only;
mod reader;
mod recovery;
mod room;
mod salvage;
mod scrub;
mod sealing;
mod segment;
#[cfg(feature = "sim")]
pub mod sim;
mod sync;
mod sync_times;
mod verdict;
mod wal;
mod writer;

pub use commit::WalStats;
#[cfg(any(test, feature = "sim"))]
pub use disk::conformance;
pub use disk::{Disk, FileDisk};
pub use error::{Disposition, WalError};
pub use frame::Write;
pub use inspect::{
    InspectedItem, InspectedPlace, InspectedSegment, Inspection, inspect, walk_segment,
};
#[cfg(any(test, feature = "sim"))]
pub use keys::SeededRandomness;
pub use keys::{
    KeyEpoch, KeyError, KeyHold, KeyRing, KeyState, Keys, Randomness, SEALED_FILE_BYTES,
    SEALED_FILE_PREFIX_BYTES, SystemRandomness, sealed_epoch,
};
pub use options::{STATE_BYTES_MAX, WalOptions};
pub use panic::guarded;
pub use position::{BatchSeq, BytePos, GroupId, LogIndex, SegmentId};
pub use read_only::ReadOnlyDisk;
pub use reader::WalReader;
pub use scrub::{Scrubbed, WalScrubber};
pub use segment::{SEGMENT_HEADER_BYTES, WalIdentity, sealed_segment_epoch};
pub use sync_times::{SYNC_EDGES_US, SyncTimes};
pub use verdict::{Damage, Recovered, RecoveredGroup, Verdict};
pub use wal::Wal;
pub use writer::{OnDurable, WalWriter};
