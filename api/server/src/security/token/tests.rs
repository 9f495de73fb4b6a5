use std::time::Duration;

use palisade::{DomainRule, FailureDomain, Placement};
use proptest::prelude::*;

use super::*;
use crate::security::grants::{
    Ask, Grant, Pattern, Refusal, Right, Rights, decide, decide_somewhere, decode_row, encode_row,
};

const CLUSTER: ClusterId = ClusterId::new(0x77);
const LIVES: Duration = Duration::from_millis(15);
const NAMES: [&str; 6] = ["a", "b", "ab", "abc", "palisade.access", "palisade.audit"];

fn keys() -> TokenKeys {
    TokenKeys::parse(&format!("1 {}\n# the newer\n2 {}", "11".repeat(32), "22".repeat(32))).unwrap()
}

fn right() -> impl Strategy<Value = Right> {
    prop_oneof![Just(Right::Read), Just(Right::Append), Just(Right::Admin)]
}

fn rights() -> impl Strategy<Value = Rights> {
    proptest::collection::vec(right(), 0..4).prop_map(Rights::of)
}

fn placement() -> impl Strategy<Value = Placement> {
    let part = || prop_oneof![Just("x".to_owned()), Just("y".to_owned())];
    let rule = (part(), proptest::option::of((part(), proptest::option::of(part()))));
    proptest::collection::vec(rule, 1..3).prop_map(|rules| {
        let rule = |(provider, rest): (String, Option<(String, Option<String>)>)| {
            let (region, zone) = rest.map_or((None, None), |(region, zone)| (Some(region), zone));
            DomainRule { provider, region, zone }
        };
        Placement::new(rules.into_iter().map(rule)).unwrap()
    })
}

fn prefix() -> impl Strategy<Value = String> {
    prop_oneof![Just(""), Just("a"), Just("ab"), Just("pal"), Just("palisade.a")]
        .prop_map(str::to_owned)
}

fn caveat() -> impl Strategy<Value = Caveat> {
    prop_oneof![
        (0..20_u64).prop_map(|ms| Caveat::NotAfter { ms }),
        rights().prop_map(Caveat::Rights),
        prefix().prop_map(Caveat::ResourcePrefix),
        placement().prop_map(Caveat::Domains),
        (0..2_u8).prop_map(|byte| Caveat::Certificate([byte; 32])),
    ]
}

fn grant() -> impl Strategy<Value = Grant> {
    let name = proptest::sample::select(&NAMES[..]).prop_map(|name| Pattern::Name(name.to_owned()));
    let pattern = prop_oneof![name, prefix().prop_map(Pattern::Prefix)];
    (pattern, rights(), proptest::option::of(placement()))
        .prop_map(|(pattern, rights, domains)| Grant { pattern, rights, domains })
}

