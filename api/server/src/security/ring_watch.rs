//! The key ring of a node, read again when its file changes.

use std::path::PathBuf;
use std::sync::Mutex;

use palisade::encryption::{KeyError, KeyRing, Keys};

use super::watch::Watched;

/// Gives a node the ring that its file has now, whole or not at all.
pub(crate) struct RingWatch {
    path: PathBuf,
    keys: Keys,
    /// Why the file was not taken at the last look: said once.
    refused: Mutex<Option<KeyError>>,
}

impl RingWatch {
    pub(crate) fn new(path: PathBuf, keys: Keys) -> Self {
        Self { path, keys, refused: Mutex::default() }
    }
}

impl Watched for RingWatch {
    fn look_again(&self) {
        let mut refused = self.refused.lock().expect("no code panics while it looks");
        let before = self.keys.epochs();
        match KeyRing::read(&self.path).and_then(|ring| self.keys.replace(ring)) {
            Ok(()) => {
                let after = self.keys.epochs();
                if before != after {
                    tracing::info!(file = %self.path.display(), epochs = ?after, "the key ring was read again");
                }
                *refused = None;
            }
            Err(error) if refused.as_ref() != Some(&error) => {
                let file = self.path.display();
                tracing::error!(%file, %error, "the key ring is not taken; the former one stays in use");
                *refused = Some(error);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use palisade::encryption::{KeyEpoch, SystemRandomness};

    use super::*;

    #[test]
    fn a_ring_is_taken_whole_or_the_former_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = KeyRing::default();
        ring.rotate(&SystemRandomness).unwrap();
        ring.write(&path).unwrap();
        let keys = Keys::new(KeyRing::read(&path).unwrap());
        let watch = RingWatch::new(path.clone(), keys.clone());
        let epoch = |number| KeyEpoch::new(number).unwrap();
        let _hold = keys.hold(epoch(1), "a file").unwrap();
        ring.rotate(&SystemRandomness).unwrap();
        ring.write(&path).unwrap();
        watch.look_again();
        assert_eq!(keys.active(), Some(epoch(2)));
        std::fs::write(&path, "half a ring").unwrap();
        watch.look_again();
        assert_eq!(keys.active(), Some(epoch(2)));
        assert!(watch.refused.lock().unwrap().is_some());
        ring.retire(epoch(1)).unwrap();
        ring.rotate(&SystemRandomness).unwrap();
        ring.write(&path).unwrap();
        watch.look_again();
        assert_eq!(keys.active(), Some(epoch(2)), "epoch 1 is needed");
        drop(_hold);
        watch.look_again();
        assert_eq!(keys.active(), Some(epoch(3)));
        assert!(watch.refused.lock().unwrap().is_none());
    }
}
