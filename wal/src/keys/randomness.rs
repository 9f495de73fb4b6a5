//! Where keys and nonces come from: the system, or a seed.

use std::io;

use ring::rand::{SecureRandom, SystemRandom};

/// A source of random bytes.
pub trait Randomness: Send + Sync + 'static {
    /// Fills all of it.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let filled = SystemRandom::new().fill(bytes);
        filled.map_err(|_| io::Error::other("the system gave no randomness"))
    }
}

/// What a simulation draws: the same bytes from the same seed. Guards nothing.
#[cfg(any(test, feature = "sim"))]
#[derive(Debug)]
pub struct SeededRandomness(std::sync::Mutex<u64>);

#[cfg(any(test, feature = "sim"))]
impl SeededRandomness {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(std::sync::Mutex::new(seed))
    }
}

#[cfg(any(test, feature = "sim"))]
impl Randomness for SeededRandomness {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock().expect("no code panics while it draws");
        for chunk in bytes.chunks_mut(8) {
            // SplitMix64.
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut drawn = *state;
            drawn = (drawn ^ drawn >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            drawn = (drawn ^ drawn >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(drawn ^ drawn >> 31).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
