//! The thread that owns a node's shelf in production: it receives and serves chunks, and exports on
//! a thread beside it, so that a long export holds up nobody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use palisade_wal::GroupId;

use crate::driver::Event;
use crate::effects::{Input, ShelfEffect};
use crate::identity::NodeId;
use crate::inbox::Inbox;
use crate::shelf::Shelf;
use crate::state_machine::{ApplyError, Export, Exporter, TakeChunk};
use crate::wire::{Body, Envelope};

/// Work on snapshots of one group.
#[derive(Debug)]
pub(crate) struct ShelfJob {
    pub(crate) group: GroupId,
    pub(crate) work: ShelfEffect,
}

pub(crate) struct Keeper<O> {
    pub(crate) node: NodeId,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) exporter: Exporter,
    pub(crate) jobs: mpsc::Receiver<ShelfJob>,
    pub(crate) inbox: Inbox<Event<O>>,
    /// How fast state is exported, in each group.
    pub(crate) bytes_per_second: u64,
}

/// An export that leaves the processor and the disk to others in between, and ends with its node.
struct Paced {
    export: Box<dyn Export>,
    bytes_per_second: u64,
    stops: Arc<AtomicBool>,
}

/// How long to rest after so many bytes.
fn pause(bytes: usize, per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second as f64)
}

impl Export for Paced {
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own, and nobody rings when it may go on"
    )]
    fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
        let (per_second, stops) = (self.bytes_per_second, Arc::clone(&self.stops));
        self.export.run(&mut |position, chunk| {
            if stops.load(Ordering::Relaxed) {
                // However much is left of it: closing the node waits for this thread.
                return Err(ApplyError { what: "the node stops".to_owned(), source: None });
            }
            let bytes = chunk.len();
            take(position, chunk)?;
            std::thread::sleep(pause(bytes, per_second));
            Ok(())
        })
    }
}

impl<O: Send + 'static> Keeper<O> {
    /// Works until the replica thread ends.
    pub(crate) fn run(self) {
        let (mut exports, stops) = (Vec::new(), Arc::new(AtomicBool::new(false)));
        while let Ok(ShelfJob { group, work }) = self.jobs.recv() {
            match work {
                ShelfEffect::Export => exports.extend(self.export(group, &stops)),
                ShelfEffect::Serve { to, snapshot, chunk } => {
                    if let Some(bytes) = self.shelf.serve(group, snapshot, chunk) {
                        let body = Body::Chunk { snapshot, chunk, bytes };
                        let envelope = Envelope { group, from: self.node, to, body };
                        self.inbox.report(Event::Send(envelope));
                    }
                }
                ShelfEffect::Begin { manifest } => match self.shelf.begin(&manifest) {
                    Ok(missing) => {
                        self.report(group, Input::Begun { snapshot: manifest.id(), missing });
                    }
                    // Without an answer the transfer is given up and begun again.
                    Err(error) => tracing::warn!(%group, %error, "no room for a snapshot"),
                },
                ShelfEffect::Store { manifest, chunk, bytes } => {
                    let held = self.shelf.store(&manifest, chunk, &bytes).unwrap_or_else(|error| {
                        tracing::warn!(%group, %error, "could not keep a chunk of a snapshot");
                        false
                    });
                    self.report(group, Input::Stored { snapshot: manifest.id(), chunk, held });
                }
            }
        }
        stops.store(true, Ordering::Relaxed);
        for export in exports {
            // It reports itself.
            let _ = export.join();
        }
    }

    fn report(&self, group: GroupId, input: Input) {
        self.inbox.report(Event::Shelf { group, input });
    }

    fn export(
        &self,
        group: GroupId,
        stops: &Arc<AtomicBool>,
    ) -> Option<std::thread::JoinHandle<()>> {
        let stops = Arc::clone(stops);
        let (exporter, bytes_per_second) = (Arc::clone(&self.exporter), self.bytes_per_second);
        let (shelf, inbox) = (Arc::clone(&self.shelf), self.inbox.clone());
        let spawned =
            std::thread::Builder::new().name("palisade-export".to_owned()).spawn(move || {
                // The replica waits for an answer, and holds its log until then.
                let export = || {
                    let mut paced = Paced { export: exporter(group), bytes_per_second, stops };
                    shelf.export(group, &mut paced)
                };
                let manifest = match catch_unwind(AssertUnwindSafe(export)) {
                    Ok(Ok(manifest)) => Some(manifest),
                    Err(_) => None,
                    Ok(Err(error)) => {
                        tracing::warn!(%group, %error, "could not export a snapshot");
                        None
                    }
                };
                inbox.report(Event::Shelf { group, input: Input::Exported(manifest) });
            });
        spawned.map_err(|_| self.report(group, Input::Exported(None))).ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::AppliedPosition;

    #[test]
    fn a_second_of_pauses_lets_no_more_through_than_its_bytes() {
        let pauses: Duration = (0..32).map(|_| pause(1 << 20, 32 << 20)).sum();
        assert_eq!(pauses, Duration::from_secs(1));
        assert_eq!(pause(0, 1), Duration::ZERO);
    }

    struct TenChunks;

    impl Export for TenChunks {
        fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
            (0..10).try_for_each(|_| take(AppliedPosition::ZERO, Bytes::new()))
        }
    }

    #[test]
    fn an_export_ends_with_its_node() {
        let stops = Arc::new(AtomicBool::new(false));
        let (export, ends) = (Box::new(TenChunks), Arc::clone(&stops));
        let mut paced = Paced { export, bytes_per_second: 1, stops: ends };
        let mut taken = 0;
        let ended = paced.run(&mut |_, _| {
            taken += 1;
            stops.store(taken == 3, Ordering::Relaxed);
            Ok(())
        });
        assert!(ended.is_err());
        assert_eq!(taken, 3);
    }
}
