//! Values and keys as services have them, and as the log keeps them.

use std::convert::Infallible;

use bytes::Bytes;

use crate::codec::DecodeError;
use crate::resource::SchemaId;

/// A value that can be kept in a log, a map or a result. Equal values should have equal bytes.
pub trait Stored: Sized + Send + 'static {
    /// Its bytes.
    fn to_bytes(&self) -> Bytes;

    /// The value of these bytes.
    ///
    /// # Errors
    /// When they are not the bytes of a value.
    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError>;

    /// The value of bytes that were written with another schema of the resource than the one that it was
    /// opened with: see `docs/directory.md`. A type that does not say how reads none of them.
    ///
    /// # Errors
    /// When it does not know the schema, or they are not the bytes of such a value.
    fn from_schema(schema: &SchemaId, bytes: &Bytes) -> Result<Self, DecodeError> {
        let _ = (schema, bytes);
        Err(DecodeError { what: "value: its type reads no other schema than its own" })
    }
}

/// A key of a map. Its bytes are in the order of the keys.
pub trait Key: Stored {}

impl Stored for Bytes {
    fn to_bytes(&self) -> Bytes {
        self.clone()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        Ok(bytes.clone())
    }
}

impl Stored for Vec<u8> {
    fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }
}

impl Stored for String {
    fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        Self::from_utf8(bytes.to_vec()).map_err(|_| DecodeError { what: "text" })
    }
}

/// What there is nothing of.
impl Stored for Infallible {
    fn to_bytes(&self) -> Bytes {
        match *self {}
    }

    fn from_bytes(_: &Bytes) -> Result<Self, DecodeError> {
        Err(DecodeError { what: "value of a type without values" })
    }
}

impl Stored for () {
    fn to_bytes(&self) -> Bytes {
        Bytes::new()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        if bytes.is_empty() { Ok(()) } else { Err(DecodeError { what: "nothing" }) }
    }
}

impl Stored for u64 {
    fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.to_be_bytes())
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let raw = bytes[..].try_into().map_err(|_| DecodeError { what: "number" })?;
        Ok(Self::from_be_bytes(raw))
    }
}

impl Key for Bytes {}
impl Key for Vec<u8> {}
impl Key for String {}
impl Key for u64 {}
