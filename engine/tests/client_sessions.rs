//! Numbered commands (G6): whatever happens between a client and its group, each has at most one effect and one
//! answer, and what is forgotten is told.
//!
//! Replay one seed with `PALISADE_SIM_SEED=<seed> cargo test -p palisade --no-default-features --test client_sessions`;
//! run more of them with `PALISADE_SIM_SEEDS=<count>`.
#![cfg(feature = "sim")]

#[path = "support/data.rs"]
mod data;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use data::Data;
use palisade::sim::{SimFabric, SimRandom};
use palisade::{
    Applied, At, BatchDone, CLIENT_COMMANDS_MAX, CLIENT_TTL_MAX, ClientId, ClusterId,
    CommandNumber, Direction, Disposition, Engine, Error, Failure, FenceEpoch, GroupId, Handle,
    Offset, Projection, ProjectionFault, REPLY_BYTES_MAX, ReadConsistency, Receipt, Registrant,
    ReplicatedLog, ReplicatedMap, ResourceSpec, Rows, Stored, Version,
};

type Log = ReplicatedLog<u64>;
type Map = ReplicatedMap<u64, u64>;

const HOUR: Duration = Duration::from_secs(3600);

fn spec(name: &str, epoch: u64) -> ResourceSpec {
    ResourceSpec::new(name, "number.v1").unwrap().epoch(FenceEpoch::new(epoch))
}

async fn open_log(engine: &Engine, epoch: u64) -> Result<Log, Error> {
    Log::open(engine, spec("log", epoch)).await
}

/// Everything that a log holds, and where.
async fn logged(log: &Log) -> Result<Vec<(u64, Offset)>, Error> {
    let (mut found, mut from) = (Vec::new(), Offset::ZERO.into());
    loop {
        let read = log.scan(from, Direction::Forward, 1000, ReadConsistency::Linearizable).await?;
        let entries = read.value.entries.into_iter();
        found.extend(entries.map(|entry| (entry.value, entry.position.offset)));
        let Some(next) = read.value.next else { return Ok(found) };
        from = next;
    }
}

/// All of them at once.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().map(Option::unwrap).collect()
}

/// What a command was told, but for whether it was a repetition: its place and outcomes, or the refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Done(Offset, u64, BatchDone),
    Refused(String),
}

/// An answer, and whether it said to be one again. Nothing if it is not known what became of the command.
fn answer(done: Result<BatchDone, Error>) -> Option<(Answer, bool)> {
    match done {
        Ok(mut done) => {
            let duplicate = std::mem::take(&mut done.receipt.duplicate);
            let Receipt { offset, log_time, .. } = done.receipt;
            Some((Answer::Done(offset, log_time.get(), done), duplicate))
        }
        Err(error @ (Error::GuardFailed { .. } | Error::VersionMismatch { .. })) => {
            Some((Answer::Refused(error.to_string()), false))
        }
        Err(
            Error::Disconnected { .. } | Error::RateLimited { .. } | Error::InternalError { .. },
        ) => None,
        Err(other) => panic!("{other}"),
    }
}

/// A client on the far side of a network, which counts for itself and asks whichever node it finds.
struct Remote {
    client: ClientId,
    /// By number; nothing while an answer is waited for.
    commands: BTreeMap<u64, Option<Answer>>,
    acked_up_to: u64,
}

impl Remote {
    /// Every third command demands that a key is as its maker has seen it at the start: only the first such can
    /// be done.
    async fn send(&self, engine: &Engine, seq: u64) -> Result<BatchDone, Error> {
        let log = Log::open(engine, spec("log", 1)).await?;
        let map = Map::open(engine, spec("map", 1)).await?;
        let CommandNumber { client, .. } = self.number(seq);
        let payload = client.offset.get() * 1000 + seq;
        let batch = engine.batch().numbered(self.number(seq)).append(&log, &payload);
        let batch = match seq % 3 {
            0 => batch.put_if(&map, &0, &seq, Version::ABSENT),
            1 => batch.put(&map, &seq, &payload).require(map.version_is(&seq, Version::ABSENT)),
            _ => batch,
        };
        batch.commit().await
    }

