//! The services over real nodes and sockets, as the messages say.

#[path = "support/nodes.rs"]
mod nodes;

use std::time::Duration;

use nodes::Nodes;
use palisade::{LogicalResourceName, ReadConsistency, ReplicatedLog, SchemaId};
use palisade_proto::common::v1 as common;
use palisade_proto::directory::v1::directory_client::DirectoryClient;
use palisade_proto::directory::v1::{self as directory, Kind};
use palisade_proto::failure::{Code, Disposition, Failure};
use palisade_proto::idempotency::v1::idempotency_client::IdempotencyClient;
use palisade_proto::log::v1::log_client::LogClient;
use palisade_proto::map::v1::map_client::MapClient;
use palisade_proto::{batch, idempotency, log, map};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

async fn channel(nodes: &Nodes, at: usize) -> Channel {
    let address = format!("http://{}", nodes.addresses[at]);
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

/// Makes a resource once there is a leader.
async fn make(nodes: &Nodes, name: &str, kind: Kind) -> directory::Described {
    let channel = channel(nodes, 0).await;
    let mut directory = DirectoryClient::new(channel);
    let spec = directory::Spec {
        name: name.to_owned(),
        schema: "test.v1".to_owned(),
        kind: kind.into(),
        replicas: nodes.engines.len() as u32,
        ..Default::default()
    };
    loop {
        let asked = directory::OpenRequest { spec: Some(spec.clone()) };
        match directory.open(asked).await {
            Ok(opened) => return opened.into_inner().described.unwrap(),
            Err(status) if status.code() == tonic::Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

fn resource(name: &str) -> Option<common::Resource> {
    Some(common::Resource { name: name.into(), schema: "test.v1".into(), epoch: 0, caller: None })
}

fn local() -> Option<common::ReadOptions> {
    let consistency = Some(common::read_options::Consistency::Local(common::Local {}));
    Some(common::ReadOptions { consistency, ..Default::default() })
}

fn put(name: &str, key: &str, value: &str) -> map::v1::PutRequest {
    map::v1::PutRequest {
        map: resource(name),
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn get(name: &str, key: &str, options: Option<common::ReadOptions>) -> map::v1::GetRequest {
    let keys = vec![key.to_owned().into()];
    map::v1::GetRequest { map: resource(name), keys, options, at: 0 }
}

fn failure(status: &Status) -> Failure {
    Failure::of(status).unwrap_or_else(|| panic!("not one of Palisade's: {status:?}"))
}

fn value(found: &map::v1::GetResponse) -> Option<String> {
    let row = found.found[0].row.as_ref()?;
    Some(String::from_utf8(row.value.as_ref().unwrap().data.to_vec()).unwrap())
}

/// F1 and F2: a write at one node is seen at any other, with the token that came with its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_any_call() {
    let nodes = Nodes::start(3).await;
    make(&nodes, "map", Kind::Map).await;
    for number in 0..30 {
        let mut writer = MapClient::new(channel(&nodes, number % 3).await);
        let mut reader = MapClient::new(channel(&nodes, (number + 1) % 3).await);
        let told = writer.put(put("map", "k", &format!("v{number}"))).await.unwrap();
        let token = told.metadata().get_bin("palisade-freshness-bin").unwrap().clone();
        let receipt = told.into_inner().receipt.unwrap();
        assert_eq!(token.to_bytes().unwrap(), receipt.freshness);

        let mut asked = Request::new(get("map", "k", local()));
        asked.metadata_mut().insert_bin("palisade-freshness-bin", token);
        let found = reader.get(asked).await.unwrap().into_inner();
        assert_eq!(value(&found), Some(format!("v{number}")));
        assert!(receipt.offset <= found.reflected.unwrap().offset);
        // Nothing said: linearizable.
        let found = reader.get(get("map", "k", None)).await.unwrap().into_inner();
        assert_eq!(value(&found), Some(format!("v{number}")));
    }
    nodes.close().await;
}

/// What is refused says why, what to do, and the facts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_what_to_do() {
    let nodes = Nodes::start(1).await;
    make(&nodes, "map", Kind::Map).await;
    let mut maps = MapClient::new(channel(&nodes, 0).await);
    let first = maps.put(put("map", "k", "v")).await.unwrap().into_inner().receipt.unwrap();

    let there = Some(map::v1::Expected { version: 0 });
    let status = maps.put(map::v1::PutRequest { expected: there, ..put("map", "k", "w") }).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Aborted);
    let told = failure(&status);
    assert_eq!((told.code, told.kind.as_str()), (Code::PreconditionFailed, "VERSION_MISMATCH"));
    assert_eq!(
        (told.facts["expected"].as_str(), &told.facts["found"]),
        ("0", &first.offset.to_string())
    );
    assert_eq!((told.disposition, told.help.is_empty()), (Disposition::Reject, false));

    let status = maps.get(get("nothing", "k", None)).await.unwrap_err();
    assert_eq!((status.code(), failure(&status).code), (tonic::Code::NotFound, Code::NotFound));

    let ahead = common::read_options::Consistency::AtLeastOffset(first.offset + 1_000);
    let at_once =
        common::ReadOptions { consistency: Some(ahead), wait_ms: Some(0), refuse_stale: false };
    let status = maps.get(get("map", "k", Some(at_once))).await.unwrap_err();
    let told = failure(&status);
    assert_eq!((told.code, told.disposition), (Code::NotYetApplied, Disposition::Retry));
    assert_eq!(told.facts["required"], (first.offset + 1_000).to_string());

    let other = Some(common::Resource { schema: "test.v2".into(), ..resource("map").unwrap() });
    let asked = map::v1::PutRequest { map: other, ..put("map", "k", "w") };
    let told = failure(&maps.put(asked).await.unwrap_err());
    assert_eq!(told.code, Code::Incompatible);
    assert!(told.facts["found"].contains("test.v1"), "{told:?}");
    let asked = map::v1::PutRequest { map: None, ..put("map", "k", "w") };
    assert_eq!(failure(&maps.put(asked).await.unwrap_err()).code, Code::InvalidArgument);
    nodes.close().await;
}

/// G3: over the wire as in the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_writer_is_fenced() {
    let nodes = Nodes::start(1).await;
    let made = make(&nodes, "map", Kind::Map).await;
    let mut maps = MapClient::new(channel(&nodes, 0).await);
    maps.put(put("map", "k", "v")).await.unwrap();
    let channel = channel(&nodes, 0).await;
    let mut directory = DirectoryClient::new(channel);
    let spec = directory::Spec { epoch: 7, ..made.spec.unwrap() };
    directory.open(directory::OpenRequest { spec: Some(spec) }).await.unwrap();
    let told = failure(&maps.put(put("map", "k", "w")).await.unwrap_err());
    assert_eq!((told.code, told.facts["current_epoch"].as_str()), (Code::Fenced, "7"));
    let newer = Some(common::Resource { epoch: 7, ..resource("map").unwrap() });
    maps.put(map::v1::PutRequest { map: newer, ..put("map", "k", "w") }).await.unwrap();
    nodes.close().await;
}

/// The report flow of the seeds, as one batch at one offset; repeated, it is the first receipt again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_is_one_batch() {
    let nodes = Nodes::start(3).await;
    make(&nodes, "requests", Kind::Idempotency).await;
    make(&nodes, "reports", Kind::Log).await;
    make(&nodes, "status", Kind::Map).await;
    use batch::v1::operation::Operation;
    let of = |operation| batch::v1::Operation { operation: Some(operation) };
    let fingerprint = vec![7; 32];
    let submit = batch::v1::CommitRequest {
        then: vec![
            of(Operation::Reserve(batch::v1::Reserve {
                store: resource("requests"),
                key: "r1".into(),
                fingerprint: fingerprint.clone().into(),
                ..Default::default()
            })),
            of(Operation::Append(batch::v1::Append {
                log: resource("reports"),
                values: vec!["a report".into()],
                expected_tail: None,
            })),
            of(Operation::Put(batch::v1::Put {
                map: resource("status"),
                key: "r1".into(),
                value: "accepted".into(),
                ..Default::default()
            })),
            of(Operation::Complete(batch::v1::Complete {
                store: resource("requests"),
                key: "r1".into(),
                owner_epoch: 0,
                result: "done".into(),
            })),
        ],
        ..Default::default()
    };
    let mut first = None;
    for at in [0, 1, 2, 0] {
        let mut batches = batch::v1::batch_client::BatchClient::new(channel(&nodes, at).await);
        let done = batches.commit(submit.clone()).await.unwrap().into_inner();
        let receipt = done.receipt.unwrap();
        match &first {
            None => {
                assert_eq!(done.branch, batch::v1::Branch::Then as i32);
                assert_eq!((done.outcomes.len(), receipt.duplicate), (4, false));
                first = Some(receipt);
            }
            Some(first) => {
                assert_eq!(receipt, common::Receipt { duplicate: true, ..first.clone() });
                assert!(done.outcomes.is_empty());
            }
        }
    }
    let mut requests = IdempotencyClient::new(channel(&nodes, 2).await);
    let asked = idempotency::v1::GetStatusRequest {
        store: resource("requests"),
        key: "r1".into(),
        options: None,
    };
    let found = requests.get_status(asked).await.unwrap().into_inner();
    use idempotency::v1::get_status_response::Status as Found;
    assert!(matches!(found.status, Some(Found::Completed(done)) if done.result == "done"));
    let told = requests
        .reserve(idempotency::v1::ReserveRequest {
            store: resource("requests"),
            key: "r1".into(),
            fingerprint: vec![8; 32].into(),
            ..Default::default()
        })
        .await;
    assert_eq!(failure(&told.unwrap_err()).code, Code::IdempotencyConflict);
    nodes.close().await;
}

/// Messages of a stream take effect in their order, and share records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_appends_keeps_its_order() {
    let nodes = Nodes::start(3).await;
    make(&nodes, "log", Kind::Log).await;
    const MESSAGES: u64 = 2_000;
    let opening = log::v1::AppendStreamRequest { log: resource("log"), values: Vec::new() };
    let value = |number: u64| bytes::Bytes::copy_from_slice(&number.to_be_bytes());
    let message =
        move |number| log::v1::AppendStreamRequest { log: None, values: vec![value(number)] };
    let messages = std::iter::once(opening).chain((0..MESSAGES).map(message));
    let mut logs = LogClient::new(channel(&nodes, 1).await);
    let stream = logs.append_stream(futures_util::stream::iter(messages)).await.unwrap();
    let (mut stream, mut answered, mut records) = (stream.into_inner(), 0, 0);
    while let Some(answer) = stream.message().await.unwrap() {
        assert_eq!(answer.messages, answer.values);
        answered += u64::from(answer.messages);
        records += 1;
    }
    assert_eq!(answered, MESSAGES);
    assert!(records < MESSAGES / 2, "{records} records");

    let mut logs = LogClient::new(channel(&nodes, 2).await);
    let asked = log::v1::ScanRequest { log: resource("log"), ..Default::default() };
    let found = logs.scan(asked).await.unwrap().into_inner();
    let read: Vec<u64> = found
        .entries
        .iter()
        .map(|entry| u64::from_be_bytes(entry.value.as_ref().unwrap().data[..].try_into().unwrap()))
        .collect();
    assert_eq!(read, (0..MESSAGES).collect::<Vec<_>>());

    // The second of these is wrong: the first has its answer, and then the stream ends.
    let opening = log::v1::AppendStreamRequest { log: resource("log"), values: vec!["x".into()] };
    let wrong = log::v1::AppendStreamRequest { log: resource("log"), values: vec!["y".into()] };
    let stream = logs.append_stream(futures_util::stream::iter([opening, wrong])).await.unwrap();
    let mut stream = stream.into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().messages, 1);
    assert_eq!(failure(&stream.message().await.unwrap_err()).code, Code::InvalidArgument);
    nodes.close().await;
}

