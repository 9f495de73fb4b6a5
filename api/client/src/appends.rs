//! A stream of appends: many under way, answered in their order.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::unfold;
use palisade_proto::MESSAGE_BYTES_MAX;
use palisade_proto::log::v1 as proto;
use palisade_proto::log::v1::log_client::LogClient;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::error::Error;
use crate::log::{Appended, Log};
use crate::resource::receipt;
use crate::stored::Stored;

/// Messages that wait for the connection.
const WAITING_MAX: usize = 64;

/// A stream of appends to a log: see [`Log::appends`]. They take effect in the order in which they are sent.
/// They are not numbered, so a stream that ends early may leave a record behind that nobody has heard of.
pub struct Appends<T> {
    log: Log<T>,
    send: mpsc::Sender<proto::AppendStreamRequest>,
    answers: Streaming<proto::AppendStreamResponse>,
    /// How many values each message has that was not answered.
    under_way: VecDeque<u32>,
    /// An answer for so many messages more.
    answered: Option<(proto::AppendStreamResponse, u32)>,
}

impl<T: Stored> Log<T> {
    /// Begins a stream of appends at the node that serves.
    ///
    /// # Errors
    /// What the node says, or `DISCONNECTED` if it was not reached.
    pub async fn appends(&self) -> Result<Appends<T>, Error> {
        let (send, messages) = mpsc::channel(WAITING_MAX);
        let first =
            proto::AppendStreamRequest { log: Some(self.named().resource()), values: Vec::new() };
        let messages = unfold((Some(first), messages), |(first, mut messages)| async {
            match first {
                Some(first) => Some((first, (None, messages))),
                None => messages.recv().await.map(|message| (message, (None, messages))),
            }
        });
        let client = &self.named().client;
        let channel = client.leader_of(self.named().group().await?).await;
        let request = client.request(()).map(|()| messages);
        let answers = LogClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .append_stream(request)
            .await
            .map_err(|status| Error::of(&status, false))?
            .into_inner();
        let under_way = VecDeque::new();
        Ok(Appends { log: self.clone(), send, answers, under_way, answered: None })
    }
}

impl<T: Stored> Appends<T> {
    /// How many messages were sent and not answered.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Sends values, all in one record; waits while the node has enough.
    ///
    /// # Errors
    /// `DISCONNECTED` once the stream has ended: [`Appends::next`] says why.
    pub async fn send(&mut self, values: &[T]) -> Result<(), Error> {
        let values: Vec<Bytes> = values.iter().map(Stored::to_bytes).collect();
        let count = values.len() as u32;
        let message = proto::AppendStreamRequest { log: None, values };
        let sent = self.send.send(message).await;
        sent.map_err(|_| Error::unreached("the stream of appends has ended", false))?;
        self.under_way.push_back(count);
        Ok(())
    }

    /// The answer to the oldest message that has none.
    ///
    /// # Errors
    /// What the node says of the first that it refuses: those that were not answered had no effect, unless it
    /// says that nobody knows.
    pub async fn next(&mut self) -> Result<Appended, Error> {
        let (answer, left) = match self.answered.take() {
            Some(answered) => answered,
            None => {
                let answer = self.answers.message().await;
                let answer = answer.map_err(|status| Error::of(&status, true))?;
                let answer = answer
                    .ok_or_else(|| Error::unreached("the stream of appends has ended", true))?;
                let messages = answer.messages;
                (answer, messages)
            }
        };
        let values = self.under_way.pop_front();
        let values = values.filter(|_| left > 0);
        let values = values.ok_or_else(|| Error::unexpected("an answer to nothing"))?;
        let told = Appended { receipt: receipt(answer.receipt.clone())?, first: answer.first };
        self.log.named().client.seen().note_receipt(&told.receipt);
        if left > 1 {
            let mut answer = answer;
            if let Some(first) = &mut answer.first {
                first.index += values;
            }
            self.answered = Some((answer, left - 1));
        }
        Ok(told)
    }
}
