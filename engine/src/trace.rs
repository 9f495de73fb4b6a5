//! Which trace a record is part of: what its caller said is stored in front of the command, and told at each
//! replica that has applied it. Nothing that is applied sees it (G8), nor is a command known by it (G6): one that is
//! sent again is a part of another span.
//!
//! ```text
//! context   version 1 byte (0), trace id 16, id of the caller's span 8, flags 1: 26 bytes
//! ```

use palisade_replication::{GroupId, Offset};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::codec::{DecodeError, Reader};
use crate::outcome::Outcome;

/// The only version of `traceparent` that there is.
const VERSION: u8 = 0;
/// The caller keeps his part of the trace.
const SAMPLED: u8 = 1;
/// Applied records that wait for whoever listens, at each of them.
const WAITING_MAX: usize = 1024;

/// A part of a trace, as W3C Trace Context names it.
///
/// From the `traceparent` of a request, and back:
///
/// ```
/// use palisade::TraceContext;
///
/// fn parse(header: &str) -> Option<TraceContext> {
///     let [_, trace, span, flags] = header.split('-').collect::<Vec<_>>()[..] else { return None };
///     let number = |hex: &str| u128::from_str_radix(hex, 16).ok();
///     let span = u64::from_str_radix(span, 16).ok()?.to_be_bytes();
///     TraceContext::new(number(trace)?.to_be_bytes(), span, u8::from_str_radix(flags, 16).ok()?)
/// }
///
/// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let context = parse(header).expect("it is one");
/// let (trace, span) = (context.trace_id(), context.span_id());
/// let (trace, span) = (u128::from_be_bytes(trace), u64::from_be_bytes(span));
/// assert_eq!(format!("00-{trace:032x}-{span:016x}-{:02x}", context.flags()), header);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// None for ids that are none: all zeros.
    ///
    /// ```
    /// let context = palisade::TraceContext::new([7; 16], [9; 8], 1).unwrap();
    /// assert!(context.is_sampled());
    /// assert_eq!(palisade::TraceContext::new([0; 16], [9; 8], 1), None);
    /// ```
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Option<Self> {
        let has_ids = trace_id != [0; 16] && span_id != [0; 8];
        has_ids.then_some(Self { trace_id, span_id, flags })
    }

    /// Of the whole trace.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// Of the caller's part of it.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// As the caller gave them.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether the caller keeps his part. Only then it is stored.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.trace_id);
        out.extend_from_slice(&self.span_id);
        out.push(self.flags);
    }

    /// One that is not kept would not have been stored.
    pub(crate) fn take(reader: &mut Reader) -> Result<Self, DecodeError> {
        let malformed = DecodeError { what: "trace context" };
        if reader.byte("trace context")? != VERSION {
            return Err(malformed);
        }
        let (trace_id, span_id) = (reader.array("trace id")?, reader.array("span id")?);
        let context = Self::new(trace_id, span_id, reader.byte("trace flags")?);
        context.filter(Self::is_sampled).ok_or(malformed)
    }
}

/// A record with a trace context that was applied at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TracedRecord {
    /// What its caller said.
    pub trace: TraceContext,
    /// The group that it is in.
    pub group: GroupId,
    /// Its place there.
    pub offset: Offset,
    /// What it came to there, the same at each replica: `done`, `refused`, or `duplicate` of a request or a
    /// command that was done before.
    pub outcome: &'static str,
}

impl TracedRecord {
    pub(crate) fn new(
        trace: TraceContext,
        group: GroupId,
        offset: Offset,
        outcome: &Outcome,
    ) -> Self {
        let outcome = match outcome {
            Outcome::Opened { .. }
            | Outcome::Claimed { .. }
            | Outcome::Altered { .. }
            | Outcome::Applied { .. }
            | Outcome::Registered { .. } => "done",
            Outcome::Duplicate(_) | Outcome::Repeated { .. } => "duplicate",
            Outcome::Unnumbered(_) | Outcome::Refused(_) => "refused",
        };
        Self { trace, group, offset, outcome }
    }
}

