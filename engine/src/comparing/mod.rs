//! Replicas are compared all the time, and each with itself: `docs/comparing.md`.

mod folds;
pub(crate) mod latch;
mod round;
mod scrub;
pub(crate) mod spans;
mod sum;
mod table;

pub(crate) use self::round::round;
pub(crate) use self::scrub::{SCRUB_BYTES_PER_SECOND, Scrub};
pub use self::table::Divergence;
pub(crate) use self::table::{CompareCommand, apply, divergences};
#[cfg(test)]
pub(crate) use self::{folds::StateSums, table::own_sums};
