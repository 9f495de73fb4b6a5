//! The trace of a caller goes on at each replica that applies his record, and changes nothing there.
#![cfg(feature = "sim")]

use std::time::Duration;

use palisade::sim::{GROUP, SimFabric};
use palisade::{
    BatchDone, CommandNumber, Engine, ReplicatedLog, ReplicatedMap, ResourceSpec, TraceContext,
    TracedRecord, TracedRecords,
};

type Map = ReplicatedMap<String, u64>;

fn context(number: u8, flags: u8) -> TraceContext {
    TraceContext::new([number; 16], [number; 8], flags).unwrap()
}

async fn open(engine: &Engine) -> Map {
    Map::open(engine, ResourceSpec::new("counts", "count.v1").unwrap()).await.unwrap()
}

/// What a replica has told, but of traces that the simulation drew.
fn told(fabric: &mut SimFabric, records: &mut TracedRecords) -> Vec<TracedRecord> {
    let mut found = Vec::new();
    fabric.block_on(async {
        let mut waker = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            let mut next = std::pin::pin!(records.next());
            match next.as_mut().poll(&mut waker) {
                std::task::Poll::Ready(Some(record)) => found.push(record),
                _ => return,
            }
        }
    });
    found.retain(|record| record.trace.trace_id()[0] != 0);
    found
}

#[test]
fn each_replica_tells_of_a_record_that_is_part_of_a_trace() {
    let mut fabric = SimFabric::from_seed(3, 3);
    let leader = fabric.leader().unwrap();
    let follower = fabric.node(1 + leader.get() % 3);
    let engine = fabric.engine(follower);
    let map = fabric.block_on(open(&engine));
    let mut listeners: Vec<TracedRecords> =
        (1..=3).map(|number| fabric.engine(fabric.node(number)).traced_records()).collect();
    let key = "k".to_owned();
    let written = async {
        let put = map.traced(context(1, 1)).put(&key, &1).await?;
        let batch = engine.batch().traced(context(2, 3)).put(&map, &key, &2).commit().await?;
        // One engine for a call: what is opened through it is part of its trace.
        let within = open(&engine.traced(context(3, 1))).await;
        within.put(&key, &3).await?;
        // Nobody keeps it.
        map.traced(context(4, 0)).put(&key, &4).await?;
        Ok::<_, palisade::Error>((put, batch.receipt))
    };
    let (put, batch) = fabric.block_on(written).unwrap();
    fabric.run_for(Duration::from_secs(2));
    for records in &mut listeners {
        let told = told(&mut fabric, records);
        let traces: Vec<u8> = told.iter().map(|record| record.trace.trace_id()[0]).collect();
        assert_eq!(traces, [1, 2, 3, 3], "the last of them opens, and puts");
        assert_eq!((told[0].group, told[0].offset), (GROUP, put.offset));
        assert_eq!((told[1].offset, told[1].trace), (batch.offset, context(2, 3)));
        assert!(told.iter().all(|record| record.outcome == "done"));
    }
    fabric.assert_converged();
}

/// G6: a command that is sent again is in another span, and the same command; also of a store for requests.
#[test]
fn a_context_is_no_part_of_what_is_asked() {
    let mut fabric = SimFabric::from_seed(4, 3);
    let engine = fabric.engine(fabric.node(1));
    let map = fabric.block_on(open(&engine));
    let mut records = engine.traced_records();
    let (group, key) = (map.group().clone(), "k".to_owned());
    let client = group.register_client(Duration::from_secs(60));
    let client = fabric.block_on(client).unwrap();
    let number = CommandNumber { client, seq: 1, acked_up_to: 0 };
    let mut send = |trace: Option<TraceContext>| -> BatchDone {
        let batch = engine.batch().numbered(number).put(&map, &key, &7);
        let batch = match trace {
            Some(trace) => batch.traced(trace),
            None => batch,
        };
        fabric.block_on(batch.commit()).unwrap()
    };
    let first = send(Some(context(1, 1)));
    for trace in [Some(context(2, 1)), None] {
        let again = send(trace);
        assert!(again.receipt.duplicate && !first.receipt.duplicate);
        assert_eq!(
            (again.receipt.offset, &again.outcomes),
            (first.receipt.offset, &first.outcomes)
        );
    }
    let outcomes = told(&mut fabric, &mut records);
    let outcomes: Vec<&str> = outcomes.iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes, ["done", "duplicate"]);
}

/// A replica that has lost power tells again of what it applies again, and comes to the same.
#[test]
fn records_with_a_context_survive_a_loss_of_power() {
    let mut fabric = SimFabric::from_seed(5, 3);
    let engine = fabric.engine(fabric.leader().unwrap());
    let open = ReplicatedLog::<String>::open(&engine, ResourceSpec::new("log", "s").unwrap());
    let log = fabric.block_on(open).unwrap();
    for number in 0..20 {
        let log = log.traced(context(1 + number, 1));
        fabric.block_on(log.append(&format!("entry {number}"))).unwrap();
    }
    for number in 1..=3 {
        let node = fabric.node(number);
        fabric.crash(node);
        fabric.restart(node);
        fabric.run_for(Duration::from_secs(3));
    }
    fabric.assert_converged();
}
