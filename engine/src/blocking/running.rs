//! The runtime behind blocking handles. It may be used on no thread of another, and dropped on any.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::builder::EngineBuilder;
use crate::engine::Engine;
use crate::error::Error;
use crate::readers::is_reader;

/// An engine on a runtime of its own. It is closed when this is dropped.
pub(crate) struct Running {
    engine: Engine,
    runtime: Arc<OwnRuntime>,
}

impl Running {
    pub(crate) fn open(builder: EngineBuilder) -> Result<(Engine, Arc<Self>), Error> {
        let runtime = OwnRuntime::start()?;
        let engine = runtime.wait(builder.open())?;
        let running = Self { engine: engine.clone(), runtime: Arc::new(runtime) };
        Ok((engine, Arc::new(running)))
    }

    pub(super) fn wait<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.runtime.wait(work)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (engine, runtime) = (self.engine.clone(), Arc::clone(&self.runtime));
        // Who wants to hear of an error closes it before.
        let close = move || drop(runtime.wait(engine.close()));
        if outside().is_ok() {
            close();
        } else {
            // Whoever is being waited for here must not wait. Without a thread, the engine ends as it
            // does when its last clone is dropped.
            let _ = std::thread::Builder::new().name("palisade-close".to_owned()).spawn(close);
        }
    }
}

/// A runtime that may be dropped anywhere: one of tokio's panics where others run.
pub(super) struct OwnRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    pub(super) fn start() -> Result<Self, Error> {
        outside()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("palisade-blocking")
            .enable_all()
            .build()
            .map_err(|error| Error::InternalError {
                what: format!("could not start a runtime: {error}"),
            })?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn wait<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        outside()?;
        self.handle.block_on(work)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Nothing may wait on this thread if it is a runtime's: all that it runs would wait too, for ever if the
/// answer is among it. tokio would panic.
fn outside() -> Result<(), Error> {
    match Handle::try_current() {
        Err(_) if is_reader() => Err(Error::InvalidArgument {
            what: "a blocking call within a read: read what it needs before".to_owned(),
        }),
        Err(none) if none.is_missing_context() => Ok(()),
        Ok(_) => Err(Error::InvalidArgument {
            what: "a blocking call within a tokio runtime: use palisade::Engine there, which is \
                   asynchronous, or a thread that belongs to no runtime"
                .to_owned(),
        }),
        Err(_) => Err(Error::InvalidArgument {
            what: "a blocking call on a thread that is about to end".to_owned(),
        }),
    }
}