/// Every ask there is, in a small world.
fn asks(each: &mut dyn FnMut(&Ask<'_>)) {
    for resource in NAMES {
        for right in [Right::Read, Right::Append, Right::Admin] {
            for (provider, region, zone) in [("x", "x", "x"), ("x", "y", "x"), ("y", "x", "y")] {
                let domain = &FailureDomain::new(provider, region, zone);
                for now_ms in [0, 10, 25] {
                    for certificate in [&[0; 32], &[1; 32]] {
                        each(&Ask { resource, right, domain, now_ms, certificate });
                    }
                }
            }
        }
    }
}

fn token(caveats: &[Caveat]) -> Token {
    let first = Token::mint(&keys(), CLUSTER, "reports", 0, LIVES).unwrap();
    caveats.iter().fold(first, |token, caveat| token.narrowed(caveat).unwrap())
}

proptest! {
    /// Whatever is added, in whatever order, nothing is allowed that was not before, nor beyond the grants.
    #[test]
    fn no_caveat_widens(
        grants in proptest::collection::vec(grant(), 0..4),
        held in proptest::collection::vec(caveat(), 0..4),
        added in proptest::collection::vec(caveat(), 0..6),
    ) {
        let held = token(&held);
        let narrowed = added.iter().try_fold(held.clone(), |token, caveat| token.narrowed(caveat));
        let before = keys().verify(CLUSTER, &held, 0).unwrap();
        let after = keys().verify(CLUSTER, &narrowed.unwrap(), 0).unwrap();
        prop_assert_eq!(before.principal(), after.principal());
        let mut wider = None;
        asks(&mut |ask| {
            let [bare, before, after] = [&[][..], before.caveats(), after.caveats()]
                .map(|caveats| decide(&grants, caveats, ask).is_ok());
            if after && !before || before && !bare {
                wider = Some(format!("{ask:?}"));
            }
        });
        prop_assert_eq!(wider, None);
    }

    /// A token is read back as it was, and allows what its caveats say.
    /// Who is refused where no resource is named could do nothing with any; and whoever is known there could do
    /// something with one: so every caveat counts.
    #[test]
    fn known_is_who_could_do_something(
        grants in proptest::collection::vec(grant(), 0..4),
        caveats in proptest::collection::vec(caveat(), 0..4),
        rights in rights(),
    ) {
        let mut wrong = None;
        asks(&mut |ask| {
            let known = decide_somewhere(&grants, &caveats, rights, ask);
            if rights.have(ask.right) && decide(&grants, &caveats, ask).is_ok() && known.is_err() {
                wrong = Some(format!("{ask:?} is allowed, and {known:?}"));
            }
            let no_more = caveats.iter().any(|caveat| match caveat {
                Caveat::NotAfter { ms } => *ms < ask.now_ms,
                Caveat::Certificate(wanted) => wanted != ask.certificate,
                Caveat::Domains(domains) => !domains.allows(ask.domain),
                Caveat::Rights(left) => !rights.each().any(|right| left.have(right)) && !left.have(Right::Admin),
                Caveat::ResourcePrefix(_) => false,
            });
            if no_more && known.is_ok() {
                wrong = Some(format!("known with {caveats:?} for {ask:?}"));
            }
        });
        prop_assert_eq!(wrong, None);
    }

    #[test]
    fn what_is_written_is_read(caveats in proptest::collection::vec(caveat(), 0..8)) {
        let token = token(&caveats);
        let read = Token::parse(&token.to_text()).unwrap();
        prop_assert_eq!(&read, &token);
        let bearer = keys().verify(CLUSTER, &read, 0).unwrap();
        prop_assert_eq!(bearer.principal(), "reports");
        prop_assert_eq!(&bearer.caveats()[1..], &caveats[..]);
    }

    /// Of a genuine token, every bit counts.
    #[test]
    fn any_flipped_bit_is_refused(caveats in proptest::collection::vec(caveat(), 0..3)) {
        let text = token(&caveats).to_text();
        let raw = URL_SAFE_NO_PAD.decode(&text[TEXT_PREFIX.len()..]).unwrap();
        for at in 0..8 * raw.len() {
            let mut flipped = raw.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            let text = format!("{TEXT_PREFIX}{}", URL_SAFE_NO_PAD.encode(flipped));
            let judged = Token::parse(&text).and_then(|token| keys().verify(CLUSTER, &token, 0));
            prop_assert!(judged.is_err(), "bit {at}: {judged:?}");
        }
        // And of its text, each character: no two texts are one token.
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            let judged = Token::parse(&other).and_then(|token| keys().verify(CLUSTER, &token, 0));
            prop_assert!(judged.is_err(), "character {at}");
        }
    }

    /// Caveats are not taken off, nor put in another order.
    #[test]
    fn the_chain_holds(caveats in proptest::collection::vec(caveat(), 1..5), at in 0..5_usize) {
        let whole = token(&caveats);
        let mut shorter = whole.clone();
        shorter.caveats.remove(at % whole.caveats.len());
        prop_assert!(keys().verify(CLUSTER, &shorter, 0).is_err());
        let mut turned = whole.clone();
        turned.caveats.rotate_left(1);
        if turned != whole {
            prop_assert!(keys().verify(CLUSTER, &turned, 0).is_err());
        }
    }

    /// Nothing that arrives panics, and what is taken is written in one way only.
    #[test]
    fn any_bytes_are_judged(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = format!("{TEXT_PREFIX}{}", URL_SAFE_NO_PAD.encode(&raw));
        if let Ok(token) = Token::parse(&text) {
            prop_assert_eq!(token.to_text(), text);
            prop_assert!(keys().verify(CLUSTER, &token, 0).is_err());
        }
        let _ = Caveat::decode(&raw);
        if let Ok(grants) = decode_row(&raw) {
            prop_assert_eq!(encode_row(&grants).unwrap(), raw);
        }
    }

    #[test]
    fn rows_are_read_back(grants in proptest::collection::vec(grant(), 0..6)) {
        let row = encode_row(&grants).unwrap();
        prop_assert_eq!(decode_row(&row), Ok(grants));
        for cut in 0..row.len() {
            prop_assert!(decode_row(&row[..cut]).is_err());
        }
        prop_assert!(decode_row(&[&row[..], &[0]].concat()).is_err());
    }
}

