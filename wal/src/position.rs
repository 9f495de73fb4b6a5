//! The number spaces of a wal, kept apart by type.

use std::fmt;

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

position! {
    /// One log among the many that share a wal.
    GroupId
}
position! {
    /// Place of an entry in its group's log. The first entry is 1.
    LogIndex
}
position! {
    /// One segment file. Numbers only rise; a recycled file gets a new one.
    SegmentId
}
position! {
    /// A place in a segment file, in bytes from its start.
    BytePos
}
position! {
    /// One submitted batch of a wal. Dense from 1.
    BatchSeq
}

/// No batch is numbered above this: what says so was not written by a wal. Far below the last number
/// there is, so that numbers may be skipped behind damage.
pub(crate) const SEQ_MAX: BatchSeq = BatchSeq::new(u64::MAX / 2);

impl LogIndex {
    /// Before the log.
    pub const ZERO: Self = Self(0);

    /// The index after this one. Panics on overflow: running out of indexes is a bug.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("log index overflow"))
    }
}

impl SegmentId {
    pub(crate) fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("segment number overflow"))
    }
}

impl BatchSeq {
    /// Before the first batch.
    pub const ZERO: Self = Self(0);

    pub(crate) fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("batch sequence overflow"))
    }
}
