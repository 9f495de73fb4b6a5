//! Keys for what lies on disks: `docs/encryption.md` has the whole of it.
//!
//! A [`KeyRing`] is what a file says. [`Keys`] is the ring that a node uses now, with the randomness for
//! nonces; it is handed to everything that seals, and a new ring takes the place of the former in it. Who
//! keeps sealed files holds their epochs, so that no ring is taken that could not open them.

mod error;
mod randomness;
mod ring;
mod sealed;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

pub use error::KeyError;
#[cfg(any(test, feature = "sim"))]
pub use randomness::SeededRandomness;
pub use randomness::{Randomness, SystemRandomness};
pub use ring::{KeyEpoch, KeyRing, KeyState};
pub(crate) use sealed::{FileKey, SEAL_BYTES, Sealer, epoch_of};

/// What a sealed file begins with.
const FILE_MAGIC: &[u8; 8] = b"PLSDSEAL";
const FILE_VERSION: u32 = 1;
/// Magic 8, version 4, epoch 4, crc32 of these 4: so that rot is not taken for an epoch that nobody has.
const FILE_HEADER_BYTES: usize = 20;

/// The ring in use, or none; cheap to clone, and all clones see the same.
#[derive(Clone, Default)]
pub struct Keys(Option<Arc<Inner>>);

struct Inner {
    state: Mutex<State>,
    randomness: Arc<dyn Randomness>,
}

struct State {
    ring: Arc<KeyRing>,
    /// How many files need an epoch.
    held: BTreeMap<KeyEpoch, u64>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("none"),
            Some(inner) => inner.state().ring.fmt(f),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the ring")
    }
}

/// An epoch that something on disk needs, until it is dropped.
#[derive(Debug)]
pub struct KeyHold {
    keys: Keys,
    epoch: KeyEpoch,
}

impl KeyHold {
    /// Which epoch.
    #[must_use]
    pub fn epoch(&self) -> KeyEpoch {
        self.epoch
    }
}

impl Drop for KeyHold {
    fn drop(&mut self) {
        let Some(inner) = &self.keys.0 else { return };
        let mut state = inner.state();
        if let Some(count) = state.held.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.epoch);
            }
        }
    }
}

impl Keys {
    /// No keys: nothing is sealed, and what is sealed is refused.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// A ring, with the system's randomness.
    #[must_use]
    pub fn new(ring: KeyRing) -> Self {
        Self::with_randomness(ring, SystemRandomness)
    }

    /// A ring, and where nonces come from.
    #[must_use]
    pub fn with_randomness(ring: KeyRing, randomness: impl Randomness) -> Self {
        Self::of(ring, Arc::new(randomness))
    }

    fn of(ring: KeyRing, randomness: Arc<dyn Randomness>) -> Self {
        let state = State { ring: Arc::new(ring), held: BTreeMap::new() };
        Self(Some(Arc::new(Inner { state: Mutex::new(state), randomness })))
    }

