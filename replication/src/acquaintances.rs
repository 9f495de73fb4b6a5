//! Which life of each peer this node has met: a peer whose data directory was emptied comes back as
//! another one, and has forgotten what it promised. It is refused until membership replaces it. And how old
//! the peer's directory was when it told last (`ages.rs`): one that was put back from a copy has forgotten, too.
//!
//! ```text
//! magic 8 "PLSDPEER", version 4, count 4, then of each: node 8, incarnation 16, age 8, its draw 8,
//! a later incarnation 16, its age 8 and draw 8, or zeros; crc32 4
//! ```
//! Little-endian. Written before a new peer is let in, and before anything is heard from it that it may promise
//! at a later age.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::{Buf, BufMut};

use crate::ages::Age;
use crate::error::NodeError;
use crate::identity::{Incarnation, NodeId};
use crate::small_file::{self, Unfit, write_new};

const MAGIC: &[u8; 8] = b"PLSDPEER";
const VERSION: u32 = 3;
const FILE: &str = "peers";
const PEERS_MAX: usize = 1024;
const AGE_BYTES: usize = 8 + 8;
const LIFE_BYTES: usize = 16 + AGE_BYTES;
const PEER_BYTES: usize = 8 + 2 * LIFE_BYTES;

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acquaintance {
    pub(crate) life: Incarnation,
    /// As it told last; zero if it never has.
    pub(crate) age: Age,
    /// The last life that it told an age of and that is not the first: membership may have put it there.
    pub(crate) later: Option<(Incarnation, Age)>,
}

impl Acquaintance {
    fn first(life: Incarnation) -> Self {
        Self { life, age: Age::default(), later: None }
    }

    /// How old it was in this life, as it told last.
    fn age_of(&self, life: Incarnation) -> Age {
        let later = self.later.filter(|(later, _)| *later == life);
        if self.life == life { self.age } else { later.map(|(_, age)| age).unwrap_or_default() }
    }

    /// It is older, in this life. `None` if that is not news.
    fn grown(self, life: Incarnation, age: Age) -> Option<Self> {
        if age.count <= self.age_of(life).count {
            return None;
        }
        let first = self.life == life;
        Some(if first { Self { age, ..self } } else { Self { later: Some((life, age)), ..self } })
    }
}

/// What a peer that greets is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    /// It is in the life that it was met in first.
    pub(crate) same: bool,
    /// How old it was when it told last, in that life.
    pub(crate) age: Age,
}

/// The lives of peers that this node knows.
pub(crate) struct Acquaintances {
    data_dir: PathBuf,
    known: Mutex<BTreeMap<NodeId, Acquaintance>>,
    on_meet: OnMeet,
}

/// Told of every peer that is met, once, and at the start of those that were.
pub(crate) type OnMeet = Box<dyn Fn(NodeId, Incarnation) + Send + Sync>;

impl Acquaintances {
    /// Takes up what was written.
    pub(crate) fn open(data_dir: &Path, on_meet: OnMeet) -> Result<Self, NodeError> {
        let known: BTreeMap<_, _> = match small_file::read(data_dir, FILE)? {
            Some(raw) => decode(&raw).map_err(|unfit| unfit.of(data_dir, FILE, "restore it"))?,
            None => BTreeMap::new(),
        };
        known.iter().for_each(|(node, met)| on_meet(*node, met.life));
        Ok(Self { data_dir: data_dir.to_owned(), known: Mutex::new(known), on_meet })
    }

    /// Remembers this life of the peer if it is the first.
    pub(crate) fn meet(&self, node: NodeId, life: Incarnation) -> io::Result<Met> {
        let mut known = self.known.lock().expect("no code panics while it holds the list");
        let (same, age) = match known.get(&node) {
            Some(met) => (met.life == life, met.age_of(life)),
            None if known.len() >= PEERS_MAX => (false, Age::default()),
            None => {
                let mut with = known.clone();
                with.insert(node, Acquaintance::first(life));
                write_new(&self.data_dir, FILE, &encode(&with))?;
                *known = with;
                (self.on_meet)(node, life);
                (true, Age::default())
            }
        };
        Ok(Met { same, age })
    }

