//! What answers take in memory, of all calls together: room is taken before a page of a stream is read, and
//! given back as the transport takes its bytes. `docs/grpc.md` has the bounds.
//!
//! - A call of a stream waits for room: first in the part of its caller, then in the node's, each in the order in
//!   which they came. A single answer does not wait, and is refused.
//! - Who does not read keeps his room for a while, and for as long as nobody else waits. Then what he has not
//!   taken is let go of, and his stream ends with a failure that says to read on.
//! - The transport has one part of an answer at a time. It alone cannot be taken from it again.

mod body;
mod layer;
mod room;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_proto::failure::{Code, Disposition, Failure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

pub(crate) use self::layer::Bounded;
use self::room::Answer;
pub(crate) use self::room::Room;
use super::connections::Peer;

/// What is taken for a page before it is read: one value, or 256 KiB of them, twice while they are written as a
/// message.
const PAGE_BYTES: usize = 1 << 20;
/// As much of an answer as the transport has at a time, and all of one that is counted as none.
const PART_BYTES: usize = 16 << 10;
/// How long who waits for room waits between two looks at who does not read.
const LOOK: Duration = Duration::from_millis(500);
/// When to come back who found no room.
const RETRY: Duration = Duration::from_secs(1);

/// What there may be at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of pages of streams: of the node, and of one caller.
    pub(crate) pages: (usize, usize),
    /// Bytes of single answers of more than 16 KiB: of the node, and of one caller.
    pub(crate) singles: (usize, usize),
    /// Calls under way: of the node, and of one caller.
    pub(crate) calls: (usize, usize),
    /// How long an answer may be left unread while somebody waits for its room.
    pub(crate) unread: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            pages: (32 << 20, 8 << 20),
            singles: (64 << 20, 16 << 20),
            calls: (4096, 1024),
            unread: Duration::from_secs(10),
        }
    }
}

/// Whose part it is: a name that was shown, or else one connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Nobody,
    Connection(SocketAddr),
    Named(String),
}

impl Holder {
    fn of(peer: Option<&Peer>) -> Self {
        let Some(peer) = peer else { return Self::Nobody };
        match &peer.identity {
            Some(identity) => Self::Named(identity.subject().to_string()),
            None => Self::Connection(peer.address),
        }
    }
}

/// Room of the node, or one caller's part of it.
#[derive(Debug)]
struct Part {
    pages: Arc<Semaphore>,
    singles: Arc<Semaphore>,
    /// When it was looked for who does not read.
    looked_at: Mutex<Option<Instant>>,
}

impl Part {
    fn new(pages: usize, singles: usize) -> Arc<Self> {
        let [pages, singles] = [pages, singles].map(|bytes| Arc::new(Semaphore::new(bytes)));
        Arc::new(Self { pages, singles, looked_at: Mutex::default() })
    }
}

/// Bytes that were taken, of a caller's part and of the node's.
#[derive(Debug)]
struct Taken {
    of_part: OwnedSemaphorePermit,
    of_node: OwnedSemaphorePermit,
}

impl Taken {
    fn bytes(&self) -> usize {
        self.of_node.num_permits()
    }

