//! Frames of HTTP/2 that no client sends, by hand: the connection on which they come is ended or goes on, the
//! node's memory stays as it was, and who comes on another connection is served.

#[path = "support/nodes.rs"]
mod nodes;

use std::fs;
use std::time::Duration;

use nodes::Nodes;
use palisade_proto::cluster::v1::GetStatusRequest;
use palisade_proto::cluster::v1::cluster_client::ClusterClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(120);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What `docs/grpc.md` says of calls that are taken back before they were looked at.
const RESETS_MAX: u32 = 64;
/// What a flood may take while it goes on: far less than what it sends.
const GROWTH_MAX: usize = 64 << 20;
/// Bytes of a flood.
const FLOOD_BYTES: usize = 64 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a call that has a stream of messages, as HPACK without a table.
fn head() -> Vec<u8> {
    // POST, http, and then names of the static table with values as they are.
    let mut head = vec![0x83, 0x86];
    let path = b"/palisade.log.v1.Log/AppendStream";
    for (name, value) in [(4, &path[..]), (1, b"node"), (31, b"application/grpc")] {
        match name {
            0..15 => head.push(name),
            _ => head.extend([15, name - 15]),
        }
        head.push(u8::try_from(value.len()).unwrap());
        head.extend(value);
    }
    head
}

/// One connection, after the settings of both sides.
struct Raw {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl Raw {
    async fn connect(nodes: &Nodes) -> Self {
        let stream = TcpStream::connect(nodes.addresses[0]).await.unwrap();
        let (read, mut write) = stream.into_split();
        let settings = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat();
        write.write_all(&[PREFACE, &settings].concat()).await.unwrap();
        Self { read, write }
    }

    /// Sends it, and says whether it is still there.
    async fn send(&mut self, frames: &[u8]) -> bool {
        self.write.write_all(frames).await.is_ok()
    }

    async fn next(&mut self) -> Option<(u8, u8)> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.read.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4]))
    }

    /// Whether it answers a ping, having seen what came before.
    async fn answers(&mut self) -> bool {
        if !self.send(&frame(PING, 0, 0, b"are you?")).await {
            return false;
        }
        let answered = async {
            while let Some(came) = self.next().await {
                if came == (PING, ACK) {
                    return true;
                }
            }
            false
        };
        timeout(PATIENCE, answered).await.expect("an answer or the end")
    }

    /// Waits until the node has ended it.
    async fn ends(mut self, what: &str) {
        let ends = async { while self.next().await.is_some() {} };
        timeout(PATIENCE, ends).await.unwrap_or_else(|_| panic!("{what}: it goes on"));
    }
}

async fn is_served(nodes: &Nodes) {
    let endpoint = Channel::from_shared(format!("http://{}", nodes.addresses[0])).unwrap();
    let mut cluster = ClusterClient::new(endpoint.connect().await.unwrap());
    let served = cluster.get_status(GetStatusRequest {});
    timeout(PATIENCE, served).await.expect("in time").unwrap();
}

/// What is resident of this process in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Sends these again and again, with an eye on what they take, until the node ends it or it was much. Reads what is
/// answered. Says whether it was ended.
async fn flood(nodes: &Nodes, first: &[u8], again: impl Fn(u32) -> Vec<u8>) -> bool {
    is_served(nodes).await;
    let before = resident();
    let mut raw = Raw::connect(nodes).await;
    raw.send(first).await;
    let Raw { mut read, mut write } = raw;
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let mut answers = vec![0; 64 << 10];
        while read.read(&mut answers).await.is_ok_and(|count| count > 0) {}
    });
    let (mut sent, mut number, mut is_ended) = (0, 0, false);
    while sent < FLOOD_BYTES && !is_ended {
        let mut frames = Vec::new();
        while frames.len() < 64 << 10 {
            frames.extend(again(number));
            number += 1;
        }
        sent += frames.len();
        is_ended = timeout(PATIENCE, write.write_all(&frames)).await.expect("it is read").is_err();
        if sent % (16 << 20) < frames.len() {
            is_served(nodes).await;
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{} MiB after {} MiB", grown >> 20, sent >> 20);
    }
    is_served(nodes).await;
    is_ended
}