fn ask<'a>(domain: &'a FailureDomain, certificate: &'a [u8; 32], now_ms: u64) -> Ask<'a> {
    Ask { resource: "a", right: Right::Read, domain, now_ms, certificate }
}

#[test]
fn a_token_is_of_one_cluster_key_and_time() {
    let domain = FailureDomain::new("x", "x", "x");
    let everything = Grant::everything();
    let token = token(&[Caveat::Certificate([7; 32])]);
    let bearer = keys().verify(CLUSTER, &token, 0).unwrap();
    let judge = |certificate, now_ms| {
        decide(&everything, bearer.caveats(), &ask(&domain, certificate, now_ms))
    };
    assert_eq!(judge(&[7; 32], 15), Ok(()));
    assert_eq!(judge(&[7; 32], 16), Err(Refusal::TokenExpired));
    assert_eq!(judge(&[8; 32], 15), Err(Refusal::TokenCertificate), "replayed with another");

    let elsewhere = keys().verify(ClusterId::new(0x78), &token, 0);
    assert_eq!(elsewhere, Err(TokenRefusal::Forged), "replayed at another cluster");
    let newer = TokenKeys::parse(&format!("2 {}\n3 {}", "22".repeat(32), "33".repeat(32))).unwrap();
    assert!(newer.verify(CLUSTER, &token, 0).is_ok(), "known until its key goes");
    let later = TokenKeys::parse(&format!("3 {}", "33".repeat(32))).unwrap();
    assert_eq!(later.verify(CLUSTER, &token, 0), Err(TokenRefusal::UnknownKey));
    let other = TokenKeys::parse(&format!("2 {}", "44".repeat(32))).unwrap();
    assert_eq!(other.verify(CLUSTER, &token, 0), Err(TokenRefusal::Forged));
}

/// Not when it is made, and not when somebody who had a key made it.
#[test]
fn a_token_for_too_long_is_refused() {
    let keys = keys();
    let mint = |lives| Token::mint(&keys, CLUSTER, "reports", 7, lives);
    let longest = mint(TOKEN_LIFE_MAX).unwrap();
    assert!(keys.verify(CLUSTER, &longest, 7).is_ok());
    assert_eq!(mint(TOKEN_LIFE_MAX + LIVES), Err(TokenRefusal::TooLong));
    let mut forged = longest.clone();
    forged.caveats.clear();
    forged.tag = forged.first_tag(keys.key(2).unwrap(), CLUSTER);
    let forged = forged.narrowed(&Caveat::NotAfter { ms: u64::MAX }).unwrap();
    assert_eq!(keys.verify(CLUSTER, &forged, 7), Err(TokenRefusal::TooLong));
    // Narrowed to an end that is soon, it is as any other.
    let soon = forged.narrowed(&Caveat::NotAfter { ms: 15 }).unwrap();
    assert!(keys.verify(CLUSTER, &soon, 7).is_ok());
}

