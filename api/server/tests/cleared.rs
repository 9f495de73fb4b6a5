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

use admin::AdminPort;
use nodes::Nodes;
use palisade::{Applied, At, Handle, NodeId, Projection, ProjectionFault, ResourceSpec, Rows};
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

async fn fence(endpoint: String, words: Vec<String>) -> (i32, Value) {
    let asked = tokio::task::spawn_blocking(move || {
        let words = words.iter().map(String::as_str);
        let words: Vec<&str> = ["fence"].into_iter().chain(words).collect();
        support::json(Path::new("."), &[&words[..], &["--endpoint", &endpoint]].concat())
    });
    asked.await.unwrap()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
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
    let opened = async {
        loop {
            if let Ok(opened) = Handle::<Ill>::open(&nodes.engines[0], spec.clone()).await {
                return opened;
            }
        }
    };
    let last = tokio::time::timeout(PATIENCE, opened).await.expect("a leader");
    last.submit(&1).await.unwrap();
    let group = last.group().id();
    let third = nodes.engines[2].group(group).unwrap();
    third.wait_applied(last.submit(&2).await.unwrap().receipt.offset, PATIENCE).await.unwrap();

    is_ill.store(true, Ordering::Relaxed);
    let halts = async {
        while third.applied().is_ok() {
            // It may lead, and then halts before it answers.
            let _ = last.submit(&3).await;
        }
    };
    tokio::time::timeout(PATIENCE, halts).await.expect("it halts");
    is_ill.store(false, Ordering::Relaxed);
    let endpoint = format!("http://{}", nodes.addresses[2]);
    let (code, found) = fence(endpoint.clone(), words("list")).await;
    let halted = &found["halted"][0];
    assert_eq!((code, &halted["node"], &halted["group"]), (0, &json!(3), &json!(group.get())));
    assert!(found["halted"].to_string().contains("a bug of one process"), "{found}");
    let ready = reqwest::get(port.url("/readyz")).await.unwrap().status().as_u16();
    assert_eq!(ready, 503, "a node with a halted replica is not ready");

    let clear = format!("clear --node 3 --group {} --reason mended", group.get());
    let (code, found) = fence(endpoint.clone(), words(&clear)).await;
    assert_eq!((code, &found["error"]["code"]), (2, &json!("Unconfirmed")));
    assert!(third.applied().is_err(), "only the plan was told");
    let (code, found) = fence(endpoint.clone(), words(&format!("{clear} --confirm"))).await;
    assert_eq!((code, &found["cleared"]), (0, &json!(true)), "{found}");
    let committed = last.submit(&4).await.unwrap();
    third.wait_applied(committed.receipt.offset, PATIENCE).await.unwrap();
    let (code, found) = fence(endpoint, words("list")).await;
    assert_eq!((code, &found["halted"]), (0, &json!([])));
    nodes.close().await;
}
