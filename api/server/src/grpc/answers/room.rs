//! One call's answer: what of it is held here, and what the transport has of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use palisade_proto::failure::Failure;
use tokio::time::Instant;

use super::{Answers, Holder, PAGE_BYTES, PART_BYTES, Part, Taken, no_room, not_read};

#[derive(Debug, Default)]
struct State {
    /// What is written as messages and was not given to the transport.
    rest: Bytes,
    /// Room for a page of a stream, and for what is in `rest` of it.
    page: Option<Taken>,
    /// Whether more was read than was told.
    keeps: bool,
    /// Room for what is above that.
    single: Option<Taken>,
    /// Bytes that the transport has.
    given: usize,
    /// Who waits until it has taken them.
    waker: Option<Waker>,
    /// When the transport took something, or there was nothing to take.
    taken_at: Option<Instant>,
    ended: bool,
}

/// The answer of one call.
#[derive(Debug)]
pub(super) struct Answer {
    answers: Arc<Answers>,
    holder: Holder,
    part: Arc<Part>,
    number: u64,
    state: Mutex<State>,
}

/// A part of an answer while the transport has it.
struct Given {
    bytes: Bytes,
    answer: Arc<Answer>,
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let mut state = self.answer.lock();
        state.given -= self.bytes.len();
        state.taken_at = Some(Instant::now());
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Answer {
    pub(super) fn new(answers: Arc<Answers>, holder: Holder, part: Arc<Part>, number: u64) -> Self {
        Self { answers, holder, part, number, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_of(&self, part: &Arc<Part>) -> bool {
        Arc::ptr_eq(&self.part, part)
    }

    /// Takes in what was written: as much as there is room for, or it is all over.
    pub(super) fn put(self: &Arc<Self>, bytes: Bytes) -> Result<(), Failure> {
        let mut state = self.lock();
        let has = state.page.as_ref().map_or(0, Taken::bytes);
        let above = bytes.len().saturating_sub(has);
        if above > 0 && PART_BYTES < bytes.len() {
            drop(state);
            let single = self.answers.single(&self.part, above).ok_or_else(no_room)?;
            state = self.lock();
            state.single = Some(single);
        }
        if let (false, Some(page)) = (state.keeps, &mut state.page) {
            page.shrink(bytes.len());
        }
        state.rest = bytes;
        state.taken_at = Some(Instant::now());
        let has_room = state.has_room();
        drop(state);
        if has_room {
            self.answers.lock().unread.insert(self.number, Arc::clone(self));
        }
        Ok(())
    }

    /// The next part for the transport, once it has taken the one before; none if all is given.
    pub(super) fn give(
        self: &Arc<Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        let mut state = self.lock();
        if state.ended {
            return Poll::Ready(Some(Err(not_read())));
        }
        let next = state.rest.len().min(PART_BYTES);
        if next == 0 {
            return Poll::Ready(None);
        }
        if PART_BYTES < state.given + next {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        // Its own bytes, so that the rest can be let go of.
        let bytes = match next < state.rest.len() {
            true => Bytes::copy_from_slice(&state.rest[..next]),
            false => Bytes::copy_from_slice(&std::mem::take(&mut state.rest)),
        };
        if !state.rest.is_empty() {
            state.rest.advance(next);
        }
        state.given += next;
        state.taken_at = Some(Instant::now());
        if state.rest.is_empty() && state.has_room() {
            state.give_back();
            drop(state);
            self.answers.lock().unread.remove(&self.number);
        } else {
            drop(state);
        }
        let given = Given { bytes, answer: Arc::clone(self) };
        Poll::Ready(Some(Ok(Bytes::from_owner(given))))
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.rest.is_empty() && !state.ended
    }

    /// Lets go of all of it, if nobody has taken anything for so long.
    pub(super) fn end_if_unread(&self, now: Instant, unread: Duration) {
        let mut state = self.lock();
        let since = state.taken_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if state.rest.is_empty() || since < unread {
            return;
        }
        state.ended = true;
        self.let_go(state);
    }

    /// Nobody waits for it any more.
    pub(super) fn close(&self) {
        self.let_go(self.lock());
    }

    fn let_go(&self, mut state: MutexGuard<'_, State>) {
        state.rest = Bytes::new();
        state.keeps = false;
        state.give_back();
        let waker = state.waker.take();
        drop(state);
        self.answers.lock().unread.remove(&self.number);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    /// Whether others might wait for what it has.
    fn has_room(&self) -> bool {
        self.page.is_some() || self.single.is_some()
    }

    fn give_back(&mut self) {
        self.single = None;
        if !self.keeps {
            self.page = None;
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.answers.end(&self.holder);
    }
}

/// Room for the pages of a call that is answered with a stream. A call that came in no other way than by our own
/// hand has all that it wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Option<Arc<Answer>>);

impl Room {
    pub(super) fn of(answer: &Arc<Answer>) -> Self {
        Self(Some(Arc::clone(answer)))
    }

    /// Waits for room for a page, unless it is there.
    pub(crate) async fn take(&self) {
        let Some(answer) = &self.0 else { return };
        let has = answer.lock().page.as_ref().map_or(0, Taken::bytes);
        if has < PAGE_BYTES {
            // What it has is given back first: who holds some and waits for more may wait for ever.
            answer.lock().page = None;
            let page = answer.answers.page(&answer.part).await;
            answer.lock().page = Some(page);
        }
    }

    /// Whether it is kept beyond the next message: more was read than that says.
    pub(crate) fn keep(&self, keeps: bool) {
        if let Some(answer) = &self.0 {
            answer.lock().keeps = keeps;
        }
    }

    /// Nothing was read.
    pub(crate) fn give_back(&self) {
        if let Some(answer) = &self.0 {
            answer.lock().page = None;
        }
    }
}
