//! The chain of records: one head stands for the whole log up to it (G8).
//!
//! ```text
//! link(n) = SHA-256(0x00, offset, log time, payload)       numbers as eight bytes, little-endian
//! head(n) = SHA-256(0x01, head(n-1), link(n))              head(0) is zero
//! ```
//! A record goes into the head by its link alone, so whoever proves that a record is in the log needs
//! the links of its neighbours, 32 bytes each, and not what they say.

use palisade_replication::{LogTime, Offset};
use sha2::{Digest, Sha256};

const LINK_TAG: u8 = 0;
const HEAD_TAG: u8 = 1;

/// Head of the chain of records: equal heads at equal offsets mean equal logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainHead(pub(crate) [u8; 32]);

/// What one record adds to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainLink(pub(crate) [u8; 32]);

impl ChainLink {
    pub(crate) fn of(offset: Offset, log_time: LogTime, payload: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update([LINK_TAG]);
        hasher.update(offset.get().to_le_bytes());
        hasher.update(log_time.get().to_le_bytes());
        hasher.update(payload);
        Self(hasher.finalize().into())
    }
}

impl ChainHead {
    /// Before the first record.
    pub const ZERO: Self = Self([0; 32]);

    pub(crate) fn next(self, link: ChainLink) -> Self {
        let mut hasher = Sha256::new();
        hasher.update([HEAD_TAG]);
        hasher.update(self.0);
        hasher.update(link.0);
        Self(hasher.finalize().into())
    }
}

impl std::fmt::Display for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChainHead({self})")
    }
}
