//! The bytes of the files.

use bytes::Bytes;
use palisade_replication::{KeyEpoch, LogTime, RecordRun};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::layout::{
    FileEntry, FileName, GroupPart, Seal, decode_format, decode_records, decode_state,
    encode_format, encode_run, records_header,
};
use super::*;

fn manifest() -> Contents {
    let head = |byte| ChainHead([byte; 32]);
    let entry = |first, bytes| FileEntry {
        name: FileName::Records(Offset::new(first)),
        bytes,
        sha256: Hash([first as u8; 32]),
    };
    let part = GroupPart {
        from: (Offset::new(4), head(0xa1)),
        to: (Offset::new(9), head(0xb2)),
        log_time: LogTime::new(1_800_000_000_009),
        digest: [("map".to_owned(), Hash([3; 32])), ("log".to_owned(), Hash([4; 32]))].into(),
        files: vec![entry(5, 100), entry(8, 20)],
    };
    Contents {
        id: id("2026-11-17"),
        cluster: CLUSTER,
        state: STATE_VERSION,
        seal: None,
        parent: Some((id("2026-11-16"), Hash([0xcd; 32]))),
        groups: [(SYSTEM_GROUP, GroupPart::empty()), (GROUP, part)].into(),
    }
}

/// A release that does not know of keys refuses it by its version.
#[test]
fn a_manifest_of_a_sealed_backup_is_version_two_and_names_the_epoch() {
    let epoch = KeyEpoch::new(3).unwrap();
    let sealed = Contents { seal: Some(Seal { epoch, check: [0xa, 0xb0, 0xff] }), ..manifest() };
    let text = String::from_utf8(sealed.encode().to_vec()).unwrap();
    let first: Vec<&str> = text.lines().take(5).collect();
    let expected =
        ["palisade backup manifest 2", "id 2026-11-17", "cluster 7", "state 2", "sealed 3 0ab0ff"];
    assert_eq!(first, expected);
    assert_eq!(Contents::decode("m", &sealed.id, text.as_bytes()).unwrap(), sealed);
    // Said to be the other version, or with another check: neither is what was written.
    for (from, to) in [("manifest 2", "manifest 1"), ("0ab0ff", "0ab0fe"), ("sealed 3", "sealed 0")]
    {
        let changed = text.replace(from, to);
        assert!(Contents::decode("m", &sealed.id, changed.as_bytes()).is_err(), "{to}");
    }
}

/// Version 1, byte by byte. A change that is meant gets another version.
#[test]
fn a_manifest_of_version_one_stays_what_it_is() {
    let of = |byte: &str| byte.repeat(32);
    let lines = [
        "palisade backup manifest 1".to_owned(),
        "id 2026-11-17".to_owned(),
        "cluster 7".to_owned(),
        "state 2".to_owned(),
        format!("parent 2026-11-16 {}", of("cd")),
        "group 0".to_owned(),
        format!("from 0 {}", of("00")),
        format!("to 0 0 {}", of("00")),
        "group 1".to_owned(),
        format!("from 4 {}", of("a1")),
        format!("to 9 1800000000009 {}", of("b2")),
        format!("digest log {}", of("04")),
        format!("digest map {}", of("03")),
        format!("file {} 100 records-5", of("05")),
        format!("file {} 20 records-8\n", of("08")),
    ];
    let text = lines.join("\n");
    let text = format!("{text}end {}\n", Hash::of(text.as_bytes()));
    assert_eq!(manifest().encode(), text.as_bytes());
    let read = Contents::decode("file", &id("2026-11-17"), text.as_bytes()).unwrap();
    assert_eq!(read, manifest());
    assert_eq!(encode_format(CLUSTER), &b"palisade backup 1\ncluster 7\n"[..]);
    assert_eq!(decode_format("format", &encode_format(CLUSTER)).unwrap(), CLUSTER);
}

