//! A client that knows all three nodes and repeats itself until it is answered.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::local::http_client;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(20);
/// How long a request is repeated before the demo gives up.
const GIVE_UP: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(25);

/// A client of all three nodes.
pub(super) struct Client {
    http: reqwest::Client,
    nodes: [SocketAddr; 3],
    turn: AtomicUsize,
}

impl Client {
    pub(super) fn new(nodes: [SocketAddr; 3]) -> Result<Self, String> {
        let http = http_client(ATTEMPT).map_err(|error| format!("client: {error}"))?;
        Ok(Self { http, nodes, turn: AtomicUsize::new(0) })
    }

    /// Sends a request to one node after the other, the same each time, until one takes or refuses
    /// it for good. Returns the status and the answer.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value), String> {
        let deadline = Instant::now() + GIVE_UP;
        loop {
            let node = self.nodes[self.turn.fetch_add(1, Ordering::Relaxed) % 3];
            let sent = self.http.post(format!("http://{node}{path}")).json(body).send().await;
            let last = match sent {
                Ok(response) => {
                    let status = response.status();
                    let again = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
                    match response.json().await {
                        Ok(answer) if !again => return Ok((status.as_u16(), answer)),
                        Ok(answer) => answer.to_string(),
                        // The node died while it answered.
                        Err(error) => error.to_string(),
                    }
                }
                // Nobody listens there now.
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(format!("POST {path} was not answered in {GIVE_UP:?}: {last}"));
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks one node. `None` if it does not answer.
    pub(super) async fn get(&self, node: usize, path: &str) -> Option<(u16, Value)> {
        let url = format!("http://{}{path}", self.nodes[node]);
        let response = self.http.get(url).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    /// Asks one node until it answers with 200 and `take` takes the answer.
    pub(super) async fn wait<T>(
        &self,
        node: usize,
        path: &str,
        take: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + GIVE_UP;
        let mut last = "no answer".to_owned();
        while Instant::now() < deadline {
            match self.get(node, path).await {
                Some((200, answer)) => match take(&answer) {
                    Some(taken) => return Ok(taken),
                    None => last = answer.to_string(),
                },
                Some((status, answer)) => last = format!("{status} {answer}"),
                None => {}
            }
            sleep(PAUSE).await;
        }
        Err(format!("node {}: GET {path} after {GIVE_UP:?}: {last}", node + 1))
    }

    pub(super) async fn wait_ready(&self) -> Result<(), String> {
        for node in 0..3 {
            self.wait(node, "/healthz", |_| Some(())).await?;
        }
        Ok(())
    }

    /// Which node leads, by its own word.
    pub(super) async fn leader(&self) -> Result<usize, String> {
        let deadline = Instant::now() + GIVE_UP;
        while Instant::now() < deadline {
            for node in 0..3 {
                if let Some((200, answer)) = self.get(node, "/status").await
                    && answer["role"] == "leader"
                {
                    return Ok(node);
                }
            }
            sleep(PAUSE).await;
        }
        Err(format!("no leader in {GIVE_UP:?}"))
    }
}
