//! What can be wrong with a configuration: which key, from where, and what would be right.

use std::path::PathBuf;

use super::layers::Source;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {what}", path = .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// The file is no TOML.
    #[error("{path}:{line}: this is no TOML: {what}", path = .path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// The first line that breaks a rule, from 1.
        line: usize,
        /// The rule.
        what: String,
    },
    /// No key is called so.
    #[error("unknown key {key} ({source_of})")]
    UnknownKey {
        /// As it was written, with its section.
        key: String,
        /// Where it was written.
        source_of: Source,
        /// The key that is spelled most like it, if any is.
        nearest: Option<String>,
    },
    /// The value is not one that the key can have.
    #[error("{key} is {found:?}, it must be {expected} ({source_of})")]
    InvalidValue {
        /// Which key.
        key: String,
        /// Where the value was written.
        source_of: Source,
        /// As it was written.
        found: String,
        /// What it can be.
        expected: String,
    },
    /// The key has no default and was set nowhere.
    #[error("{key} is not set")]
    MissingKey {
        /// Which key.
        key: String,
        /// Why it is needed.
        why: String,
    },
    /// Two keys do not fit together.
    #[error("{key} does not fit {other}: {why} ({source_of})")]
    UnfitKeys {
        /// Which key.
        key: String,
        /// Where its value was written.
        source_of: Source,
        /// The key that it does not fit to, with its value.
        other: String,
        /// The rule.
        why: String,
    },
}

impl ConfigError {
    /// The name of the kind, as `palisade explain` has it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "UnreadableFile",
            Self::Syntax { .. } => "InvalidSyntax",
            Self::UnknownKey { .. } => "UnknownKey",
            Self::InvalidValue { .. } => "InvalidValue",
            Self::MissingKey { .. } => "MissingKey",
            Self::UnfitKeys { .. } => "UnfitKeys",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::Unreadable { .. } => "name a file that this user can read, or no file".to_owned(),
            Self::Syntax { .. } => "correct that line; strings need quotes in TOML".to_owned(),
            Self::UnknownKey { nearest: Some(nearest), .. } => format!("did you mean {nearest}?"),
            Self::UnknownKey { nearest: None, .. } => {
                "see all keys with `palisade config show --sources`".to_owned()
            }
            Self::InvalidValue { source_of, .. } => {
                format!("change it where it is set: {source_of}")
            }
            Self::MissingKey { key, why } => format!("{why}; set {}", places(key)),
            Self::UnfitKeys { .. } => "change one of the two".to_owned(),
        }
    }
}

/// The three places where a key can be set, for people.
fn places(key: &str) -> String {
    match super::keys::find(key) {
        Some(key) => format!("{} in the file, {} or {}", key.path, key.variable(), key.flag()),
        None => key.to_owned(),
    }
}
