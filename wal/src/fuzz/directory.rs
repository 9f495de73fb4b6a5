//! A whole wal directory of any bytes: opening it gives a verdict or an error, and nothing else.
//!
//! ```text
//! flags  1   1: checksums of frames and headers are set right first
//! then files:
//!   kind   1   low bits: 0 segment, 1 spare, 2 another name, 3 the note; 0x80: zeros up to a segment's
//!              length; 0x40: the number is that of the highest byte
//!   number 1   of the segment or spare
//!   length 4   little-endian, what is left if less is
//!   bytes
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{IDENTITY, append, options};
use crate::disk::Disk;
use crate::frame;
use crate::note::{self, NOTE_BYTES, NOTE_NAME};
use crate::position::{BatchSeq, GroupId, LogIndex, SegmentId};
use crate::segment::{self, SEGMENT_HEADER_BYTES};
use crate::sim::SimDisk;
use crate::verdict::{Recovered, Verdict};
use crate::wal::Wal;
use crate::{WalError, Write};

const SEALED: u8 = 1;
const SEGMENT: u8 = 0;
const SPARE: u8 = 1;
const NOTE: u8 = 3;
const HIGH: u8 = 0x40;
const PADDED: u8 = 0x80;
/// Of the first file, in the input.
const FIRST_SEQ: std::ops::Range<usize> = 1 + 6 + 64..1 + 6 + 72;
/// More files or longer ones than this find nothing that fewer do not.
const FILES_MAX: usize = 16;

type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn run(raw: &[u8]) -> bool {
    let Some((flags, rest)) = raw.split_first() else { return false };
    let mut files = parse(rest);
    if flags & SEALED != 0 {
        files.iter_mut().for_each(|(name, file)| seal(name, file));
    }
    let disk = SimDisk::from_seed(1);
    for (name, bytes) in &files {
        disk.create(name, bytes.len() as u64).expect("the disk has no bound");
        disk.write_at(name, 0, bytes).expect("the file is there");
        disk.sync(name).expect("nothing fails");
    }
    disk.sync_dir().expect("nothing fails");
    let Ok((wal, first)) = open(&disk) else { return false };
    let is_fresh = wal.shared.commit().after_damage;
    assert!(!is_fresh || first.verdict.is_damaged());
    check_changes(&disk, &files, is_fresh);
    // What the first opening repaired, the second finds repaired, whether power failed or not.
    let (_, second) = open(&disk).expect("it opened before");
    assert_same(&first, &second);
    disk.crash();
    let (wal, third) = open(&disk).expect("it opened before");
    assert_same(&first, &third);
    go_on(&disk, wal, &first);
    first.verdict == Verdict::Clean
}

/// Behind damage nothing is changed; otherwise the end of the last segment may have been zeroed.
fn check_changes(disk: &SimDisk, files: &Files, is_fresh: bool) {
    let is_segment = |name: &str| matches!(segment::kind_of(name), segment::FileKind::Segment(_));
    let segments = files.iter().filter(|(name, _)| is_segment(name));
    for (number, (name, before)) in segments.rev().enumerate() {
        let after = contents(disk, name);
        let Some(changed) = before.iter().zip(&after).position(|(one, other)| one != other) else {
            continue;
        };
        assert!(!is_fresh, "{name} was changed although damaged");
        assert_eq!(number, 0, "{name} was changed although it is not the last");
        assert!(after[changed..].iter().all(|byte| *byte == 0), "{name} was changed at {changed}");
    }
}

