//! What can be wrong with keys, or with what they seal. Never says anything of a key itself.

use crate::error::Disposition;
use crate::keys::KeyEpoch;

/// Why something was not sealed or opened, or a ring not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Something is sealed, and there is no ring at all.
    #[error(
        "file={file} is sealed with key epoch={epoch}, and no key ring was given: name the ring"
    )]
    NotGiven {
        /// What was to be opened.
        file: String,
        /// The epoch it needs.
        epoch: KeyEpoch,
    },
    /// The ring has nothing of this epoch.
    #[error(
        "file={file} is sealed with key epoch={epoch}, which the key ring lacks: take a newer copy of the ring"
    )]
    Missing {
        /// What was to be opened.
        file: String,
        /// The epoch it needs.
        epoch: KeyEpoch,
    },
    /// The ring says that the key was let go of.
    #[error(
        "file={file} is sealed with key epoch={epoch}, which is retired: take a copy of the ring from before that, until nothing needs it"
    )]
    Retired {
        /// What was to be opened.
        file: String,
        /// The epoch it needs.
        epoch: KeyEpoch,
    },
    /// The ring has another key under this epoch.
    #[error(
        "file={file} was sealed with another key of epoch={epoch}: this is the ring of another node or cluster"
    )]
    Wrong {
        /// What was to be opened.
        file: String,
        /// The epoch it needs.
        epoch: KeyEpoch,
    },
    /// These are the bytes that somebody wrote, and nobody with the key wrote them for this place.
    #[error(
        "file={file} byte_pos={byte_pos} was not written by who has key epoch={epoch}: it was changed, or comes from another place"
    )]
    Tampered {
        /// What was to be opened.
        file: String,
        /// Where in it.
        byte_pos: u64,
        /// The epoch it names.
        epoch: KeyEpoch,
    },
    /// A new ring would take away what is in use.
    #[error("key epoch={epoch} is in use: this ring cannot open it, so the former one stays")]
    InUse {
        /// Which.
        epoch: KeyEpoch,
    },
    /// A new ring has another key under a known epoch.
    #[error("key epoch={epoch} has another key than before: a key never changes, add an epoch")]
    Changed {
        /// Which.
        epoch: KeyEpoch,
    },
    /// The ring cannot be read, or is not one.
    #[error("key ring {file}: {what}")]
    BadRing {
        /// Where it is.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// The system gave no randomness.
    #[error("no randomness for a nonce")]
    NoRandomness,
}

impl KeyError {
    /// What the caller should do: bring the right ring, or stop. Exhaustive on purpose.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NotGiven { .. }
            | Self::Missing { .. }
            | Self::Retired { .. }
            | Self::Wrong { .. }
            | Self::InUse { .. }
            | Self::Changed { .. }
            | Self::BadRing { .. } => Disposition::Reject,
            // What is stored here is not what was stored; nothing is known of the rest.
            Self::Tampered { .. } | Self::NoRandomness => Disposition::Halt,
        }
    }
}
