//! Maps over time: as they were, watched through faults, and keys that end by themselves.

#[path = "support/data.rs"]
mod data;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use data::Data;
use palisade::sim::{SimFabric, SimRandom};
use palisade::{
    Batch, Engine, Error, GET_KEYS_MAX, History, KEY_BYTES_MAX, LogicalResourceName, MapRange,
    Offset, ReadConsistency, ReplicatedMap, ResourceSpec, SCAN_BYTES_MAX, SchemaId, Watch,
    WatchEvent, WatchOptions,
};

type Map = ReplicatedMap<String, u64>;

async fn open(engine: &Engine) -> Result<Map, Error> {
    let spec = ResourceSpec::new("numbers", "number.v1")?;
    ReplicatedMap::open(engine, spec).await
}

async fn reader(engine: &Engine) -> Result<Map, Error> {
    let name = LogicalResourceName::new("numbers")?;
    ReplicatedMap::open_reader(engine, &name, &SchemaId::new("number.v1")?).await
}

fn alone() -> (SimFabric, Map) {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let map = fabric.block_on(open(&engine)).unwrap();
    (fabric, map)
}

fn key(key: &str) -> String {
    key.to_owned()
}

/// What a watcher knows: it is told only what follows from that.
struct Known {
    rows: BTreeMap<String, (u64, Offset)>,
    offset: Offset,
    changes: usize,
}

impl Known {
    fn take(&mut self, event: WatchEvent<String, u64>) {
        match event {
            WatchEvent::Progress { offset } => {
                assert!(offset >= self.offset, "progress goes back");
                self.offset = offset;
            }
            WatchEvent::Changes { offset, changes, .. } => {
                assert!(offset > self.offset, "{offset} comes after {}", self.offset);
                self.offset = offset;
                for change in changes {
                    self.changes += 1;
                    let known = self.rows.get(&change.key).copied();
                    let before = change.before.map(|row| (row.value, row.version.offset()));
                    assert_eq!(
                        before, known,
                        "a change of {} was missed or came twice",
                        change.key
                    );
                    match change.now {
                        Some(row) => {
                            assert_eq!(row.version.offset(), offset);
                            self.rows.insert(change.key, (row.value, offset));
                        }
                        None => assert!(self.rows.remove(&change.key).is_some()),
                    }
                }
            }
        }
    }
}

/// Writers on all nodes, keys that end, crashes and partitions; a watcher that goes on from replica to
/// replica. What he is told is ordered, whole, without a gap and comes once, and adds up to the map.
#[test]
fn a_watcher_that_hops_through_faults_misses_nothing() {
    let (mut told, mut ended) = (0, 0);
    for seed in 0..10 {
        let mut fabric = SimFabric::from_seed(seed, 3);
        let mut random = SimRandom::from_seed(seed);
        let nodes = [1, 2, 3].map(|number| fabric.node(number));
        let first = fabric.engine(nodes[0]);
        fabric.block_on(open(&first)).unwrap();
        let mut known = Known { rows: BTreeMap::new(), offset: Offset::ZERO, changes: 0 };
        let mut down = None;
        for step in 0..150_u64 {
            match random.below(30) {
                0 => fabric.partition(&[nodes[random.below(3) as usize]]),
                1 | 2 => fabric.heal(),
                3 if down.is_none() => {
                    let node = fabric.leader().unwrap_or(nodes[0]);
                    fabric.crash(node);
                    down = Some(node);
                }
                4 => down.take().into_iter().for_each(|node| fabric.restart(node)),
                _ => {}
            }
            let node = nodes[random.below(3) as usize];
            if down == Some(node) {
                continue;
            }
            let engine = fabric.engine(node);
            let name = random.below(6).to_string();
            let _ = fabric.block_on(async {
                let map = reader(&engine).await?;
                if random.below(2) == 0 {
                    let options = WatchOptions {
                        progress: Duration::from_millis(50),
                        ..WatchOptions::default()
                    };
                    let mut watch = map.watch(known.offset, options);
                    for _ in 0..random.below(4) {
                        known.take(watch.next().await?);
                        assert!(watch.position() >= known.offset);
                    }
                    return Ok(());
                }
                let map = open(&engine).await?;
                match random.below(4) {
                    0 => map.delete(&name).await,
                    1 => map.put_with_ttl_ms(&name, &step, 1 + random.below(4_000)).await,
                    _ => map.put(&name, &step).await,
                }
                .map(|_| ())
            });
        }
        fabric.heal();
        down.take().into_iter().for_each(|node| fabric.restart(node));
        // Everything that ends has ended, and every replica has heard of it.
        fabric.run_for(Duration::from_secs(8));
        for node in nodes {
            let engine = fabric.engine(node);
            let map = fabric.block_on(reader(&engine)).unwrap();
            let all = fabric.block_on(map.range(MapRange::all(), ReadConsistency::Linearizable));
            let all = all.unwrap();
            let mut watch = map.watch(known.offset, WatchOptions::default());
            while known.offset < all.freshness.offset {
                let event = fabric.block_on(watch.next()).unwrap();
                if let WatchEvent::Changes { changes, .. } = &event {
                    ended += changes.iter().filter(|change| change.ended).count();
                }
                known.take(event);
            }
            let rows = all.value.rows.into_iter();
            let rows = rows.map(|(key, row)| (key, (row.value, row.version.offset())));
            assert_eq!(known.rows, rows.collect(), "seed={seed} node={node}");
        }
        told += known.changes;
    }
    assert!(told >= 300 && ended >= 10, "told={told} ended={ended}");
}

