//! The ring: one key for each epoch, as a file has them.
//!
//! ```text
//! palisade keys 1
//! key 1 retired
//! key 2 readable {64 hex digits}
//! key 3 active {64 hex digits}
//! end {SHA-256 of all lines above}
//! ```
//! Each line ends with a line feed; epochs rise. There is one form for each content.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::keys::{KeyError, Randomness};

const FIRST_LINE: &str = "palisade keys 1";
/// Of SHA-256 before a key, for its check.
const CHECK: &[u8] = b"palisade key check 1";
const KEY_BYTES: usize = 32;
/// A ring with more epochs than anybody would make.
const RING_BYTES_MAX: u64 = 1 << 20;

/// Which key something is sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyEpoch(u32);

impl KeyEpoch {
    /// The epoch with this number; none for 0.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for KeyEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It seals what is written from now on.
    Active,
    /// It opens what was sealed with it.
    Readable,
    /// It is gone from the ring.
    Retired,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Readable => "readable",
            Self::Retired => "retired",
        })
    }
}

/// A key, wiped when it is let go of.
type Secret = Zeroizing<[u8; KEY_BYTES]>;

#[derive(Clone)]
enum Held {
    Active(Secret),
    Readable(Secret),
    Retired,
}

impl Held {
    fn state(&self) -> KeyState {
        match self {
            Self::Active(_) => KeyState::Active,
            Self::Readable(_) => KeyState::Readable,
            Self::Retired => KeyState::Retired,
        }
    }

    fn secret(&self) -> Option<&[u8; KEY_BYTES]> {
        match self {
            Self::Active(secret) | Self::Readable(secret) => Some(secret),
            Self::Retired => None,
        }
    }
}

/// Keys by epoch. What `Debug` writes of one has no key in it.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: BTreeMap<KeyEpoch, Held>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.epochs()).finish()
    }
}