    /// A key of its own for files that nobody reads once this process has ended: they are opened as long as it
    /// lasts, whatever becomes of the ring. None if there are no keys.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn of_process(&self) -> Result<Self, KeyError> {
        let Some(inner) = &self.0 else { return Ok(Self::none()) };
        let mut ring = KeyRing::default();
        ring.rotate(&*inner.randomness)?;
        Ok(Self::of(ring, Arc::clone(&inner.randomness)))
    }

    /// True if there is a ring.
    #[must_use]
    pub fn are_given(&self) -> bool {
        self.0.is_some()
    }

    /// The epoch that seals what is written now; none if nothing is sealed.
    #[must_use]
    pub fn active(&self) -> Option<KeyEpoch> {
        self.0.as_ref()?.state().ring.active()
    }

    /// Every epoch of the ring in use.
    #[must_use]
    pub fn epochs(&self) -> Vec<(KeyEpoch, KeyState)> {
        self.0.as_ref().map_or_else(Vec::new, |inner| inner.state().ring.epochs().collect())
    }

    /// Epochs that files of this node need, and how many.
    #[must_use]
    pub fn held(&self) -> BTreeMap<KeyEpoch, u64> {
        self.0.as_ref().map_or_else(BTreeMap::new, |inner| inner.state().held.clone())
    }

    /// Takes another ring, from now on. What is open goes on with what it has; the next file that is begun
    /// is sealed with the new active epoch.
    ///
    /// # Errors
    /// [`KeyError::InUse`] if it cannot open what this node has on disk, [`KeyError::Changed`] if a key is
    /// another than before, [`KeyError::NotGiven`] if there were no keys: those are for a start. Nothing
    /// changes then.
    pub fn replace(&self, ring: KeyRing) -> Result<(), KeyError> {
        let Some(inner) = &self.0 else {
            let what = "the node was started without one".to_owned();
            return Err(KeyError::BadRing { file: "new".to_owned(), what });
        };
        let mut state = inner.state();
        for (epoch, _) in ring.epochs() {
            let (before, after) = (state.ring.check(epoch), ring.check(epoch));
            if before.is_some() && after.is_some() && before != after {
                return Err(KeyError::Changed { epoch });
            }
        }
        if let Some(epoch) = state.held.keys().find(|epoch| ring.check(**epoch).is_none()) {
            return Err(KeyError::InUse { epoch: *epoch });
        }
        state.ring = Arc::new(ring);
        Ok(())
    }

    /// Says that something on disk needs the epoch that seals what is written now; none if nothing is sealed.
    #[must_use]
    pub fn hold_active(&self) -> Option<KeyHold> {
        let mut state = self.0.as_ref()?.state();
        let epoch = state.ring.active()?;
        *state.held.entry(epoch).or_default() += 1;
        drop(state);
        Some(KeyHold { keys: self.clone(), epoch })
    }

    /// Says that something on disk needs this epoch. Refused as [`Keys::open_file`] would be.
    ///
    /// # Errors
    /// When the ring cannot open it.
    pub fn hold(&self, epoch: KeyEpoch, file: &str) -> Result<KeyHold, KeyError> {
        let Some(inner) = &self.0 else {
            return Err(KeyError::NotGiven { file: file.to_owned(), epoch });
        };
        let mut state = inner.state();
        state.ring.secret(epoch, file)?;
        *state.held.entry(epoch).or_default() += 1;
        drop(state);
        Ok(KeyHold { keys: self.clone(), epoch })
    }

    /// What tells the key of an epoch from most others, if the ring has it: nothing of the key itself.
    #[must_use]
    pub fn check(&self, epoch: KeyEpoch) -> Option<[u8; 3]> {
        let check = self.0.as_ref()?.state().ring.check(epoch)?;
        Some([check[0], check[1], check[2]])
    }

    /// The key of a file or segment.
    pub(crate) fn file_key(
        &self,
        epoch: KeyEpoch,
        context: &[u8],
        file: &str,
    ) -> Result<FileKey, KeyError> {
        let Some(inner) = &self.0 else {
            return Err(KeyError::NotGiven { file: file.to_owned(), epoch });
        };
        let ring = Arc::clone(&inner.state().ring);
        Ok(FileKey::derive(ring.secret(epoch, file)?, epoch, context))
    }

    /// A run of a writer in a file or segment.
    pub(crate) fn sealer(
        &self,
        epoch: KeyEpoch,
        context: &[u8],
        file: &str,
    ) -> Result<Sealer, KeyError> {
        let key = self.file_key(epoch, context, file)?;
        let inner = self.0.as_ref().expect("it had a key");
        Sealer::new(key, &*inner.randomness)
    }

    /// Seals a whole file with an epoch. The context says what it is and where it belongs, and is all that
    /// it opens for.
    ///
    /// # Errors
    /// When the ring has no such key, or there is no randomness.
    pub fn seal_file(
        &self,
        epoch: KeyEpoch,
        context: &[u8],
        file: &str,
        plain: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        let mut raw = Vec::with_capacity(FILE_HEADER_BYTES + SEAL_BYTES + plain.len());
        raw.extend_from_slice(FILE_MAGIC);
        raw.extend_from_slice(&FILE_VERSION.to_le_bytes());
        raw.extend_from_slice(&epoch.get().to_le_bytes());
        let crc = crc32fast::hash(&raw);
        raw.extend_from_slice(&crc.to_le_bytes());
        self.sealer(epoch, context, file)?.seal(&[], plain, &mut raw);
        Ok(raw)
    }

    /// Opens a whole file, or gives `None` if it is not a sealed one.
    ///
    /// # Errors
    /// When the ring cannot open it, or it was not sealed for this context: [`KeyError::Tampered`].
    pub fn open_file(
        &self,
        context: &[u8],
        file: &str,
        raw: &[u8],
    ) -> Result<Option<Vec<u8>>, KeyError> {
        let Some(epoch) = sealed_epoch(raw) else { return Ok(None) };
        let key = self.file_key(epoch, context, file)?;
        let opened = key.open(&[], &raw[FILE_HEADER_BYTES..]);
        let byte_pos = FILE_HEADER_BYTES as u64;
        let tampered = || KeyError::Tampered { file: file.to_owned(), byte_pos, epoch };
        opened.map(Some).ok_or_else(tampered)
    }
}

