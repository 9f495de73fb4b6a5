//! Appends over gRPC as any client makes them: one to a call, or many on a stream.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::stream::unfold;
use palisade_proto::common::v1::Resource;
use palisade_proto::log::v1::log_client::LogClient;
use palisade_proto::log::v1::{AppendRequest, AppendStreamRequest, AppendStreamResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::closed_loop::{Course, Sample, Tally, Until, closed_loop};
use crate::payloads::Payloads;

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
    payloads: Payloads,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn log() -> Option<Resource> {
    Some(Resource { name: "bench".into(), schema: "bytes.v1".into(), ..Resource::default() })
}

/// So many connections.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(address: SocketAddr, connections: usize) -> Result<Vec<Channel>, String> {
    let mut channels = Vec::new();
    for _ in 0..connections {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(text)?;
        channels.push(endpoint.tcp_nodelay(true).connect().await.map_err(text)?);
    }
    Ok(channels)
}

impl GrpcCalls {
    /// So many connections, to append values of so many bytes.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(
        address: SocketAddr,
        connections: usize,
        value_bytes: usize,
    ) -> Result<Self, String> {
        let channels = connect(address, connections).await?;
        Ok(Self { channels, payloads: Payloads::of(value_bytes) })
    }

    fn client(&self, turn: usize) -> LogClient<Channel> {
        LogClient::new(self.channels[turn % self.channels.len()].clone())
    }

    /// One record to a call, by so many callers.
    ///
    /// # Errors
    /// The first call that was refused.
    pub async fn unary(&self, callers: usize, until: impl Into<Until>) -> Result<Sample, String> {
        let calls = self.clone();
        let append = move |number: u64| {
            let mut client = calls.client(number as usize);
            let values = vec![calls.payloads.get(number)];
            async move {
                let request = AppendRequest { log: log(), values, ..AppendRequest::default() };
                let answer = client.append(request).await.map_err(text)?.into_inner();
                answer.receipt.map(|_| ()).ok_or_else(|| "an answer without a receipt".to_owned())
            }
        };
        closed_loop(callers, until, append).await
    }

    /// Records on streams, each in a closed loop over its window. Every message is answered when this returns.
    ///
    /// # Errors
    /// The first stream that was refused, or did not answer every message.
    pub async fn streams(&self, shape: Shape, until: impl Into<Until>) -> Result<Sample, String> {
        let mut streams = Vec::new();
        for turn in 0..shape.streams {
            streams.push(Open::begin(self.client(turn), shape.window).await?);
        }
        let course = Arc::new(Course::new(until.into()));
        let mut tasks = JoinSet::new();
        for stream in streams {
            tasks.spawn(stream.run(shape, self.payloads.clone(), Arc::clone(&course)));
        }
        let mut all = Tally::default();
        while let Some(done) = tasks.join_next().await {
            all.add(&done.map_err(text)??);
        }
        Ok(course.ended(&all, shape.records))
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
        payloads: Payloads,
        course: Arc<Course>,
    ) -> Result<Tally, String> {
        let Self { send, mut answers } = self;
        let mut send = Some(send);
        let mut tally = Tally::default();
        let mut begun = VecDeque::with_capacity(shape.window);
        loop {
            while begun.len() < shape.window
                && let Some(to) = &send
            {
                let now = Instant::now();
                let Some(number) = course.next(now) else {
                    send = None;
                    break;
                };
                let first = number * shape.records as u64;
                let values = (first..).take(shape.records).map(|at| payloads.get(at)).collect();
                begun.push_back(now);
                let message = AppendStreamRequest { log: None, values };
                to.send(message).await.map_err(|_| "the stream has ended")?;
            }
            let Some(answer) = answers.message().await.map_err(text)? else { break };
            let expected = answer.messages as usize * shape.records;
            if answer.values as usize != expected || begun.len() < answer.messages as usize {
                return Err(format!("expected={expected} records, answered={}", answer.values));
            }
            let now = Instant::now();
            for begun in begun.drain(..answer.messages as usize) {
                course.count(&mut tally, begun, now);
            }
        }
        match begun.len() {
            0 => Ok(tally),
            left => Err(format!("{left} messages were not answered")),
        }
    }
}
