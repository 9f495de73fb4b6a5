//! The thread that owns a node's shelf in production: it receives and serves chunks, and exports on
//! a thread beside it, so that a long export holds up nobody.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use palisade_wal::{GroupId, guarded};

use crate::driver::Event;
use crate::effects::{Input, ShelfEffect};
use crate::identity::NodeId;
use crate::inbox::Inbox;
use crate::load::Load;
use crate::shelf::Shelf;
use crate::state_machine::{ApplyError, Export, Exporter, TakeChunk};
use crate::wire::{Body, Envelope};

/// What every job costs beside what it carries.
const JOB_BYTES: usize = 1024;

/// Work on snapshots of one group.
#[derive(Debug)]
pub(crate) struct ShelfJob {
    group: GroupId,
    work: ShelfEffect,
    bytes: usize,
}

/// The way to the keeper, bounded in bytes.
pub(crate) struct ShelfQueue {
    sender: mpsc::Sender<ShelfJob>,
    load: Arc<Load>,
}

/// The keeper's end of it.
pub(crate) struct ShelfJobs {
    receiver: mpsc::Receiver<ShelfJob>,
    load: Arc<Load>,
}

pub(crate) fn channel(bytes_max: usize) -> (ShelfQueue, ShelfJobs) {
    let (sender, receiver) = mpsc::channel();
    let load = Arc::new(Load::new(bytes_max));
    (ShelfQueue { sender, load: Arc::clone(&load) }, ShelfJobs { receiver, load })
}

impl ShelfQueue {
    /// How much is in it.
    pub(crate) fn load(&self) -> Arc<Load> {
        Arc::clone(&self.load)
    }

    /// Hands work over. If there is no room for it: what its replica is to hear instead.
    pub(crate) fn offer(&self, group: GroupId, work: ShelfEffect) -> Option<Input> {
        let bytes = JOB_BYTES
            + match &work {
                ShelfEffect::Export | ShelfEffect::Serve { .. } => 0,
                ShelfEffect::Begin { manifest } => manifest.encoded_bytes(),
                ShelfEffect::Store { manifest, bytes, .. } => {
                    manifest.encoded_bytes() + bytes.len()
                }
            };
        if !self.load.take(bytes) {
            return refused(work);
        }
        // The keeper only ends before the replica thread when it failed, which it has reported.
        let _ = self.sender.send(ShelfJob { group, work, bytes });
        None
    }
}

/// Nothing was done: what to tell whoever waits for it.
fn refused(work: ShelfEffect) -> Option<Input> {
    match work {
        ShelfEffect::Export => Some(Input::Exported(None)),
        // Whoever wants the chunk asks again.
        ShelfEffect::Serve { .. } => None,
        ShelfEffect::Begin { manifest } => {
            Some(Input::Begun { snapshot: manifest.id(), missing: None })
        }
        ShelfEffect::Store { manifest, chunk, .. } => {
            Some(Input::Stored { snapshot: manifest.id(), chunk, held: false })
        }
    }
}

pub(crate) struct Keeper<O> {
    pub(crate) node: NodeId,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) exporter: Exporter,
    pub(crate) jobs: ShelfJobs,
    pub(crate) inbox: Inbox<Event<O>>,
    /// How fast state is exported, in each group.
    pub(crate) bytes_per_second: u64,
}