/// What sealing adds to a whole file.
pub const SEALED_FILE_BYTES: usize = FILE_HEADER_BYTES + SEAL_BYTES;
/// So much of a file says whether it is sealed, and with which epoch.
pub const SEALED_FILE_PREFIX_BYTES: usize = FILE_HEADER_BYTES;

/// The epoch of a sealed file, as its first bytes say; none if it is not sealed, or they are not whole.
#[must_use]
pub fn sealed_epoch(raw: &[u8]) -> Option<KeyEpoch> {
    let (said, crc) = raw.get(..FILE_HEADER_BYTES)?.split_at(FILE_HEADER_BYTES - 4);
    let rest = said.strip_prefix(FILE_MAGIC)?.strip_prefix(&FILE_VERSION.to_le_bytes())?;
    epoch_of(rest).filter(|_| crc == crc32fast::hash(said).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u32) -> KeyEpoch {
        KeyEpoch::new(number).unwrap()
    }

    fn ring(seed: u64, epochs: u32) -> KeyRing {
        let randomness = SeededRandomness::new(seed);
        let mut ring = KeyRing::default();
        for _ in 0..epochs {
            ring.rotate(&randomness).unwrap();
        }
        ring
    }

    #[test]
    fn a_file_opens_with_its_key_for_its_context_alone() {
        let keys = Keys::with_randomness(ring(1, 2), SeededRandomness::new(2));
        let raw = keys.seal_file(epoch(1), b"context", "f", b"plain").unwrap();
        assert_eq!(raw.len(), 5 + SEALED_FILE_BYTES);
        assert_eq!(sealed_epoch(&raw[..SEALED_FILE_PREFIX_BYTES]), Some(epoch(1)));
        for at in 0..SEALED_FILE_PREFIX_BYTES {
            let mut rotten = raw.clone();
            rotten[at] ^= 1;
            assert_eq!(sealed_epoch(&rotten), None, "at={at}");
        }
        let opened = keys.open_file(b"context", "f", &raw);
        assert_eq!(opened.unwrap().as_deref(), Some(&b"plain"[..]));
        assert_eq!(keys.open_file(b"context", "f", b"plain").unwrap(), None);
        let error = |keys: &Keys, context: &[u8]| keys.open_file(context, "f", &raw).unwrap_err();
        assert!(matches!(error(&keys, b"other"), KeyError::Tampered { .. }));
        let other = Keys::new(ring(9, 2));
        assert!(matches!(error(&other, b"context"), KeyError::Tampered { .. }));
        assert!(matches!(error(&Keys::none(), b"context"), KeyError::NotGiven { .. }));
        assert!(matches!(
            error(&Keys::new(KeyRing::default()), b"context"),
            KeyError::Missing { .. }
        ));
        let mut retired = ring(1, 2);
        retired.retire(epoch(1)).unwrap();
        assert!(matches!(error(&Keys::new(retired), b"context"), KeyError::Retired { .. }));
    }

    #[test]
    fn a_ring_that_cannot_open_what_is_there_is_not_taken() {
        let keys = Keys::new(ring(1, 2));
        let hold = keys.hold(epoch(1), "f").unwrap();
        let mut next = ring(1, 3);
        keys.replace(next.clone()).unwrap();
        assert_eq!(keys.active(), Some(epoch(3)));
        next.retire(epoch(1)).unwrap();
        assert_eq!(keys.replace(next.clone()), Err(KeyError::InUse { epoch: epoch(1) }));
        assert_eq!(keys.replace(ring(9, 3)), Err(KeyError::Changed { epoch: epoch(1) }));
        assert!(keys.hold(epoch(9), "f").is_err());
        drop(hold);
        assert!(keys.held().is_empty());
        keys.replace(next).unwrap();
        assert!(Keys::none().replace(ring(1, 1)).is_err());
    }
}
