//! The few primitives that stored encodings are made of, and a reader that trusts nothing.
//!
//! Numbers are LEB128 varints of the shortest form, byte strings carry their length before them. An
//! encoding has one form only, so equal values have equal bytes.

use bytes::{BufMut, Bytes};

/// Why stored or sent bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub struct DecodeError {
    /// What was being read.
    pub what: &'static str,
}

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Reads an encoding from its start.
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(raw: Bytes) -> Self {
        Self { rest: raw }
    }

    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let byte = *self.rest.first().ok_or(DecodeError { what })?;
        self.rest = self.rest.slice(1..);
        Ok(byte)
    }

    pub(crate) fn number(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            let part = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit, and the last may not be an empty one.
            if at == 9 && *byte > 1 || at > 0 && *byte == 0 {
                break;
            }
            number |= part << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = self.rest.slice(at + 1..);
                return Ok(number);
            }
        }
        Err(DecodeError { what })
    }

    pub(crate) fn bytes(&mut self, max: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = usize::try_from(self.number(what)?).map_err(|_| DecodeError { what })?;
        if length > max {
            return Err(DecodeError { what });
        }
        self.take(length, what)
    }

    pub(crate) fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if self.rest.len() < length {
            return Err(DecodeError { what });
        }
        Ok(self.rest.split_to(length))
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn text(&mut self, max: usize, what: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes(max, what)?;
        String::from_utf8(bytes.into()).map_err(|_| DecodeError { what })
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N, what)?[..].try_into().expect("took as many"))
    }

    pub(crate) fn end(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError { what }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip_in_one_form(number: u64) {
            let mut raw = Vec::new();
            put_number(&mut raw, number);
            let mut reader = Reader::new(raw.clone().into());
            prop_assert_eq!(reader.number("n"), Ok(number));
            prop_assert_eq!(reader.end("n"), Ok(()));
            // A longer form of the same number is refused.
            let last = raw.len() - 1;
            raw[last] |= 0x80;
            raw.push(0);
            prop_assert!(Reader::new(raw.into()).number("n").is_err());
        }

        #[test]
        fn reading_never_panics(raw in vec(any::<u8>(), 0..30)) {
            let mut reader = Reader::new(raw.into());
            while reader.number("n").is_ok() && reader.bytes(10, "b").is_ok() {}
        }
    }
}
