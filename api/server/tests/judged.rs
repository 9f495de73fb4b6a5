//! What is judged beside the grants of one resource: calls that are about none, whose numbers a command has, and
//! where a caller says that it is.

#[path = "support/certified.rs"]
mod certified;
#[path = "support/granted.rs"]
mod granted;
#[path = "support/nodes.rs"]
mod nodes;

use certified::Way;
use granted::Cluster;
use palisade::{Placement, ResourceKind, ResourceSpec};
use palisade_client::proto::common::v1 as common;
use palisade_client::proto::failure::Failure;
use palisade_client::proto::map::v1 as map;
use palisade_client::proto::map::v1::map_client::MapClient;
use palisade_client::proto::session::v1 as session;
use palisade_client::proto::session::v1::session_client::SessionClient;
use palisade_client::{Client, Code, Consistency, Disposition, Grant, Map, Right};
use palisade_server::security::grants::{Right as Named, Rights};
use palisade_server::security::now_ms;
use palisade_server::security::token::{Caveat, Token};
use tokio::task::JoinSet;
use tonic::{Request, Status};

/// Long enough for a busy machine; nothing waits for it that is done.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn grant(resource: &str, rights: &[Right]) -> Grant {
    let rights = rights.iter().map(|right| (*right).into()).collect();
    Grant { resource: resource.to_owned(), rights, domains: Vec::new() }
}

fn orders(client: &Client) -> Map<String, u64> {
    client.map("orders", "number.v1")
}

fn kind(refused: &Status) -> String {
    Failure::of(refused).expect("it is one of ours").kind
}

/// What a status says, which there must be.
fn refused<T>(done: Result<T, Status>, case: &str) -> String {
    kind(&done.err().unwrap_or_else(|| panic!("{case}: it was done")))
}

fn resource(caller: Option<common::Domain>) -> Option<common::Resource> {
    let (name, schema) = ("orders".to_owned(), "number.v1".to_owned());
    Some(common::Resource { name, schema, epoch: 0, caller })
}

fn put(number: Option<common::CommandNumber>) -> map::PutRequest {
    let (key, value) = ("k".into(), vec![0; 8].into());
    map::PutRequest { map: resource(None), key, value, number, ..Default::default() }
}

fn bearing<T>(message: T, token: &Token) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {}", token.to_text()).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

async fn register(way: &Way, token: Option<&Token>) -> Result<bytes::Bytes, Status> {
    let asked = session::RegisterRequest { group: 1, ttl_ms: 60_000 };
    let asked = match token {
        Some(token) => bearing(asked, token),
        None => Request::new(asked),
    };
    let registered = SessionClient::new(way.channel.clone()).register(asked).await?;
    Ok(registered.into_inner().client)
}

/// S3: who asks for nothing in particular is judged by all that he shows, as for anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_known_is_known_by_every_caveat() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    orders(&ops).open().await.unwrap();
    ops.access().grant("reports", grant("orders", &[Right::Read, Right::Append])).await.unwrap();
    ops.access().grant("readers", grant("orders", &[Right::Read])).await.unwrap();
    let status = async |client: &Client| {
        client
            .cluster()
            .status()
            .await
            .remove(0)
            .status
            .map(|_| ())
            .map_err(|error| (error.code(), error.failure().kind.clone()))
    };
    let listed = async |client: &Client| {
        client.directory().list("", "", Consistency::Linearizable).await.map(|_| ())
    };
    let not_allowed = Err((Code::Revoked, "NOT_ALLOWED".to_owned()));
    let token = cluster.token("reports");
    assert_eq!(status(&cluster.bearer("gateway", &token)).await, Ok(()));
    for (what, caveat) in [
        ("over", Caveat::NotAfter { ms: now_ms() - 1 }),
        ("of another certificate", Caveat::Certificate([7; 32])),
        ("for no right", Caveat::Rights(Rights::default())),
        ("for nothing that was granted", Caveat::ResourcePrefix("secrets".to_owned())),
    ] {
        let bearer = cluster.bearer("gateway", &token.narrowed(&caveat).unwrap());
        assert_eq!(status(&bearer).await, not_allowed, "{what}");
        assert!(listed(&bearer).await.is_err(), "{what}");
    }

    // Who registers a client is to write.
    let address = cluster.nodes.addresses[0];
    let way = cluster.certified.way("gateway", address).await;
    register(&way, Some(&token)).await.unwrap();
    let read = token.narrowed(&Caveat::Rights(Rights::of([Named::Read]))).unwrap();
    assert_eq!(status(&cluster.bearer("gateway", &read)).await, Ok(()));
    assert_eq!(refused(register(&way, Some(&read)).await, "to read"), "NOT_ALLOWED");
    let readers = cluster.certified.way("readers", address).await;
    assert_eq!(refused(register(&readers, None).await, "a reader"), "NOT_ALLOWED");
    drop((way, readers));
    cluster.nodes.close().await;
}

