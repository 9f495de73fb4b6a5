use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::disk::Disk;
use crate::error::WalError;
use crate::frame::{self, Write};
use crate::keys::{KeyRing, SEAL_BYTES, SeededRandomness};
use crate::options::WalOptions;
use crate::segment::SEGMENT_HEADER_BYTES;
use crate::sim::SimDisk;
use crate::verdict::Recovered;
use crate::wal::Wal;

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const GROUP: GroupId = GroupId::new(1);

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 << 10,
        batch_bytes_max: 8 << 10,
        queued_bytes_max: 64 << 10,
        live_multiple_max: 3,
    }
}

fn ring(epochs: u64) -> KeyRing {
    let mut ring = KeyRing::default();
    for seed in 0..epochs {
        ring.rotate(&SeededRandomness::new(seed)).unwrap();
    }
    ring
}

fn keys(epochs: u64, seed: u64) -> Keys {
    Keys::with_randomness(ring(epochs), SeededRandomness::new(seed))
}

fn start(disk: Arc<dyn Disk>, keys: &Keys) -> (Wal, Recovered) {
    Wal::open_with_keys(disk, IDENTITY, options(), keys.clone()).unwrap()
}

fn open(disk: Arc<dyn Disk>, keys: &Keys) -> Wal {
    start(disk, keys).0
}

fn append(group: GroupId, index: u64, byte: u8) -> Write {
    let payload = Bytes::from(vec![byte; 100]);
    Write::Append { group, index: LogIndex::new(index), payload }
}

fn flush(wal: &mut Wal) {
    wal.write_queued().unwrap();
    wal.sync().unwrap();
}

fn read(wal: &Wal, group: GroupId, index: u64) -> Result<Bytes, WalError> {
    let (from, end) = (LogIndex::new(index), LogIndex::new(index + 1));
    wal.reader().read(group, from, end, 1).map(|read| read[0].1.clone())
}

/// Changes the stored payloads of the frames of a segment, and gives them the checksums that they need then.
fn change(disk: &SimDisk, segment: SegmentId, change: impl Fn(&mut [&mut [u8]])) {
    let name = segment::file_name(segment);
    let mut raw = disk.contents(&name);
    let mut places = Vec::new();
    let mut frames = Vec::new();
    let mut pos = SEGMENT_HEADER_BYTES as usize;
    while let Some(frame) = frame::decode(&IDENTITY.domain(), segment, &raw, pos) {
        for (item, payload) in frame.items().flatten().filter(|(item, _)| item.sealed) {
            places.push((pos + item.payload_pos as usize, payload.len()));
        }
        frames.push(pos);
        pos += frame.bytes;
    }
    let mut payloads: Vec<Vec<u8>> =
        places.iter().map(|(at, length)| raw[*at..at + length].to_vec()).collect();
    let mut borrowed: Vec<&mut [u8]> = payloads.iter_mut().map(|it| &mut it[..]).collect();
    change(&mut borrowed);
    for ((at, length), payload) in places.iter().zip(&payloads) {
        raw[*at..at + length].copy_from_slice(payload);
        raw[at - 4..*at].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    }
    for pos in frames {
        frame::seal_at(&IDENTITY.domain(), &mut raw, pos).unwrap();
    }
    disk.overwrite(&name, 0, &raw);
}

fn is_tampered(error: &WalError) -> bool {
    matches!(error, WalError::Key(KeyError::Tampered { .. }))
}

/// Entries 1 and 2 of group 1, entry 1 of group 2, and a register.
fn written(keys: &Keys) -> SimDisk {
    let disk = SimDisk::from_seed(1);
    let mut wal = open(Arc::new(disk.clone()), keys);
    let other = GroupId::new(2);
    wal.submit(&[append(GROUP, 1, 1), append(GROUP, 2, 2), append(other, 1, 3)]).unwrap();
    wal.submit(&[Write::SetState { group: GROUP, payload: vec![4; 100].into() }]).unwrap();
    flush(&mut wal);
    disk
}

