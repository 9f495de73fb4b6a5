//! Replicas are compared all the time, and each with itself: `docs/comparing.md`.

mod counts;
mod folds;
pub(crate) mod latch;
#[cfg(all(test, feature = "rocksdb"))]
mod on_disk;
mod round;
mod scrub;
pub(crate) mod spans;
mod sum;
mod table;

pub use self::counts::Compared;
pub(crate) use self::counts::Comparisons;
pub(crate) use self::folds::StateSums;
pub(crate) use self::round::round;
#[cfg(feature = "rocksdb")]
pub(crate) use self::scrub::look_at_all;
pub(crate) use self::scrub::{SCRUB_BYTES_PER_SECOND, Scrub};
pub use self::table::Divergence;
#[cfg(test)]
pub(crate) use self::table::own_sums;
pub(crate) use self::table::{CompareCommand, apply, divergences};