    fn number(&self, seq: u64) -> CommandNumber {
        CommandNumber { client: self.client, seq, acked_up_to: self.acked_up_to.min(seq - 1) }
    }
}

/// Crashes, partitions and pauses between commands of two clients that ask any node, send again what was
/// answered already, and take answers back late. How many were repeated, unknown, refused and done.
fn run(seed: u64) -> [usize; 4] {
    let (mut repeated, mut unknown, mut refused, mut done) = (0, 0, 0, 0);
    let mut fabric = SimFabric::from_seed(seed, 3);
    let mut random = SimRandom::from_seed(seed ^ 77);
    let nodes = [1, 2, 3].map(|number| fabric.node(number));
    let first = fabric.engine(nodes[0]);
    let remotes = [0, 1].map(|_| fabric.block_on(first.data().register_client(HOUR)).unwrap());
    let mut remotes =
        remotes.map(|client| Remote { client, commands: BTreeMap::new(), acked_up_to: 0 });
    let mut down = None;
    for _ in 0..90 {
        match random.below(16) {
            0 => fabric.partition(&[nodes[random.below(3) as usize]]),
            1..=3 => fabric.heal(),
            4 => fabric.pause(nodes[random.below(3) as usize], Duration::from_millis(700)),
            5 | 6 => match down.take() {
                Some(node) => fabric.restart(node),
                None => {
                    let node = nodes[random.below(3) as usize];
                    fabric.crash(node);
                    down = Some(node);
                }
            },
            _ => {}
        }
        let remote = &mut remotes[random.below(2) as usize];
        let last = remote.commands.last_key_value().map_or(0, |(seq, _)| *seq);
        let lowest = remote.acked_up_to + 1;
        // Mostly the next, unless too many are open; else any that is not taken back.
        let is_full = lowest + CLIENT_COMMANDS_MAX as u64 <= last + 1;
        let seq = match random.below(3) {
            0 if lowest <= last => lowest + random.below(last - lowest + 1),
            _ if is_full => lowest,
            _ => last + 1,
        };
        let engine = fabric.engine(nodes[random.below(3) as usize]);
        let told = fabric.block_on_for(Duration::from_secs(3), remote.send(&engine, seq));
        let known = remote.commands.entry(seq).or_default();
        match (told.and_then(answer), &*known) {
            (None, _) => unknown += 1,
            (Some((told, duplicate)), Some(known)) => {
                assert_eq!(told, *known, "seed={seed} seq={seq}: one answer for ever");
                assert!(duplicate || matches!(told, Answer::Refused(_)), "it says so");
                repeated += 1;
            }
            (Some((told, _)), None) => *known = Some(told),
        }
        if random.below(4) == 0 {
            let answered = remote.commands.iter().take_while(|(_, known)| known.is_some());
            remote.acked_up_to = answered.last().map_or(remote.acked_up_to, |(seq, _)| *seq);
        }
    }
    fabric.heal();
    if let Some(node) = down {
        fabric.restart(node);
    }
    let engine = fabric.engine(nodes[1]);
    for remote in &mut remotes {
        let open: Vec<u64> = remote
            .commands
            .iter()
            .filter(|(_, known)| known.is_none())
            .map(|(seq, _)| *seq)
            .collect();
        for seq in open {
            let told = fabric.block_on(remote.send(&engine, seq));
            let (told, _) = answer(told).expect("nothing is in the way");
            remote.commands.insert(seq, Some(told));
        }
    }
    let log = fabric.block_on(open_log(&engine, 1)).unwrap();
    let mut found = fabric.block_on(logged(&log)).unwrap();
    let mut wanted = Vec::new();
    for remote in &remotes {
        for (seq, known) in &remote.commands {
            match known.as_ref().expect("all are answered") {
                Answer::Done(offset, ..) => {
                    wanted.push((remote.client.offset.get() * 1000 + seq, *offset));
                }
                Answer::Refused(_) => refused += 1,
            }
        }
    }
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "seed={seed}: each once, where it was answered");
    done += wanted.len();
    fabric.run_for(Duration::from_secs(5));
    fabric.assert_converged();
    [repeated, unknown, refused, done]
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|raw| raw.parse::<u64>().expect("a number"));
    match number("PALISADE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("PALISADE_SIM_SEEDS").unwrap_or(10)).collect(),
    }
}