fn next(fabric: &mut SimFabric, watch: &mut Watch<String, u64>) -> WatchEvent<String, u64> {
    fabric.block_on(watch.next()).unwrap()
}

#[test]
fn a_watch_tells_whole_records_with_what_was_before_and_marks_its_progress() {
    let (mut fabric, map) = alone();
    let receipt = fabric.block_on(map.put(&key("a"), &1)).unwrap();
    let options = || WatchOptions { prefix: "a".into(), ..WatchOptions::default() };
    let mut watch = map.watch(receipt.offset, options());
    let engine = fabric.engine(fabric.node(1));
    let batch = engine.batch().put(&map, &key("a"), &2).put(&map, &key("b"), &3);
    let done = fabric.block_on(batch.put(&map, &key("a/1"), &4).commit()).unwrap();
    fabric.block_on(map.put(&key("b"), &5)).unwrap();

    let WatchEvent::Changes { offset, log_time, changes } = next(&mut fabric, &mut watch) else {
        panic!("nothing is told")
    };
    assert_eq!((offset, log_time), (done.receipt.offset, done.receipt.log_time));
    let told: Vec<_> = changes
        .iter()
        .map(|change| {
            let value = |row: &Option<palisade::Versioned<u64>>| row.as_ref().map(|row| row.value);
            (change.key.as_str(), value(&change.before), value(&change.now), change.ended)
        })
        .collect();
    assert_eq!(told, [("a", Some(1), Some(2), false), ("a/1", None, Some(4), false)]);
    // The change of `b` is none of its own, but it was seen.
    let WatchEvent::Progress { offset } = next(&mut fabric, &mut watch) else { panic!() };
    assert_eq!(offset, engine.data().applied().unwrap());
    assert_eq!(watch.position(), offset);

    // It waits for what is next, and not longer than it takes.
    let (event, written) = {
        let (k, v) = (key("a"), 6);
        fabric.block_on(async { tokio::join!(watch.next(), map.put(&k, &v)) })
    };
    let WatchEvent::Changes { offset, .. } = event.unwrap() else { panic!() };
    assert_eq!(offset, written.unwrap().offset);
}

#[test]
fn a_watch_goes_on_where_another_stood() {
    let (mut fabric, map) = alone();
    let engine = fabric.engine(fabric.node(1));
    let from = engine.data().applied().unwrap();
    // More than a page of the feed.
    let offsets: Vec<Offset> = (0..6)
        .map(|round| {
            let all = |batch: palisade::Batch, n: u64| batch.put(&map, &n.to_string(), &round);
            let batch = (0..256).fold(engine.batch(), all);
            fabric.block_on(batch.commit()).unwrap().receipt.offset
        })
        .collect();
    let mut known = Known { rows: BTreeMap::new(), offset: from, changes: 0 };
    let mut watch = map.watch(from, WatchOptions::default());
    for offset in offsets {
        let event = next(&mut fabric, &mut watch);
        known.take(event);
        assert_eq!((known.offset, watch.position()), (offset, offset));
        if known.changes == 256 {
            watch = map.watch(watch.position(), WatchOptions::default());
        }
    }
    assert_eq!(known.changes, 6 * 256);
}

