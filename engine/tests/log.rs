//! Logs through the handles of production, on simulated nodes: what is trimmed is told and never left out
//! in silence, tails and consumers go on over failovers, crashes and partitions.
#![cfg(feature = "sim")]

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use palisade::sim::{SimFabric, SimRandom};
use palisade::{
    APPEND_ENTRIES_MAX, Branch, CONSUMER_NAME_BYTES_MAX, Direction, Disposition, Engine, Error,
    Failure, FenceEpoch, LogEntry, LogPosition, LogRetention, LogTail, LogTrim,
    LogicalResourceName, Offset, ReadConsistency, ReadOptions, ReplicatedLog, ReplicatedMap,
    ResourceSpec, SchemaId, TAIL_ENTRIES_MAX, VALUE_BYTES_MAX, Version,
};

type Log = ReplicatedLog<u64>;

const NOW: ReadConsistency = ReadConsistency::Linearizable;
/// More than a write takes in a cluster that behaves.
const SOON: Duration = Duration::from_secs(1);
/// Enough for an election and what follows from it.
const A_WHILE: Duration = Duration::from_secs(5);

async fn open(engine: &Engine) -> Result<Log, Error> {
    let spec = ResourceSpec::new("numbers", "number.v1")?;
    Log::open(engine, spec).await
}

fn open_on(fabric: &mut SimFabric, number: u64) -> Log {
    let engine = fabric.engine(fabric.node(number));
    fabric.block_on(open(&engine)).unwrap()
}

/// A node that does not lead.
fn follower(fabric: &SimFabric) -> u64 {
    let leader = fabric.leader().expect("a cluster that behaves has a leader");
    (1..=3).find(|number| fabric.node(*number) != leader).expect("three nodes")
}

async fn all(log: &Log) -> Result<Vec<(LogPosition, u64)>, Error> {
    let (mut found, mut next) = (Vec::new(), Some(log.bounds(NOW).await?.value.first));
    while let Some(from) = next {
        let page = log.scan(from, Direction::Forward, 7, NOW).await?.value;
        found.extend(page.entries.into_iter().map(|entry| (entry.position, entry.value)));
        next = page.next;
    }
    Ok(found)
}

fn trimmed<T: std::fmt::Debug>(result: Result<T, Error>) -> LogPosition {
    let error = result.expect_err("some of it was removed");
    assert_eq!((error.failure(), error.disposition()), (Failure::NotFound, Disposition::Reject));
    let Error::Trimmed { first } = error else { panic!("{error}") };
    first
}

#[test]
fn positions_and_tails_are_exactly_what_the_page_says() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    fabric.block_on(async {
        let bounds = log.bounds(NOW).await.unwrap().value;
        assert_eq!((bounds.first, bounds.tail), (LogPosition::START, LogPosition::START));
        let one = log.append_if(&1, LogPosition::START).await.unwrap();
        assert_eq!(one.outcome, LogPosition::from(one.receipt.offset));
        let more = log.append_all(&[2, 3, 4]).await.unwrap();
        let places = [0, 1, 2].map(|index| LogPosition { offset: more.receipt.offset, index });
        assert_eq!(more.outcome, places);

        let tail = places[2].after();
        assert_eq!(tail.index, 3);
        for expected in [one.outcome.after(), places[2], LogPosition::from(tail.offset.next())] {
            let refused = log.append_if(&5, expected).await.unwrap_err();
            assert_eq!(refused.failure(), Failure::PreconditionFailed);
            let Error::TailMismatch { op: 0, expected: told, found } = refused else {
                panic!("{refused}")
            };
            assert_eq!((told, found), (expected, tail));
        }
        // Trimming moves `first`, and not the tail.
        let trim = log.trim_before(LogPosition::END).await.unwrap().outcome;
        assert_eq!((trim.first, trim.removed, trim.complete), (tail, 4, true));
        let bounds = log.bounds(NOW).await.unwrap().value;
        assert_eq!((bounds.first, bounds.tail, bounds.entries, bounds.bytes), (tail, tail, 0, 0));
        log.append_if(&5, tail).await.unwrap();
    });
}