#[test]
fn what_is_not_of_this_format_is_refused() {
    let sealed = |text: String| format!("{text}end {}\n", Hash::of(text.as_bytes()));
    let body = String::from_utf8(manifest().encode().into()).unwrap();
    let body = body.split_once("end ").unwrap().0.to_owned();
    let decode = |text: String| {
        Contents::decode("file", &id("2026-11-17"), sealed(text).as_bytes()).map(|_| ())
    };
    decode(body.clone()).unwrap();
    let replace = |from: &str, to: &str| {
        assert!(body.contains(from));
        decode(body.replacen(from, to, 1)).unwrap_err()
    };
    for (from, to, found) in [
        ("manifest 1", "manifest 3", "palisade backup manifest 3"),
        ("state 2", "state 3", "state version=3, known=2"),
        ("group 1", "group 2", "groups=[GroupId(0), GroupId(2)]"),
    ] {
        let error = replace(from, to);
        let BackupError::UnknownFormat { found: said, .. } = error else { panic!("{error}") };
        assert_eq!(said, found);
    }
    for (from, to) in [
        ("manifest 1", "manifest one"),
        ("id 2026-11-17", "id 2026-11-18"),
        ("cluster 7", "cluster 07"),
        ("cluster 7", "cluster  7"),
        ("from 4", "from +4"),
        ("cd", "CD"),
        ("file ", "files "),
        ("digest log", "digest map"),
    ] {
        let error = replace(from, to);
        assert!(matches!(error, BackupError::Damaged { .. }), "{from} {to}: {error}");
    }
    let twice = decode(format!("{body}{}", &body[body.find("group").unwrap()..])).unwrap_err();
    assert!(matches!(twice, BackupError::Damaged { .. }), "{twice}");
    for format in ["palisade backup 1\ncluster 7", "palisade backup 1\ncluster x\n", "", "\u{fe}"] {
        let error = decode_format("format", format.as_bytes()).unwrap_err();
        assert!(matches!(error, BackupError::Damaged { .. }), "{format}: {error}");
    }
    let newer = decode_format("format", b"palisade backup 2\ncluster 7\n").unwrap_err();
    assert!(matches!(newer, BackupError::UnknownFormat { .. }), "{newer}");
    let newer = decode_records("records-1", Bytes::from_static(b"\x02")).unwrap_err();
    assert!(matches!(newer, BackupError::UnknownFormat { .. }), "{newer}");
}

#[test]
fn ids_are_parsed_once() {
    for good in ["a", "0", "2026-11-17T04-00", "a.b_c"] {
        assert_eq!(BackupId::new(good).unwrap().as_str(), good);
    }
    for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", "format", &"a".repeat(65)] {
        assert!(BackupId::new(bad).is_err(), "{bad}");
    }
}

fn runs() -> impl Strategy<Value = Vec<RecordRun>> {
    let payload = vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let run = (any::<u64>(), any::<u64>(), vec(payload, 0..4));
    let run = run.prop_map(|(first, log_time, payloads)| RecordRun {
        first_offset: Offset::new(first),
        log_time: LogTime::new(log_time),
        payloads,
    });
    vec(run, 0..4)
}

/// A run of two records, byte by byte.
#[test]
fn a_run_of_version_one_stays_what_it_is() {
    let run = RecordRun {
        first_offset: Offset::new(5),
        log_time: LogTime::new(258),
        payloads: vec![Bytes::from_static(b"ab"), Bytes::new()],
    };
    let wanted = [
        &b"\x01"[..],
        b"\x05\0\0\0\0\0\0\0",
        b"\x02\x01\0\0\0\0\0\0",
        b"\x02\0\0\0",
        b"\x02\0\0\0ab",
        b"\0\0\0\0",
    ];
    assert_eq!([records_header(), encode_run(&run)].concat(), wanted.concat());
}

proptest! {
    #[test]
    fn records_round_trip(runs in runs()) {
        let mut raw = records_header().to_vec();
        runs.iter().for_each(|run| raw.extend_from_slice(&encode_run(run)));
        prop_assert_eq!(decode_records("records-1", raw.clone().into()).unwrap(), runs.clone());
        raw.pop();
        prop_assert!(decode_records("records-1", raw.into()).is_err());
    }

    #[test]
    fn reading_never_panics(raw in vec(any::<u8>(), 0..200), lines in vec("[a-z0-9 ]{0,20}", 0..12)) {
        let _ = decode_records("f", raw.clone().into());
        let _ = decode_records("f", [&b"\x01"[..], &raw].concat().into());
        let _ = decode_state("f", raw.clone().into());
        let _ = decode_format("f", &raw);
        let _ = Contents::decode("f", &id("a"), &raw);
        let text = format!("palisade backup manifest 1\nid a\ncluster 7\n{}", lines.join("\n"));
        let _ = Contents::decode("f", &id("a"), text.as_bytes());
    }
}