/// An export that leaves the processor and the disk to others in between.
struct Paced {
    export: Box<dyn Export>,
    bytes_per_second: u64,
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
        let per_second = self.bytes_per_second;
        self.export.run(&mut |position, chunk| {
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
        let mut exports: Vec<std::thread::JoinHandle<()>> = Vec::new();
        while let Ok(ShelfJob { group, work, bytes }) = self.jobs.receiver.recv() {
            exports.retain(|export| !export.is_finished());
            exports.extend(self.take(group, work));
            self.jobs.load.give(bytes);
        }
        // Nobody waits for them any more: each ends with its next chunk.
        self.shelf.close();
        for export in exports {
            // It reports itself.
            let _ = export.join();
        }
    }

    fn take(&self, group: GroupId, work: ShelfEffect) -> Option<std::thread::JoinHandle<()>> {
        match work {
            ShelfEffect::Export => return self.export(group),
            ShelfEffect::Serve { to, snapshot, chunk } => {
                if let Some(bytes) = self.shelf.serve(group, snapshot, chunk) {
                    let body = Body::Chunk { snapshot, chunk, bytes };
                    let envelope = Envelope { group, from: self.node, to, body };
                    // Dropped if the node is that busy: whoever wants it asks again.
                    self.inbox.offer(envelope.encoded_bytes(), Event::Send(envelope));
                }
            }
            ShelfEffect::Begin { manifest } => {
                let missing = self.shelf.begin(&manifest).inspect_err(|error| {
                    tracing::warn!(%group, %error, "no room for a snapshot");
                });
                let (snapshot, missing) = (manifest.id(), missing.ok());
                self.report(group, Input::Begun { snapshot, missing });
            }
            ShelfEffect::Store { manifest, chunk, bytes } => {
                let held = self.shelf.store(&manifest, chunk, &bytes).unwrap_or_else(|error| {
                    tracing::warn!(%group, %error, "could not keep a chunk of a snapshot");
                    false
                });
                self.report(group, Input::Stored { snapshot: manifest.id(), chunk, held });
            }
        }
        None
    }

    fn report(&self, group: GroupId, input: Input) {
        self.inbox.report(Event::Shelf { group, input });
    }

    fn export(&self, group: GroupId) -> Option<std::thread::JoinHandle<()>> {
        let (exporter, bytes_per_second) = (Arc::clone(&self.exporter), self.bytes_per_second);
        let (shelf, inbox) = (Arc::clone(&self.shelf), self.inbox.clone());
        let spawned =
            std::thread::Builder::new().name("palisade-export".to_owned()).spawn(move || {
                // The replica waits for an answer, and holds its log until then.
                let export = || {
                    let mut paced = Paced { export: exporter(group), bytes_per_second };
                    shelf.export(group, &mut paced)
                };
                let manifest = match guarded(export) {
                    Ok(Ok(manifest)) => Some(manifest),
                    Err(what) => {
                        tracing::error!(%group, what, "a snapshot could not be exported: it panicked");
                        None
                    }
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

#[cfg(all(test, not(palisade_loom)))]
mod tests {
    use bytes::Bytes;
    use palisade_wal::sim::SimDisk;
    use palisade_wal::{Keys, LogIndex, WalIdentity};

    use super::*;
    use crate::entry::AppliedPosition;
    use crate::inbox;
    use crate::snapshot::{ChunkSum, Manifest, SnapshotId};
    use crate::state_machine::{ApplyError, Export, TakeChunk};

    const GROUP: GroupId = GroupId::new(1);
    const CHUNKS: u64 = 20_000;

    fn manifest() -> Manifest {
        let position = AppliedPosition { index: LogIndex::new(7), ..AppliedPosition::GENESIS };
        Manifest { group: GROUP, position, chunks: vec![ChunkSum::of(b"one")] }
    }

    /// G12: a peer that asks without end, or offers snapshot after snapshot, fills no memory.
    #[test]
    fn work_that_finds_no_room_is_answered_and_not_queued() {
        let serve =
            || ShelfEffect::Serve { to: NodeId::new(2), snapshot: SnapshotId([0; 16]), chunk: 0 };
        let (queue, jobs) = channel(2 * JOB_BYTES);
        assert!(queue.offer(GROUP, serve()).is_none());
        assert!(queue.offer(GROUP, serve()).is_none());
        assert!(queue.offer(GROUP, serve()).is_none(), "dropped: whoever wants it asks again");
        let manifest = manifest();
        let id = manifest.id();
        let begin = ShelfEffect::Begin { manifest: manifest.clone() };
        assert!(matches!(
            queue.offer(GROUP, begin),
            Some(Input::Begun { snapshot, missing: None }) if snapshot == id
        ));
        let store = ShelfEffect::Store { manifest, chunk: 0, bytes: Bytes::from_static(b"one") };
        assert!(matches!(
            queue.offer(GROUP, store),
            Some(Input::Stored { snapshot, chunk: 0, held: false }) if snapshot == id
        ));
        assert!(matches!(queue.offer(GROUP, ShelfEffect::Export), Some(Input::Exported(None))));
        assert_eq!(jobs.receiver.try_iter().count(), 2);
    }

    /// Chunk after chunk, for far longer than anyone would wait.
    struct Long(mpsc::Sender<()>);

    impl Export for Long {
        fn run(&mut self, take: &mut TakeChunk<'_>) -> Result<(), ApplyError> {
            for at in 0..CHUNKS {
                take(AppliedPosition::GENESIS, Bytes::copy_from_slice(&at.to_le_bytes()))?;
                // Once it is under way, the node may close.
                let _ = self.0.send(());
            }
            Ok(())
        }
    }

    #[test]
    fn closing_does_not_wait_for_an_export() {
        let owner = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
        let shelf = Shelf::open(Arc::new(SimDisk::from_seed(1)), Keys::none(), owner).unwrap();
        let (began, under_way) = mpsc::channel();
        let (queue, jobs) = channel(1 << 20);
        let (inbox, outbox) = inbox::channel::<Event<()>>(1 << 20);
        let exporter: Exporter = Arc::new(move |_| Box::new(Long(began.clone())));
        let keeper = Keeper {
            node: NodeId::new(1),
            shelf: Arc::new(shelf),
            exporter,
            jobs,
            inbox,
            bytes_per_second: 1 << 30,
        };
        let keeper =
            std::thread::Builder::new().name("keeper".into()).spawn(move || keeper.run()).unwrap();
        assert!(queue.offer(GROUP, ShelfEffect::Export).is_none());
        under_way.recv().unwrap();
        drop(queue);
        keeper.join().unwrap();
        let written = 1 + under_way.try_iter().count() as u64;
        assert!(written < CHUNKS, "it wrote all of it first");
        let told = outbox.take().expect("the replica is told");
        assert!(matches!(told, Event::Shelf { input: Input::Exported(None), .. }), "{told:?}");
    }

    #[test]
    fn a_second_of_pauses_lets_no_more_through_than_its_bytes() {
        let pauses: Duration = (0..32).map(|_| pause(1 << 20, 32 << 20)).sum();
        assert_eq!(pauses, Duration::from_secs(1));
        assert_eq!(pause(0, 1), Duration::ZERO);
    }
}