/// What changes elsewhere in the group is no news: a quiet map is told of once in a while, however its
/// watcher waits.
#[test]
fn a_watch_of_a_quiet_map_in_a_busy_group_is_silent() {
    let (mut fabric, map) = alone();
    let engine = fabric.engine(fabric.node(1));
    let spec = ResourceSpec::new("others", "number.v1").unwrap();
    let others = fabric.block_on(Map::open(&engine, spec)).unwrap();
    let progress = Duration::from_secs(60);
    let options = WatchOptions { progress, ..WatchOptions::default() };
    let mut watch = map.watch(engine.data().applied().unwrap(), options);
    let mut told = Vec::new();
    let began = fabric.now();
    for n in 0..100 {
        fabric.block_on(others.put(&key("k"), &n)).unwrap();
        // Whoever waits may give up each time: the watch goes on where it was.
        told.extend(fabric.block_on_for(Duration::from_millis(20), watch.next()));
    }
    assert!(fabric.now() - began < progress, "the puts took too long to say anything");
    assert!(told.is_empty(), "{told:?}");
    let event = next(&mut fabric, &mut watch);
    let seen = engine.data().applied().unwrap();
    assert_eq!(event, WatchEvent::Progress { offset: seen });
    let waited = fabric.now() - began;
    assert!(progress <= waited && waited < progress + Duration::from_secs(1), "{waited:?}");

    // A change is told at once, and its silence begins anew.
    let put = fabric.block_on(map.put(&key("a"), &1)).unwrap();
    let event = fabric.block_on_for(Duration::from_millis(20), watch.next()).unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Changes { offset, .. } if offset == put.offset));
    assert!(fabric.block_on_for(progress / 2, watch.next()).is_none());
    assert!(fabric.block_on_for(progress, watch.next()).is_some());
}

/// A place comes from whoever kept it, and may be any number.
#[test]
fn a_watch_of_what_never_comes_waits_for_it() {
    let (mut fabric, map) = alone();
    let last = Offset::new(u64::MAX);
    let mut watch = map.watch(last, WatchOptions::default());
    for _ in 0..2 {
        fabric.block_on(map.put(&key("a"), &1)).unwrap();
        assert_eq!(next(&mut fabric, &mut watch), WatchEvent::Progress { offset: last });
    }
}

#[test]
fn what_is_not_kept_any_more_is_said_and_never_left_out() {
    let (mut fabric, map) = alone();
    fabric.block_on(map.keep(History { keep_ms: 60_000, changes_max: 3 })).unwrap();
    let mut watch = map.watch(Offset::ZERO, WatchOptions::default());
    let offsets: Vec<Offset> =
        (0..6).map(|n| fabric.block_on(map.put(&key("k"), &n)).unwrap().offset).collect();
    let bounds = fabric.block_on(map.bounds(ReadConsistency::Local)).unwrap().value;
    assert_eq!((bounds.floor, bounds.keys), (offsets[2], 1));
    let compacted = fabric.block_on(watch.next()).unwrap_err();
    assert!(matches!(compacted, Error::Compacted { floor } if floor == offsets[2]), "{compacted}");
    let at = |offset| map.at(offset);
    let value = |fabric: &mut SimFabric, offset| {
        let read = fabric.block_on(at(offset).get(&key("k"), ReadConsistency::Local))?;
        Ok::<_, Error>(read.value.map(|row| row.value))
    };
    for (n, offset) in offsets.iter().enumerate().skip(2) {
        assert_eq!(value(&mut fabric, *offset).unwrap(), Some(n as u64));
    }
    let compacted = value(&mut fabric, offsets[1]).unwrap_err();
    assert!(matches!(compacted, Error::Compacted { floor } if floor == offsets[2]), "{compacted}");
    let ahead = value(&mut fabric, offsets[5].next()).unwrap_err();
    assert!(matches!(ahead, Error::NotYetApplied { .. }), "{ahead}");

    // Time alone takes the rest, without another change.
    fabric.run_for(Duration::from_secs(63));
    let bounds = fabric.block_on(map.bounds(ReadConsistency::Local)).unwrap().value;
    assert_eq!(bounds.floor, offsets[5]);
    let engine = fabric.engine(fabric.node(1));
    let idle = engine.data().applied().unwrap();
    fabric.run_for(Duration::from_secs(60));
    assert_eq!(engine.data().applied().unwrap(), idle, "where nothing is due, nothing is written");

    fabric.block_on(map.keep(History::NEWEST_ONLY)).unwrap();
    let newest = fabric.block_on(map.put(&key("k"), &7)).unwrap().offset;
    assert!(matches!(value(&mut fabric, offsets[5]).unwrap_err(), Error::Compacted { .. }));
    assert_eq!(value(&mut fabric, newest).unwrap(), Some(7));
}

