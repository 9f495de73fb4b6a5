//! Sums of rows: what a set of rows comes to, in whatever order they came and went.
//!
//! ```text
//! row    SHA-256 over: length of the family's name 1, name, length of the key 4, key, value
//! sum    of rows, modulo 2^256; the rows are counted beside it
//! ```
//! A key is without its group. A row can be taken out again, so a sum follows the rows without reading the
//! others. It finds rot and mistakes, not forgers: who may choose rows can make two sets of one sum.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::codec::{DecodeError, Reader, put_number};

/// Rows as far as they are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowsSum {
    /// Four parts of 64 bits, the lowest first.
    parts: [u64; 4],
    rows: u64,
}

impl RowsSum {
    pub(crate) fn add_row(&mut self, family: &str, key: &[u8], value: &[u8]) {
        self.add(&Self::of_row(family, key, value));
    }

    pub(crate) fn take_row(&mut self, family: &str, key: &[u8], value: &[u8]) {
        self.take(&Self::of_row(family, key, value));
    }

    fn of_row(family: &str, key: &[u8], value: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update([family.len() as u8]);
        hash.update(family);
        hash.update((key.len() as u32).to_le_bytes());
        hash.update(key);
        hash.update(value);
        Self::from_parts(hash.finalize().into(), 1)
    }

    fn from_parts(raw: [u8; 32], rows: u64) -> Self {
        let (parts, _) = raw.as_chunks::<8>();
        let part = |at: usize| u64::from_le_bytes(parts[at]);
        Self { parts: [part(0), part(1), part(2), part(3)], rows }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut carry = false;
        for (own, other) in self.parts.iter_mut().zip(other.parts) {
            let (sum, over) = own.overflowing_add(other);
            let (sum, again) = sum.overflowing_add(carry.into());
            (*own, carry) = (sum, over || again);
        }
        // As the sum itself: what is taken out of too little is damage, which the sums then show.
        self.rows = self.rows.wrapping_add(other.rows);
    }

    pub(crate) fn take(&mut self, other: &Self) {
        let mut carry = false;
        for (own, other) in self.parts.iter_mut().zip(other.parts) {
            let (rest, under) = own.overflowing_sub(other);
            let (rest, again) = rest.overflowing_sub(carry.into());
            (*own, carry) = (rest, under || again);
        }
        self.rows = self.rows.wrapping_sub(other.rows);
    }

    /// True if it is that of no rows.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        self.parts.iter().for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
        put_number(out, self.rows);
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let raw = reader.array("sum of rows")?;
        Ok(Self::from_parts(raw, reader.number("count of rows")?))
    }

    pub(crate) fn to_bytes(self) -> Bytes {
        let mut out = Vec::with_capacity(32 + 3);
        self.put(&mut out);
        out.into()
    }

    pub(crate) fn decode(raw: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw);
        let sum = Self::read(&mut reader)?;
        reader.end("sum of rows")?;
        Ok(sum)
    }
}

/// How many zero bits a hash of the key ends in: one key in `2^n` has `n` of them or more. The hash is
/// FNV-1a, and the finalizer of MurmurHash3 over it: it is cheap, and part of the format.
pub(crate) fn zeros(key: &[u8]) -> u32 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    (hash ^ (hash >> 33)).trailing_zeros()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        (vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9))
    }

    fn sum(rows: &[(Vec<u8>, Vec<u8>)]) -> RowsSum {
        let mut sum = RowsSum::default();
        rows.iter().for_each(|(key, value)| sum.add_row("f", key, value));
        sum
    }

    proptest! {
        #[test]
        fn rows_come_and_go_in_any_order(rows in vec(row(), 0..9), others in vec(row(), 0..9)) {
            let mut both = sum(&[&others[..], &rows[..]].concat());
            let turned: Vec<_> = rows.iter().rev().cloned().collect();
            prop_assert_eq!(sum(&turned), sum(&rows));
            prop_assert_eq!(RowsSum::decode(both.to_bytes()), Ok(both));
            for (key, value) in &rows {
                both.take_row("f", key, value);
            }
            prop_assert_eq!(both, sum(&others));
            prop_assert_eq!(both.is_empty(), others.is_empty());
        }

        /// What belongs to the name, the key or the value is told apart.
        #[test]
        fn a_row_is_its_name_key_and_value(raw in vec(any::<u8>(), 2..20), at: prop::sample::Index) {
            let at = 1 + at.index(raw.len() - 1);
            let (key, value) = raw.split_at(at);
            let of = |family: &str, key: &[u8], value: &[u8]| {
                let mut sum = RowsSum::default();
                sum.add_row(family, key, value);
                sum
            };
            let (shorter, longer) = raw.split_at(at - 1);
            prop_assert_ne!(of("f", key, value), of("f", shorter, longer));
            prop_assert_ne!(of("f", key, value), of("g", key, value));
        }
    }

    /// The format: sums that are stored are of it.
    #[test]
    fn sums_and_zeros_are_what_they_were() {
        let mut sum = RowsSum::default();
        sum.add_row("map", b"key", b"value");
        let raw = sum.to_bytes();
        let wanted: [u8; 32] = Sha256::digest(b"\x03map\x03\0\0\0keyvalue").into();
        assert_eq!((&raw[..32], &raw[32..]), (&wanted[..], &[1][..]));
        let found: Vec<u32> = (0_u32..8).map(|n| zeros(&n.to_be_bytes())).collect();
        assert_eq!(found, [0, 1, 0, 0, 2, 2, 2, 0]);
    }

    /// Also where keys are numbers in a row, one in so many begins a span.
    #[test]
    fn zeros_are_as_frequent_as_they_should_be() {
        let many = |zeros_min: u32| {
            let keys =
                (0_u64..1 << 18).map(|n| [&[0, 0, 0, 3, b'e'][..], &n.to_be_bytes()].concat());
            keys.filter(|key| zeros(key) >= zeros_min).count()
        };
        for (zeros_min, wanted) in [(6, 4096), (10, 256)] {
            let found = many(zeros_min);
            assert!((wanted * 3 / 4..wanted * 5 / 4).contains(&found), "{zeros_min}: {found}");
        }
    }
}