/// Streams that break go on where they were, on another node: nothing twice, nothing left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tails_and_watches_go_on_elsewhere() {
    let nodes = Nodes::start(3).await;
    make(&nodes, "log", Kind::Log).await;
    make(&nodes, "map", Kind::Map).await;
    let mut logs = LogClient::new(channel(&nodes, 0).await);
    let mut maps = MapClient::new(channel(&nodes, 0).await);
    for number in 0..20 {
        let values = vec![format!("e{number}").into()];
        logs.append(log::v1::AppendRequest { log: resource("log"), values, ..Default::default() })
            .await
            .unwrap();
        maps.put(put("map", "k", &format!("v{number}"))).await.unwrap();
    }
    let (mut from, mut told) = (None, Vec::new());
    for at in [0, 1, 2, 0] {
        let mut logs = LogClient::new(channel(&nodes, at).await);
        let asked = log::v1::TailRequest { log: resource("log"), from };
        let mut tail = logs.tail(asked).await.unwrap().into_inner();
        let message = tail.message().await.unwrap().unwrap();
        from = message.next;
        told.extend(message.entries.into_iter().map(|entry| entry.value.unwrap().data));
        if told.len() == 20 {
            break;
        }
    }
    let wanted: Vec<_> = (0..20).map(|number| bytes::Bytes::from(format!("e{number}"))).collect();
    assert_eq!(told, wanted);

    let (mut from, mut told) = (0, Vec::new());
    let mut at = 0;
    while told.len() < 20 {
        let mut maps = MapClient::new(channel(&nodes, at % 3).await);
        let asked = map::v1::WatchRequest { map: resource("map"), from, ..Default::default() };
        let mut watch = maps.watch(asked).await.unwrap().into_inner();
        for _ in 0..3 {
            let event = watch.message().await.unwrap().unwrap();
            from = event.position;
            for change in event.changes {
                told.push(change.now.unwrap().value.unwrap().data);
            }
        }
        at += 1;
    }
    let wanted: Vec<_> = (0..20).map(|number| bytes::Bytes::from(format!("v{number}"))).collect();
    assert_eq!(told, wanted);
    nodes.close().await;
}