#[test]
fn many_values_are_appended_together_or_not_at_all() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    fabric.block_on(async {
        let many: Vec<u64> = (0..APPEND_ENTRIES_MAX as u64).collect();
        let places = log.append_all(&many).await.unwrap().outcome;
        let entry = |(place, number): (&LogPosition, &u64)| (*place, *number);
        assert_eq!(
            all(&log).await.unwrap(),
            places.iter().zip(&many).map(entry).collect::<Vec<_>>()
        );
        for refused in [Vec::new(), vec![0; APPEND_ENTRIES_MAX + 1]] {
            let refused = log.append_all(&refused).await;
            assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        }
    });
    let engine = fabric.engine(fabric.node(1));
    fabric.block_on(async {
        let spec = ResourceSpec::new("large", "bytes.v1").unwrap();
        let log = ReplicatedLog::<Vec<u8>>::open(&engine, spec).await.unwrap();
        let half = vec![0; VALUE_BYTES_MAX / 2];
        let more = [&half[..], &[0]].concat();
        let refused = log.append_all(&[half.clone(), more]).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        log.append_all(&[half.clone(), half]).await.unwrap();
        assert_eq!(log.bounds(NOW).await.unwrap().value.entries, 2);
    });
}

#[test]
fn a_batch_demands_the_tail_and_appends_beside_other_things() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    let engine = fabric.engine(fabric.node(1));
    fabric.block_on(async {
        let batch = || engine.batch().require(log.tail_is(LogPosition::START));
        // The second sees what the first has appended, the demand what there was before.
        let beyond = batch().append(&log, &1).append_if(&log, &2, LogPosition::START);
        let refused = beyond.commit().await;
        assert!(matches!(refused, Err(Error::TailMismatch { .. })), "{refused:?}");
        assert_eq!(all(&log).await.unwrap(), []);

        let done = batch().append(&log, &1).append_all(&log, &[2, 3]).commit().await.unwrap();
        let place = |index| LogPosition { offset: done.receipt.offset, index };
        assert_eq!(done.outcomes[0].appended(), Some(place(0)));
        assert_eq!(done.outcomes[1].appended(), Some(place(1)));
        assert_eq!(all(&log).await.unwrap(), [(place(0), 1), (place(1), 2), (place(2), 3)]);

        let refused = batch().append(&log, &4).commit().await;
        assert!(matches!(refused, Err(Error::GuardFailed { guard: 0 })), "{refused:?}");
        let late = batch().append(&log, &4).otherwise().append(&log, &5).commit().await.unwrap();
        assert_eq!(late.branch, Some(Branch::Otherwise));
    });
}

/// Every place, both ways, in pages: what a list says, and `Trimmed` for what is gone.
#[test]
fn scans_go_both_ways_from_any_place() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    fabric.block_on(async {
        for number in 0..4_u64 {
            log.append_all(&[10 * number, 10 * number + 1]).await.unwrap();
        }
        let before = all(&log).await.unwrap();
        log.trim_before(before[3].0).await.unwrap();
        let first = before[2].0.after();
        let kept = &before[3..];
        assert_eq!(all(&log).await.unwrap(), kept);
        let (start, end) = (LogPosition::START, LogPosition::END);
        let mut places: BTreeSet<_> = before.iter().flat_map(|(at, _)| [*at, at.after()]).collect();
        places.extend([start, end]);
        for from in places {
            for (direction, limit) in [Direction::Forward, Direction::Backward]
                .into_iter()
                .flat_map(|way| [(way, 1), (way, 4)])
            {
                let forth = direction == Direction::Forward;
                if if forth { from < first } else { from <= first } {
                    assert_eq!(trimmed(log.scan(from, direction, limit, NOW).await), first);
                    continue;
                }
                let (mut found, mut next) = (Vec::new(), Some(from));
                while let Some(from) = next {
                    let page = log.scan(from, direction, limit, NOW).await.unwrap().value;
                    assert_eq!((page.first, page.tail), (first, before[7].0.after()));
                    found.extend(
                        page.entries.into_iter().map(|entry| (entry.position, entry.value)),
                    );
                    next = page.next;
                }
                let mut wanted = kept.to_vec();
                wanted.retain(|(at, _)| (*at >= from) == forth);
                if !forth {
                    wanted.reverse();
                }
                assert_eq!(found, wanted, "from={from} {direction:?}");
            }
        }
    });
}

