//! Appends over gRPC as any client makes them: one to a call, or many on a stream.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use hdrhistogram::Histogram;
use palisade_proto::common::v1::Resource;
use palisade_proto::log::v1::log_client::LogClient;
use palisade_proto::log::v1::{AppendRequest, AppendStreamRequest, AppendStreamResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::closed_loop::{Sample, closed_loop, latencies};
use crate::record;

/// How records are under way at once.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Streams, each of its own.
    pub streams: usize,
    /// Messages of each stream that are not answered.
    pub window: usize,
    /// Records of a message.
    pub records: usize,
}

/// Connections to one endpoint.
#[derive(Clone)]
pub struct GrpcCalls {
    channels: Vec<Channel>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn log() -> Option<Resource> {
    Some(Resource { name: "bench".into(), schema: "bytes.v1".into(), ..Resource::default() })
}

impl GrpcCalls {
    /// So many connections.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: SocketAddr, connections: usize) -> Result<Self, String> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(text)?;
            channels.push(endpoint.tcp_nodelay(true).connect().await.map_err(text)?);
        }
        Ok(Self { channels })
    }

    fn client(&self, turn: usize) -> LogClient<Channel> {
        LogClient::new(self.channels[turn % self.channels.len()].clone())
    }

    /// One record to a call, by so many callers.
    ///
    /// # Errors
    /// The first call that was refused.
    pub async fn unary(&self, callers: usize, length: Duration) -> Result<Sample, String> {
        let calls = self.clone();
        let append = move |number: u64| {
            let mut client = calls.client(number as usize);
            let values = vec![Bytes::from(record(number))];
            async move {
                let request = AppendRequest { log: log(), values, ..AppendRequest::default() };
                let answer = client.append(request).await.map_err(text)?.into_inner();
                answer.receipt.map(|_| ()).ok_or_else(|| "an answer without a receipt".to_owned())
            }
        };
        closed_loop(callers, length, append).await
    }

    /// Records on streams, each in a closed loop over its window. Every message is answered when this returns.
    ///
    /// # Errors
    /// The first stream that was refused, or did not answer every message.
    pub async fn streams(&self, shape: Shape, length: Duration) -> Result<Sample, String> {
        let counted_from = Instant::now() + length / 10;
        let counted = counted_from..counted_from + length;
        let mut tasks = JoinSet::new();
        for turn in 0..shape.streams {
            let open = Open::begin(self.client(turn), shape.window).await?;
            let (first, counted) = ((turn as u64) << 40, counted.clone());
            tasks.spawn(open.run(shape, first, counted));
        }
        let mut all = latencies()?;
        while let Some(done) = tasks.join_next().await {
            all.add(done.map_err(text)??).map_err(text)?;
        }
        Ok(Sample::of(&all, shape.records, length))
    }
}

/// One stream that has begun.
struct Open {
    send: mpsc::Sender<AppendStreamRequest>,
    answers: Streaming<AppendStreamResponse>,
}

impl Open {
    async fn begin(mut client: LogClient<Channel>, window: usize) -> Result<Self, String> {
        let (send, messages) = mpsc::channel(window);
        let opens = AppendStreamRequest { log: log(), values: Vec::new() };
        let messages = unfold((Some(opens), messages), |(opens, mut messages)| async {
            match opens {
                Some(opens) => Some((opens, (None, messages))),
                None => messages.recv().await.map(|message| (message, (None, messages))),
            }
        });
        let answers = client.append_stream(messages).await.map_err(text)?.into_inner();
        Ok(Self { send, answers })
    }

    async fn run(
        self,
        shape: Shape,
        mut number: u64,
        counted: std::ops::Range<Instant>,
    ) -> Result<Histogram<u64>, String> {
        let Self { send, mut answers } = self;
        let mut send = Some(send);
        let mut latency_us = latencies()?;
        let mut begun = VecDeque::with_capacity(shape.window);
        loop {
            let now = Instant::now();
            if counted.end <= now {
                send = None;
            }
            while begun.len() < shape.window
                && let Some(send) = &send
            {
                let values = (number..).take(shape.records).map(|it| record(it).into()).collect();
                number += shape.records as u64;
                begun.push_back(now);
                let message = AppendStreamRequest { log: None, values };
                send.send(message).await.map_err(|_| "the stream has ended")?;
            }
            let Some(answer) = answers.message().await.map_err(text)? else { break };
            let expected = answer.messages as usize * shape.records;
            if answer.values as usize != expected || begun.len() < answer.messages as usize {
                return Err(format!("expected={expected} records, answered={}", answer.values));
            }
            let now = Instant::now();
            for begun in begun.drain(..answer.messages as usize) {
                if counted.start <= begun && now < counted.end {
                    latency_us.saturating_record((now - begun).as_micros() as u64);
                }
            }
        }
        match begun.len() {
            0 => Ok(latency_us),
            left => Err(format!("{left} messages were not answered")),
        }
    }
}
