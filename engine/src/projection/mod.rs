//! What a kind of resource is: a state machine whose rows are computed from the log alone.
//!
//! Logs, maps and idempotency stores are projections, and so is what a service adds. One operation
//! changes the rows of its own resource and says an outcome, or is refused; then its whole record has no
//! effect (G7). Everything else is the engine's: order, fencing, placement, the commit, snapshots,
//! digests, reads at an offset.

mod erased;
pub(crate) mod fault;
mod import;
pub(crate) mod rebuild;
mod registry;
mod rows;

use palisade_replication::{GroupId, LogTime, Offset};

pub(crate) use self::erased::{AnyProjection, Erased, Repeated, Step};
pub use self::fault::ProjectionFault;
pub use self::import::{Imported, NewRows};
pub(crate) use self::import::{RowWrites, Stop};
pub(crate) use self::registry::{Added, Kind, Registry};
pub use self::rows::{ROW_KEY_BYTES_MAX, ROW_VALUE_BYTES_MAX, Rows, RowsRead};
use crate::stored::Stored;

/// Longest outcome of one operation, in bytes. An operation with a longer one is refused.
pub const OUTCOME_BYTES_MAX: usize = 4 << 10;

/// Where the operation that is applied stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct At {
    /// The group whose log it is.
    pub group: GroupId,
    /// The place of its record.
    pub offset: Offset,
    /// The leader's stamp on its record: the only clock there is.
    pub log_time: LogTime,
    /// Its place among the operations of its record, from 0.
    pub index: u16,
}

/// How an operation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied<O, R> {
    /// It took effect, if all others of its record do.
    Done(O),
    /// It cannot be done: its whole record has no effect.
    Refused(R),
}