/// A page that was read does not hide that what follows is gone, and neither does the wait for more.
#[test]
fn a_trim_under_a_tail_is_told() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    fabric.block_on(async {
        for part in 0..3 {
            let from = part * 200;
            log.append_all(&(from..from + 200).collect::<Vec<u64>>()).await.unwrap();
        }
        let mut tail = log.tail(LogPosition::START);
        assert_eq!(tail.next().await.unwrap().value, 0);
        // All but the last are removed, while the tail holds its first page.
        let last = all(&log).await.unwrap()[599].0;
        let mut trims = 0;
        while !log.trim_before(last).await.unwrap().outcome.complete {
            trims += 1;
        }
        assert_eq!(trims, 2);
        for number in 1..TAIL_ENTRIES_MAX as u64 {
            assert_eq!(tail.next().await.unwrap().value, number, "what it holds it gives");
        }
        let first = log.bounds(NOW).await.unwrap().value.first;
        for _ in 0..2 {
            assert_eq!(trimmed(tail.next().await), first, "and again if it is asked again");
        }
        // As a stream it says so once, and ends.
        assert_eq!(trimmed(streamed(&mut tail).await.unwrap()), first);
        assert!(streamed(&mut tail).await.is_none());

        let mut tail = log.tail(first);
        assert_eq!(streamed(&mut tail).await.unwrap().unwrap().value, 599);
        let (told, appended) = tokio::join!(streamed(&mut tail), log.append(&600));
        let (told, position) = (told.unwrap().unwrap(), appended.unwrap().outcome);
        assert_eq!((told.position, told.value, tail.position()), (position, 600, position.after()));
    });
    // A replica that is cut off meanwhile: it hears of the entries and of their removal together.
    let behind = follower(&fabric);
    let theirs = open_on(&mut fabric, behind);
    let position = fabric.block_on(theirs.bounds(NOW)).unwrap().value.tail;
    let mut tail = theirs.tail(position);
    assert!(fabric.block_on_for(SOON, tail.next()).is_none());
    fabric.partition(&[fabric.node(behind)]);
    let leader = fabric.engine(fabric.leader().unwrap());
    let log = fabric.block_on(open(&leader)).unwrap();
    fabric.block_on(async {
        for number in 601..605 {
            log.append(&number).await.unwrap();
        }
        log.trim_before(LogPosition::END).await.unwrap();
    });
    fabric.heal();
    let told = fabric.block_on(async {
        let mut told = Vec::new();
        while told.len() < 4 {
            match tail.next().await {
                Ok(entry) => told.push(entry.value),
                error => {
                    assert_eq!(trimmed(error), log.bounds(NOW).await.unwrap().value.tail);
                    break;
                }
            }
        }
        told
    });
    assert_eq!(told, (601..605).take(told.len()).collect::<Vec<_>>(), "nothing is left out");
}

/// A tail that waits is told when its node stops, and stands where it stood: another goes on there.
#[test]
fn a_tail_that_waits_ends_with_its_node() {
    let mut fabric = SimFabric::new(3);
    let number = follower(&fabric);
    let (node, log) = (fabric.node(number), open_on(&mut fabric, number));
    let mut tail = log.tail(LogPosition::START);
    let place = fabric.block_on(log.append(&1)).unwrap().outcome;
    assert_eq!(fabric.block_on(tail.next()).unwrap().value, 1);
    assert!(fabric.block_on_for(SOON, tail.next()).is_none());
    fabric.crash(node);
    let told = fabric.block_on_for(SOON, streamed(&mut tail)).expect("it waits no longer").unwrap();
    assert_eq!(told.unwrap_err().failure(), Failure::InternalError);
    assert!(fabric.block_on(streamed(&mut tail)).is_none(), "nothing helps against it");
    assert_eq!(tail.position(), place.after());

    // What is appended meanwhile it has not missed.
    let leader = fabric.engine(fabric.leader().unwrap());
    let elsewhere = fabric.block_on(open(&leader)).unwrap();
    fabric.block_on(elsewhere.append(&2)).unwrap();
    fabric.restart(node);
    let engine = fabric.engine(node);
    let log = fabric.block_on(open_again(&engine));
    assert_eq!(fabric.block_on(log.tail(tail.position()).next()).unwrap().value, 2);
}

