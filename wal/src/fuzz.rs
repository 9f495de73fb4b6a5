//! What fuzzing calls: every place where this crate reads bytes it may not have written.
//!
//! Each target is a plain function, called from `tests/fuzz.rs` with the committed corpus and bounded
//! mutations of it, and from `fuzz/` under libFuzzer. A checksum would end nearly every changed
//! input at once, so targets also try what they were given with its checksums set right.

mod directory;
mod history;

use bytes::Bytes;
use crc32fast::Hasher;

use crate::frame;
use crate::position::{GroupId, LogIndex, SegmentId};
use crate::segment;
use crate::{WalIdentity, WalOptions, Write};

/// One function that takes bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As its corpus folder is called.
    pub name: &'static str,
    /// Panics if a promise does not hold. Returns whether the bytes, as they are, are well-formed.
    pub run: fn(&[u8]) -> bool,
    /// Named inputs to begin with; `good-*` are well-formed, the others are not.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: frame, seeds: frame_seeds },
    Target { name: "segment_header", run: segment_header, seeds: segment_header_seeds },
    Target { name: "directory", run: directory::run, seeds: directory::seeds },
    Target { name: "history", run: history::run, seeds: history::seeds },
    Target { name: "sealed_history", run: history::run_sealed, seeds: history::seeds },
];

/// Runs one target of this crate.
pub fn run(name: &str, raw: &[u8]) -> bool {
    find(TARGETS, name)(raw)
}

/// The function of the target with this name. Panics if there is none.
#[must_use]
pub fn find(targets: &[Target], name: &str) -> fn(&[u8]) -> bool {
    targets.iter().find(|target| target.name == name).expect("a target of that name").run
}

const IDENTITY: WalIdentity = WalIdentity { cluster: 7, node: 1, incarnation: 9 };
const SEGMENT: SegmentId = SegmentId::new(1);

/// The first frame of a segment lies here.
const FRAME_POS: usize = segment::SEGMENT_HEADER_BYTES as usize;

/// As small as the rules allow, so that a short input fills segments.
fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 6 << 10,
        batch_bytes_max: 5 << 10,
        queued_bytes_max: 10 << 10,
        live_multiple_max: 3,
    }
}

fn append(group: u64, index: u64, payload: &[u8]) -> Write {
    Write::Append {
        group: GroupId::new(group),
        index: LogIndex::new(index),
        payload: Bytes::copy_from_slice(payload),
    }
}

/// A good seed, and what is made of it by a cut and by a flipped bit.
fn with_broken(name: &str, good: &[u8], flip_at: usize) -> Vec<(String, Vec<u8>)> {
    let mut flipped = good.to_vec();
    flipped[flip_at] ^= 0x10;
    vec![
        (format!("good-{name}"), good.to_vec()),
        (format!("cut-{name}"), good[..good.len() / 2].to_vec()),
        (format!("flipped-{name}"), flipped),
    ]
}

fn frame(raw: &[u8]) -> bool {
    let mut file = [&[0; FRAME_POS], raw].concat();
    let is_frame = read_frame(&IDENTITY.domain(), &file);
    if frame::seal_at(&IDENTITY.domain(), &mut file, FRAME_POS).is_some() {
        read_frame(&IDENTITY.domain(), &file);
    }
    is_frame
}

fn read_frame(domain: &Hasher, file: &[u8]) -> bool {
    let Some(frame) = frame::decode(domain, SEGMENT, file, FRAME_POS) else { return false };
    let raw = &file[FRAME_POS..];
    assert!(frame.bytes <= raw.len());
    assert!(frame.header.durable < frame.header.seq);
    let mut payload_end = 0;
    for (item, payload) in frame.items().flatten() {
        assert_eq!(item.payload_len as usize, payload.len());
        let from = item.payload_pos as usize;
        assert!(payload_end <= from, "items overlap");
        payload_end = from + payload.len();
        assert_eq!(&raw[from..payload_end], payload);
    }
    frame.items().all(|item| item.is_some())
}

/// The first frame of a log as it is written.
fn frame_seeds() -> Vec<(String, Vec<u8>)> {
    let raw = directory::first_segment();
    let first =
        frame::decode(&IDENTITY.domain(), SEGMENT, &raw, FRAME_POS).expect("it was written");
    let frames = &raw[FRAME_POS..];
    let mut seeds = with_broken("one-batch", &frames[..first.bytes], 40);
    seeds.push(("good-with-more-behind".to_owned(), frames[..1024].to_vec()));
    seeds.push(("zeros".to_owned(), vec![0; 64]));
    seeds.push(("nothing".to_owned(), Vec::new()));
    seeds
}

fn segment_header(raw: &[u8]) -> bool {
    let read = |raw: &[u8]| {
        let header = segment::decode_header(&IDENTITY, "f", raw).ok().flatten()?;
        let again = segment::encode_header(&IDENTITY, header);
        assert_eq!(segment::decode_header(&IDENTITY, "f", &again).ok().flatten(), Some(header));
        Some(header)
    };
    let is_header = read(raw).is_some();
    let mut sealed = raw.to_vec();
    segment::seal(&mut sealed);
    read(&sealed);
    is_header
}

fn segment_header_seeds() -> Vec<(String, Vec<u8>)> {
    let raw = directory::first_segment();
    with_broken("first", &raw[..FRAME_POS], 60)
}