/// What was recovered stays as it is while a new group is written to.
fn go_on(disk: &SimDisk, mut wal: Wal, first: &Recovered) {
    let new = (1..).map(GroupId::new).find(|group| !first.groups.contains_key(group));
    let new = new.expect("there are more numbers than groups");
    if let Err(error) = wal.submit(&[append(new.get(), 1, b"new")]) {
        // The last number there is was made up.
        return assert!(matches!(error, WalError::InvalidArgument { .. }), "{error}");
    }
    wal.write_queued().expect("nothing fails");
    wal.sync().expect("nothing fails");
    drop(wal);
    let (_, mut second) = open(disk).expect("it opened before");
    let found = second.groups.remove(&new).expect("it was synced");
    assert_eq!((found.first, found.last), (LogIndex::new(1), LogIndex::new(1)));
    assert_eq!(found.verdict.is_damaged(), first.unlisted_damaged);
    assert_same(first, &second);
}

/// Opens it, and reads whatever it says it holds.
fn open(disk: &SimDisk) -> Result<(Wal, Recovered), WalError> {
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), IDENTITY, options())?;
    let reader = wal.reader();
    for (id, group) in &recovered.groups {
        let Some((first, last)) = reader.range(*id) else { continue };
        assert!(first <= last);
        assert_eq!((first, last), (group.first, group.last));
        // Ends at the first entry whose own checksum does not hold.
        let end = LogIndex::new(last.get().saturating_add(1));
        if let Ok(read) = reader.read(*id, first, end, usize::MAX) {
            assert!(read.len() as u64 <= last.get() - first.get() + 1);
        }
    }
    Ok((wal, recovered))
}

fn assert_same(first: &Recovered, second: &Recovered) {
    assert_eq!(first.unlisted_damaged, second.unlisted_damaged);
    let plain = |recovered: &Recovered| {
        let groups = recovered.groups.iter().map(|(id, group)| {
            let is_damaged = group.verdict.is_damaged();
            (*id, group.state.clone(), group.first, group.last, is_damaged)
        });
        groups.collect::<Vec<_>>()
    };
    assert_eq!(plain(first), plain(second));
}

fn contents(disk: &SimDisk, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; disk.len(name).expect("the file is there") as usize];
    disk.read_at(name, 0, &mut bytes).expect("the file is there");
    bytes
}

fn parse(mut rest: &[u8]) -> Files {
    let mut files = Files::new();
    while let Some((header, tail)) = rest.split_at_checked(6)
        && files.len() < FILES_MAX
    {
        let (kind, number) = (header[0], u64::from(header[1]));
        let number = if kind & HIGH == 0 { number } else { number << 56 | 0x00ff_ffff_ffff_ffff };
        let length = u32::from_le_bytes(header[2..].try_into().expect("four bytes"));
        let (bytes, tail) = tail.split_at(tail.len().min(length as usize));
        rest = tail;
        let mut bytes = bytes.to_vec();
        if kind & PADDED != 0 && bytes.len() < options().segment_bytes as usize {
            bytes.resize(options().segment_bytes as usize, 0);
        }
        let name = match kind & 3 {
            SEGMENT => segment::file_name(SegmentId::new(number)),
            SPARE => segment::spare_name(number),
            NOTE => NOTE_NAME.to_owned(),
            _ => format!("{number}.other"),
        };
        files.insert(name, bytes);
    }
    files
}

/// Sets the checksum of the header right, and those of the frames as far as one follows the other.
fn seal(name: &str, file: &mut [u8]) {
    if name == NOTE_NAME {
        if let Ok(raw) = <&mut [u8; NOTE_BYTES]>::try_from(&mut *file) {
            let synced = u64::from_le_bytes(raw[16..24].try_into().expect("eight bytes"));
            *raw = note::encode(&IDENTITY.domain(), BatchSeq::new(synced));
        }
        return;
    }
    segment::seal(file);
    let mut pos = SEGMENT_HEADER_BYTES as usize;
    while let Some(bytes) = frame::seal_at(&IDENTITY.domain(), file, pos) {
        pos += bytes;
    }
}

fn print(flags: u8, disk: &SimDisk) -> Vec<u8> {
    let mut out = vec![flags];
    for name in disk.list().expect("nothing fails") {
        if let segment::FileKind::Segment(id) = segment::kind_of(&name) {
            let bytes = contents(disk, &name);
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            out.extend([SEGMENT | PADDED, id.get() as u8]);
            out.extend((used as u32).to_le_bytes());
            out.extend(&bytes[..used]);
        }
    }
    out
}