async fn streamed(tail: &mut LogTail<u64>) -> Option<Result<LogEntry<u64>, Error>> {
    poll_fn(|context| Pin::new(&mut *tail).poll_next(context)).await
}

/// Numbers are appended through whichever node answers, while nodes crash, are cut off and come back. A
/// tail on each node, taken up again where it stood, gives every entry of the log once and in order; when
/// entries are trimmed away it says so, and goes on at `first`.
#[test]
fn tails_go_on_over_failovers_crashes_and_partitions() {
    let (mut told_count, mut trimmed_count, mut lives) = (0, 0, 0);
    for seed in 0..8 {
        let mut fabric = SimFabric::from_seed(seed, 3);
        let mut random = SimRandom::from_seed(seed);
        let nodes = [1, 2, 3].map(|number| fabric.node(number));
        let mut logs: Vec<Log> = (1..=3).map(|number| open_on(&mut fabric, number)).collect();
        let mut tails: Vec<LogTail<u64>> =
            logs.iter().map(|log| log.tail(LogPosition::START)).collect();
        let mut told: [Vec<(LogPosition, u64)>; 3] = Default::default();
        // What was told to be gone: from here up to before there.
        let mut gone: [Vec<(LogPosition, LogPosition)>; 3] = Default::default();
        let mut number = 0;
        for round in 0..40 {
            match random.below(10) {
                0 => fabric.partition(&[nodes[random.below(3) as usize]]),
                1 | 2 => fabric.heal(),
                3 => {
                    let at = random.below(3) as usize;
                    fabric.crash(nodes[at]);
                    fabric.restart(nodes[at]);
                    let position = tails[at].position();
                    // It opens nothing: the replica is behind, or alone.
                    let engine = fabric.engine(nodes[at]);
                    fabric.heal();
                    logs[at] = fabric.block_on(open_again(&engine));
                    tails[at] = logs[at].tail(position);
                    lives += 1;
                }
                _ => {}
            }
            for _ in 0..3 {
                let log = &logs[random.below(3) as usize];
                number += 1;
                // One whose outcome is unknown may be there, and then every tail gives it.
                let _ = fabric.block_on_for(SOON, log.append(&number));
            }
            if round % 10 == 9 {
                let log = &logs[random.below(3) as usize];
                let _ = fabric.block_on_for(SOON, log.trim_before(LogPosition::END));
            }
            let last = round == 39;
            if last {
                fabric.heal();
                fabric.run_for(A_WHILE);
            }
            for at in 0..3 {
                // Not every tail looks each time.
                if random.below(2) == 0 && !last {
                    continue;
                }
                while let Some(next) =
                    fabric.block_on_for(Duration::from_millis(20), tails[at].next())
                {
                    match next {
                        Ok(entry) => told[at].push((entry.position, entry.value)),
                        Err(Error::Trimmed { first }) => {
                            gone[at].push((tails[at].position(), first));
                            tails[at] = logs[at].tail(first);
                        }
                        Err(other) => panic!("seed={seed}: {other}"),
                    }
                }
            }
        }
        let kept = fabric.block_on(all(&logs[0])).unwrap();
        // All that was ever told, by any tail, and what is there.
        let mut known: Vec<_> = told.iter().flatten().chain(&kept).copied().collect();
        known.sort_unstable();
        known.dedup();
        for (told, gone) in told.iter().zip(&gone) {
            let missed = |(at, _): &(LogPosition, u64)| {
                gone.iter().any(|(from, first)| (*from..*first).contains(at))
            };
            let wanted: Vec<_> = known.iter().filter(|entry| !missed(entry)).copied().collect();
            assert_eq!(*told, wanted, "seed={seed}: each once, in order, but for what is gone");
            told_count += told.len();
            trimmed_count += gone.len();
        }
    }
    assert!(told_count > 1_000 && lives > 10, "told={told_count} lives={lives}");
    assert!(trimmed_count > 10, "trimmed={trimmed_count}");
}