/// Where a replica tells of them, as long as it lives. Nobody need listen.
#[derive(Debug)]
pub(crate) struct AppliedTraces {
    sender: broadcast::Sender<TracedRecord>,
}

impl Default for AppliedTraces {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(WAITING_MAX) }
    }
}

impl AppliedTraces {
    /// Waits for nobody: who has fallen behind misses the oldest.
    pub(crate) fn tell(&self, record: TracedRecord) {
        let _ = self.sender.send(record);
    }

    pub(crate) fn listeners(&self) -> TraceListeners {
        TraceListeners { sender: self.sender.downgrade() }
    }
}

/// Where it is listened to; clones share it, and keep nothing alive.
#[derive(Clone, Debug)]
pub(crate) struct TraceListeners {
    sender: broadcast::WeakSender<TracedRecord>,
}

impl TraceListeners {
    /// From now on; of a replica that is gone there is nothing to hear.
    pub(crate) fn listen(&self) -> TracedRecords {
        let sender = self.sender.upgrade().unwrap_or_else(|| broadcast::Sender::new(1));
        TracedRecords { receiver: sender.subscribe() }
    }
}

/// Records with a trace context, as a replica applies them: see [`crate::Engine::traced_records`].
#[derive(Debug)]
#[must_use = "it tells nothing until it is asked"]
pub struct TracedRecords {
    receiver: broadcast::Receiver<TracedRecord>,
}

impl TracedRecords {
    /// The next one, or none once the engine is closed. Of those that find no room while nobody asks, the oldest
    /// are left out. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<TracedRecord> {
        loop {
            match self.receiver.recv().await {
                Ok(record) => return Some(record),
                Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "traced records"),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
pub(crate) fn any_trace() -> impl proptest::strategy::Strategy<Value = TraceContext> {
    use proptest::prelude::*;
    (any::<u128>(), any::<u64>(), any::<u8>()).prop_filter_map("no ids", |(trace, span, flags)| {
        TraceContext::new(trace.to_be_bytes(), span.to_be_bytes(), flags | SAMPLED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: u64) -> TracedRecord {
        let trace = TraceContext::new([1; 16], [2; 8], SAMPLED).unwrap();
        let outcome = Outcome::Registered { client: Offset::new(1) };
        TracedRecord::new(trace, GroupId::new(1), Offset::new(offset), &outcome)
    }

    /// G12.
    #[tokio::test]
    async fn who_falls_behind_misses_the_oldest_and_holds_nobody_up() {
        let traces = AppliedTraces::default();
        traces.tell(record(1));
        let listeners = traces.listeners();
        let mut listener = listeners.listen();
        for offset in 2..=(WAITING_MAX as u64 + 11) {
            traces.tell(record(offset));
        }
        assert_eq!(listener.next().await.unwrap().offset, Offset::new(12));
        drop(traces);
        for _ in 1..WAITING_MAX {
            listener.next().await.unwrap();
        }
        assert_eq!(listener.next().await, None);
        assert_eq!(listeners.listen().next().await, None);
    }

    #[test]
    fn what_is_not_kept_or_has_no_id_is_no_stored_context() {
        let kept = TraceContext::new([1; 16], [2; 8], 3).unwrap();
        let mut raw = Vec::new();
        kept.put(&mut raw);
        assert_eq!(raw.len(), 26);
        let read = |raw: &[u8]| TraceContext::take(&mut Reader::new(raw.to_vec().into()));
        assert_eq!(read(&raw), Ok(kept));
        assert!(read(&raw[..25]).is_err());
        let with = |at: std::ops::Range<usize>, byte| {
            let mut other = raw.clone();
            other[at].fill(byte);
            read(&other)
        };
        for (at, byte) in [(0..1, 1), (1..17, 0), (17..25, 0), (25..26, 2)] {
            assert!(with(at.clone(), byte).is_err(), "{at:?}");
        }
    }
}