/// A call is over when its deadline is, and says what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_kept() {
    let nodes = Nodes::start(3).await;
    make(&nodes, "map", Kind::Map).await;
    // Two of three are gone: nothing is committed any more.
    for engine in &nodes.engines[1..] {
        engine.close().await.unwrap();
    }
    let mut maps = MapClient::new(channel(&nodes, 0).await);
    let mut asked = Request::new(put("map", "k", "v"));
    asked.metadata_mut().insert("grpc-timeout", MetadataValue::from_static("300m"));
    let status = maps.put(asked).await.unwrap_err();
    let told = failure(&status);
    assert_eq!((status.code(), told.code), (tonic::Code::DeadlineExceeded, Code::Disconnected));
    assert_eq!(told.disposition, Disposition::Indeterminate);
}

/// Serving means that it can be written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_a_write() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let nodes = Nodes::start(3).await;
    make(&nodes, "map", Kind::Map).await;
    let mut health = HealthClient::new(channel(&nodes, 2).await);
    for service in ["", "group/0", "group/1", "palisade.map.v1.Map"] {
        let asked = tonic_health::pb::HealthCheckRequest { service: service.into() };
        let found = health.check(asked).await.unwrap().into_inner();
        assert_eq!(found.status(), ServingStatus::Serving, "{service}");
    }
    // Each look is a record in the group's log, and not a read that a leader of yesterday would answer.
    let name = LogicalResourceName::new("palisade.probe/0").unwrap();
    let schema = SchemaId::new("palisade.probe.v1").unwrap();
    let probe = ReplicatedLog::<u64>::open_reader(&nodes.engines[0], &name, &schema).await.unwrap();
    let tail = async || probe.bounds(ReadConsistency::Linearizable).await.unwrap().value.tail;
    let before = tail().await;
    let grows = async {
        while tail().await == before {
            health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), grows).await.expect("a look appends");
    let asked = tonic_health::pb::HealthCheckRequest { service: "group/9".into() };
    assert_eq!(health.check(asked).await.unwrap_err().code(), tonic::Code::NotFound);
    let asked = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(asked).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    for engine in &nodes.engines[..2] {
        engine.close().await.unwrap();
    }
    let told = tokio::time::timeout(Duration::from_secs(30), watch.message()).await.unwrap();
    assert_eq!(told.unwrap().unwrap().status(), ServingStatus::NotServing);
}

/// Tools find out what there is without a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_listed() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let nodes = Nodes::start(1).await;
    let mut reflection = ServerReflectionClient::new(channel(&nodes, 0).await);
    let asked = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(futures_util::stream::iter([asked])).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let found: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for service in palisade_proto::SERVICES {
        assert!(found.iter().any(|name| name == service), "{service} is not in {found:?}");
    }
    // Tools that are older ask in another way.
    use tonic_reflection::pb::v1alpha as older;
    let mut reflection =
        older::server_reflection_client::ServerReflectionClient::new(channel(&nodes, 0).await);
    let asked = older::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(older::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let answers = reflection.server_reflection_info(futures_util::stream::iter([asked])).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response;
    let Some(older::server_reflection_response::MessageResponse::ListServicesResponse(listed)) =
        answer
    else {
        panic!("{answer:?}");
    };
    let listed: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    let ours = |found: &[String]| found.iter().filter(|name| name.starts_with("palisade.")).count();
    assert_eq!(listed[..ours(&found)], found[..ours(&found)]);
    nodes.close().await;
}
