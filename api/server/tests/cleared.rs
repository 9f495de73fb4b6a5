//! A replica that has halted, and is made anew by an operator.

#[path = "support/admin.rs"]
mod admin;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use admin::{AdminPort, fill};
use nodes::Nodes;
use palisade::{
    Applied, At, Group, Handle, NodeId, Offset, Projection, ProjectionFault, ResourceSpec, Rows,
};
use palisade_server::admin::Shows;
use palisade_server::grpc::Callers;
use serde_json::{Value, json};

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the last number, and trips over each as long as it is ill.
struct Ill(Arc<AtomicBool>);

impl Projection for Ill {
    const NAME: &'static str = "ill";
    const VERSION: u32 = 1;
    type Op = u64;
    type Outcome = u64;
    type Refusal = u64;
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        op: u64,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<u64, u64>, ProjectionFault> {
        assert!(!self.0.load(Ordering::Relaxed), "a bug of one process");
        rows.put(b"last", op.to_be_bytes().to_vec())?;
        Ok(Applied::Done(op))
    }
}

async fn fence(endpoints: &[String], words: &str) -> (i32, Value) {
    let named = endpoints.iter().flat_map(|endpoint| ["--endpoint".to_owned(), endpoint.clone()]);
    let words = std::iter::once("fence").chain(words.split(' ')).map(str::to_owned);
    let words: Vec<String> = words.chain(named).collect();
    let asked = tokio::task::spawn_blocking(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        support::json(Path::new("."), &words)
    });
    asked.await.unwrap()
}

/// By the node, of its group.
async fn is_told(port: &AdminPort, state: &str) {
    let told = async {
        loop {
            let answer = reqwest::get(port.url("/api/v1/readiness?group=1")).await.unwrap();
            let is_ready = answer.status().is_success();
            let found: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(is_ready, found["ready"] == true, "{found}");
            if found["state"] == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the node says so");
}

async fn reaches(replica: &Group, offset: Offset) {
    let reached = async {
        while !replica.applied().is_ok_and(|applied| offset <= applied) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("it follows");
}

/// G10: who operates sees which replica has halted and why, clears it with one command, and it is one of its group
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_replica_is_listed_and_cleared() {
    let is_ill = Arc::new(AtomicBool::new(false));
    let of_third = |node: NodeId| match node.get() {
        3 => Ill(Arc::clone(&is_ill)),
        _ => Ill(Arc::default()),
    };
    let nodes = Nodes::start_with(
        3,
        |_| Callers::Everyone,
        |node, builder| builder.projection(of_third(node)),
    )
    .await;
    let port = AdminPort::of(&nodes.observed[2], Shows::Everything).await;
    let spec = ResourceSpec::new("last", "number.v1").unwrap();
    fill(&nodes.engines[0]).await;
    let last = Handle::<Ill>::open(&nodes.engines[0], spec).await.unwrap();
    last.submit(&1).await.unwrap();
    let group = last.group().id();
    let third = nodes.engines[2].group(group).unwrap();
    let second = last.submit(&2).await.unwrap().receipt.offset;
    reaches(&third, second).await;

    is_ill.store(true, Ordering::Relaxed);
    let halts = async {
        while third.applied().is_ok() {
            // It may lead, and then halts before it answers.
            let _ = last.submit(&3).await;
        }
    };
    tokio::time::timeout(PATIENCE, halts).await.expect("it halts");
    is_ill.store(false, Ordering::Relaxed);
    let endpoints: Vec<String> =
        nodes.addresses.iter().map(|address| format!("http://{address}")).collect();
    let (code, found) = fence(&endpoints, "list").await;
    let halted = &found["halted"][0];
    assert_eq!((code, &halted["node"], &halted["group"]), (0, &json!(3), &json!(group.get())));
    assert!(found["halted"].to_string().contains("a bug of one process"), "{found}");
    is_told(&port, "halted").await;

    let clear = format!("clear --node 3 --group {} --reason mended", group.get());
    let (code, found) = fence(&endpoints, &clear).await;
    assert_eq!((code, &found["error"]["code"]), (2, &json!("Unconfirmed")));
    assert!(third.applied().is_err(), "only the plan was told");
    let (code, found) = fence(&endpoints, &format!("{clear} --confirm")).await;
    assert_eq!((code, &found["cleared"]), (0, &json!(true)), "{found}");
    let committed = last.submit(&4).await.unwrap();
    reaches(&third, committed.receipt.offset).await;
    let (code, found) = fence(&endpoints, "list").await;
    assert_eq!((code, &found["halted"]), (0, &json!([])));
    is_told(&port, "ready").await;
    nodes.close().await;
}
