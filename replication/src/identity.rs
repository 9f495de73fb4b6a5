//! Who is who, and where in the log: the newtypes that keep the number spaces apart.
//!
//! `LogIndex` (of the wal) counts raft entries, empty and membership entries included. [`Offset`]
//! counts the records that users wrote. One entry carries many records, so the two never convert
//! into each other by arithmetic: the entry itself says which offsets it holds.

use std::fmt;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn get(self) -> $inner {
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

identity! {
    /// One cluster. Drawn at random when the cluster is made; data of another cluster is refused.
    ClusterId(u128)
}
identity! {
    /// One process with an engine in it, unique within its cluster. Zero is not a node.
    NodeId(u64)
}
identity! {
    /// One life of a node's data directory: random, new with every new directory.
    Incarnation(u128)
}
identity! {
    /// A leader's term of office. At most one node leads a group in a term.
    Term(u64)
}
identity! {
    /// Position of a record in its group's log, as users see it. The first record is 1.
    Offset(u64)
}
identity! {
    /// Milliseconds since the Unix epoch, stamped by the leader on every entry, never falling
    /// within a log: the only clock that apply may read.
    LogTime(u64)
}

impl Term {
    /// Before any election.
    pub const ZERO: Self = Self(0);
}

impl Offset {
    /// Before the log: what a fresh replica has applied.
    pub const ZERO: Self = Self(0);

    /// The offset after this one. Panics on overflow: running out of offsets is a bug, not an
    /// operating condition.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The offset `count` records later. Panics on overflow, as [`Offset::next`] does.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("log offset overflow"))
    }

    /// The offset before this one, or `None` before the log.
    #[must_use]
    pub fn prev(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl LogTime {
    /// Before any entry.
    pub const ZERO: Self = Self(0);
}
