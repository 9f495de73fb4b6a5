use std::time::Duration;

use palisade::ClusterId;

use super::*;
use crate::security::token::{Token, TokenKeys};

fn at(provider: &str) -> FailureDomain {
    FailureDomain::new(provider, "r", "z")
}

fn judge(grants: &[Grant], resource: &str, right: Right) -> Result<(), Refusal> {
    let domain = &at("here");
    decide(grants, &[], &Ask { resource, right, domain, now_ms: 0, certificate: &[0; 32] })
}

fn grant(pattern: &str, rights: Rights) -> Grant {
    Grant { pattern: Pattern::parse(pattern).unwrap(), rights, domains: None }
}

#[test]
fn nothing_is_allowed_by_default() {
    for right in [Right::Read, Right::Append, Right::Admin] {
        for resource in ["a", "", "palisade.access"] {
            assert_eq!(judge(&[], resource, right), Err(Refusal::NotGranted));
            let named = if resource.starts_with("palisade.") { "palisade.*" } else { "*" };
            let none = [grant(named, Rights::default())];
            assert_eq!(judge(&none, resource, right), Err(Refusal::RightNotGranted));
        }
    }
}

#[test]
fn a_grant_is_for_its_resources_and_rights() {
    let read = Rights::of([Right::Read]);
    let grants = [grant("orders", read), grant("tmp.*", Rights::of([Right::Read, Right::Append]))];
    assert_eq!(judge(&grants, "orders", Right::Read), Ok(()));
    assert_eq!(judge(&grants, "orders", Right::Append), Err(Refusal::RightNotGranted));
    assert_eq!(judge(&grants, "orders2", Right::Read), Err(Refusal::NotGranted));
    assert_eq!(judge(&grants, "order", Right::Read), Err(Refusal::NotGranted));
    assert_eq!(judge(&grants, "tmp.x", Right::Append), Ok(()));
    assert_eq!(judge(&grants, "tmp", Right::Append), Err(Refusal::NotGranted));
    assert_eq!(judge(&grants, "tmp.x", Right::Admin), Err(Refusal::RightNotGranted));
    // Rights do not imply each other.
    let admin = [grant("orders", Rights::of([Right::Admin]))];
    assert_eq!(judge(&admin, "orders", Right::Read), Err(Refusal::RightNotGranted));
}

/// Who may write anything could else write himself more grants, or take lines out of the audit.
#[test]
fn what_is_the_clusters_own_takes_admin() {
    let all_but = [grant("*", Rights::of([Right::Read, Right::Append]))];
    let own = [grant("palisade.*", Rights::of([Right::Read, Right::Append]))];
    for resource in ["palisade.access", "palisade.audit", "palisade."] {
        for right in [Right::Read, Right::Append] {
            assert_eq!(judge(&all_but, resource, right), Err(Refusal::NotGranted));
            assert_eq!(judge(&own, resource, right), Err(Refusal::RightNotGranted));
            assert_eq!(judge(&Grant::everything(), resource, right), Ok(()));
            // Nor does a shorter prefix with all rights reach them.
            for short in ["*", "p*", "palisade*"] {
                let judged = judge(&[grant(short, Rights::ALL)], resource, right);
                assert_eq!(judged, Err(Refusal::NotGranted), "{short}");
            }
        }
    }
    // And a token for reading does not read it either.
    let read = [Caveat::Rights(Rights::of([Right::Read]))];
    let (domain, certificate) = (&at("here"), &[0; 32]);
    let ask =
        Ask { resource: "palisade.access", right: Right::Read, domain, now_ms: 0, certificate };
    assert_eq!(decide(&Grant::everything(), &read, &ask), Err(Refusal::TokenRight));
}

#[test]
fn a_grant_is_for_its_domains() {
    let here = Placement::providers(["here"]).unwrap();
    let grants = [Grant { domains: Some(here), ..grant("*", Rights::ALL) }];
    let elsewhere = &at("elsewhere");
    let ask = Ask {
        resource: "a",
        right: Right::Read,
        domain: elsewhere,
        now_ms: 0,
        certificate: &[0; 32],
    };
    assert_eq!(decide(&grants, &[], &ask), Err(Refusal::DomainNotGranted));
    assert_eq!(judge(&grants, "a", Right::Read), Ok(()));
}

#[test]
fn a_token_has_the_grants_of_its_principal_and_no_more() {
    let keys = TokenKeys::parse(&format!("1 {}", "11".repeat(32))).unwrap();
    let cluster = ClusterId::new(1);
    let token = Token::mint(&keys, cluster, "reports", 0, Duration::from_secs(60)).unwrap();
    let bearer = keys.verify(cluster, &token, 0).unwrap();
    let (domain, certificate) = (&at("here"), &[0; 32]);
    let ask = Ask { resource: "a", right: Right::Read, domain, now_ms: 1, certificate };
    assert_eq!(decide(&[], bearer.caveats(), &ask), Err(Refusal::NotGranted));
}

#[test]
fn patterns_and_rows_are_strict() {
    for wrong in ["", "a*b", "**", "*a", &"a".repeat(256)] {
        assert_eq!(Pattern::parse(wrong), Err(RowError::Pattern), "{wrong}");
    }
    for fine in ["*", "a", "a*", "a.b-c"] {
        assert_eq!(Pattern::parse(fine).unwrap().to_string(), fine);
    }
    // One row as it is laid out, by hand: a change of the format is not one by accident.
    let row = b"\x01\x00\x01\x01\x02a.\x03\x01\x02\x01p\x01r";
    let grants = decode_row(row).unwrap();
    let rule = DomainRule { provider: "p".to_owned(), region: Some("r".to_owned()), zone: None };
    let expected = Grant {
        pattern: Pattern::Prefix("a.".to_owned()),
        rights: Rights::of([Right::Read, Right::Append]),
        domains: Some(Placement::new([rule]).unwrap()),
    };
    assert_eq!(grants, [expected]);
    assert_eq!(encode_row(&grants).unwrap(), row);
    assert_eq!(decode_row(b"\x02"), Err(RowError::UnknownVersion));
    assert_eq!(decode_row(b""), Err(RowError::Malformed));
    assert_eq!(decode_row(b"\x01\xff\xff"), Err(RowError::TooMany));
    // A right that there is not.
    assert_eq!(decode_row(b"\x01\x00\x01\x00\x01a\x08\x00"), Err(RowError::Malformed));
    let many = vec![grant("a", Rights::ALL); GRANTS_MAX + 1];
    assert_eq!(encode_row(&many), Err(RowError::TooMany));
}
