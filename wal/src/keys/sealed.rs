//! Sealed bytes: AES-256-GCM under a key derived for one file or segment.
//!
//! ```text
//!  0    epoch 4
//!  4    nonce 12
//! 16    ciphertext m
//! 16+m  tag 16
//! ```

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use crate::keys::{KeyEpoch, KeyError, Randomness};

/// What sealing adds.
pub(crate) const SEAL_BYTES: usize = CIPHERTEXT + TAG_BYTES;
const EPOCH_BYTES: usize = 4;
const CIPHERTEXT: usize = EPOCH_BYTES + NONCE_LEN;
const TAG_BYTES: usize = 16;
const SALT: &[u8] = b"palisade seal 1";

const _: () = assert!(SEAL_BYTES == 32);

/// The key of one file or segment.
pub(crate) struct FileKey {
    pub(crate) epoch: KeyEpoch,
    key: LessSafeKey,
}

impl FileKey {
    pub(crate) fn derive(secret: &[u8; 32], epoch: KeyEpoch, context: &[u8]) -> Self {
        let derived = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let info = [context];
        let okm = derived.expand(&info, &AES_256_GCM).expect("a key is shorter than HKDF's bound");
        Self { epoch, key: LessSafeKey::new(UnboundKey::from(okm)) }
    }

    /// Opens what was sealed for this place. `None` if it was not, or not with this key.
    pub(crate) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        if epoch_of(sealed) != Some(self.epoch) || sealed.len() < SEAL_BYTES {
            return None;
        }
        let nonce: [u8; NONCE_LEN] =
            sealed[EPOCH_BYTES..CIPHERTEXT].try_into().expect("a nonce has 12 bytes");
        let mut opened = sealed[CIPHERTEXT..].to_vec();
        let aad = Aad::from(aad(self.epoch, place));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self.key.open_in_place(nonce, aad, &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

/// The epoch that sealed bytes name.
pub(crate) fn epoch_of(sealed: &[u8]) -> Option<KeyEpoch> {
    let raw = sealed.get(..EPOCH_BYTES)?;
    KeyEpoch::new(u32::from_le_bytes(raw.try_into().expect("four bytes")))
}

fn aad(epoch: KeyEpoch, place: &[u8]) -> Vec<u8> {
    [&epoch.get().to_le_bytes(), place].concat()
}

/// One run of a writer under the key of one file: it draws where its nonces begin, and counts.
pub(crate) struct Sealer {
    pub(crate) key: FileKey,
    nonce: u128,
}

const NONCES: u128 = 1 << (8 * NONCE_LEN);

impl Sealer {
    pub(crate) fn new(key: FileKey, randomness: &dyn Randomness) -> Result<Self, KeyError> {
        let mut raw = [0; 16];
        randomness.fill(&mut raw[..NONCE_LEN]).map_err(|_| KeyError::NoRandomness)?;
        Ok(Self { key, nonce: u128::from_le_bytes(raw) })
    }

    /// Adds the sealed bytes to a buffer.
    pub(crate) fn seal(&mut self, place: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let epoch = self.key.epoch;
        let nonce = self.nonce.to_le_bytes();
        let nonce: [u8; NONCE_LEN] = nonce[..NONCE_LEN].try_into().expect("a nonce has 12 bytes");
        self.nonce = (self.nonce + 1) % NONCES;
        out.extend_from_slice(&epoch.get().to_le_bytes());
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(plain);
        let aad = Aad::from(aad(epoch, place));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.key.seal_in_place_separate_tag(nonce, aad, &mut out[start..]);
        out.extend_from_slice(tag.expect("payloads are shorter than AES-GCM's bound").as_ref());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::SeededRandomness;

    const EPOCH: KeyEpoch = KeyEpoch::new(3).unwrap();

    fn key(context: &[u8]) -> FileKey {
        FileKey::derive(&[7; 32], EPOCH, context)
    }

    fn seal(place: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(key(b"file"), &SeededRandomness::new(1)).unwrap();
        let mut sealed = Vec::new();
        sealer.seal(place, plain, &mut sealed);
        sealed
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_at_its_place_alone(plain in vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0u8..8) {
            let sealed = seal(b"here", &plain);
            prop_assert_eq!(sealed.len(), plain.len() + SEAL_BYTES);
            prop_assert_eq!(epoch_of(&sealed), Some(EPOCH));
            prop_assert_eq!(key(b"file").open(b"here", &sealed), Some(plain));
            prop_assert_eq!(key(b"file").open(b"there", &sealed), None);
            prop_assert_eq!(key(b"another").open(b"here", &sealed), None);
            let other = FileKey::derive(&[8; 32], EPOCH, b"file");
            prop_assert_eq!(other.open(b"here", &sealed), None);
            let at = at.index(sealed.len());
            prop_assert_eq!(key(b"file").open(b"here", &sealed[..at]), None);
            let mut changed = sealed;
            changed[at] ^= 1 << bit;
            prop_assert_eq!(key(b"file").open(b"here", &changed), None);
        }
    }

    /// Nonces wrap around rather than end.
    #[test]
    fn no_nonce_comes_twice() {
        let mut sealer = Sealer::new(key(b"file"), &SeededRandomness::new(1)).unwrap();
        sealer.nonce = NONCES - 2;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let mut sealed = Vec::new();
            sealer.seal(b"", b"same", &mut sealed);
            assert!(seen.insert(sealed[EPOCH_BYTES..CIPHERTEXT].to_vec()));
        }
    }

    /// The format: a change of how keys are derived or sealed would make old files unreadable.
    #[test]
    fn sealed_bytes_are_what_they_always_were() {
        let sealed = seal(b"place", b"payload");
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "03000000c15c0289ec2d0a9167ec8e65bc3d41bc7dc9d364ed051d490e3e5d05719ada8dff89dd"
        );
    }
}