#[test]
fn a_token_without_an_end_is_refused() {
    let keys = keys();
    let mut endless = Token::mint(&keys, CLUSTER, "reports", 0, LIVES).unwrap();
    endless.caveats.clear();
    endless.tag = endless.first_tag(keys.key(2).unwrap(), CLUSTER);
    assert_eq!(keys.verify(CLUSTER, &endless, 0), Err(TokenRefusal::Endless));
    let narrowed = endless.narrowed(&Caveat::Rights(Rights::ALL)).unwrap();
    assert_eq!(keys.verify(CLUSTER, &narrowed, 0), Err(TokenRefusal::Endless));
}

#[test]
fn a_caveat_of_another_release_refuses_the_token() {
    let keys = keys();
    let mut token = Token::mint(&keys, CLUSTER, "reports", 0, LIVES).unwrap();
    let unknown = vec![9, 0, 0];
    token.tag = next_tag(&token.tag, &unknown);
    token.caveats.push(unknown);
    assert_eq!(keys.verify(CLUSTER, &token, 0), Err(TokenRefusal::UnknownVersion));
}

#[test]
fn bounds_hold() {
    let keys = keys();
    for wrong in ["", "A", "a*", "node/1", &"a".repeat(65)] {
        assert_eq!(
            Token::mint(&keys, CLUSTER, wrong, 0, LIVES),
            Err(TokenRefusal::Malformed),
            "{wrong}"
        );
    }
    let mut token = token(&[]);
    while token.caveats.len() < CAVEATS_MAX {
        token = token.narrowed(&Caveat::Certificate([1; 32])).unwrap();
    }
    assert!(token.to_text().len() <= TOKEN_TEXT_BYTES_MAX);
    let more = token.narrowed(&Caveat::Rights(Rights::ALL));
    assert_eq!(more, Err(TokenRefusal::TooManyCaveats));
    let long = Caveat::ResourcePrefix("a".repeat(256));
    assert_eq!(super::tests::token(&[]).narrowed(&long), Err(TokenRefusal::Malformed));
    let text = format!("{TEXT_PREFIX}{}", "A".repeat(TOKEN_TEXT_BYTES_MAX));
    assert_eq!(Token::parse(&text), Err(TokenRefusal::Malformed));
    // A secret is nowhere in what is logged.
    let shown = format!("{keys:?} {token:?}");
    assert!(!shown.contains("2222") && !shown.contains("34, 34"), "{shown}");
}

#[test]
fn a_key_file_is_strict_and_grows() {
    let key = "0f".repeat(32);
    for wrong in [
        String::new(),
        "# nothing".to_owned(),
        key.clone(),
        format!("x {key}"),
        format!("1 {}", &key[1..]),
        format!("1 +{}", &key[1..]),
        format!("1 {key}\n1 {key}"),
        format!("4294967296 {key}"),
    ] {
        assert!(TokenKeys::parse(&wrong).is_err(), "{wrong}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.keys");
    assert_eq!(TokenKeys::add_to(&path).unwrap(), 1);
    let first = TokenKeys::read(&path).unwrap();
    let token = Token::mint(&first, CLUSTER, "reports", 0, LIVES).unwrap();
    assert_eq!(TokenKeys::add_to(&path).unwrap(), 2);
    let both = TokenKeys::read(&path).unwrap();
    assert!(both.verify(CLUSTER, &token, 0).is_ok());
    assert_eq!(Token::mint(&both, CLUSTER, "reports", 0, LIVES).unwrap().key_id, 2);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(TokenKeys::read(&path).is_err(), "everybody could read it");
}
