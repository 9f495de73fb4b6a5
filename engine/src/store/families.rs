//! Which families of keys a store has: those of the engine, and one for each projection that it was
//! opened with.

use crate::error::Error;

/// Most families of one store: a snapshot names them in one byte.
const FAMILIES_MAX: usize = 128;
/// Longest name of a family.
const NAME_BYTES_MAX: usize = 32;

/// One family of the store that is open: its place in the table of [`Families`]. Not persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FamilyId(u8);

impl FamilyId {
    /// Whose state this is, and how far it is applied.
    pub(crate) const META: Self = Self(0);
    /// What that one is called.
    #[cfg(feature = "backup")]
    pub(crate) const META_NAME: &'static str = BUILT_IN[0];
    /// The table of resources.
    pub(crate) const RESOURCES: Self = Self(1);
    /// Payloads of logs.
    pub(crate) const LOG: Self = Self(2);
    /// Values of maps.
    pub(crate) const MAP: Self = Self(3);
    /// Requests of idempotency stores.
    #[cfg(test)]
    pub(crate) const IDEMPOTENCY: Self = Self(4);
    /// Clients that number their commands, and what they were answered.
    pub(crate) const SESSIONS: Self = Self(5);
    /// Heads of the chain of records, one for each so many.
    pub(crate) const HEADS: Self = Self(6);
    /// What replicas said of their states, and what came of it.
    pub(crate) const REPORTS: Self = Self(7);
    /// Sums of the rows of the others, which follow from them.
    pub(crate) const SPANS: Self = Self(8);

    /// Whether its rows are those of resources.
    pub(crate) fn is_of_resources(self) -> bool {
        let others =
            [Self::META, Self::RESOURCES, Self::SESSIONS, Self::HEADS, Self::REPORTS, Self::SPANS];
        !others.contains(&self)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Names of the families above. Persisted: a name may be retired, never reused.
const BUILT_IN: [&str; 9] =
    ["meta", "resources", "log", "map", "idempotency", "sessions", "heads", "reports", "spans"];

/// The families of a store, in an order that is the same at every node of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Families {
    names: Vec<&'static str>,
}

impl Families {
    /// Those of the engine and these.
    ///
    /// # Errors
    /// When a name is not 1 to 32 of `a-z`, `0-9`, `-` and `_`, or is there twice, and when there
    /// are too many.
    pub(crate) fn new(projections: &[&'static str]) -> Result<Self, Error> {
        let mut names = BUILT_IN.to_vec();
        for name in projections {
            let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
            let short = (1..=NAME_BYTES_MAX).contains(&name.len());
            // RocksDB has a family of its own under that name.
            if !short || !name.bytes().all(plain) || *name == "default" {
                return Err(Error::InvalidArgument {
                    what: format!(
                        "projection={name} needs a name of 1 to {NAME_BYTES_MAX} of a-z, 0-9, - \
                         and _ that is not default"
                    ),
                });
            }
            if names.contains(name) {
                return Err(Error::InvalidArgument {
                    what: format!("projection={name} is there twice"),
                });
            }
            names.push(name);
        }
        if names.len() > FAMILIES_MAX {
            return Err(Error::InvalidArgument {
                what: format!("more than {} projections", FAMILIES_MAX - BUILT_IN.len()),
            });
        }
        Ok(Self { names })
    }

    /// All of them, in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = FamilyId> + use<> {
        (0..self.names.len() as u8).map(FamilyId)
    }

    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, family: FamilyId) -> &'static str {
        self.names[family.index()]
    }

    /// The family of that name, if the store has one.
    pub(crate) fn find(&self, name: &[u8]) -> Option<FamilyId> {
        self.ids().find(|family| self.name(*family).as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_families_keep_their_names_and_others_follow() {
        let families = Families::new(&["inventory", "a-2_b"]).unwrap();
        let named = |family| families.name(family);
        assert_eq!(named(FamilyId::META), "meta");
        assert_eq!(named(FamilyId::RESOURCES), "resources");
        assert_eq!(named(FamilyId::LOG), "log");
        assert_eq!(named(FamilyId::MAP), "map");
        assert_eq!(named(FamilyId::IDEMPOTENCY), "idempotency");
        assert_eq!(named(FamilyId::SESSIONS), "sessions");
        assert_eq!(named(FamilyId::HEADS), "heads");
        assert_eq!(named(FamilyId::REPORTS), "reports");
        assert_eq!(named(FamilyId::SPANS), "spans");
        let names: Vec<_> = families.ids().skip(BUILT_IN.len()).map(named).collect();
        assert_eq!(names, ["inventory", "a-2_b"]);
        assert_eq!(families.find(b"log"), Some(FamilyId::LOG));
        assert_eq!(families.find(b"stock"), None);
    }

    #[test]
    fn a_name_that_is_taken_or_not_plain_is_refused() {
        let refused = |names: &[&'static str]| match Families::new(names).unwrap_err() {
            Error::InvalidArgument { what } => what,
            error => panic!("{error}"),
        };
        for name in ["", "A", "a b", "a.b", "default", "123456789012345678901234567890123"] {
            assert!(refused(&[name]).contains("needs a name"), "{name}");
        }
        assert!(refused(&["log"]).contains("twice"));
        assert!(refused(&["a", "a"]).contains("twice"));
        let many: Vec<&'static str> =
            (0..=FAMILIES_MAX).map(|n| &*format!("p{n}").leak()).collect();
        assert!(refused(&many).contains(&format!("more than {}", FAMILIES_MAX - BUILT_IN.len())));
    }
}
