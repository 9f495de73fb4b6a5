//! What a batch says once it is committed, and each of its operations.

use bytes::Bytes;

use crate::error::Error;
use crate::outcome::Branch;
use crate::projection::Projection;
use crate::projections::idempotency::{Idempotency, RequestOutcome};
use crate::projections::log::{Log, LogOutcome, LogPosition, LogTrim};
use crate::projections::map::{Map, Version};
use crate::receipt::Receipt;
use crate::stored::Stored;

/// A batch that took effect, or had taken effect before.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// # let spec = ResourceSpec::new("orders", "order.v1")?;
/// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
/// # let (apples, apple) = ("apples".to_owned(), "an apple".to_owned());
/// let seen = Version::ABSENT;
/// let bought = engine
///     .batch()
///     .require(stock.version_is(&apples, seen))
///     .put(&stock, &apples, &7)
///     .otherwise()
///     .append(&orders, &"somebody was faster".to_owned());
/// let BatchDone { receipt, branch, outcomes } = bought.commit().await?;
/// assert_eq!((branch, outcomes.len()), (Some(Branch::Then), 1));
/// assert!(stock.get(&apples, receipt.freshness()).await?.value.is_some());
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchDone {
    /// Where it took effect.
    pub receipt: Receipt,
    /// Which operations were done; nothing for a duplicate, where some were the first time.
    pub branch: Option<Branch>,
    /// What each of them says, in the order they were added; nothing for a duplicate.
    pub outcomes: Vec<OpOutcome>,
}

/// What one operation of a batch says.
///
/// ```
/// # use palisade::{sim::SimFabric, *};
/// # let mut fabric = SimFabric::new(1);
/// # let engine = fabric.engine(fabric.node(1));
/// # fabric.block_on(async {
/// # let spec = ResourceSpec::new("stock", "count.v1")?;
/// # let stock = ReplicatedMap::<String, u64>::open(&engine, spec).await?;
/// # let spec = ResourceSpec::new("orders", "order.v1")?;
/// # let orders = ReplicatedLog::<String>::open(&engine, spec).await?;
/// # let (apples, apple) = ("apples".to_owned(), "an apple".to_owned());
/// # let spec = ResourceSpec::new("requests", "request.v1")?;
/// # let requests = ReplicatedIdempotencyStore::open(&engine, spec).await?;
/// # let owner = FenceEpoch::new(1);
/// orders.append(&apple).await?;
/// let batch = engine
///     .batch()
///     .put(&stock, &apples, &7)
///     .append(&orders, &apple)
///     .trim_before(&orders, LogPosition::END)
///     .reserve(&requests, "r-17", Fingerprint::of(b"an apple"), owner);
/// let done = batch.commit().await?;
/// // In the order in which the operations were added; each says what it has done, and nothing of others.
/// let outcomes: &[OpOutcome] = &done.outcomes;
/// assert_eq!(outcomes[0].replaced(), Some(Version::ABSENT));
/// assert_eq!(outcomes[1].appended().map(|place| place.offset), Some(done.receipt.offset));
/// assert_eq!(outcomes[2].trimmed().map(|trim| trim.removed), Some(2));
/// assert_eq!(outcomes[3].request(), Some(RequestOutcome::Reserved));
/// assert_eq!(outcomes[3].appended(), None);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpOutcome {
    pub(super) projection: &'static str,
    pub(super) raw: Bytes,
}

impl OpOutcome {
    /// Where an append has put its value, or the first of them: the others follow at the places after it.
    /// Nothing for any other operation.
    #[must_use]
    pub fn appended(&self) -> Option<LogPosition> {
        match self.of::<Log>().ok()? {
            LogOutcome::Appended { first, .. } => Some(first),
            _ => None,
        }
    }

    /// What a trim has removed; nothing for any other operation.
    #[must_use]
    pub fn trimmed(&self) -> Option<LogTrim> {
        match self.of::<Log>().ok()? {
            LogOutcome::Trimmed(trim) => Some(trim),
            _ => None,
        }
    }

    /// What was done with a request; nothing for an operation on another kind of resource.
    #[must_use]
    pub fn request(&self) -> Option<RequestOutcome> {
        self.of::<Idempotency>().ok()
    }

    /// At which version a changed key was before, [`Version::ABSENT`] if it was not there; nothing for
    /// any other operation.
    #[must_use]
    pub fn replaced(&self) -> Option<Version> {
        self.of::<Map>().ok()
    }

    /// The outcome of an operation on a resource of this kind.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if the operation was one on a resource of another kind.
    pub fn of<P: Projection>(&self) -> Result<P::Outcome, Error> {
        let expected = || format!("an outcome of projection={}", P::NAME);
        if self.projection != P::NAME {
            let found = format!("projection={}", self.projection);
            return Err(Error::Incompatible { expected: expected(), found });
        }
        P::Outcome::from_bytes(&self.raw)
            .map_err(|error| Error::Incompatible { expected: expected(), found: error.to_string() })
    }
}
