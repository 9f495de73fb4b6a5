//! What a client session says of a command when it ends without an answer: that it may have been done if it may,
//! that it was not if it was not.
#![cfg(feature = "sim")]

use std::pin::pin;
use std::time::Duration;

use palisade::sim::SimFabric;
use palisade::{Error, NodeId, ReplicatedLog, ResourceSpec, Session};

type Log = ReplicatedLog<u64>;

const HOUR: Duration = Duration::from_secs(3600);
/// Longer than a request waits.
const LONG: Duration = Duration::from_secs(30);

/// A session on the node that leads, and its log.
fn session(fabric: &mut SimFabric) -> (NodeId, Session, Log) {
    let leader = fabric.leader().unwrap();
    let engine = fabric.engine(leader);
    let (session, log) = fabric
        .block_on(async {
            let session = engine.client_session(HOUR).await?;
            let spec = ResourceSpec::new("log", "number.v1")?;
            let log = Log::open(session.engine(), spec).await?;
            Ok::<_, Error>((session, log))
        })
        .unwrap();
    (leader, session, log)
}

#[test]
fn what_may_have_been_done_is_said_to_be_unknown() {
    let mut fabric = SimFabric::new(3);
    let (leader, _session, log) = session(&mut fabric);
    // Taken up by a leader that can commit nothing, and given up with its term. Further attempts find nobody.
    fabric.partition(&[leader]);
    let told = fabric.block_on_for(LONG, log.append(&1)).expect("it has a deadline");
    assert!(matches!(told, Err(Error::Disconnected { outcome_unknown: true })), "{told:?}");
    fabric.heal();
    fabric.run_for(Duration::from_secs(5));
    let done = fabric.block_on(log.append(&2)).unwrap();
    assert!(!done.receipt.duplicate, "a number of its own");
}

#[test]
fn a_node_that_stops_says_what_may_have_been_done() {
    let mut fabric = SimFabric::new(3);
    let (leader, _session, log) = session(&mut fabric);
    fabric.partition(&[leader]);
    {
        let mut append = pin!(log.append(&1));
        assert!(fabric.block_on_for(Duration::from_secs(3), &mut append).is_none());
        fabric.crash(leader);
        let told = fabric.block_on_for(LONG, &mut append).expect("the node has stopped");
        assert!(matches!(told, Err(Error::Disconnected { outcome_unknown: true })), "{told:?}");
    }
    let told = fabric.block_on_for(LONG, log.append(&2)).expect("it has stopped").unwrap_err();
    assert!(matches!(told, Error::InternalError { .. }), "{told}");
}