/// A handle of a new life, once the node has caught up so far that it can open one.
async fn open_again(engine: &Engine) -> Log {
    loop {
        match open(engine).await {
            Ok(log) => return log,
            Err(Error::Disconnected { .. } | Error::RateLimited { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// What a consumer has committed it finds on whichever node it comes back, and only the newest owner moves
/// it on.
#[test]
fn a_consumer_goes_on_where_it_was_and_only_one_does() {
    let mut fabric = SimFabric::new(3);
    let number = follower(&fabric);
    let (old_node, log) = (fabric.node(number), open_on(&mut fabric, number));
    let engine = fabric.engine(fabric.leader().unwrap());
    let elsewhere = fabric.block_on(open(&engine)).unwrap();
    let (places, old) = fabric.block_on(async {
        let places = log.append_all(&[0, 1, 2, 3]).await.unwrap().outcome;
        let old = log.consumer("billing").unwrap();
        assert_eq!(old.position(NOW).await.unwrap().value, LogPosition::START);
        let receipt = old.commit(places[0].after()).await.unwrap();
        // A token from the commit shows it on another replica.
        let there = elsewhere.consumer("billing").unwrap();
        let fresh = ReadOptions::from(receipt.freshness()).wait(SOON);
        assert_eq!(there.position(fresh).await.unwrap().value, places[0].after());
        (places, old)
    });
    // The old owner's node is cut off, and a new one takes over elsewhere.
    fabric.partition(&[old_node]);
    let lost = fabric.block_on(old.commit(places[1].after()));
    assert!(matches!(lost, Err(Error::Disconnected { outcome_unknown: true })), "{lost:?}");
    let new = elsewhere.consumer("billing").unwrap().owned_by(FenceEpoch::new(2));
    fabric.block_on(new.commit(places[2].after())).unwrap();
    fabric.heal();
    fabric.run_for(A_WHILE);
    fabric.block_on(async {
        // The lost commit was judged before or after: either way it moves nothing now.
        assert_eq!(old.position(NOW).await.unwrap().value, places[2].after());
        for refused in [old.commit(places[3].after()).await, old.reset(places[0]).await] {
            let Err(Error::Fenced { current }) = refused else { panic!("{refused:?}") };
            assert_eq!(current, FenceEpoch::new(2));
        }
        assert!(matches!(old.forget().await, Err(Error::Fenced { .. })));
        let falls = new.commit(places[1]).await.unwrap_err();
        assert_eq!(falls.failure(), Failure::PreconditionFailed);
        assert!(falls.to_string().contains(&format!("committed={}", places[2].after())));
        let beyond = new.commit(places[3].after().after()).await.unwrap_err();
        assert!(beyond.to_string().contains(&format!("tail={}", places[3].after())), "{beyond}");
        new.commit(places[2].after()).await.unwrap();
        new.reset(places[1]).await.unwrap();
    });
    // Everyone loses power: what was committed is there.
    for number in 1..=3 {
        fabric.crash(fabric.node(number));
        fabric.restart(fabric.node(number));
    }
    let engine = fabric.engine(old_node);
    let log = fabric.block_on(open_again(&engine));
    fabric.block_on(async {
        let new = log.consumer("billing").unwrap().owned_by(FenceEpoch::new(2));
        assert_eq!(new.position(NOW).await.unwrap().value, places[1]);
        // It holds nothing back, and is told so.
        log.trim_before(LogPosition::END).await.unwrap();
        assert_eq!(new.position(NOW).await.unwrap().value, places[1]);
        new.forget().await.unwrap();
        assert_eq!(new.position(NOW).await.unwrap().value, LogPosition::START);
    });
    let told = fabric.block_on_for(SOON, log.tail(places[1]).next());
    assert_eq!(trimmed(told.expect("there is nothing to wait for")), places[3].after());
    fabric.run_for(SOON);
    fabric.assert_converged();
}

/// What was made of an entry and how far its consumer is are one record: a consumer that another one has
/// taken over from leaves nothing of either.
#[test]
fn a_consumer_commits_at_one_offset_with_what_it_made_or_not_at_all() {
    let mut fabric = SimFabric::new(1);
    let log = open_on(&mut fabric, 1);
    let engine = fabric.engine(fabric.node(1));
    fabric.block_on(async {
        let spec = ResourceSpec::new("sums", "sum.v1").unwrap();
        let sums = ReplicatedMap::<String, u64>::open(&engine, spec).await.unwrap();
        let places = log.append_all(&[3, 4]).await.unwrap().outcome;
        let (key, old) = ("sum".to_owned(), log.consumer("billing").unwrap());
        let stands = async || {
            let row = sums.get(&key, NOW).await.unwrap().value.unwrap();
            (row.value, row.version, old.position(NOW).await.unwrap().value)
        };
        let batch = engine.batch().put_if(&sums, &key, &3, Version::ABSENT);
        let batch = batch.commit_consumer(&old, places[0].after());
        let done = batch.clone().commit().await.unwrap();
        let first =
            (3, sums.get(&key, NOW).await.unwrap().value.unwrap().version, places[0].after());
        assert_eq!(first.1.offset(), done.receipt.offset);
        assert_eq!(stands().await, first);
        // The same batch again is another record, and judged as one.
        let again = batch.commit().await;
        assert!(matches!(again, Err(Error::VersionMismatch { .. })), "{again:?}");

        let new = log.consumer("billing").unwrap().owned_by(FenceEpoch::new(9));
        new.commit(places[0].after()).await.unwrap();
        let late = engine.batch().put(&sums, &key, &7).commit_consumer(&old, places[1].after());
        let refused = late.commit().await;
        let Err(Error::Fenced { current }) = refused else { panic!("{refused:?}") };
        assert_eq!(current, FenceEpoch::new(9));
        assert_eq!(stands().await, first);
    });
}

#[test]
fn what_a_log_keeps_is_set_beside_other_things() {
    let mut fabric = SimFabric::new(1);
    let log = open_on(&mut fabric, 1);
    let engine = fabric.engine(fabric.node(1));
    fabric.block_on(async {
        let places = log.append_all(&[1, 2, 3]).await.unwrap().outcome;
        let retention = LogRetention { keep_ms: None, keep_bytes: Some(1 << 20) };
        let batch = engine.batch().retain(&log, retention).trim_before(&log, places[2]);
        let outcomes = batch.append(&log, &4).commit().await.unwrap().outcomes;
        let trim = LogTrim { first: places[2], removed: 2, complete: true };
        let said: Vec<_> = outcomes.iter().map(|said| (said.trimmed(), said.request())).collect();
        assert_eq!(said, [(None, None), (Some(trim), None), (None, None)]);
        let bounds = log.bounds(NOW).await.unwrap().value;
        assert_eq!((bounds.first, bounds.entries, bounds.retention), (places[2], 2, retention));
    });
}

/// Who reads a log, and how far behind each is: entries and consumers of another log are not among them.
#[test]
fn consumers_are_listed_by_name() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    fabric.block_on(async {
        assert_eq!(log.consumers(NOW).await.unwrap().value, []);
        let places = log.append_all(&[0, 1, 2]).await.unwrap().outcome;
        let named = |name: &str| log.consumer(name).unwrap();
        named("shipping").commit(places[2].after()).await.unwrap();
        let newer = named("billing").owned_by(FenceEpoch::new(7));
        newer.commit(places[0].after()).await.unwrap();
        // Before and behind all others.
        named("\u{1}").commit(places[0]).await.unwrap();
        named("\u{10ffff}").commit(places[1]).await.unwrap();
        let listed = log.consumers(NOW).await.unwrap().value;
        let found: Vec<_> =
            listed.iter().map(|found| (found.name.as_str(), found.position)).collect();
        let wanted = [
            ("\u{1}", places[0]),
            ("billing", places[0].after()),
            ("shipping", places[2].after()),
            ("\u{10ffff}", places[1]),
        ];
        assert_eq!(found, wanted);
        assert_eq!(listed[1].owner, FenceEpoch::new(7));
        assert!(listed[2].log_time <= listed[1].log_time, "the later change");
        named("shipping").forget().await.unwrap();
        assert_eq!(log.consumers(NOW).await.unwrap().value.len(), 3);
    });
}

#[test]
fn a_reader_of_a_log_commits_nothing() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    let engine = fabric.engine(fabric.node(2));
    fabric.block_on(async {
        let place = log.append(&1).await.unwrap().outcome;
        log.consumer("c").unwrap().commit(place).await.unwrap();
        let name = LogicalResourceName::new("numbers").unwrap();
        let schema = SchemaId::new("number.v1").unwrap();
        let reader = Log::open_reader(&engine, &name, &schema).await.unwrap();
        let consumer = reader.consumer("c").unwrap();
        assert_eq!(consumer.position(NOW).await.unwrap().value, place);
        assert_eq!(reader.tail(Offset::ZERO).next().await.unwrap().value, 1);
        let refused = consumer.commit(place).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        for name in [String::new(), "n".repeat(CONSUMER_NAME_BYTES_MAX + 1)] {
            let refused = log.consumer(&name).map(|_| ());
            assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        }
    });
}

/// Bounds are part of the log: they hold whoever leads, and judge by log time alone.
#[test]
fn what_is_too_old_or_too_much_goes() {
    let mut fabric = SimFabric::new(3);
    let log = open_on(&mut fabric, 1);
    let keep = |keep_ms, keep_bytes| LogRetention { keep_ms, keep_bytes };
    fabric.block_on(async {
        for number in 0..20 {
            log.append(&number).await.unwrap();
        }
        // A number has 8 bytes, and an entry 17 more.
        log.retain(keep(None, Some(5 * 25))).await.unwrap();
        let bounds = log.bounds(NOW).await.unwrap().value;
        assert_eq!((bounds.entries, bounds.bytes), (20, 20 * 25));
        assert_eq!(bounds.retention, keep(None, Some(5 * 25)));
        for (number, left) in [(20, 13), (21, 6), (22, 5), (23, 5)] {
            log.append(&number).await.unwrap();
            assert_eq!(log.bounds(NOW).await.unwrap().value.entries, left);
        }
        log.retain(keep(Some(60_000), None)).await.unwrap();
    });
    fabric.run_for(Duration::from_secs(50));
    fabric.block_on(log.append(&24)).unwrap();
    let (old, _) = fabric.block_on(all(&log)).unwrap()[0];
    fabric.run_for(Duration::from_secs(50));
    let bounds = fabric.block_on(log.bounds(NOW)).unwrap().value;
    assert_eq!(bounds.entries, 1, "what is too old goes without an append");
    // Another node leads, and another appends.
    let leader = fabric.leader().unwrap();
    fabric.crash(leader);
    fabric.restart(leader);
    fabric.run_for(A_WHILE);
    let number = follower(&fabric);
    let engine = fabric.engine(fabric.node(number));
    let log = fabric.block_on(open_again(&engine));
    fabric.block_on(log.append(&25)).unwrap();
    let values: Vec<u64> =
        fabric.block_on(all(&log)).unwrap().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [24, 25]);
    let first = fabric.block_on(log.bounds(NOW)).unwrap().value.first;
    assert_eq!(trimmed(fabric.block_on(log.scan(old, Direction::Forward, 9, NOW))), first);
    fabric.run_for(SOON);
    fabric.assert_converged();
}