    /// Remembers how old a peer is, by its own word, if it was no older before in that life.
    pub(crate) fn grew(&self, node: NodeId, life: Incarnation, age: Age) -> io::Result<()> {
        let mut known = self.known.lock().expect("no code panics while it holds the list");
        let Some(grown) = known.get(&node).and_then(|met| met.grown(life, age)) else {
            return Ok(());
        };
        let mut with = known.clone();
        with.insert(node, grown);
        write_new(&self.data_dir, FILE, &encode(&with))?;
        *known = with;
        Ok(())
    }
}

pub(crate) fn encode(known: &BTreeMap<NodeId, Acquaintance>) -> Vec<u8> {
    let mut out = small_file::begin(MAGIC, VERSION);
    out.put_u32_le(known.len() as u32);
    for (node, met) in known {
        out.put_u64_le(node.get());
        let (later, later_age) =
            met.later.map_or((0, Age::default()), |(life, age)| (life.get(), age));
        for (life, age) in [(met.life.get(), met.age), (later, later_age)] {
            out.put_u128_le(life);
            out.put_u64_le(age.count);
            out.put_u64_le(age.draw);
        }
    }
    small_file::end(out)
}

pub(crate) fn decode(raw: &[u8]) -> Result<BTreeMap<NodeId, Acquaintance>, Unfit> {
    let (version, mut fields) = small_file::fields(raw, MAGIC, VERSION)?;
    // The first version knew no ages, the second none of later lives.
    let bytes = match version {
        1 => PEER_BYTES - LIFE_BYTES - AGE_BYTES,
        2 => PEER_BYTES - LIFE_BYTES,
        _ => PEER_BYTES,
    };
    let count = fields.try_get_u32_le().map_err(|_| Unfit::Damaged)? as usize;
    if count > PEERS_MAX || fields.len() != bytes * count {
        return Err(Unfit::Damaged);
    }
    let one = |_| {
        let node = NodeId::new(fields.get_u64_le());
        let mut met = Acquaintance::first(Incarnation::new(fields.get_u128_le()));
        if version > 1 {
            met.age = take_age(&mut fields);
        }
        if version > 2 {
            let life = Incarnation::new(fields.get_u128_le());
            let age = take_age(&mut fields);
            met.later = (life.get() != 0).then_some((life, age));
        }
        (node, met)
    };
    Ok((0..count).map(one).collect())
}

fn take_age(fields: &mut &[u8]) -> Age {
    Age { count: fields.get_u64_le(), draw: fields.get_u64_le() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_life_of_a_known_peer_is_noticed_after_a_restart_too() {
        let dir = tempfile::tempdir().unwrap();
        let (peer, life) = (NodeId::new(2), Incarnation::new(7));
        let known = Acquaintances::open(dir.path(), Box::new(|_, _| ())).unwrap();
        let unknown = Age::default();
        let met = |same, age| Met { same, age };
        assert_eq!(known.meet(peer, life).unwrap(), met(true, unknown));
        assert_eq!(known.meet(peer, life).unwrap(), met(true, unknown));
        assert_eq!(known.meet(peer, Incarnation::new(8)).unwrap(), met(false, unknown));
        // Only what is older than before counts, each life by itself; of those after the first, the last is kept.
        let age = |count| Age { count, draw: 100 + count };
        for (life, count) in [(7, 4), (7, 3), (6, 7), (8, 9), (8, 8), (7, 5), (7, 5)] {
            known.grew(peer, Incarnation::new(life), age(count)).unwrap();
        }
        known.grew(NodeId::new(9), life, age(1)).unwrap();
        let known = Acquaintances::open(dir.path(), Box::new(|_, _| ())).unwrap();
        assert_eq!(known.meet(peer, life).unwrap(), met(true, age(5)));
        assert_eq!(known.meet(peer, Incarnation::new(8)).unwrap(), met(false, age(9)));
        assert_eq!(known.meet(peer, Incarnation::new(6)).unwrap(), met(false, unknown));
        assert!(known.meet(NodeId::new(3), Incarnation::new(8)).unwrap().same);

        let path = dir.path().join(FILE);
        let mut raw = fs::read(&path).unwrap();
        raw[20] ^= 1;
        fs::write(&path, raw).unwrap();
        assert!(matches!(
            Acquaintances::open(dir.path(), Box::new(|_, _| ())),
            Err(NodeError::Damaged { .. })
        ));
    }
}
