//! The admin port of a node, and something to see there.

use std::net::SocketAddr;

use palisade::{Engine, Error, ReplicatedLog, ReplicatedMap, ResourceSpec};
use palisade_server::admin::{Shows, Stage, serve};
use palisade_server::observe::Observed;
use palisade_server::security::audit::{AUDIT_LOG, AuditEvent, AuditFacts, AuditRecord};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// An admin port that is served until this is dropped.
pub(crate) struct AdminPort {
    pub(crate) address: SocketAddr,
    pub(crate) stage: Stage,
    _served: JoinSet<()>,
}

impl AdminPort {
    /// Of a node that is not open yet.
    pub(crate) async fn start(shows: Shows) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stage = Stage::default();
        let mut served = JoinSet::new();
        let of = stage.clone();
        served.spawn(async move { match serve(Some(listener), of, shows).await {} });
        Self { address, stage, _served: served }
    }

    pub(crate) async fn of(observed: &Observed, shows: Shows) -> Self {
        let port = Self::start(shows).await;
        port.stage.open(observed);
        port
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn spec(name: &str, schema: &str) -> ResourceSpec {
    ResourceSpec::new(name, schema).unwrap()
}

async fn until_there_is_a_leader<T, F: Future<Output = Result<T, Error>>>(
    open: impl Fn() -> F,
) -> T {
    loop {
        match open().await {
            Err(Error::Disconnected { .. } | Error::RateLimited { .. }) => {}
            other => return other.unwrap(),
        }
    }
}

/// A log of values of each kind, a map, and the audit log as its writer would leave it.
pub(crate) async fn fill(engine: &Engine) {
    let orders = until_there_is_a_leader(|| {
        ReplicatedLog::<Vec<u8>>::open(engine, spec("orders", "order.v1"))
    })
    .await;
    for number in 0..40_u64 {
        let value = format!(
            "{{\"order\":{number},\"item\":\"<b>oak & iron</b>\",\"cents\":{},\"paid\":{}}}",
            1999 + number * 37,
            number.is_multiple_of(3)
        );
        orders.append(&value.into_bytes()).await.unwrap();
    }
    orders.append(&b"a line of plain text".to_vec()).await.unwrap();
    orders.append(&vec![0, 1, 2, 253, 254, 255]).await.unwrap();
    let stock =
        ReplicatedMap::<String, u64>::open(engine, spec("stock", "count.v1")).await.unwrap();
    stock.put(&"oak".to_owned(), &12).await.unwrap();
    let audit = ReplicatedLog::<Vec<u8>>::open(engine, spec(AUDIT_LOG, "palisade.audit.v1"));
    let audit = audit.await.unwrap();
    for who in ["reports", "billing"] {
        let facts = AuditFacts {
            who: who.to_owned(),
            address: "127.0.0.1".to_owned(),
            method: "/palisade.log.v1.Log/Append".to_owned(),
            resource: "orders".to_owned(),
            right: "append".to_owned(),
            why: "nothing with this resource was granted".to_owned(),
            ..AuditFacts::of(AuditEvent::NotAllowed)
        };
        let record = AuditRecord::once(facts, 1, 1_800_000_000_000);
        audit.append(&record.encode()).await.unwrap();
    }
    // Of a release that knows more.
    audit.append(&vec![255]).await.unwrap();
}