#[test]
fn pages_of_one_moment_fit_together() {
    let (mut fabric, map) = alone();
    for n in 0..10 {
        fabric.block_on(map.put(&format!("{n}"), &n)).unwrap();
    }
    for backward in [false, true] {
        let mut range = MapRange::all().limit(3);
        if backward {
            range = range.backward();
        }
        let read = fabric.block_on(map.range(range, ReadConsistency::Linearizable)).unwrap();
        let moment = map.at(read.freshness.offset);
        let mut rows = read.value.rows;
        let mut next = read.value.next;
        while let Some(range) = next {
            // Somebody moves everything meanwhile.
            fabric.block_on(map.put(&key("5"), &99)).unwrap();
            fabric.block_on(map.delete(&key("7"))).unwrap();
            fabric.block_on(map.put(&key("7"), &7)).unwrap();
            let page = fabric.block_on(moment.range(range, ReadConsistency::Local)).unwrap().value;
            rows.extend(page.rows);
            next = page.next;
        }
        let mut found: Vec<(String, u64)> =
            rows.into_iter().map(|(key, row)| (key, row.value)).collect();
        if backward {
            found.reverse();
        }
        let was = |n: u64| if n == 5 && backward { 99 } else { n };
        let wanted: Vec<(String, u64)> = (0..10).map(|n| (n.to_string(), was(n))).collect();
        assert_eq!(found, wanted);
    }
    let keys = [key("1"), key("none"), key("5")];
    let many = fabric.block_on(map.get_many(&keys, ReadConsistency::Local)).unwrap().value;
    let values: Vec<Option<u64>> = many.into_iter().map(|row| row.map(|row| row.value)).collect();
    assert_eq!(values, [Some(1), None, Some(99)]);
    let keys = vec![key("1"); GET_KEYS_MAX + 1];
    let refused = fabric.block_on(map.get_many(&keys, ReadConsistency::Local)).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
}

/// G12: how much is asked for is bounded in bytes too.
#[test]
fn many_values_are_read_up_to_so_many_bytes() {
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let spec = ResourceSpec::new("large", "bytes.v1").unwrap();
    let map: ReplicatedMap<String, Bytes> =
        fabric.block_on(ReplicatedMap::open(&engine, spec)).unwrap();
    let keys: Vec<String> = (0..9).map(|n: u64| n.to_string()).collect();
    for key in &keys {
        let value = Bytes::from(vec![7; SCAN_BYTES_MAX / 9 + 1]);
        fabric.block_on(map.put(key, &value)).unwrap();
    }
    let mut many = |keys| fabric.block_on(map.get_many(keys, ReadConsistency::Local));
    assert_eq!(many(&keys[..8]).unwrap().value.iter().flatten().count(), 8);
    let refused = many(&keys[..]).unwrap_err().to_string();
    assert!(refused.contains("the first 8 can be read at once"), "{refused}");
}

#[test]
fn pages_come_to_an_end_whatever_their_limit() {
    let (mut fabric, map) = alone();
    for name in ["a", "b"] {
        fabric.block_on(map.put(&key(name), &1)).unwrap();
    }
    for range in [MapRange::all().limit(0), MapRange::all().limit(0).backward()] {
        let (mut range, mut rows) = (Some(range), 0);
        for _ in 0..3 {
            let Some(asked) = range.take() else { break };
            let page = fabric.block_on(map.range(asked, ReadConsistency::Local)).unwrap().value;
            (range, rows) = (page.next, rows + page.rows.len());
        }
        assert!(range.is_none() && rows == 2, "rows={rows}");
    }
}

/// Zero bytes take twice their room in a row's key. What a caller may write halts nobody.
#[test]
fn the_longest_key_may_be_of_zero_bytes_alone() {
    let (mut fabric, map) = alone();
    let key = "\0".repeat(KEY_BYTES_MAX);
    let put = fabric.block_on(map.put_with_ttl_ms(&key, &7, 2_000)).unwrap();
    let value = |fabric: &mut SimFabric| {
        let read = fabric.block_on(map.get(&key, ReadConsistency::Linearizable)).unwrap();
        read.value.map(|found| (found.value, found.version.offset()))
    };
    assert_eq!(value(&mut fabric), Some((7, put.offset)));
    fabric.run_for(Duration::from_secs(4));
    assert_eq!(value(&mut fabric), None);
    let longer = fabric.block_on(map.put(&format!("{key}\0"), &7)).unwrap_err();
    assert!(matches!(longer, Error::InvalidArgument { .. }), "{longer}");
    fabric.block_on(map.put(&key, &8)).unwrap();
}