/// The numbers of a client are its registrant's, at every node: others have no effect under them, are told nothing
/// of its answers, and use none up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_uses_the_numbers_of_another() {
    let cluster = Cluster::start(3).await;
    let ops = cluster.client("ops");
    orders(&ops).open().await.unwrap();
    for client in ["reports", "mallory"] {
        ops.access().grant(client, grant("orders", &[Right::Read, Right::Append])).await.unwrap();
    }
    let (first, last) = (cluster.nodes.addresses[0], cluster.nodes.addresses[2]);
    let reports = cluster.certified.way("reports", first).await;
    let client = register(&reports, None).await.unwrap();
    let number = |seq| Some(common::CommandNumber { client: client.clone(), seq, acked_up_to: 0 });
    let mut own = MapClient::new(reports.channel.clone());
    let done = own.put(put(number(1))).await.unwrap().into_inner().receipt.unwrap();
    for address in [first, last] {
        let mallory = cluster.certified.way("mallory", address).await;
        let mut others = MapClient::new(mallory.channel.clone());
        for seq in [1, 2] {
            // Not before this node has heard that he may write at all.
            let told = loop {
                match refused(others.put(put(number(seq))).await, "of another") {
                    told if told == "NOT_ALLOWED" || told == "DISCONNECTED" => {}
                    told => break told,
                }
            };
            assert_eq!(told, "CLIENT_OF_ANOTHER");
        }
    }
    // By another node, and by a token in the name of who registered.
    let gateway = cluster.certified.way("gateway", last).await;
    let token = cluster.token("reports");
    let mut own = MapClient::new(gateway.channel.clone());
    let again =
        own.put(bearing(put(number(1)), &token)).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((again.offset, again.duplicate), (done.offset, true));
    own.put(bearing(put(number(2)), &token)).await.unwrap();
    drop((reports, gateway));
    cluster.nodes.close().await;
}

/// G12: a group keeps so many clients, and one caller is told to come back long before it has pushed out those of
/// the others, who register as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pushes_out_the_clients_of_everybody() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    orders(&ops).open().await.unwrap();
    for client in ["reports", "mallory"] {
        ops.access().grant(client, grant("orders", &[Right::Append])).await.unwrap();
    }
    let first = cluster.nodes.addresses[0];
    let mallory = cluster.certified.way("mallory", first).await;
    let mut flood = JoinSet::new();
    for _ in 0..16 {
        let channel = mallory.channel.clone();
        flood.spawn(async move {
            let mut registered = 0;
            loop {
                let asked = session::RegisterRequest { group: 1, ttl_ms: 60_000 };
                match SessionClient::new(channel.clone()).register(asked).await {
                    Ok(_) => registered += 1,
                    Err(status) => return (registered, Failure::of(&status).expect("ours")),
                }
            }
        });
    }
    let mut registered = 0;
    while let Some(ended) = flood.join_next().await {
        let (count, told) = ended.unwrap();
        registered += count;
        assert_eq!((told.code, told.disposition), (Code::RateLimited, Disposition::Retry));
        assert!(told.retry_after.is_some_and(|left| !left.is_zero()), "{told:?}");
    }
    assert!((1_024..1_100).contains(&registered), "{registered}");
    let reports = cluster.certified.way("reports", first).await;
    register(&reports, None).await.unwrap();
    drop((mallory, reports));
    cluster.nodes.close().await;
}

/// What a caller may not read is neither listed nor named as the place to go on at, however much of it there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_names_nothing_that_its_caller_may_not_read() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    ops.access().grant("reports", grant("mine/*", &[Right::Read])).await.unwrap();
    let directory = cluster.nodes.engines[0].directory();
    let placement = Placement::providers(["local"]).unwrap();
    // More of them than a page holds, before, between and behind.
    let mine = (0..258).map(|at| format!("mine/{at:03}"));
    let others = (0..260).flat_map(|at| [format!("a/{at:03}"), format!("mine0/{at:03}")]);
    let mut made = JoinSet::new();
    for name in mine.chain(others) {
        let (directory, placement) = (directory.clone(), placement.clone());
        made.spawn(async move {
            let spec = ResourceSpec::new(&name, "number.v1").unwrap().placement(placement);
            directory.create(&ResourceKind::MAP, spec).await.unwrap();
        });
    }
    while let Some(done) = made.join_next().await {
        done.unwrap();
    }
    let reports = cluster.client("reports");
    let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = reports.directory().list("", &after, Consistency::Linearizable).await.unwrap();
        found.extend(page.described.into_iter().map(|it| it.spec.unwrap().name));
        pages += 1;
        match page.next {
            Some(next) => after = next,
            None => break,
        }
        assert!(after.starts_with("mine/"), "{after}");
    }
    assert_eq!(found, (0..258).map(|at| format!("mine/{at:03}")).collect::<Vec<_>>());
    assert_eq!(pages, 2, "pages are full");
    cluster.nodes.close().await;
}