/// Has them be sent for as long as they are taken, and reads nothing of what is answered.
async fn unread_flood(nodes: &Nodes, frames: Vec<u8>) {
    is_served(nodes).await;
    let before = resident();
    let mut raw = Raw::connect(nodes).await;
    let mut sending = JoinSet::new();
    sending.spawn(async move { while raw.send(&frames).await {} });
    for _ in 0..100 {
        is_served(nodes).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{} MiB", grown >> 20);
}

/// Whatever breaks the rules for all streams ends the connection, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_end_their_connection() {
    let nodes = Nodes::start(1).await;
    let wrong: [(&str, Vec<u8>); 15] = [
        ("too long", [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 64]].concat()),
        ("data of no stream", frame(DATA, 0, 0, b"data")),
        ("data of a stream that was not begun", frame(DATA, 0, 1, b"data")),
        ("data whose padding is longer", frame(DATA, 8, 1, &[9, 0])),
        ("a head of no stream", frame(HEADERS, END_HEADERS, 0, &head())),
        ("a head of a stream of the node's", frame(HEADERS, END_HEADERS, 2, &head())),
        ("a head that is no HPACK", frame(HEADERS, END_HEADERS, 1, &[0x80])),
        ("a head between two parts of another", {
            let head = head();
            [frame(HEADERS, 0, 1, &head), frame(HEADERS, END_HEADERS, 3, &head)].concat()
        }),
        ("settings of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        ("settings that are acknowledged with a word", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("a window that no number holds", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("a ping of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("a part of a head that was not begun", frame(CONTINUATION, END_HEADERS, 1, &head())),
    ];
    for (what, frames) in wrong {
        let mut raw = Raw::connect(&nodes).await;
        assert!(raw.answers().await, "{what}: it was taken in");
        raw.send(&frames).await;
        raw.ends(what).await;
        is_served(&nodes).await;
    }
    for (what, window) in [("by nothing", 0), ("beyond all", 0x7fff_ffff)] {
        let mut raw = Raw::connect(&nodes).await;
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &u32::to_be_bytes(window))).await;
        raw.ends(&format!("a window that is widened {what}")).await;
    }
    is_served(&nodes).await;
    nodes.close().await;
}

/// G12: a head without an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_continuations_is_cut_off() {
    let nodes = Nodes::start(1).await;
    for part in [0, 4, 16 << 10] {
        // Literals of one byte and no name, which HPACK takes.
        let part = frame(CONTINUATION, 0, 1, &[0, 1, b'x', 0].repeat(part / 4));
        let ended = flood(&nodes, &frame(HEADERS, 0, 1, &head()), |_| part.clone()).await;
        assert!(ended, "parts of {} bytes", part.len());
    }
    nodes.close().await;
}

/// G12: data that says nothing, of a call that takes a stream of messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_empty_data_is_cut_off() {
    let nodes = Nodes::start(1).await;
    let begun = frame(HEADERS, END_HEADERS, 1, &head());
    assert!(flood(&nodes, &begun, |_| frame(DATA, 0, 1, &[])).await);
    nodes.close().await;
}

/// G12: whoever reads the answers is answered, and whoever does not is not heard any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_or_settings_takes_no_memory() {
    let nodes = Nodes::start(1).await;
    let settings = [0, 4, 0, 1, 0, 0];
    for one in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &settings)] {
        flood(&nodes, &[], |_| one.clone()).await;
        unread_flood(&nodes, one.repeat(1024)).await;
    }
    nodes.close().await;
}

/// A call that is begun and taken back at once.
fn taken_back(number: u32) -> Vec<u8> {
    let stream = 2 * number + 1;
    let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head());
    [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
}

/// G12: as many as are on the page, and no more: they come in one piece, so that none of them was looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_calls_are_taken_back_and_no_more() {
    let nodes = Nodes::start(1).await;
    let mut raw = Raw::connect(&nodes).await;
    assert!(raw.answers().await);
    raw.send(&(0..RESETS_MAX).flat_map(taken_back).collect::<Vec<u8>>()).await;
    assert!(raw.answers().await, "so many may be");
    drop(raw);
    let mut raw = Raw::connect(&nodes).await;
    assert!(raw.answers().await);
    raw.send(&(0..=RESETS_MAX).flat_map(taken_back).collect::<Vec<u8>>()).await;
    raw.ends("one more").await;
    assert!(flood(&nodes, &[], taken_back).await);
    nodes.close().await;
}

/// G12: who has begun and then says nothing, not even that he is there, is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_and_says_nothing_is_found() {
    let nodes = Nodes::start(1).await;
    Raw::connect(&nodes).await.ends("silence").await;
    is_served(&nodes).await;
    nodes.close().await;
}
