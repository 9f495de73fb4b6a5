//! The runtime that an engine was opened on. It carries the waits of whoever asks: tokio panics where its
//! threads and timers are not found, as on other executors, or on a runtime that has none.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{EnterGuard, Handle};
use tokio::task::{AbortHandle, JoinSet};

use crate::backend::BoxFuture;
use crate::error::Error;

/// The outcome of work that is a task of its own: a panic in it is an error.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Error> {
    let mut task = JoinSet::new();
    task.spawn(work);
    let done = task.join_next().await.map(|done| done.map_err(|panic| panic.to_string()));
    let done = done.unwrap_or_else(|| Err("there was no task".to_owned()));
    done.map_err(|what| Error::InternalError { what: format!("opening the engine: {what}") })
}

/// A runtime, which may end before those who wait on it.
pub(crate) struct Carrier {
    runtime: Handle,
    /// A task that ends with the runtime, and with this.
    lives: AbortHandle,
    _task: JoinSet<()>,
}

impl Carrier {
    /// The current runtime.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without one, and for one without timers.
    pub(crate) async fn here() -> Result<Self, Error> {
        let refused = |what: &str| Error::InvalidArgument { what: what.to_owned() };
        let runtime = Handle::try_current().map_err(|_| {
            refused("this begins on a tokio runtime; without one, use palisade::blocking")
        })?;
        if apart(async { tokio::time::sleep(Duration::ZERO).await }).await.is_err() {
            return Err(refused("the runtime has no timers: build it with enable_all"));
        }
        let mut task = JoinSet::new();
        let lives = task.spawn(pending());
        Ok(Self { runtime, lives, _task: task })
    }

    fn is_gone(&self) -> bool {
        self.lives.is_finished()
    }

    /// Nothing while the runtime is gone and there is another.
    fn enter(&self) -> Option<EnterGuard<'_>> {
        let other = self.is_gone() && Handle::try_current().is_ok();
        (!other).then(|| self.runtime.enter())
    }

    /// The future, polled where it finds the runtime.
    pub(crate) fn carry<'a, T>(
        &'a self,
        future: impl Future<Output = T> + Send + 'a,
    ) -> BoxFuture<'a, T> {
        Box::pin(async move {
            let mut future = pin!(future);
            poll_fn(|context| {
                let _entered = self.enter();
                future.as_mut().poll(context)
            })
            .await
        })
    }

    /// Resolves after so long, or at once when there is no clock any more.
    pub(crate) fn sleep(&self, length: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let own = !self.is_gone();
            let mut sleep = pin!(async { tokio::time::sleep(length).await });
            poll_fn(|context| {
                let clock = if own { !self.is_gone() } else { Handle::try_current().is_ok() };
                if !clock {
                    return Poll::Ready(());
                }
                let _entered = own.then(|| self.runtime.enter());
                sleep.as_mut().poll(context)
            })
            .await
        })
    }

    /// Begins work that nothing waits for, on a thread of its own.
    #[cfg(feature = "backup")]
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.runtime.spawn_blocking(work);
    }
}
