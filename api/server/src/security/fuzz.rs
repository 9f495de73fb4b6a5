//! What fuzzing calls of security: tokens as text, and rows and records as they are stored.

use std::time::Duration;

use palisade::{ClusterId, FailureDomain, Placement};

use super::audit::{AuditEvent, AuditFacts, AuditRecord};
use super::grants::{Grant, Pattern, Right, Rights, decode_row, encode_row};
use super::token::{Caveat, Token, TokenKeys};
use crate::fuzz::sorted;

const CLUSTER: ClusterId = ClusterId::new(7);
/// When tokens are judged.
const NOW_MS: u64 = 1_800_000_000_000;

fn keys() -> TokenKeys {
    TokenKeys::parse(&format!("1 {}\n", "07".repeat(32))).expect("a line of a key")
}

/// What is read is written in one way only, and is never taken without its key.
pub(crate) fn token(raw: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(raw) else { return false };
    let Ok(token) = Token::parse(text) else { return false };
    assert_eq!(token.to_text(), text);
    let judged = keys().verify(CLUSTER, &token, NOW_MS);
    // What it says is looked at by people, too, whoever made it.
    let _ = token.caveats();
    judged.is_ok()
}

pub(crate) fn token_seeds() -> Vec<(String, Vec<u8>)> {
    let lives = (NOW_MS, Duration::from_secs(60));
    let minted = Token::named(&keys(), CLUSTER, "reports", lives, [9; 16]);
    let minted = minted.expect("there is a key");
    let places = Placement::providers(["aws"]).expect("a provider");
    let caveats = [
        Caveat::Rights(Rights::of([Right::Read])),
        Caveat::ResourcePrefix("orders".to_owned()),
        Caveat::Domains(places),
    ];
    let narrowed = caveats.iter().fold(minted.clone(), |token, caveat| {
        token.narrowed(caveat).expect("there is room for it")
    });
    let (minted, narrowed) = (minted.to_text().into_bytes(), narrowed.to_text().into_bytes());
    let cut = minted[..minted.len() - 8].to_vec();
    let mut flipped = narrowed.clone();
    flipped[40] ^= 1;
    let seeds = vec![
        ("minted", minted),
        ("narrowed", narrowed),
        ("cut", cut),
        ("flipped", flipped),
        ("nothing", b"pal1.".to_vec()),
    ];
    sorted(token, seeds)
}

/// What is read is written in one way only.
pub(crate) fn row(raw: &[u8]) -> bool {
    let Ok(grants) = decode_row(raw) else { return false };
    assert_eq!(encode_row(&grants).expect("it was read"), raw);
    true
}

pub(crate) fn row_seeds() -> Vec<(String, Vec<u8>)> {
    let here = FailureDomain::new("aws", "eu-west-1", "a");
    let placed = Grant {
        pattern: Pattern::parse("orders*").expect("a prefix"),
        rights: Rights::ALL,
        domains: Some(Placement::providers([here.provider.as_str()]).expect("a provider")),
    };
    let encoded = |grants: &[Grant]| encode_row(grants).expect("few grants");
    let whole = encoded(&[placed, Grant::everything()[0].clone()]);
    let cut = whole[..whole.len() - 3].to_vec();
    let many = [&[1, 0xff, 0xff][..], &whole[3..]].concat();
    let seeds = vec![("whole", whole), ("none", encoded(&[])), ("cut", cut), ("many", many)];
    sorted(row, seeds)
}

/// What is read is written in one way only.
pub(crate) fn record(raw: &[u8]) -> bool {
    let Ok(record) = AuditRecord::decode(raw) else { return false };
    assert_eq!(record.encode(), raw);
    true
}

pub(crate) fn record_seeds() -> Vec<(String, Vec<u8>)> {
    let facts = AuditFacts {
        who: "reports".to_owned(),
        resource: "orders".to_owned(),
        why: "this was not granted".to_owned(),
        ..AuditFacts::of(AuditEvent::NotAllowed)
    };
    let whole = AuditRecord::once(facts, 1, NOW_MS).encode();
    let cut = whole[..whole.len() - 3].to_vec();
    let long = [&whole[..], &[0; 3]].concat();
    sorted(record, vec![("whole", whole), ("cut", cut), ("long", long), ("nothing", Vec::new())])
}