#[test]
fn each_numbered_command_has_one_effect_and_one_answer() {
    let seeds = seeds();
    let mut total = [0; 4];
    for seed in &seeds {
        let counts = std::panic::catch_unwind(|| run(*seed)).unwrap_or_else(|panic| {
            eprintln!(
                "seed {seed} failed; replay it with PALISADE_SIM_SEED={seed} cargo test -p palisade \
                 --no-default-features --test client_sessions"
            );
            std::panic::resume_unwind(panic)
        });
        total.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    println!("{} seeds: repeated, unknown, refused, done {total:?}", seeds.len());
    // A campaign in which nothing happens proves nothing.
    if seeds.len() >= 10 {
        let least = [10, 5, 2, 20].map(|count| count * seeds.len());
        assert!(total.iter().zip(least).all(|(count, least)| *count >= least), "{total:?}");
    }
}

/// A replica that was away so long that it needs a snapshot knows all clients and answers. What it was asked
/// before is not lost either: a plain call ends unknown, that of a client session is repeated and ends certain.
#[test]
fn a_snapshot_brings_clients_and_a_session_repeats_what_it_cut_off() {
    let mut fabric = SimFabric::new(3);
    let nodes = [1, 2, 3].map(|number| fabric.node(number));
    let [one, _, three] = nodes.map(|node| fabric.engine(node));
    let client = fabric.block_on(one.data().register_client(HOUR)).unwrap();
    let number = |seq| CommandNumber { client, seq, acked_up_to: 0 };
    let log = fabric.block_on(open_log(&one, 1)).unwrap();
    let far = fabric.block_on(open_log(&three, 1)).unwrap();
    let session = fabric.block_on(three.client_session(HOUR)).unwrap();
    let numbered = fabric.block_on(open_log(session.engine(), 1)).unwrap();
    let first = one.batch().numbered(number(1)).append(&log, &1).commit();
    let first = fabric.block_on(first).unwrap();

    fabric.partition(&[nodes[2]]);
    let mut plain = pin!(async { far.append(&1_000).await });
    let mut repeats = pin!(async { numbered.append(&2_000).await });
    assert!(fabric.block_on_for(Duration::from_millis(1), &mut plain).is_none());
    assert!(fabric.block_on_for(Duration::from_millis(1), &mut repeats).is_none());
    fabric.block_on(async {
        for round in 0..300 {
            log.append(&(3_000 + round)).await.unwrap();
        }
    });
    fabric.heal();
    let plain = fabric.block_on(plain);
    let repeats = fabric.block_on(repeats).unwrap();
    assert!(
        matches!(plain, Err(Error::Disconnected { outcome_unknown: true })),
        "a snapshot was installed: {plain:?}"
    );
    let again = three.batch().numbered(number(1)).append(&far, &1).commit();
    let again = fabric.block_on(again).unwrap();
    assert!(again.receipt.duplicate);
    assert_eq!(again.receipt.offset, first.receipt.offset);
    assert_eq!((again.receipt.log_time, again.outcomes), (first.receipt.log_time, first.outcomes));
    let found = fabric.block_on(logged(&far)).unwrap();
    let of = |value| found.iter().filter(|(found, _)| *found == value).collect::<Vec<_>>();
    assert_eq!(of(2_000), [&(2_000, repeats.receipt.offset)]);
    assert_eq!(of(1).len(), 1);
    fabric.run_for(Duration::from_secs(2));
    fabric.assert_converged();
}

#[test]
fn an_eviction_is_told_and_never_repeated_over() {
    let mut fabric = SimFabric::new(3);
    let engine = fabric.engine(fabric.node(1));
    let ttl = Duration::from_secs(30);
    let client = fabric.block_on(engine.data().register_client(ttl)).unwrap();
    let session = fabric.block_on(engine.client_session(ttl)).unwrap();
    let plain = fabric.block_on(open_log(&engine, 1)).unwrap();
    let log = fabric.block_on(open_log(session.engine(), 1)).unwrap();
    let number = CommandNumber { client, seq: 1, acked_up_to: 0 };
    let send = || engine.batch().numbered(number).append(&plain, &1).commit();
    fabric.block_on(send()).unwrap();
    fabric.block_on(log.append(&2)).unwrap();
    let before = session.client(GroupId::new(1)).unwrap();

    // Not before its time.
    fabric.run_for(ttl);
    assert!(fabric.block_on(send()).unwrap().receipt.duplicate);
    fabric.run_for(Duration::from_secs(65));
    let evicted = |error: Error, of: ClientId| {
        assert!(matches!(error, Error::ClientEvicted { client } if client == of.offset), "{error}");
        assert_eq!(error.failure(), Failure::Revoked);
        assert_eq!(error.disposition(), Disposition::Indeterminate);
    };
    evicted(fabric.block_on(send()).unwrap_err(), client);
    evicted(fabric.block_on(log.append(&3)).unwrap_err(), before);
    let now = session.client(GroupId::new(1)).unwrap();
    assert_ne!(now, before, "it is registered anew");
    fabric.block_on(log.append(&4)).unwrap();
    assert_eq!(session.client(GroupId::new(1)), Some(now));
    let found = fabric.block_on(logged(&plain)).unwrap();
    let found: Vec<u64> = found.into_iter().map(|(value, _)| value).collect();
    assert_eq!(found, [1, 2, 4]);
}

/// The numbers of a client are for whoever registered it, at every node: nobody else has an effect under them,
/// is told what was answered, or uses one up.
#[test]
fn the_numbers_of_a_client_are_for_who_registered_it() {
    let mut fabric = SimFabric::new(3);
    let engines = [1, 2, 3].map(|number| fabric.engine(fabric.node(number)));
    let (own, other) = (Registrant::of("reports"), Registrant::of("mallory"));
    let client = fabric.block_on(engines[0].data().register_client_as(own, HOUR)).unwrap();
    let number = |seq| CommandNumber { client, seq, acked_up_to: 0 };
    let mut logs = Vec::new();
    for engine in &engines {
        logs.push(fabric.block_on(open_log(engine, 1)).unwrap());
    }
    let send = |at: usize, by: Option<Registrant>, seq| {
        let batch = engines[at].batch().numbered(number(seq));
        let batch = match by {
            Some(by) => batch.registrant(by),
            None => batch,
        };
        batch.append(&logs[at], &seq).commit()
    };
    let first = fabric.block_on(send(0, Some(own), 1)).unwrap();
    for at in 0..3 {
        for by in [Some(other), None] {
            for seq in 1..3 {
                let refused = fabric.block_on(send(at, by, seq)).unwrap_err();
                let of =
                    matches!(refused, Error::ClientOfAnother { client: of } if of == client.offset);
                assert!(of, "{refused}");
                assert_eq!(refused.disposition(), Disposition::Reject);
            }
        }
        let again = fabric.block_on(send(at, Some(own), 1)).unwrap();
        assert_eq!(again.receipt, Receipt { duplicate: true, ..first.receipt });
    }
    fabric.block_on(send(2, Some(own), 2)).unwrap();
    assert_eq!(fabric.block_on(logged(&logs[0])).unwrap().len(), 2);
    // Who registered for nobody in particular numbers as such.
    let client = fabric.block_on(engines[0].data().register_client(HOUR)).unwrap();
    let number = CommandNumber { client, seq: 1, acked_up_to: 0 };
    let batch = engines[1].batch().numbered(number).registrant(own).append(&logs[1], &3);
    let refused = fabric.block_on(batch.commit()).unwrap_err();
    assert!(matches!(refused, Error::ClientOfAnother { .. }), "{refused}");
}

/// A client that says something now and then is known for ever.
#[test]
fn a_client_that_is_used_stays() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let session = fabric.block_on(engine.client_session(Duration::from_secs(30))).unwrap();
    let log = fabric.block_on(open_log(session.engine(), 1)).unwrap();
    let client = session.client(GroupId::new(1));
    for round in 0..20 {
        fabric.run_for(Duration::from_secs(29));
        fabric.block_on(log.append(&round)).unwrap();
    }
    assert_eq!(session.client(GroupId::new(1)), client);
}