/// Never before its time, soon after it, for every reader alike; not at all while nobody leads.
#[test]
fn a_key_ends_by_itself_and_not_before() {
    let mut fabric = SimFabric::new(3);
    let nodes = [1, 2, 3].map(|number| fabric.node(number));
    let engine = fabric.engine(nodes[0]);
    let map = fabric.block_on(open(&engine)).unwrap();
    let receipt = fabric.block_on(map.put_with_ttl_ms(&key("lease"), &1, 5_000)).unwrap();
    let ends_at = receipt.log_time.get() + 5_000;
    fabric.block_on(map.put_with_ttl_ms(&key("kept"), &2, 5_000)).unwrap();
    fabric.block_on(map.put(&key("kept"), &3)).unwrap();
    let held = |fabric: &mut SimFabric, name| {
        let read = fabric.block_on(map.get(&key(name), ReadConsistency::Linearizable));
        read.unwrap().value.map(|row| (row.value, row.ends_at.map(palisade::LogTime::get)))
    };
    assert_eq!(held(&mut fabric, "lease"), Some((1, Some(ends_at))));
    assert_eq!(held(&mut fabric, "kept"), Some((3, None)), "it was set without an end");
    fabric.run_for(Duration::from_millis(4_500));
    assert_eq!(held(&mut fabric, "lease"), Some((1, Some(ends_at))));
    fabric.run_for(Duration::from_millis(2_500));
    assert_eq!((held(&mut fabric, "lease"), held(&mut fabric, "kept")), (None, Some((3, None))));
    let mut watch = map.watch(receipt.offset, WatchOptions::default());
    let ended = loop {
        let WatchEvent::Changes { log_time, changes, .. } = next(&mut fabric, &mut watch) else {
            panic!("its end was not told")
        };
        if changes[0].ended {
            break (log_time.get(), changes[0].key.clone());
        }
    };
    assert!(ended.0 >= ends_at && ended.1 == "lease", "{ended:?}");

    let receipt = fabric.block_on(map.put_with_ttl_ms(&key("lease"), &1, 1_000)).unwrap();
    let rest: Vec<_> = nodes.into_iter().filter(|node| *node != engine.node()).collect();
    for node in &rest {
        fabric.crash(*node);
    }
    fabric.run_for(Duration::from_secs(10));
    let read = fabric.block_on(map.get(&key("lease"), receipt.freshness())).unwrap();
    assert!(read.value.is_some(), "without a quorum nothing ends");
    for node in rest {
        fabric.restart(node);
    }
    fabric.run_for(Duration::from_secs(10));
    let read = fabric.block_on(map.get(&key("lease"), receipt.freshness())).unwrap();
    assert!(read.value.is_none());
    let refused = fabric.block_on(map.put_with_ttl_ms(&key("k"), &1, 0)).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
}

/// The task that looks after a real node is there too.
/// What ends in bulk is gone within a round, and whose maps are many keep nobody else waiting.
#[test]
fn many_keys_that_end_at_once_keep_no_other_map_waiting() {
    const MAPS: u64 = 17;
    let mut fabric = SimFabric::new(1);
    let engine = fabric.engine(fabric.node(1));
    let maps = (0..MAPS).map(|number| {
        let spec = ResourceSpec::new(&format!("numbers-{number}"), "number.v1").unwrap();
        fabric.block_on(ReplicatedMap::<u64, u64>::open(&engine, spec)).unwrap()
    });
    let maps: Vec<_> = maps.collect();
    for keys in 0..3_u64 {
        for (number, map) in maps.iter().enumerate() {
            // The last map has one key.
            let count = if number + 1 == maps.len() { 1 } else { 256 };
            let put =
                |batch: Batch, key| batch.put_with_ttl_ms(map, &(keys * 256 + key), &0, 3_000);
            let batch = (0..count).fold(engine.batch(), put);
            fabric.block_on(batch.commit()).unwrap();
        }
    }
    fabric.run_for(Duration::from_millis(5_500));
    for map in &maps {
        let bounds = fabric.block_on(map.bounds(ReadConsistency::Local)).unwrap();
        assert_eq!(bounds.value.keys, 0);
    }
}

#[tokio::test]
async fn a_real_node_ends_keys_too() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder(dir.path()).open().await.unwrap();
    let map = open(&engine).await.unwrap();
    let receipt = map.put_with_ttl_ms(&key("k"), &1, 1).await.unwrap();
    let mut watch = map.watch(receipt.offset, WatchOptions::default());
    loop {
        if let WatchEvent::Changes { changes, .. } = watch.next().await.unwrap() {
            assert!(changes[0].ended && changes[0].now.is_none());
            break;
        }
    }
    engine.close().await.unwrap();
}