    /// Gives back what is above so many bytes.
    fn shrink(&mut self, bytes: usize) {
        let above = self.bytes().saturating_sub(bytes);
        drop((self.of_part.split(above), self.of_node.split(above)));
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Parts of callers, and how many calls of theirs are under way.
    parts: BTreeMap<Holder, (Arc<Part>, usize)>,
    calls: usize,
    /// Answers that wait to be taken, by the number of their call.
    unread: BTreeMap<u64, Arc<Answer>>,
    next: u64,
}

/// All answers of a node.
#[derive(Debug)]
pub(crate) struct Answers {
    bounds: Bounds,
    node: Arc<Part>,
    inner: Mutex<Inner>,
}

fn limited(why: &str, help: &str) -> Failure {
    let code = Code::RateLimited;
    Failure::new(code, code.as_str(), Disposition::Retry, why, help).after(RETRY)
}

fn not_read() -> Failure {
    let why = "the answer was not taken, and its room is needed by others";
    limited(why, "take what comes while it comes; read on from the last position that was told")
}

fn no_room() -> Failure {
    let why = "there is no room for so large an answer now";
    limited(why, "take the answers that are under way, or ask for less at once")
}

fn too_many(bounds: &Bounds) -> Failure {
    let (node, one) = bounds.calls;
    let why = format!("{one} calls of one caller, or {node} of this node, are under way");
    limited(&why, "nothing happened; end streams that are not needed, or ask another node")
}

impl Answers {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let node = Part::new(bounds.pages.0, bounds.singles.0);
        Self { bounds, node, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a call.
    fn begin(self: &Arc<Self>, peer: Option<&Peer>) -> Result<Arc<Answer>, Failure> {
        let holder = Holder::of(peer);
        let mut inner = self.lock();
        let (of_node, of_one) = self.bounds.calls;
        let under_way = inner.parts.get(&holder).map_or(0, |(_, calls)| *calls);
        if of_node <= inner.calls || of_one <= under_way {
            return Err(too_many(&self.bounds));
        }
        inner.calls += 1;
        inner.next += 1;
        let number = inner.next;
        let part = inner.parts.entry(holder.clone()).or_insert_with(|| {
            let (pages, singles) = (self.bounds.pages.1, self.bounds.singles.1);
            (Part::new(pages, singles), 0)
        });
        part.1 += 1;
        let part = Arc::clone(&part.0);
        drop(inner);
        Ok(Arc::new(Answer::new(Arc::clone(self), holder, part, number)))
    }

    /// A call is over.
    fn end(&self, holder: &Holder) {
        let mut inner = self.lock();
        inner.calls -= 1;
        if let Some((_, calls)) = inner.parts.get_mut(holder) {
            *calls -= 1;
            if *calls == 0 {
                inner.parts.remove(holder);
            }
        }
    }

    /// Room for a page, in its turn.
    async fn page(&self, part: &Arc<Part>) -> Taken {
        let of_part = self.wait(part, Some(part)).await;
        let of_node = self.wait(&self.node, None).await;
        Taken { of_part, of_node }
    }

    async fn wait(&self, room: &Part, of: Option<&Arc<Part>>) -> OwnedSemaphorePermit {
        let acquired = Arc::clone(&room.pages).acquire_many_owned(PAGE_BYTES as u32);
        let mut acquired = std::pin::pin!(acquired);
        loop {
            tokio::select! {
                biased;
                taken = &mut acquired => return taken.expect("nobody closes it"),
                () = sleep(LOOK) => self.end_unread(of),
            }
        }
    }

    /// Room for a single answer, if there is some.
    fn single(&self, part: &Arc<Part>, bytes: usize) -> Option<Taken> {
        let bytes = u32::try_from(bytes).ok()?;
        let of = |room: &Part| Arc::clone(&room.singles).try_acquire_many_owned(bytes).ok();
        let or_look = |room: &Part, whose| {
            of(room).or_else(|| {
                self.end_unread(whose);
                of(room)
            })
        };
        let of_part = or_look(part, Some(part))?;
        let of_node = or_look(&self.node, None)?;
        Some(Taken { of_part, of_node })
    }

    /// Ends answers that nobody takes, of a caller or of all. Not at every wish: there may be many who wait.
    fn end_unread(&self, of: Option<&Arc<Part>>) {
        let now = Instant::now();
        let part = of.unwrap_or(&self.node);
        let mut looked_at = part.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        if looked_at.is_some_and(|at| now < at + LOOK) {
            return;
        }
        *looked_at = Some(now);
        drop(looked_at);
        let unread: Vec<Arc<Answer>> = {
            let inner = self.lock();
            let of_it = inner.unread.values().filter(|one| of.is_none_or(|of| one.is_of(of)));
            of_it.cloned().collect()
        };
        for answer in unread {
            answer.end_if_unread(now, self.bounds.unread);
        }
    }
}

#[cfg(test)]
mod tests;
