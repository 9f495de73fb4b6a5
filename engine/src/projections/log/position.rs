//! Places in a log.

use std::fmt;

use bytes::Bytes;
use palisade_replication::Offset;

use crate::codec::{DecodeError, Reader};
use crate::projection::ProjectionFault;
use crate::projections::place::Place;
use crate::stored::Stored;

/// The rows of entries begin with this.
pub(super) const ENTRY: u8 = b'e';
/// What is above every row of an entry.
pub(super) const ENTRIES_END: &[u8] = &[ENTRY + 1];

/// A place in a log: a record, and which of the entries that it adds to this log. It stands for the entry
/// there, and for the place right before it. Places rise, with gaps where records of other resources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPosition {
    /// The record.
    pub offset: Offset,
    /// Which of the record's entries, from 0.
    pub index: u16,
}

impl LogPosition {
    /// Before every entry.
    pub const START: Self = Self { offset: Offset::ZERO, index: 0 };
    /// After every entry: where a scan backward begins.
    pub const END: Self = Self { offset: Offset::new(u64::MAX), index: u16::MAX };

    /// The place right after the entry at this one; nothing is after [`LogPosition::END`].
    #[must_use]
    pub fn after(self) -> Self {
        if self == Self::END { self } else { self.place().after().into() }
    }

    fn place(self) -> Place {
        Place { offset: self.offset, index: self.index }
    }

    pub(super) fn row(self) -> Vec<u8> {
        self.place().row(ENTRY)
    }

    pub(super) fn of_row(key: &[u8]) -> Result<Self, ProjectionFault> {
        Ok(Place::of_row(ENTRY, key)?.into())
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        self.place().put(out);
    }

    pub(super) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Place::take(reader)?.into())
    }
}

impl From<Place> for LogPosition {
    fn from(Place { offset, index }: Place) -> Self {
        Self { offset, index }
    }
}

/// The first place of a record.
impl From<Offset> for LogPosition {
    fn from(offset: Offset) -> Self {
        Self { offset, index: 0 }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.offset, self.index)
    }
}

impl Stored for LogPosition {
    fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(12);
        self.put(&mut out);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let position = Self::take(&mut reader)?;
        reader.end("log position")?;
        Ok(position)
    }
}
