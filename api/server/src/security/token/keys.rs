//! The keys that tokens are made and known with.
//!
//! A file of lines, `<id> <64 hex digits>`, and comments after `#`. The highest id makes tokens; all of them
//! know theirs, until they are taken out of the file, and with them every token that they made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use ring::hmac;
use ring::rand::SecureRandom;

use crate::security::files::{self, Hold, Secrecy};

/// Most keys in a file.
const KEYS_MAX: usize = 64;
const KEY_BYTES: usize = 32;

/// Keys by their ids.
#[derive(Clone)]
pub struct TokenKeys {
    keys: BTreeMap<u32, hmac::Key>,
}

/// Never the keys.
impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKeys").field("ids", &self.keys.keys()).finish_non_exhaustive()
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The file.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A line is not what it should be. What it holds is not repeated.
    #[error(
        "line {line} of the token keys: write an id and 64 hex digits, each id once, 64 at most"
    )]
    Line {
        /// From 1.
        line: usize,
    },
    /// Nothing to make or know tokens with.
    #[error("there is no token key in the file: add one")]
    Empty,
    /// The machine gave no random bytes.
    #[error("no randomness for a key")]
    Randomness,
}

impl TokenKeys {
    /// Reads the file, which nobody but its owner may.
    ///
    /// # Errors
    /// [`KeysError`]; whoever has keys from before goes on with those.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let raw = files::read_secret(path);
        let raw = raw.map_err(|source| KeysError::Io { path: path.to_owned(), source })?;
        let text = str::from_utf8(&raw).map_err(|_| KeysError::Line { line: 1 })?;
        Self::parse(text)
    }

    /// Reads what the file holds.
    ///
    /// # Errors
    /// [`KeysError::Line`] or [`KeysError::Empty`].
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let key = line
                .split_once(' ')
                .and_then(|(id, key)| Some((id.parse::<u32>().ok()?, bytes_of_hex(key.trim())?)));
            let (id, key) = key.ok_or(KeysError::Line { line: at + 1 })?;
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            if keys.len() >= KEYS_MAX || keys.insert(id, key).is_some() {
                return Err(KeysError::Line { line: at + 1 });
            }
        }
        if keys.is_empty() { Err(KeysError::Empty) } else { Ok(Self { keys }) }
    }

    /// Adds a key under the next id, in a file that is made if there is none, and keeps the others. Returns
    /// the id. Tokens are made with it from when the node reads the file.
    ///
    /// # Errors
    /// [`KeysError`]; the file is as it was then.
    pub fn add_to(path: &Path) -> Result<u32, KeysError> {
        let io = |source| KeysError::Io { path: path.to_owned(), source };
        // Of two who add at once, the second adds to what the first has written.
        let hold = Hold::of(path).map_err(io)?;
        let (mut text, id) = match files::read_secret(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), 1),
            Err(error) => return Err(io(error)),
            Ok(raw) => {
                let text = String::from_utf8(raw).map_err(|_| KeysError::Line { line: 1 })?;
                let keys = Self::parse(&text)?;
                let last = keys.keys.last_key_value().map_or(0, |(id, _)| *id);
                (text, last.checked_add(1).ok_or(KeysError::Line { line: 1 })?)
            }
        };
        let mut key = [0; KEY_BYTES];
        let random = ring::rand::SystemRandom::new();
        random.fill(&mut key).map_err(|_| KeysError::Randomness)?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = write!(text, "{id} ");
        for byte in key {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        Self::parse(&text)?;
        hold.replace(path, Secrecy::Secret, text.as_bytes()).map_err(io)?;
        Ok(id)
    }

    /// The ids that there are keys of.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.keys.keys().copied()
    }

    pub(super) fn newest(&self) -> Option<(u32, &hmac::Key)> {
        self.keys.last_key_value().map(|(id, key)| (*id, key))
    }

    pub(super) fn key(&self, id: u32) -> Option<&hmac::Key> {
        self.keys.get(&id)
    }
}

fn bytes_of_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}
