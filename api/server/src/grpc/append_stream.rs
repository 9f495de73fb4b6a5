//! A stream of appends: messages that arrive while a write is under way share the next record.
//!
//! One record at a time is under way for each stream. So its messages take effect in the order in which they
//! came, however the group's leader changes; and whoever sends faster than the group writes is held up by the
//! stream's own flow control.

use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt, stream};
use palisade::{APPEND_ENTRIES_MAX, Error, FailureDomain, Freshness, VALUE_BYTES_MAX};
use palisade_proto::log::v1::{AppendStreamRequest, AppendStreamResponse};
use tonic::{Status, Streaming};

use super::convert::{self, Raw, domain, of_position};
use super::endpoint::{Call, Endpoint, refused};
use super::failure::invalid;
use super::handles::{Log, Use};
use crate::observe::{current_trace, note_place};
use crate::security::grants::Right;

/// What an entry counts with beside its bytes, in the bound of a record.
const ENTRY_BYTES: usize = 3;

/// A log that a stream has named.
struct Opened {
    name: String,
    log: Log,
    caller: Option<FailureDomain>,
}

struct Appending {
    endpoint: Endpoint,
    call: Arc<Call>,
    requests: Streaming<AppendStreamRequest>,
    opened: Option<Opened>,
    /// What came and was not taken into the record before.
    held: Option<Result<AppendStreamRequest, Status>>,
    /// Where the last record took effect.
    place: Option<Freshness>,
}

/// Messages that go into one record.
#[derive(Default)]
struct Gathered {
    messages: u32,
    values: Vec<Raw>,
    bytes: usize,
}

fn bytes(message: &AppendStreamRequest) -> usize {
    message.values.iter().map(|value| value.len() + ENTRY_BYTES).sum()
}

impl Gathered {
    fn has_room(&self, message: &AppendStreamRequest) -> bool {
        !message.values.is_empty()
            && self.values.len() + message.values.len() <= APPEND_ENTRIES_MAX
            && self.bytes + bytes(message) <= VALUE_BYTES_MAX
    }

    fn take(&mut self, message: AppendStreamRequest) {
        self.bytes += bytes(&message);
        self.messages += 1;
        self.values.extend(message.values.into_iter().map(Raw::new));
    }
}

impl Appending {
    /// The first message opens the log, and may have values.
    async fn open(&mut self) -> Result<Option<String>, Status> {
        let Some(first) = self.requests.next().await else { return Ok(None) };
        let mut first = first?;
        let Some(log) = first.log.take() else {
            return Err(refused(invalid("the first message of a stream names its log")));
        };
        self.endpoint.allow_use(&self.call, Right::Append, &log)?;
        let opened = self.endpoint.handles.open(Some(&log), "log", Use::Write).await;
        let opened = opened.map_err(refused)?;
        let caller = log.caller.as_ref().map(domain);
        self.opened = Some(Opened { name: log.name.clone(), log: opened, caller });
        self.held = (!first.values.is_empty()).then_some(Ok(first));
        Ok(Some(log.name))
    }

    /// The next message.
    async fn next(&mut self) -> Result<Option<AppendStreamRequest>, Status> {
        let message = match self.held.take() {
            Some(held) => held,
            None => match self.requests.next().await {
                Some(message) => message,
                None => return Ok(None),
            },
        }?;
        if message.log.is_some() {
            return Err(refused(invalid("only the first message of a stream names a log")));
        }
        if message.values.is_empty() {
            return Err(refused(invalid("a message of a stream has values")));
        }
        Ok(Some(message))
    }

    /// Whatever has arrived and fits into one record, waiting for the first alone.
    async fn gather(&mut self) -> Result<Option<Gathered>, Status> {
        let Some(first) = self.next().await? else { return Ok(None) };
        let mut gathered = Gathered::default();
        // Alone it may be too large for any record: the engine says so.
        gathered.take(first);
        while let Some(Some(message)) = self.requests.next().now_or_never() {
            match message {
                Ok(message) if message.log.is_none() && gathered.has_room(&message) => {
                    gathered.take(message);
                }
                // What is wrong with it is told once those before it are answered.
                message => {
                    self.held = Some(message);
                    break;
                }
            }
        }
        Ok(Some(gathered))
    }

    async fn append(&mut self, gathered: &Gathered) -> Result<AppendStreamResponse, Error> {
        let Some(Opened { log, caller, .. }) = &self.opened else {
            return Err(invalid("the first message of a stream names its log"));
        };
        let mut batch = self.endpoint.engine.batch();
        if let Some(caller) = caller {
            batch = batch.caller(caller.clone());
        }
        if let Some(trace) = current_trace() {
            batch = batch.traced(trace);
        }
        let done = batch.append_all(log, &gathered.values).commit().await?;
        self.place = Some(done.receipt.freshness());
        let first = done.outcomes.first().and_then(palisade::OpOutcome::appended);
        Ok(AppendStreamResponse {
            messages: gathered.messages,
            receipt: Some(convert::receipt(done.receipt)),
            first: first.map(of_position),
            values: gathered.values.len() as u32,
        })
    }

    /// Judged before each record, and while none comes. A record that is under way is answered first.
    async fn step(&mut self) -> Result<Option<AppendStreamResponse>, Status> {
        let (endpoint, call) = (self.endpoint.clone(), Arc::clone(&self.call));
        let opened = self.opened.as_ref().map(|opened| opened.name.clone());
        let name = match opened {
            Some(name) => name,
            None => match self.open().await? {
                Some(name) => name,
                None => return Ok(None),
            },
        };
        let gathered = tokio::select! {
            biased;
            status = endpoint.refused(&call, Right::Append, &name) => return Err(status),
            gathered = self.gather() => gathered?,
        };
        let Some(gathered) = gathered else { return Ok(None) };
        self.append(&gathered).await.map(Some).map_err(refused)
    }
}

/// Answers a stream of appends until it ends, or one of them is refused.
pub(crate) fn begin(
    endpoint: Endpoint,
    call: Call,
    requests: Streaming<AppendStreamRequest>,
) -> impl Stream<Item = Result<AppendStreamResponse, Status>> + Send {
    let call = Arc::new(call);
    let appending = Appending { endpoint, call, requests, opened: None, held: None, place: None };
    stream::unfold(Some(appending), |appending| async {
        let mut appending = appending?;
        let step = appending.step().await;
        if !matches!(step, Ok(Some(_))) {
            // Once for all records: a span keeps whatever is noted in it.
            note_place(|| appending.place);
        }
        match step {
            Ok(Some(answer)) => Some((Ok(answer), Some(appending))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })
}
