//! Keys and values as services have them, and as the endpoint carries them.

use bytes::Bytes;

use crate::error::Error;

/// A value that can be kept in a log, a map or a result. Equal values should have equal bytes, and the same as
/// a service has that links the engine.
pub trait Stored: Sized + Send + Sync + 'static {
    /// Its bytes.
    fn to_bytes(&self) -> Bytes;

    /// The value of these bytes; nothing if they are not those of a value.
    fn from_bytes(bytes: &Bytes) -> Option<Self>;

    /// The value of bytes that were written with another schema than the one that was asked with. A type that
    /// does not say how reads none of them.
    fn from_schema(schema: &str, bytes: &Bytes) -> Option<Self> {
        let _ = (schema, bytes);
        None
    }
}

/// A key of a map. Its bytes are in the order of the keys.
pub trait Key: Stored {}

impl Stored for Bytes {
    fn to_bytes(&self) -> Bytes {
        self.clone()
    }

    fn from_bytes(bytes: &Bytes) -> Option<Self> {
        Some(bytes.clone())
    }
}

impl Stored for Vec<u8> {
    fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }

    fn from_bytes(bytes: &Bytes) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

impl Stored for String {
    fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    fn from_bytes(bytes: &Bytes) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

impl Stored for u64 {
    fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.to_be_bytes())
    }

    fn from_bytes(bytes: &Bytes) -> Option<Self> {
        Some(Self::from_be_bytes(bytes[..].try_into().ok()?))
    }
}

impl Key for Bytes {}
impl Key for Vec<u8> {}
impl Key for String {}
impl Key for u64 {}

pub(crate) fn decoded<T: Stored>(bytes: &Bytes) -> Result<T, Error> {
    T::from_bytes(bytes).ok_or_else(|| Error::unexpected("the bytes are not those of a key"))
}

pub(crate) fn value<T: Stored>(
    value: Option<&palisade_proto::common::v1::Value>,
) -> Result<T, Error> {
    let value = value.ok_or_else(|| Error::unexpected("an answer has no value"))?;
    let found = match value.schema.as_str() {
        "" => T::from_bytes(&value.data),
        schema => T::from_schema(schema, &value.data),
    };
    found.ok_or_else(|| match value.schema.as_str() {
        "" => Error::unexpected("the bytes are not those of a value of this type"),
        schema => Error::unexpected(&format!("the type reads no values of schema={schema}")),
    })
}
