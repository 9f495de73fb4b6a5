//! Values and keys as services have them, and as the log keeps them.

use std::convert::Infallible;

use bytes::Bytes;

use crate::codec::DecodeError;
use crate::keys;
use crate::resource::SchemaId;

/// A value that can be kept in a log, a map or a result. Equal values should have equal bytes.
///
/// ```
/// use bytes::Bytes;
/// use palisade::{DecodeError, Stored};
///
/// #[derive(Debug, PartialEq)]
/// struct Price {
///     cents: u64,
///     currency: String,
/// }
///
/// impl Stored for Price {
///     fn to_bytes(&self) -> Bytes {
///         (self.cents, self.currency.clone()).to_bytes()
///     }
///
///     fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
///         let (cents, currency) = <(u64, String)>::from_bytes(bytes)?;
///         Ok(Self { cents, currency })
///     }
/// }
///
/// let price = Price { cents: 499, currency: "EUR".to_owned() };
/// assert_eq!(Price::from_bytes(&price.to_bytes())?, price);
/// # Ok::<(), DecodeError>(())
/// ```
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
    /// ```
    /// use bytes::Bytes;
    /// use palisade::{DecodeError, SchemaId, Stored};
    ///
    /// /// Since `price.v2` with a currency; in `price.v1` there were cents alone.
    /// #[derive(Debug, PartialEq)]
    /// struct Price(u64, String);
    ///
    /// impl Stored for Price {
    ///     fn to_bytes(&self) -> Bytes {
    ///         (self.0, self.1.clone()).to_bytes()
    ///     }
    ///
    ///     fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
    ///         <(u64, String)>::from_bytes(bytes).map(|(cents, currency)| Self(cents, currency))
    ///     }
    ///
    ///     fn from_schema(schema: &SchemaId, bytes: &Bytes) -> Result<Self, DecodeError> {
    ///         match schema.as_str() {
    ///             "price.v1" => Ok(Self(u64::from_bytes(bytes)?, "EUR".to_owned())),
    ///             _ => Err(DecodeError { what: "price" }),
    ///         }
    ///     }
    /// }
    ///
    /// let old = SchemaId::new("price.v1")?;
    /// assert_eq!(Price::from_schema(&old, &499_u64.to_bytes()).unwrap(), Price(499, "EUR".to_owned()));
    /// # Ok::<(), palisade::Error>(())
    /// ```
    ///
    /// # Errors
    /// When it does not know the schema, or they are not the bytes of such a value.
    fn from_schema(schema: &SchemaId, bytes: &Bytes) -> Result<Self, DecodeError> {
        let _ = (schema, bytes);
        Err(DecodeError { what: "value: its type reads no other schema than its own" })
    }
}

/// A key of a map. Its bytes are in the order of the keys.
///
/// ```
/// use bytes::Bytes;
/// use palisade::{DecodeError, Key, Stored};
///
/// /// Newest first.
/// #[derive(Clone, Debug, PartialEq)]
/// struct Day(u64);
///
/// impl Stored for Day {
///     fn to_bytes(&self) -> Bytes {
///         (!self.0).to_bytes()
///     }
///
///     fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
///         Ok(Self(!u64::from_bytes(bytes)?))
///     }
/// }
///
/// impl Key for Day {}
///
/// let days = [Day(3), Day(2), Day(1)].map(|day| day.to_bytes());
/// assert!(days.is_sorted());
/// ```
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

/// Big-endian, of their whole length: in their order.
macro_rules! unsigned {
    ($($number:ty),*) => {
        $(
            impl Stored for $number {
                fn to_bytes(&self) -> Bytes {
                    Bytes::copy_from_slice(&self.to_be_bytes())
                }

                fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
                    let raw = bytes[..].try_into().map_err(|_| DecodeError { what: "number" })?;
                    Ok(Self::from_be_bytes(raw))
                }
            }
        )*
    };
}

unsigned!(u8, u16, u32, u64, u128);

/// Big-endian with the sign flipped: in their order, those below zero first.
impl Stored for i64 {
    fn to_bytes(&self) -> Bytes {
        (self.cast_unsigned() ^ SIGN).to_bytes()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        Ok((u64::from_bytes(bytes)? ^ SIGN).cast_signed())
    }
}

const SIGN: u64 = 1 << 63;

/// A byte, 0 or 1.
impl Stored for bool {
    fn to_bytes(&self) -> Bytes {
        u8::from(*self).to_bytes()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        match bytes[..] {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError { what: "yes or no" }),
        }
    }
}

/// A byte 0 for nothing, or 1 and the value.
impl<T: Stored> Stored for Option<T> {
    fn to_bytes(&self) -> Bytes {
        match self {
            None => Bytes::from_static(&[0]),
            Some(value) => [&[1], &value.to_bytes()[..]].concat().into(),
        }
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        match bytes.first() {
            Some(0) if bytes.len() == 1 => Ok(None),
            Some(1) => Ok(Some(T::from_bytes(&bytes.slice(1..))?)),
            _ => Err(DecodeError { what: "optional value" }),
        }
    }