/// The checksums of all of it hold, and still none of it is taken for what was written.
#[test]
fn what_was_exchanged_between_places_is_refused_where_it_is_read() {
    let keys = keys(1, 1);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let disk = written(&keys);
        change(&disk, SegmentId::new(1), |payloads| {
            let (left, right) = payloads.split_at_mut(other);
            left[one].swap_with_slice(right[0]);
        });
        let wal = open(Arc::new(disk.clone()), &keys);
        let entries = [(GROUP, 1), (GROUP, 2), (GroupId::new(2), 1)];
        for (at, (group, index)) in entries.into_iter().enumerate() {
            match read(&wal, group, index) {
                Ok(payload) => {
                    assert!(at != one && at != other);
                    assert_eq!(payload[0], at as u8 + 1);
                }
                Err(error) => {
                    assert!(is_tampered(&error), "{error}");
                    assert_eq!(error.disposition(), crate::Disposition::Halt);
                    assert!(at == one || at == other);
                }
            }
        }
    }
}

#[test]
fn a_register_that_was_changed_is_refused_at_the_start_and_nothing_is_written() {
    let keys = keys(1, 1);
    let disk = written(&keys);
    // The register's copy is in a later frame only after a mark: it is the last of four.
    change(&disk, SegmentId::new(1), |payloads| payloads[3][SEAL_BYTES / 2] ^= 1);
    let before = (disk.contents("0000000000000001.seg"), disk.counts().changes());
    let disk_of = Arc::new(disk.clone());
    let error = Wal::open_with_keys(disk_of, IDENTITY, options(), keys).map(|_| ()).unwrap_err();
    assert!(is_tampered(&error), "{error}");
    assert_eq!(disk.contents("0000000000000001.seg"), before.0);
}

/// A clear entry put into a sealed segment, or the reverse, was written by nobody.
#[test]
fn a_clear_entry_in_a_sealed_segment_is_refused() {
    let segment = SegmentId::new(1);
    let mark = SealMark { epoch: KeyEpoch::new(1).unwrap(), check: [0; 3] };
    let mut seals = Seals::default();
    seals.item((segment, 200), Some(Some(mark)), Some(mark.epoch));
    seals.item((segment, 300), Some(None), None);
    seals.item((segment, 400), None, Some(mark.epoch));
    assert_eq!(seals.odd, None);
    assert_eq!(seals.needs().count(), 1, "the one without a header");
    let mut clear = seals.clone();
    clear.item((segment, 500), Some(Some(mark)), None);
    let mut sealed = seals.clone();
    sealed.item((segment, 500), Some(None), Some(mark.epoch));
    for odd in [clear, sealed] {
        let refused = odd.judge(&keys(1, 1)).unwrap_err();
        assert!(matches!(refused, KeyError::Tampered { byte_pos: 500, .. }), "{refused}");
    }
}

/// The same bytes of another node, or of another life: its key is another.
#[test]
fn a_segment_opens_for_its_owner_alone() {
    let keys = keys(1, 1);
    let epoch = KeyEpoch::new(1).unwrap();
    let contexts = [
        IDENTITY,
        WalIdentity { cluster: 8, ..IDENTITY },
        WalIdentity { node: 2, ..IDENTITY },
        WalIdentity { incarnation: 1, ..IDENTITY },
    ];
    let mut all: Vec<Vec<u8>> =
        contexts.iter().map(|owner| context(owner, SegmentId::new(1))).collect();
    all.push(context(&IDENTITY, SegmentId::new(2)));
    let mut sealed = Vec::new();
    keys.sealer(epoch, &all[0], "f").unwrap().seal(b"place", b"plain", &mut sealed);
    let opens = |context: &Vec<u8>| {
        keys.file_key(epoch, context, "f").unwrap().open(b"place", &sealed).is_some()
    };
    assert_eq!(all.iter().map(opens).collect::<Vec<_>>(), [true, false, false, false, false]);
}

