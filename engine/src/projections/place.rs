//! Places in the log of a group, finer than offsets: which of a record's parts.

use palisade_replication::Offset;

use crate::codec::{DecodeError, Reader, put_number};
use crate::projection::{At, ProjectionFault};

/// A record, and one of the things that it adds to a resource. Rows of such places sort as the places do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) offset: Offset,
    pub(crate) index: u16,
}

impl Place {
    pub(crate) const START: Self = Self { offset: Offset::ZERO, index: 0 };

    pub(crate) fn of(at: At) -> Self {
        Self { offset: at.offset, index: at.index }
    }

    /// The next one there can be.
    pub(crate) fn after(self) -> Self {
        match self.index.checked_add(1) {
            Some(index) => Self { index, ..self },
            None => Self { offset: self.offset.next(), index: 0 },
        }
    }

    /// A key of a row: the tag, then the place.
    pub(crate) fn row(self, tag: u8) -> Vec<u8> {
        let mut row = vec![tag];
        row.extend_from_slice(&self.offset.get().to_be_bytes());
        row.extend_from_slice(&self.index.to_be_bytes());
        row
    }

    pub(crate) fn of_row(tag: u8, row: &[u8]) -> Result<Self, ProjectionFault> {
        let split = row.strip_prefix(&[tag]).and_then(<[u8]>::split_first_chunk::<8>);
        let parsed = split.and_then(|(offset, index)| {
            let offset = Offset::new(u64::from_be_bytes(*offset));
            Some(Self { offset, index: u16::from_be_bytes(index.try_into().ok()?) })
        });
        parsed.ok_or_else(|| ProjectionFault::new("malformed key of a place"))
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.offset.get());
        put_number(out, self.index.into());
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let offset = Offset::new(reader.number("offset")?);
        let index = u16::try_from(reader.number("index")?);
        Ok(Self { offset, index: index.map_err(|_| DecodeError { what: "index" })? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_sort_as_their_places(x: u64, y: u64, i: u16, j: u16, tag: u8) {
            let place = |offset, index| Place { offset: Offset::new(offset), index };
            prop_assert_eq!(place(x, i).row(tag).cmp(&place(y, j).row(tag)), (x, i).cmp(&(y, j)));
            prop_assert_eq!(Place::of_row(tag, &place(x, i).row(tag)).unwrap(), place(x, i));
            prop_assert!(Place::of_row(tag.wrapping_add(1), &place(x, i).row(tag)).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(raw in vec(any::<u8>(), 0..20)) {
            let _ = (Place::of_row(b'f', &raw), Place::take(&mut Reader::new(raw.into())));
        }
    }
}
