//! Who registered a client, where several who do not trust each other use one group.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::codec::{DecodeError, Reader};

const BYTES: usize = 16;

/// Who registered a client: the first 16 bytes of the SHA-256 of a name. The numbers of the client are for
/// that one alone: see [`crate::Group::register_client_as`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Registrant([u8; BYTES]);

impl Registrant {
    /// The one of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self(digest[..BYTES].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// At the end of an encoding: nothing if it is nobody in particular.
    pub(crate) fn put(of: Option<Self>, out: &mut Vec<u8>) {
        out.extend(of.iter().flat_map(|of| of.0));
    }

    /// Reads what is left.
    pub(crate) fn take(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        if reader.end("registrant").is_ok() {
            return Ok(None);
        }
        reader.array("registrant").map(|raw| Some(Self(raw)))
    }
}

impl fmt::Debug for Registrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
