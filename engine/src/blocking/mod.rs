//! The engine for services without a runtime: every call comes back when it is done.
//!
//! [`EngineBuilder::open_blocking`](crate::EngineBuilder::open_blocking) opens an engine that brings a small
//! runtime of its own. Each handle here is a [`Blocking`] one: it waits where the handle of the same name
//! gives a future, with the same name, arguments, answers and errors, and what needs no waiting it has from
//! that handle. So a batch is the same, and [`Engine::commit`] commits it.
//!
//! ```
//! use palisade::blocking::{Engine, ReplicatedLog, ReplicatedMap};
//! use palisade::*;
//!
//! # fn example(dir: &std::path::Path) -> Result<(), Error> {
//! let engine: Engine = palisade::Engine::builder(dir).open_blocking()?;
//! let orders = ReplicatedLog::<String>::open(&engine, ResourceSpec::new("orders", "order.v1")?)?;
//! let stock = ReplicatedMap::<String, u64>::open(&engine, ResourceSpec::new("stock", "count.v1")?)?;
//!
//! let apples = "apples".to_owned();
//! let bought = engine.batch().put(&stock, &apples, &7).append(&orders, &apples);
//! let receipt = engine.commit(bought)?.receipt;
//! let read = stock.get(&apples, ReadConsistency::AtLeastOffset(receipt.offset))?;
//! assert_eq!(read.value.unwrap().value, 7);
//!
//! for entry in orders.tail(LogPosition::START).take(1) {
//!     assert_eq!(entry?.value, "apples");
//! }
//! engine.close()
//! # }
//! # let dir = tempfile::tempdir().unwrap();
//! # example(dir.path()).unwrap();
//! ```
//!
//! Within a tokio runtime, also on a thread of its `spawn_blocking`, every call is refused with
//! [`Error::InvalidArgument`]: there [`crate::Engine`] is what to use. So is it within a read ([`Handle::read`]), which
//! keeps a thread that others wait for. Handles may be dropped anywhere. With
//! the last of them the engine is closed; within a runtime that is done by another thread.

#[cfg(feature = "backup")]
pub mod backup;
mod engine;
mod follow;
mod handles;
mod running;

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

pub use self::follow::Following;
pub(crate) use self::running::Running;
use crate::error::Error;

/// An engine: see [`crate::Engine`].
pub type Engine = Blocking<crate::Engine>;
/// A group: see [`crate::Group`].
pub type Group = Blocking<crate::Group>;
/// What there is, and how it is altered: see [`crate::Directory`].
pub type Directory = Blocking<crate::Directory>;
/// A client's view over time: see [`crate::Session`].
pub type Session = Blocking<crate::Session>;
/// A handle to a resource of any kind: see [`crate::Handle`].
pub type Handle<P> = Blocking<crate::Handle<P>>;
/// A log: see [`crate::ReplicatedLog`].
pub type ReplicatedLog<T> = Blocking<crate::ReplicatedLog<T>>;
/// A consumer of a log: see [`crate::Consumer`].
pub type Consumer = Blocking<crate::Consumer>;
/// The entries of a log as they come: see [`crate::LogTail`].
pub type LogTail<T> = Following<crate::LogTail<T>>;
/// A map: see [`crate::ReplicatedMap`].
pub type ReplicatedMap<K, V> = Blocking<crate::ReplicatedMap<K, V>>;
/// A map as it was: see [`crate::MapAt`].
pub type MapAt<K, V> = Blocking<crate::MapAt<K, V>>;
/// The changes of a map as they come: see [`crate::Watch`].
pub type Watch<K, V> = Following<crate::Watch<K, V>>;
/// What a read comes to over time: see [`crate::Observation`].
pub type Observation<P, T> = Following<crate::Observation<P, T>>;
/// Records with a trace context as they are applied: see [`crate::TracedRecords`].
pub type TracedRecords = Following<crate::TracedRecords>;
/// An idempotency store: see [`crate::ReplicatedIdempotencyStore`].
pub type ReplicatedIdempotencyStore = Blocking<crate::ReplicatedIdempotencyStore>;

/// A handle whose calls wait for their answers, on a runtime that the handles of one engine share.
#[derive(Clone)]
#[must_use = "a handle does nothing by itself"]
pub struct Blocking<H> {
    of: H,
    running: Arc<Running>,
}

impl<H> Blocking<H> {
    /// Waits for work on the runtime of this engine: for several calls at once, or for what else there is
    /// that is asynchronous.
    ///
    /// # Errors
    /// Those of the work; [`Error::InvalidArgument`] within a tokio runtime.
    pub fn wait<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.running.wait(work)
    }

    /// Another handle of the same engine.
    fn beside<T>(&self, of: T) -> Blocking<T> {
        Blocking { of, running: Arc::clone(&self.running) }
    }
}

/// What needs no waiting is the same.
impl<H> Deref for Blocking<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.of
    }
}

/// Methods that wait for the method of the same name.
macro_rules! waiting {
    ($of:literal: $(fn $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(
            #[doc = concat!("Waits for [`", $of, "::", stringify!($name), "`](crate::", $of, "::", stringify!($name), ").")]
            ///
            /// # Errors
            /// The same, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) within a tokio runtime.
            pub fn $name(&self, $($argument: $type),*) -> Result<$answer, crate::error::Error> {
                self.running.wait(self.of.$name($($argument),*))
            }
        )*
    };
}
use waiting;
