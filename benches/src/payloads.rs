//! Values of one size that no compression makes smaller: engines that compress would write less otherwise.

use bytes::Bytes;

/// Values are cut from it, so that none has to be made while time is taken.
const BLOCK_BYTES: usize = 1 << 20;
/// From where to where one value differs from the one before.
const STEP_BYTES: usize = 64;

/// Values of one size.
#[derive(Clone, Debug)]
pub struct Payloads {
    block: Bytes,
    bytes: usize,
}

impl Payloads {
    /// Of so many bytes.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        let mut block = Vec::with_capacity(BLOCK_BYTES + bytes);
        let mut state = 0_u64;
        while block.len() < BLOCK_BYTES + bytes {
            state = state.wrapping_add(1);
            block.extend(mixed(state).to_le_bytes());
        }
        Self { block: block.into(), bytes }
    }

    /// One of them. Nothing is copied.
    #[must_use]
    pub fn get(&self, number: u64) -> Bytes {
        let at = (number % (BLOCK_BYTES / STEP_BYTES) as u64) as usize * STEP_BYTES;
        self.block.slice(at..at + self.bytes)
    }
}

/// Splitmix64: what is counted up, spread over all numbers.
#[must_use]
pub fn mixed(state: u64) -> u64 {
    let mixed = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        for bytes in [0, 1, 256, 4096, 1 << 20] {
            let payloads = Payloads::of(bytes);
            assert!((0..5).all(|number| payloads.get(number << 13).len() == bytes));
            assert_eq!(payloads.get(u64::MAX).len(), bytes);
        }
        let payloads = Payloads::of(256);
        assert_ne!(payloads.get(1), payloads.get(2));
        let mut seen = [0_u32; 256];
        (0..4096).flat_map(|number| payloads.get(number)).for_each(|b| seen[usize::from(b)] += 1);
        assert!(seen.iter().all(|count| (3000..5500).contains(count)), "{seen:?}");
    }
}