/// G9: where a caller is, his grants say. A message that says otherwise is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_says_by_himself_where_he_is() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    orders(&ops).open().await.unwrap();
    let mut here = grant("orders", &[Right::Append]);
    ops.access().grant("anywhere", here.clone()).await.unwrap();
    let rule = |provider: &str, zone: &str| palisade_client::proto::directory::v1::DomainRule {
        provider: provider.to_owned(),
        region: if zone.is_empty() { String::new() } else { "here".to_owned() },
        zone: zone.to_owned(),
    };
    here.domains = vec![rule("local", "zone-0")];
    ops.access().grant("placed", here).await.unwrap();
    let address = cluster.nodes.addresses[0];
    let said = |zone: &str| common::Domain {
        provider: "local".to_owned(),
        region: "here".to_owned(),
        zone: zone.to_owned(),
    };
    for (client, zone, expected) in [
        ("anywhere", "zone-0", Some("NOT_ALLOWED")),
        ("placed", "zone-0", None),
        ("placed", "zone-1", Some("NOT_ALLOWED")),
    ] {
        let way = cluster.certified.way(client, address).await;
        let mut maps = MapClient::new(way.channel.clone());
        let mut asked = put(None);
        asked.map = resource(Some(said(zone)));
        let done = maps.put(asked).await.map_err(|status| kind(&status));
        assert_eq!(done.err().as_deref(), expected, "{client} in {zone}");
        maps.put(put(None)).await.unwrap();
    }
    cluster.nodes.close().await;
}

/// A node that nobody talks to does not go on for ever by what was granted when it last heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_serves_by_no_old_grants() {
    let mut cluster = Cluster::start(3).await;
    let ops = cluster.client("ops");
    orders(&ops).open().await.unwrap();
    ops.access().grant("reports", grant("orders", &[Right::Read])).await.unwrap();
    let way = cluster.certified.way("reports", cluster.nodes.addresses[0]).await;
    let mut maps = MapClient::new(way.channel.clone());
    // What it has is read without a quorum.
    let local = common::ReadOptions {
        consistency: Some(common::read_options::Consistency::Local(common::Local {})),
        ..Default::default()
    };
    let get = || {
        let (map, options) = (resource(None), Some(local.clone()));
        map::GetRequest { map, keys: vec!["k".into()], options, at: 0 }
    };
    // It follows the others a moment later.
    while let Err(status) = maps.get(get()).await {
        assert!(
            ["NOT_ALLOWED", "NOT_FOUND", "DISCONNECTED"].contains(&&*kind(&status)),
            "{status}"
        );
        tokio::task::yield_now().await;
    }
    for engine in cluster.nodes.engines.split_off(1) {
        engine.close().await.unwrap();
    }
    let cut_off = async {
        loop {
            match maps.get(get()).await {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                Err(status) => return Failure::of(&status).unwrap(),
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, cut_off).await.expect("it serves nobody");
    assert_eq!((told.code, told.disposition), (Code::Disconnected, Disposition::Retry));
    let way = cluster.certified.way("ops", cluster.nodes.addresses[0]).await;
    MapClient::new(way.channel.clone()).get(get()).await.expect("he may by its configuration");
    drop(way);
    cluster.nodes.close().await;
}

/// Who may neither write nor make is told so, whatever there is: nothing is looked up for him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_is_judged_before_anything_is_looked_up() {
    let cluster = Cluster::start(1).await;
    let ops = cluster.client("ops");
    orders(&ops).open().await.unwrap();
    let mallory = cluster.client("mallory");
    // The last is no name: to say so would be to have looked at it first.
    for name in ["orders", "nothing", "no name"] {
        let opened = mallory.map::<String, u64>(name, "number.v1").open().await.unwrap_err();
        assert_eq!(opened.failure().kind, "NOT_ALLOWED", "{name}");
    }
    ops.access().grant("reports", grant("*", &[Right::Append])).await.unwrap();
    let reports = cluster.client("reports");
    orders(&reports).open().await.unwrap();
    let made = reports.map::<String, u64>("nothing", "number.v1").open().await.unwrap_err();
    assert_eq!(made.failure().kind, "NOT_ALLOWED", "it may not make one");
    cluster.nodes.close().await;
}
