//! The keys that a node knows tokens by, and learns anew when their file changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::keys::{KeysError, TokenKeys};
use crate::security::watch::Watched;

/// Keys out of a file that is looked at again. A file that cannot be read changes nothing.
#[derive(Debug)]
pub struct LiveKeys {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    keys: Arc<TokenKeys>,
    /// Why the file was not taken the last time, if it was not.
    failure: Option<String>,
}

impl LiveKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// [`KeysError`]; the node must not be opened without them.
    pub fn open(path: &Path) -> Result<Self, KeysError> {
        let keys = Arc::new(TokenKeys::read(path)?);
        Ok(Self { path: path.to_owned(), seen: Mutex::new(Seen { keys, failure: None }) })
    }

    /// Those in use.
    #[must_use]
    pub fn keys(&self) -> Arc<TokenKeys> {
        Arc::clone(&self.lock().keys)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code panics while it holds the keys")
    }
}

impl Watched for LiveKeys {
    fn look_again(&self) {
        let read = TokenKeys::read(&self.path);
        let mut seen = self.lock();
        match read {
            Ok(keys) => {
                if !keys.ids().eq(seen.keys.ids()) {
                    tracing::info!(path = %self.path.display(), ?keys, "took new token keys");
                }
                seen.keys = Arc::new(keys);
                seen.failure = None;
            }
            Err(error) => {
                let why = error.to_string();
                // Once, and not at every look.
                if seen.failure.as_ref() != Some(&why) {
                    tracing::error!(
                        error = %why,
                        "the token keys were not taken, the former stay in use: mend the file"
                    );
                    seen.failure = Some(why);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that is taken out of the file takes its tokens with it; a broken file changes nothing.
    #[test]
    fn the_file_counts_as_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.keys");
        TokenKeys::add_to(&path).unwrap();
        let live = LiveKeys::open(&path).unwrap();
        let ids = || live.keys().ids().collect::<Vec<_>>();
        TokenKeys::add_to(&path).unwrap();
        live.look_again();
        assert_eq!(ids(), [1, 2]);
        let both = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "x").unwrap();
        live.look_again();
        assert_eq!(ids(), [1, 2], "the former are in use");
        let second = both.lines().nth(1).unwrap();
        std::fs::write(&path, second).unwrap();
        live.look_again();
        assert_eq!(ids(), [2]);
        assert!(LiveKeys::open(&dir.path().join("none")).is_err());
    }
}