    fn from_schema(schema: &SchemaId, bytes: &Bytes) -> Result<Self, DecodeError> {
        match bytes.first() {
            Some(1) => Ok(Some(T::from_schema(schema, &bytes.slice(1..))?)),
            _ => Self::from_bytes(bytes),
        }
    }
}

/// The first with each zero byte as `00 ff` and `00 01` at its end, then the second: of two keys, in the order of
/// the first and then of the second.
///
/// ```
/// use palisade::{MapRange, Stored};
///
/// let key = ("reports".to_owned(), 7_u64);
/// assert_eq!(<(String, u64)>::from_bytes(&key.to_bytes())?, key);
/// // All that have one first part: from the least of its second to before the next.
/// let of_reports = MapRange::from(&("reports".to_owned(), 0_u64)).before(&("reports\0".to_owned(), 0));
/// # let _ = of_reports;
/// # Ok::<(), palisade::DecodeError>(())
/// ```
impl<A: Stored, B: Stored> Stored for (A, B) {
    fn to_bytes(&self) -> Bytes {
        let (first, second) = (self.0.to_bytes(), self.1.to_bytes());
        let mut out = Vec::with_capacity(first.len() + second.len() + 2);
        keys::escape(&mut out, &first);
        out.extend_from_slice(&second);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let malformed = DecodeError { what: "pair" };
        let mut end = 0;
        loop {
            match (bytes.get(end), bytes.get(end + 1)) {
                (Some(0), Some(1)) => break,
                (Some(0), Some(_)) => end += 2,
                (Some(_), Some(_)) => end += 1,
                _ => return Err(malformed),
            }
        }
        let first = keys::unescape(&bytes[..end + 2]).ok_or(malformed)?;
        Ok((A::from_bytes(&first.into())?, B::from_bytes(&bytes.slice(end + 2..))?))
    }
}

impl Key for Bytes {}
impl Key for Vec<u8> {}
impl Key for String {}
impl Key for u32 {}
impl Key for u64 {}
impl Key for u128 {}
impl Key for i64 {}
impl<A: Key, B: Key> Key for (A, B) {}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What is read is written the same again, and no other bytes are that value.
    fn has_one_form<T: Stored + PartialEq + Debug>(
        value: &T,
        at: usize,
        byte: u8,
    ) -> Result<(), TestCaseError> {
        let raw = value.to_bytes();
        prop_assert_eq!(&T::from_bytes(&raw).unwrap(), value);
        let mut other = raw.to_vec();
        match at % (raw.len() + 1) {
            at if at < raw.len() => other[at] = byte,
            _ => other.push(byte),
        }
        let other = Bytes::from(other);
        if let Ok(found) = T::from_bytes(&other) {
            prop_assert_eq!(found.to_bytes(), other);
        }
        Ok(())
    }

    fn is_ordered<T: Key + Ord>(a: &T, b: &T) -> Result<(), TestCaseError> {
        prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(b));
        Ok(())
    }

    /// Many zeros, which is where it could go wrong.
    fn raw() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..6)
    }

    proptest! {
        #[test]
        fn values_have_one_form(
            numbers: (u8, u16, u32, u64, u128, i64),
            yes: bool,
            text: Option<String>,
            raw in raw(),
            at: usize,
            byte: u8,
        ) {
            let (a, b, c, d, e, f) = numbers;
            has_one_form(&a, at, byte)?;
            has_one_form(&b, at, byte)?;
            has_one_form(&c, at, byte)?;
            has_one_form(&d, at, byte)?;
            has_one_form(&e, at, byte)?;
            has_one_form(&f, at, byte)?;
            has_one_form(&yes, at, byte)?;
            has_one_form(&text, at, byte)?;
            has_one_form(&Some(text.clone()), at, byte)?;
            has_one_form(&(raw.clone(), f), at, byte)?;
            has_one_form(&((raw.clone(), raw), text), at, byte)?;
        }

        #[test]
        fn keys_are_in_the_order_of_their_bytes(
            a in (any::<(u32, u64, u128, i64)>(), raw(), raw()),
            b in (any::<(u32, u64, u128, i64)>(), raw(), raw()),
        ) {
            let ((a32, a64, a128, a_signed), a_raw, a_second) = a;
            let ((b32, b64, b128, b_signed), b_raw, b_second) = b;
            is_ordered(&a32, &b32)?;
            is_ordered(&a64, &b64)?;
            is_ordered(&a128, &b128)?;
            is_ordered(&a_signed, &b_signed)?;
            is_ordered(&(a_raw.clone(), a_second.clone()), &(b_raw.clone(), b_second.clone()))?;
            is_ordered(&((a_raw, a_signed), a_second), &((b_raw, b_signed), b_second))?;
        }
    }

    #[test]
    fn no_bytes_are_half_a_value() {
        assert!(bool::from_bytes(&Bytes::from_static(&[2])).is_err());
        assert!(Option::<()>::from_bytes(&Bytes::from_static(&[0, 0])).is_err());
        assert!(Option::<u8>::from_bytes(&Bytes::new()).is_err());
        for raw in [&b""[..], b"a", b"a\0", b"a\0\x02", b"\0\xff"] {
            assert!(<(Vec<u8>, Vec<u8>)>::from_bytes(&Bytes::copy_from_slice(raw)).is_err());
        }
    }
}