#[test]
fn many_calls_of_a_session_wait_for_each_other_and_come_true_once() {
    let mut fabric = SimFabric::new(3);
    let engine = fabric.engine(fabric.node(2));
    let session = fabric.block_on(engine.client_session(HOUR)).unwrap();
    let log = fabric.block_on(open_log(session.engine(), 1)).unwrap();
    let calls = (0..500).map(|value| {
        let log = log.clone();
        async move { (value, log.append(&value).await.unwrap().receipt.offset) }
    });
    let mut wanted = fabric.block_on(all(calls));
    let mut found = fabric.block_on(logged(&log)).unwrap();
    wanted.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, wanted);
}

/// A process that comes back with a stored token repeats its last write, also by another node and another writer
/// generation; a token that is too old, and another write in its place, are told.
#[test]
fn a_process_that_comes_back_repeats_its_last_write() {
    let mut fabric = SimFabric::new(3);
    let [one, two] = [1, 2].map(|number| fabric.engine(fabric.node(number)));
    let session = fabric.block_on(one.client_session(HOUR)).unwrap();
    let log = fabric.block_on(open_log(session.engine(), 1)).unwrap();
    let oldest = session.token();
    let first = fabric.block_on(log.append(&1)).unwrap();
    let stored = session.token();
    let last = fabric.block_on(log.append(&2)).unwrap();
    assert!(!first.receipt.duplicate && !last.receipt.duplicate);
    fabric.crash(one.node());

    let session = two.resume(&stored).unwrap();
    let log = fabric.block_on(open_log(session.engine(), 2)).unwrap();
    let again = fabric.block_on(log.append(&2)).unwrap();
    assert_eq!(again.receipt, Receipt { duplicate: true, ..last.receipt });
    assert_eq!(again.outcome, last.outcome);
    let next = fabric.block_on(log.append(&3)).unwrap();
    assert!(!next.receipt.duplicate);

    let other = two.resume(&stored).unwrap();
    let other = fabric.block_on(open_log(other.engine(), 2)).unwrap();
    let refused = fabric.block_on(other.append(&9)).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "it went beyond: {refused}");
    let resumed = two.resume(&session.token()).unwrap();
    let resumed_log = fabric.block_on(open_log(resumed.engine(), 2)).unwrap();
    fabric.block_on(log.append(&4)).unwrap();
    let refused = fabric.block_on(resumed_log.append(&9)).unwrap_err();
    assert!(matches!(refused, Error::IdempotencyConflict { op: None }), "two at once: {refused}");
    let late = two.resume(&oldest).unwrap();
    let late = fabric.block_on(open_log(late.engine(), 2)).unwrap();
    let refused = fabric.block_on(late.append(&1)).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    let found = fabric.block_on(logged(&log)).unwrap();
    let found: Vec<u64> = found.into_iter().map(|(value, _)| value).collect();
    assert_eq!(found, [1, 2, 3, 4]);
}