/// A small log of two groups over some segments, the last batches not synced.
fn written() -> SimDisk {
    let disk = SimDisk::from_seed(1);
    let (mut wal, _) =
        Wal::open(Arc::new(disk.clone()), IDENTITY, options()).expect("the disk is empty");
    let one = GroupId::new(1);
    let state = |text: &'static [u8]| Write::SetState { group: one, payload: text.into() };
    let batches = [
        vec![append(1, 1, b"one"), append(1, 2, b"two"), append(2, 1, &[7; 100]), state(b"s")],
        vec![append(1, 3, b"three"), Write::Trim { group: one, up_to: LogIndex::new(1) }],
        vec![append(1, 3, b"again"), append(2, 2, b"")],
        vec![append(2, 3, &[9; 3000])],
        vec![append(2, 4, &[5; 3000]), state(b"t")],
        vec![
            Write::Reset { group: GroupId::new(3), up_to: LogIndex::new(40) },
            append(3, 41, b"x"),
        ],
    ];
    for (number, batch) in batches.iter().enumerate() {
        wal.submit(batch).expect("there is room");
        wal.write_queued().expect("nothing fails");
        if number < 4 {
            wal.sync().expect("nothing fails");
        }
        wal.maintain().expect("nothing fails");
    }
    disk
}

/// And a note that says up to where all was synced.
fn with_note(files: &[u8], synced: u64) -> Vec<u8> {
    let mut out = files.to_vec();
    out.extend([NOTE, 0]);
    out.extend((NOTE_BYTES as u32).to_le_bytes());
    out.extend(note::encode(&IDENTITY.domain(), BatchSeq::new(synced)));
    out
}

/// The bytes of the first segment of a small log.
pub(super) fn first_segment() -> Vec<u8> {
    contents(&written(), &segment::file_name(super::SEGMENT))
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let disk = written();
    let good = print(0, &disk);
    let mut before_one = print(SEALED, &disk);
    before_one[FIRST_SEQ].fill(0);
    let first = segment::file_name(super::SEGMENT);
    disk.flip_bit(&first, SEGMENT_HEADER_BYTES as usize + 40, 3);
    let flipped = print(0, &disk);
    disk.remove(&first).expect("it is there");
    vec![
        ("good-two-segments".to_owned(), good.clone()),
        ("good-sealed-two-segments".to_owned(), print(SEALED, &written())),
        ("first-seq-zero".to_owned(), before_one),
        ("torn-tail".to_owned(), good[..good.len() - 30].to_vec()),
        ("flipped-synced-frame".to_owned(), flipped),
        ("first-segment-gone".to_owned(), print(0, &disk)),
        ("header-cut".to_owned(), good[..40].to_vec()),
        ("good-note-behind".to_owned(), with_note(&good, 1)),
        ("note-ahead".to_owned(), with_note(&good, 1 << 40)),
        ("last-segment".to_owned(), [&good[..], &[SEGMENT | HIGH, 0x1f, 0, 0, 0, 0]].concat()),
        ("too-far-segment".to_owned(), [&good[..], &[SEGMENT | HIGH, 0x20, 0, 0, 0, 0]].concat()),
        ("good-too-far-spare".to_owned(), [&good[..], &[SPARE | HIGH, 0x20, 0, 0, 0, 0]].concat()),
        ("good-far-segment".to_owned(), [&good[..], &[SEGMENT | HIGH, 0xff, 0, 0, 0, 0]].concat()),
        (
            "good-far-spare".to_owned(),
            [&good[..], &[SPARE | HIGH | PADDED, 0xff, 0, 0, 0, 0]].concat(),
        ),
        ("nothing".to_owned(), Vec::new()),
    ]
}
