//! Linearizable reads: one barrier at a time serves every read that waited for it.
//!
//! A barrier asks the leader for its commit index, confirmed by a quorum after it was asked
//! (ReadIndex, section 6.4 of the Raft thesis). Reads that arrive while one is under way wait for
//! the next, so each read is served by a barrier that began after it did.

use palisade_wal::LogIndex;

/// What the driver calls one read.
pub(crate) type ReadToken = u64;

/// How long the name of a barrier is.
pub(crate) const CONTEXT_BYTES: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Reads {
    session: u64,
    waiting: Vec<ReadToken>,
    barrier: Option<Barrier>,
    number: u64,
}

#[derive(Debug)]
struct Barrier {
    number: u64,
    tick: u64,
    tokens: Vec<ReadToken>,
}

impl Reads {
    pub(crate) fn new(session: u64) -> Self {
        Self { session, ..Self::default() }
    }

    pub(crate) fn accept(&mut self, token: ReadToken) {
        self.waiting.push(token);
    }

    pub(crate) fn count(&self) -> usize {
        self.waiting.len() + self.barrier.as_ref().map_or(0, |barrier| barrier.tokens.len())
    }

    /// Every read that waits.
    pub(crate) fn give_up(&mut self) -> Vec<ReadToken> {
        let asked = self.barrier.take().map(|barrier| barrier.tokens).unwrap_or_default();
        std::mem::take(&mut self.waiting).into_iter().chain(asked).collect()
    }

    /// The context of a barrier to ask for now, if reads wait and none is under way.
    pub(crate) fn start(&mut self, tick: u64) -> Option<Vec<u8>> {
        if self.barrier.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.number += 1;
        let tokens = std::mem::take(&mut self.waiting);
        self.barrier = Some(Barrier { number: self.number, tick, tokens });
        Some(self.context(self.number))
    }

    /// A barrier asked for before `tick_end` has been lost on its way: its reads wait again.
    pub(crate) fn restart(&mut self, tick_end: u64) {
        if let Some(barrier) = self.barrier.take_if(|barrier| barrier.tick < tick_end) {
            self.waiting.extend(barrier.tokens);
        }
    }

    /// The barrier of this context stands at `index`. Answers to older ones are ignored.
    pub(crate) fn confirmed(
        &mut self,
        context: &[u8],
        index: LogIndex,
    ) -> Option<(Vec<ReadToken>, LogIndex)> {
        let expected = self.barrier.as_ref()?.number;
        if context != self.context(expected) {
            return None;
        }
        self.barrier.take().map(|barrier| (barrier.tokens, index))
    }

    /// Unique over nodes and over the lives of one node.
    fn context(&self, number: u64) -> Vec<u8> {
        let mut context = Vec::with_capacity(CONTEXT_BYTES);
        context.extend_from_slice(&self.session.to_le_bytes());
        context.extend_from_slice(&number.to_le_bytes());
        context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_never_served_by_a_barrier_that_began_before_it() {
        let mut reads = Reads::new(9);
        reads.accept(1);
        let first = reads.start(0).unwrap();
        reads.accept(2);
        assert!(reads.start(0).is_none(), "one at a time");
        assert_eq!(reads.confirmed(&first, LogIndex::new(5)).unwrap().0, [1]);
        let second = reads.start(0).unwrap();
        assert!(reads.confirmed(&first, LogIndex::new(5)).is_none());
        assert_eq!(reads.confirmed(&second, LogIndex::new(6)).unwrap().0, [2]);
    }

    #[test]
    fn a_lost_barrier_is_asked_for_again_under_a_new_name() {
        let mut reads = Reads::new(9);
        reads.accept(1);
        let lost = reads.start(3).unwrap();
        reads.restart(3);
        assert!(reads.start(3).is_none(), "not yet");
        reads.restart(4);
        let again = reads.start(4).unwrap();
        assert_ne!(lost, again);
        assert_eq!(reads.count(), 1);
    }
}
