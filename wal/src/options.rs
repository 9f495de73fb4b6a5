//! The bounds of a wal, by name.

use crate::error::WalError;
use crate::frame::{ALIGN_BYTES, FRAME_HEADER_BYTES, ITEM_HEADER_BYTES};
use crate::keys::SEAL_BYTES;
use crate::segment::SEGMENT_HEADER_BYTES;

/// Largest register of a group.
pub const STATE_BYTES_MAX: usize = 4096;

/// What a mark adds to the frame that repeats the registers of one batch.
const MARK_BYTES: usize = ITEM_HEADER_BYTES.next_multiple_of(ALIGN_BYTES);

/// Bounds of a wal.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Size of a segment file. It is written with zeros before use, so that a sync never has to
    /// wait for the file system's own records.
    pub segment_bytes: u64,
    /// Largest batch, headers included, before anything is sealed.
    pub batch_bytes_max: usize,
    /// What may wait to be written.
    pub queued_bytes_max: usize,
    /// Files take at most so many times what is live, and a few segments: see `docs/space.md`. The
    /// less, the more is written again to keep to it.
    pub live_multiple_max: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 32 << 20,
            batch_bytes_max: 16 << 20,
            queued_bytes_max: 64 << 20,
            live_multiple_max: 4,
        }
    }
}

impl WalOptions {
    /// Refuses values that cannot work together.
    ///
    /// # Errors
    /// [`WalError::InvalidArgument`], naming the rule.
    pub fn validate(&self) -> Result<(), WalError> {
        let rules = [
            (
                self.segment_bytes.is_multiple_of(8) && self.segment_bytes <= u64::from(u32::MAX),
                "segment_bytes must be a multiple of 8 below 4 GiB",
            ),
            (
                self.batch_bytes_max.saturating_add(MARK_BYTES) as u64
                    <= self.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES),
                "segment_bytes must hold its header, one batch of batch_bytes_max and a mark",
            ),
            (
                self.batch_bytes_max
                    >= FRAME_HEADER_BYTES + 2 * ITEM_HEADER_BYTES + STATE_BYTES_MAX,
                "batch_bytes_max must hold at least a register",
            ),
            (
                self.queued_bytes_max >= self.batch_bytes_max,
                "queued_bytes_max must hold one batch of batch_bytes_max",
            ),
            // At 2, nearly all that is written would be copies.
            (self.live_multiple_max >= 3, "live_multiple_max must be at least 3"),
        ];
        refuse(&rules)
    }

    /// Refuses values that leave no room for what sealing adds.
    ///
    /// # Errors
    /// [`WalError::InvalidArgument`], naming the rule.
    pub fn validate_sealed(&self) -> Result<(), WalError> {
        self.validate()?;
        // At worst a batch is all empty payloads.
        let items_max = self.batch_bytes_max / ITEM_HEADER_BYTES;
        let sealed_max = self.batch_bytes_max + SEAL_BYTES * items_max + MARK_BYTES;
        refuse(&[
            (
                sealed_max as u64 <= self.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES),
                "with keys, segment_bytes must hold its header and nearly two batches of batch_bytes_max",
            ),
            (
                sealed_max <= self.queued_bytes_max,
                "with keys, queued_bytes_max must hold nearly two batches of batch_bytes_max",
            ),
        ])
    }
}

fn refuse(rules: &[(bool, &str)]) -> Result<(), WalError> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, rule)) => Err(WalError::InvalidArgument { what: (*rule).to_owned() }),
        None => Ok(()),
    }
}