/// Who numbers a command himself is not counted for by the session that he sends it through.
#[test]
fn a_number_of_ones_own_goes_through_a_session_as_it_is() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let client = fabric.block_on(engine.data().register_client(HOUR)).unwrap();
    let session = fabric.block_on(engine.client_session(HOUR)).unwrap();
    let log = fabric.block_on(open_log(session.engine(), 1)).unwrap();
    let number = CommandNumber { client, seq: 1, acked_up_to: 0 };
    let send = || session.engine().batch().numbered(number).append(&log, &1).commit();
    let first = fabric.block_on(send()).unwrap();
    let again = fabric.block_on(send()).unwrap();
    assert_eq!(again.receipt, Receipt { duplicate: true, ..first.receipt });
    assert_eq!(fabric.block_on(logged(&log)).unwrap().len(), 1);
}

/// What is given up and never arrived has no effect any more once a later command was answered.
#[test]
fn a_command_that_was_given_up_is_fenced_by_the_next() {
    let mut fabric = SimFabric::new(3);
    let engine = fabric.engine(fabric.node(1));
    let client = fabric.block_on(engine.data().register_client(HOUR)).unwrap();
    let log = fabric.block_on(open_log(&engine, 1)).unwrap();
    let send = |seq, acked_up_to, value: u64| {
        let number = CommandNumber { client, seq, acked_up_to };
        engine.batch().numbered(number).append(&log, &value).commit()
    };
    fabric.block_on(send(2, 1, 2)).unwrap();
    let late = fabric.block_on(send(1, 0, 1)).unwrap_err();
    assert!(matches!(late, Error::InvalidArgument { .. }), "{late}");
    let found = fabric.block_on(logged(&log)).unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn numbers_that_are_none_are_refused_before_they_are_sent() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    for ttl in [Duration::ZERO, CLIENT_TTL_MAX + Duration::from_millis(1)] {
        let refused = fabric.block_on(engine.data().register_client(ttl)).unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    }
    let client = fabric.block_on(engine.data().register_client(CLIENT_TTL_MAX)).unwrap();
    assert_eq!(ClientId::from_bytes(&client.to_bytes()), Ok(client));
    let log = fabric.block_on(open_log(&engine, 1)).unwrap();
    let before = engine.data().applied().unwrap();
    let mut refused = |client, seq, acked_up_to| {
        let number = CommandNumber { client, seq, acked_up_to };
        let batch = engine.batch().numbered(number).append(&log, &1);
        fabric.block_on(batch.commit()).unwrap_err()
    };
    let foreign = refused(ClientId { cluster: ClusterId::new(9), ..client }, 1, 0);
    assert!(matches!(foreign, Error::Incompatible { .. }), "{foreign}");
    for error in [
        refused(ClientId { group: GroupId::new(9), ..client }, 1, 0),
        refused(ClientId { offset: Offset::ZERO, ..client }, 1, 0),
        refused(client, 0, 0),
        refused(client, 3, 3),
    ] {
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    assert_eq!(engine.data().applied().unwrap(), before);
    // The log of the group refuses what lies beyond the window.
    let error = refused(client, 1 + CLIENT_COMMANDS_MAX as u64, 0);
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

/// Says as much as it is told.
struct Verbose;

impl Projection for Verbose {
    const NAME: &'static str = "verbose";
    const VERSION: u32 = 1;
    type Op = u64;
    type Outcome = Vec<u8>;
    type Refusal = ();
    type Guard = Infallible;

    fn apply(
        &self,
        _: At,
        length: u64,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<Vec<u8>, ()>, ProjectionFault> {
        rows.put(b"last", length.to_bytes())?;
        Ok(Applied::Done(vec![7; length as usize]))
    }
}

/// G12: an answer that is too long to be kept has no effect under a number, and is fine without.
#[test]
fn an_answer_that_is_too_long_to_be_kept_is_refused() {
    let mut fabric = SimFabric::builder(1).projection(Verbose).build().unwrap();
    let engine = fabric.engine(fabric.node(1));
    let verbose = Handle::<Verbose>::open(&engine, spec("verbose", 1));
    let verbose = fabric.block_on(verbose).unwrap();
    let client = fabric.block_on(engine.data().register_client(HOUR)).unwrap();
    let batch = |number: Option<u64>, last: u64| {
        let batch = (0..4).fold(engine.batch(), |batch, _| batch.with(&verbose, &4_000));
        let batch = batch.with(&verbose, &last);
        match number {
            Some(seq) => batch.numbered(CommandNumber { client, seq, acked_up_to: 0 }).commit(),
            None => batch.commit(),
        }
    };
    let fits = REPLY_BYTES_MAX as u64 - 16_000;
    let done = fabric.block_on(batch(Some(1), fits)).unwrap();
    assert_eq!(fabric.block_on(batch(Some(1), fits)).unwrap().outcomes, done.outcomes);
    for _ in 0..2 {
        let refused = fabric.block_on(batch(Some(2), fits + 1)).unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
        let read = verbose.read(ReadConsistency::Linearizable, |rows| rows.get(b"last"));
        let last = fabric.block_on(read).unwrap().value.unwrap();
        assert_eq!(u64::from_bytes(&last), Ok(fits), "without effect");
    }
    fabric.block_on(batch(None, fits + 1)).unwrap();
}