impl KeyRing {
    /// Every epoch, and what its key may be used for.
    pub fn epochs(&self) -> impl Iterator<Item = (KeyEpoch, KeyState)> + '_ {
        self.keys.iter().map(|(epoch, held)| (*epoch, held.state()))
    }

    /// The epoch that seals, if there is one.
    #[must_use]
    pub fn active(&self) -> Option<KeyEpoch> {
        self.epochs().find(|(_, state)| *state == KeyState::Active).map(|(epoch, _)| epoch)
    }

    /// Makes a new epoch, which is the active one from now on; the former is readable.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`], or [`KeyError::BadRing`] if no number is left.
    pub fn rotate(&mut self, randomness: &dyn Randomness) -> Result<KeyEpoch, KeyError> {
        let last = self.keys.last_key_value().map_or(0, |(epoch, _)| epoch.get());
        let next = last.checked_add(1).and_then(KeyEpoch::new);
        let next = next.ok_or_else(|| bad("in memory", "no epoch could follow the last"))?;
        let mut secret = Secret::default();
        randomness.fill(&mut *secret).map_err(|_| KeyError::NoRandomness)?;
        self.seal_no_more();
        self.keys.insert(next, Held::Active(secret));
        Ok(next)
    }

    /// No epoch seals from now on; what is sealed can still be opened.
    pub fn seal_no_more(&mut self) {
        for held in self.keys.values_mut() {
            if let Held::Active(secret) = held {
                *held = Held::Readable(std::mem::take(secret));
            }
        }
    }

    /// Lets go of a key for good.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for an epoch that the ring does not have, [`KeyError::InUse`] for the active one.
    pub fn retire(&mut self, epoch: KeyEpoch) -> Result<(), KeyError> {
        match self.keys.get_mut(&epoch) {
            None => Err(KeyError::Missing { file: "the key ring".to_owned(), epoch }),
            Some(Held::Active(_)) => Err(KeyError::InUse { epoch }),
            Some(held) => {
                *held = Held::Retired;
                Ok(())
            }
        }
    }

    /// The key that opens what this file says it is sealed with.
    pub(crate) fn secret(&self, epoch: KeyEpoch, file: &str) -> Result<&[u8; KEY_BYTES], KeyError> {
        let file = || file.to_owned();
        let held =
            self.keys.get(&epoch).ok_or_else(|| KeyError::Missing { file: file(), epoch })?;
        held.secret().ok_or_else(|| KeyError::Retired { file: file(), epoch })
    }

    /// What tells the key of an epoch from others, if the ring has it.
    pub(crate) fn check(&self, epoch: KeyEpoch) -> Option<[u8; 32]> {
        let secret = self.keys.get(&epoch)?.secret()?;
        let named = Zeroizing::new([CHECK, secret].concat());
        Some(digest(&SHA256, &named).as_ref().try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// As its file has it. Wiped when it is let go of.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        // Never grown: what is left behind by that would not be wiped.
        let mut text = Zeroizing::new(String::with_capacity(128 + 96 * self.keys.len()));
        text.push_str(FIRST_LINE);
        text.push('\n');
        for (epoch, held) in &self.keys {
            text.push_str(&format!("key {epoch} {}", held.state()));
            if let Some(secret) = held.secret() {
                text.push(' ');
                push_hex(&mut text, secret);
            }
            text.push('\n');
        }
        let sum = digest(&SHA256, text.as_bytes());
        text.push_str("end ");
        push_hex(&mut text, sum.as_ref());
        text.push('\n');
        text
    }

    /// Reads what [`KeyRing::encode`] writes, and nothing else.
    ///
    /// # Errors
    /// [`KeyError::BadRing`], naming the file and what is wrong.
    pub fn decode(file: &str, text: &str) -> Result<Self, KeyError> {
        let mut lines = text.lines();
        match lines.next() {
            Some(FIRST_LINE) => {}
            Some(line) if line.starts_with("palisade keys ") => {
                return Err(bad(file, "it is of another version: use a newer release"));
            }
            _ => return Err(bad(file, "it does not begin as a ring does")),
        }
        let mut ring = Self::default();
        for line in lines.take_while(|line| !line.starts_with("end ")) {
            let (epoch, held) =
                key_of(line).ok_or_else(|| bad(file, "a line is not that of a key"))?;
            ring.keys.insert(epoch, held);
        }
        let actives = ring.epochs().filter(|(_, state)| *state == KeyState::Active);
        if 1 < actives.count() {
            return Err(bad(file, "two epochs are active"));
        }
        // One form for each content: a line that was lost, doubled or cut shows here.
        if *ring.encode() != text {
            return Err(bad(file, "it is not whole: its end does not fit the lines above"));
        }
        Ok(ring)
    }

    /// Reads a ring's file, which must be its owner's alone.
    ///
    /// # Errors
    /// [`KeyError::BadRing`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let failed = |error: io::Error| bad(&name, &format!("it cannot be read: {error}"));
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.permissions().mode() & 0o077 != 0 {
            return Err(bad(&name, "others than its owner may use it: chmod 600"));
        }
        if RING_BYTES_MAX < about.len() {
            return Err(bad(&name, "it is too long for a ring"));
        }
        let mut text = Zeroizing::new(String::with_capacity(about.len() as usize + 1));
        file.take(RING_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        Self::decode(&name, &text)
    }

    /// Writes a ring's file, whole or not at all; where its name leads, if that is a link. Once it returns, power
    /// may fail.
    ///
    /// # Errors
    /// [`KeyError::BadRing`].
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let name = path.display().to_string();
        let failed = |error: io::Error| bad(&name, &format!("it cannot be written: {error}"));
        let file = match fs::canonicalize(path) {
            // A link that leads nowhere is none of these: the place may be one that is not mounted yet.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && fs::symlink_metadata(path).is_err() =>
            {
                path.to_owned()
            }
            file => file.map_err(failed)?,
        };
        let path = file.as_path();
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = Path::new(&beside);
        // What an interrupted try left may have other rights.
        match fs::remove_file(beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(beside).map_err(failed)?;
        file.write_all(self.encode().as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(beside, path).map_err(failed)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

fn key_of(line: &str) -> Option<(KeyEpoch, Held)> {
    let mut words = line.strip_prefix("key ")?.split(' ');
    let epoch = KeyEpoch::new(words.next()?.parse().ok()?)?;
    let state = words.next()?;
    let secret = || words.next().and_then(secret_of);
    let held = match state {
        "active" => Held::Active({ secret }()?),
        "readable" => Held::Readable({ secret }()?),
        "retired" => Held::Retired,
        _ => return None,
    };
    Some((epoch, held))
}

fn secret_of(digits: &str) -> Option<Secret> {
    let mut secret = Secret::default();
    let digits = digits.as_bytes();
    if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(secret)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).expect("a digit is below 16"));
        }
    }
}