/// A kind of resource: its operations, and what they do to its rows.
///
/// Every node computes the state by itself from the same records, so [`Projection::apply`] must do the
/// same everywhere: it may look at the operation, the rows and [`At`], and at nothing else. No clock, no
/// random numbers, no map in the order of its addresses, nothing kept in `self` between two calls. A
/// change of what it does to the same rows, or of how rows are laid out, needs a higher
/// [`Projection::VERSION`].
///
/// Encodings ([`Stored`]) are kept for ever: an operation of any release must be read by every later
/// one. Equal values have equal bytes.
///
/// ```
/// use palisade::{Applied, At, DecodeError, Projection, ProjectionFault, Rows, Stored};
/// use std::convert::Infallible;
///
/// /// Counts up, but not beyond a limit.
/// struct Counter;
///
/// impl Projection for Counter {
///     const NAME: &'static str = "counter";
///     const VERSION: u32 = 1;
///     type Op = u64;
///     type Outcome = u64;
///     type Refusal = u64;
///     type Guard = Infallible;
///
///     fn apply(
///         &self,
///         _: At,
///         add: u64,
///         rows: &mut Rows<'_, '_>,
///     ) -> Result<Applied<u64, u64>, ProjectionFault> {
///         let held = rows.get(b"count")?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?;
///         let sum = held + add;
///         if sum > 100 {
///             return Ok(Applied::Refused(held));
///         }
///         rows.put(b"count", sum.to_bytes())?;
///         Ok(Applied::Done(sum))
///     }
/// }
/// ```
pub trait Projection: Send + Sync + 'static {
    /// Names the kind of resource and the family of its rows: 1 to 32 of `a-z`, `0-9`, `-` and `_`.
    /// Persisted: a name may be retired, never used for something else.
    const NAME: &'static str;
    /// Rises with every change of what [`Projection::apply`] does or of how rows are laid out. The resources
    /// of a kind are of one version: a node without that one refuses to open their state. With
    /// [`crate::EngineBuilder::superseding`] they come to a higher one.
    const VERSION: u32;
    /// What can be done to a resource.
    type Op: Stored;
    /// What whoever did it is told; at most [`OUTCOME_BYTES_MAX`].
    type Outcome: Stored;
    /// Why it cannot be done.
    type Refusal: Stored;
    /// What a batch may demand of a resource before it does anything; [`std::convert::Infallible`] if
    /// there is nothing to demand.
    type Guard: Stored;

    /// Does one operation. What it wrote is dropped when any operation of its record is refused.
    ///
    /// # Errors
    /// A fault halts the group on this node, for the operator to look at: it is for rows that are not
    /// what this projection has written, and for what the rows said when they could not be read. A panic
    /// is one too.
    fn apply(
        &self,
        at: At,
        op: Self::Op,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<Self::Outcome, Self::Refusal>, ProjectionFault>;

    /// Whether what a batch demands is so. It is asked before any operation of the batch is done.
    ///
    /// ```
    /// use palisade::{Applied, At, Projection, ProjectionFault, Rows, RowsRead, Stored};
    /// # use palisade::sim::check_projection;
    /// # use std::convert::Infallible;
    ///
    /// struct Counter;
    ///
    /// impl Projection for Counter {
    /// #   const NAME: &'static str = "counter";
    /// #   const VERSION: u32 = 1;
    /// #   type Op = u64;
    /// #   type Outcome = ();
    /// #   type Refusal = Infallible;
    ///     /// A count that must have been reached.
    ///     type Guard = u64;
    ///     // ...
    /// #   fn apply(&self, _: At, add: u64, rows: &mut Rows<'_, '_>)
    /// #       -> Result<Applied<(), Infallible>, ProjectionFault> {
    /// #       let held = rows.get(b"count")?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?;
    /// #       rows.put(b"count", (held + add).to_bytes())?;
    /// #       Ok(Applied::Done(()))
    /// #   }
    ///
    ///     fn holds(&self, least: &u64, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
    ///         let count = rows.get(b"count")?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?;
    ///         Ok(*least <= count)
    ///     }
    /// }
    /// # check_projection(|| Counter, &[1, 2, 3]).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Projection::apply`].
    fn holds(&self, guard: &Self::Guard, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        let _ = (guard, rows);
        Ok(false)
    }

    /// From which log time on there is something for [`Projection::tidy`] to do. Only looked at to know
    /// when to call it; nothing, if there is nothing that time alone asks for.
    ///
    /// # Errors
    /// As [`Projection::apply`].
    fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
        let _ = rows;
        Ok(None)
    }

    /// Does what time asks for, retention and expiry for example: at most so many things, the oldest
    /// first. It is called by a record of its own, which the leader writes when it is due: as
    /// [`Projection::apply`], it must do the same everywhere.
    ///
    /// Rows that are named by the time at which they end:
    ///
    /// ```
    /// use palisade::sim::SimFabric;
    /// use palisade::*;
    /// # use std::convert::Infallible;
    ///
    /// /// Offers of a minute each.
    /// struct Offers;
    ///
    /// impl Projection for Offers {
    /// #   const NAME: &'static str = "offers";
    /// #   const VERSION: u32 = 1;
    /// #   type Op = String;
    /// #   type Outcome = ();
    /// #   type Refusal = Infallible;
    /// #   type Guard = Infallible;
    ///     // ...
    ///     fn apply(&self, at: At, offer: String, rows: &mut Rows<'_, '_>)
    ///         -> Result<Applied<(), Infallible>, ProjectionFault>
    ///     {
    ///         let end = at.log_time.get() + 60_000;
    ///         rows.put(&end.to_be_bytes(), offer.to_bytes())?;
    ///         Ok(Applied::Done(()))
    ///     }
    ///
    ///     fn due(&self, rows: &RowsRead<'_>) -> Result<Option<LogTime>, ProjectionFault> {
    ///         let Some((key, _)) = rows.first(b"", None)? else { return Ok(None) };
    ///         Ok(Some(LogTime::new(u64::from_bytes(&key.into())?)))
    ///     }
    ///
    ///     fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault> {
    ///         for _ in 0..most {
    ///             match self.due(&rows.read())? {
    ///                 Some(end) if end <= at.log_time => rows.remove(&end.get().to_be_bytes()),
    ///                 _ => break,
    ///             }
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// # fn main() -> Result<(), Error> {
    /// # let mut fabric = SimFabric::builder(1).projection(Offers).build()?;
    /// # let engine = fabric.engine(fabric.node(1));
    /// # let spec = ResourceSpec::new("offers", "v1")?;
    /// # let offers = fabric.block_on(Handle::<Offers>::open(&engine, spec))?;
    /// # fabric.block_on(offers.submit(&"apples".to_owned()))?;
    /// # let any = |rows: &RowsRead<'_>| Ok(rows.first(b"", None)?.is_some());
    /// # assert!(fabric.block_on(offers.read(ReadConsistency::Linearizable, any))?.value);
    /// # fabric.run_for(std::time::Duration::from_secs(65));
    /// # assert!(!fabric.block_on(offers.read(ReadConsistency::Linearizable, any))?.value);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Projection::apply`].
    fn tidy(&self, at: At, rows: &mut Rows<'_, '_>, most: usize) -> Result<(), ProjectionFault> {
        let _ = (at, rows, most);
        Ok(())
    }

    /// Rows of an older version as rows of this one: all that this version would have written, had it done
    /// every operation from the first on. It reads the rows of one resource of one moment, on a thread of its
    /// own, and sees nothing else; operations that were done since are done again afterwards.
    ///
    /// So it makes no difference when it is called: what it makes of some rows, with more operations done by
    /// this version, is what it makes of the rows that the older version comes to with the same operations.
    /// `sim::check_import` tries that.
    ///
    /// ```
    /// use palisade::sim::check_import;
    /// use palisade::*;
    /// # mod versions {
    /// #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/versions.rs"));
    /// # }
    /// # use versions::First;
    /// # use std::convert::Infallible;
    ///
    /// /// Keeps in the row `sum` what the first version has kept in the row `count`.
    /// struct Second;
    ///
    /// impl Projection for Second {
    ///     const NAME: &'static str = First::NAME;
    ///     const VERSION: u32 = First::VERSION + 1;
    /// #   type Op = u64;
    /// #   type Outcome = u64;
    /// #   type Refusal = Infallible;
    /// #   type Guard = Infallible;
    ///     // ...
    /// #   fn apply(&self, _: At, add: u64, rows: &mut Rows<'_, '_>)
    /// #       -> Result<Applied<u64, Infallible>, ProjectionFault> {
    /// #       let held = rows.get(b"sum")?.map_or(Ok(0), |raw| u64::from_bytes(&raw))?;
    /// #       rows.put(b"sum", (held + add).to_bytes())?;
    /// #       Ok(Applied::Done(held + add))
    /// #   }
    ///
    ///     fn import(&self, from: u32, old: &RowsRead<'_>, new: &mut NewRows<'_>)
    ///         -> Result<Imported, ProjectionFault>
    ///     {
    ///         if from != First::VERSION {
    ///             return Ok(Imported::Unable);
    ///         }
    ///         if let Some(count) = old.get(b"count")? {
    ///             new.put(b"sum", count)?;
    ///         }
    ///         Ok(Imported::All)
    ///     }
    /// }
    ///
    /// check_import(|| First, || Second, &[1, 2, 3])?;
    /// # Ok::<(), palisade::sim::Misconduct>(())
    /// ```
    ///
    /// # Errors
    /// As [`Projection::apply`]; but it is the rebuild that ends then, and the older version stays.
    fn import(
        &self,
        from: u32,
        old: &RowsRead<'_>,
        new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        let _ = (from, old, new);
        Ok(Imported::Unable)
    }
}