/// A full disk gives no new segment: trims and registers still go to the one there is, under its own epoch.
/// A clear one is not gone on with.
#[test]
fn on_a_full_disk_the_tail_of_a_former_epoch_goes_on() {
    let epoch = KeyEpoch::new;
    let seals = |number: u32| {
        let mark = SealMark { epoch: epoch(number).unwrap(), check: [0; 3] };
        Seals { marks: [(SegmentId::new(1), mark)].into(), ..Seals::default() }
    };
    let tail = Some(SegmentId::new(1));
    let sealed = TailSeal::open(keys(3, 1), IDENTITY, &seals(2), tail).unwrap();
    assert!(sealed.goes_on(epoch(2), false));
    assert!(!sealed.goes_on(epoch(3), false));
    assert!(sealed.goes_on(epoch(3), true));
    assert!(!sealed.goes_on(None, true), "it was turned off");
    let clear = TailSeal::open(keys(3, 1), IDENTITY, &Seals::default(), tail).unwrap();
    assert!(clear.goes_on(None, false));
    assert!(!clear.goes_on(epoch(3), false));
    assert!(!clear.goes_on(epoch(3), true));
    assert!(clear.would_seal(SegmentId::new(1)), "what is moved from it is longer");
    assert!(!sealed.would_seal(SegmentId::new(1)));
    let off = TailSeal::open(Keys::none(), IDENTITY, &Seals::default(), tail).unwrap();
    assert!(!off.would_seal(SegmentId::new(1)));
}

/// Keeps what every write was asked to bring to the disk, whether power lets it be there or not.
struct Recording {
    disk: SimDisk,
    writes: Mutex<Vec<(String, u64, Vec<u8>)>>,
}

impl Disk for Recording {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.disk.create(name, bytes)
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.disk.len(name)
    }
    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(name, pos, buffer)
    }
    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_medium(name, pos, buffer)
    }
    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()> {
        self.writes.lock().unwrap().push((name.to_owned(), pos, bytes.to_vec()));
        self.disk.write_at(name, pos, bytes)
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.disk.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append,
    Register,
    Write,
    Sync,
    Maintain,
    Trim,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Append),
        2 => Just(Step::Register),
        4 => Just(Step::Write),
        2 => Just(Step::Sync),
        2 => Just(Step::Maintain),
        1 => Just(Step::Trim),
        3 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever torn tail is written again, and by how many lives: under one key no nonce seals two things.
    #[test]
    fn no_nonce_is_met_again_where_a_torn_tail_is_written_again(seed: u64, steps in vec(step(), 1..150)) {
        let recording = Arc::new(Recording { disk: SimDisk::from_seed(seed), writes: Mutex::default() });
        let keys = keys(1, seed);
        let mut wal = open(recording.clone(), &keys);
        let (mut index, mut lives) = (0, 1);
        for step in steps {
            match step {
                Step::Append => {
                    if wal.submit(&[append(GROUP, index + 1, lives)]).is_ok() {
                        index += 1;
                    }
                }
                Step::Register => {
                    let payload = vec![lives; 20].into();
                    let _ = wal.submit(&[Write::SetState { group: GROUP, payload }]);
                }
                Step::Trim => {
                    let _ = wal.submit(&[Write::Trim { group: GROUP, up_to: LogIndex::new(index) }]);
                }
                Step::Write => drop(wal.write_queued().unwrap()),
                Step::Sync => flush(&mut wal),
                Step::Maintain => wal.maintain().unwrap(),
                Step::Crash => {
                    drop(wal);
                    recording.disk.crash();
                    let (reopened, found) = start(recording.clone(), &keys);
                    wal = reopened;
                    index = found.groups.get(&GROUP).map_or(0, |found| found.last.get());
                    lives += 1;
                }
            }
        }
        drop(wal);
        let mut seen: BTreeMap<(SegmentId, Vec<u8>), Vec<u8>> = BTreeMap::new();
        for (name, pos, bytes) in &*recording.writes.lock().unwrap() {
            let segment::FileKind::Segment(id) = segment::kind_of(name) else { continue };
            let file = [vec![0; *pos as usize], bytes.clone()].concat();
            let mut at = *pos as usize;
            while let Some(frame) = frame::decode(&IDENTITY.domain(), id, &file, at) {
                for (item, payload) in frame.items().flatten().filter(|(item, _)| item.kind.is_content()) {
                    prop_assert!(item.sealed);
                    let nonce = payload[4..16].to_vec();
                    let before = seen.insert((id, nonce), payload.to_vec());
                    // What is only written again is the same.
                    prop_assert!(before.is_none_or(|before| before == payload));
                }
                at += frame.bytes;
            }
        }
    }
}