fn bad(file: &str, what: &str) -> KeyError {
    KeyError::BadRing { file: file.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{SeededRandomness, SystemRandomness};

    fn epoch(number: u32) -> KeyEpoch {
        KeyEpoch::new(number).unwrap()
    }

    /// Retired, readable, active.
    fn ring() -> KeyRing {
        let randomness = SeededRandomness::new(1);
        let mut ring = KeyRing::default();
        for _ in 0..3 {
            ring.rotate(&randomness).unwrap();
        }
        ring.retire(epoch(1)).unwrap();
        ring
    }

    #[test]
    fn a_ring_goes_through_its_states() {
        let mut ring = ring();
        let states: Vec<_> = ring.epochs().map(|(_, state)| state).collect();
        assert_eq!(states, [KeyState::Retired, KeyState::Readable, KeyState::Active]);
        assert_eq!(ring.retire(epoch(3)), Err(KeyError::InUse { epoch: epoch(3) }));
        assert!(matches!(ring.retire(epoch(9)), Err(KeyError::Missing { .. })));
        let before = ring.check(epoch(3));
        ring.seal_no_more();
        assert_eq!((ring.active(), ring.check(epoch(3))), (None, before));
        assert!(matches!(ring.secret(epoch(1), "f"), Err(KeyError::Retired { .. })));
        assert!(matches!(ring.secret(epoch(7), "f"), Err(KeyError::Missing { .. })));
    }

    #[test]
    fn a_file_is_read_as_it_was_written_or_refused() {
        let text = ring().encode();
        let read = KeyRing::decode("f", &text).unwrap();
        assert_eq!(read.encode(), text);
        assert_eq!(read.check(epoch(2)), ring().check(epoch(2)));
        for at in 0..text.len() {
            assert!(KeyRing::decode("f", &text[..at]).is_err(), "cut at {at}");
            let mut raw = text.as_bytes().to_vec();
            raw[at] ^= 1;
            let changed = String::from_utf8(raw).unwrap();
            assert!(KeyRing::decode("f", &changed).is_err(), "changed at {at}");
        }
        let newer = text.replace("palisade keys 1", "palisade keys 2");
        let refused = KeyRing::decode("f", &newer).unwrap_err().to_string();
        assert!(refused.contains("newer release"), "{refused}");
    }

    #[test]
    fn a_ring_is_its_owners_alone_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = KeyRing::default();
        ring.rotate(&SystemRandomness).unwrap();
        ring.write(&path).unwrap();
        // Of a try that was interrupted.
        fs::write(dir.path().join("ring.new"), "half").unwrap();
        ring.rotate(&SystemRandomness).unwrap();
        ring.write(&path).unwrap();
        assert_eq!(KeyRing::read(&path).unwrap().active(), KeyEpoch::new(2));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("ring", &link).unwrap();
        ring.rotate(&SystemRandomness).unwrap();
        ring.write(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(KeyRing::read(&path).unwrap().active(), KeyEpoch::new(3));
        let nowhere = dir.path().join("nowhere");
        std::os::unix::fs::symlink("not-mounted/ring", &nowhere).unwrap();
        assert!(ring.write(&nowhere).is_err());
        assert!(fs::symlink_metadata(&nowhere).unwrap().is_symlink());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = KeyRing::read(&path).unwrap_err().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
        assert!(KeyRing::read(&dir.path().join("none")).is_err());
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let ring = ring();
        let digits = ring.encode();
        let digits = digits.split_whitespace().find(|word| word.len() == 64).unwrap();
        let shown = format!("{ring:?}");
        assert!(shown.contains("Active"), "{shown}");
        assert!(!shown.contains(&digits[..8]), "{shown}");
    }
}
