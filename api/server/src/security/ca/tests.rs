use std::os::unix::fs::PermissionsExt;

use palisade::tls::{CertificateFacts, Credentials, PeerTls};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;

const CLUSTER: ClusterId = ClusterId::new(0x77);

fn order(subject: Subject) -> LeafOrder {
    LeafOrder { subject, dns: vec!["localhost".to_owned()], ips: vec![], hours: LEAF_HOURS }
}

fn node_one(ca: &Ca) -> IssuedLeaf {
    ca.issue(&order(ca.node(NodeId::new(1)))).unwrap()
}

fn facts(leaf: &IssuedLeaf) -> CertificateFacts {
    let der = CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap();
    CertificateFacts::read(&der).unwrap()
}

fn credentials(leaf: &IssuedLeaf, bundle: &str) -> Credentials {
    Credentials {
        certificates_pem: leaf.certificate_pem.clone().into_bytes(),
        key_pem: leaf.key_pem.clone().unwrap().into_bytes(),
        authorities_pem: bundle.as_bytes().to_vec(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn it_begins_once_and_keeps_its_keys_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("ca");
    // A crash while it was made leaves nothing that counts, and what is there may be somebody's.
    let left = dir.path().join("ca.new");
    fs::create_dir_all(left.join("peer")).unwrap();
    assert!(Ca::open(&left).is_err());
    assert!(matches!(Ca::init(&at, CLUSTER), Err(CaError::Exists { path }) if path == left));
    assert!(left.join("peer").exists());
    fs::remove_dir_all(&left).unwrap();
    Ca::init(&at, CLUSTER).unwrap();
    assert!(matches!(Ca::init(&at, CLUSTER), Err(CaError::Exists { .. })));
    assert_eq!(Ca::open(&at).unwrap().cluster(), CLUSTER);
    for authority in ["peer", "client"] {
        assert_eq!(mode(&at.join(authority).join("issuer.pem")), 0o600);
        let bundle = fs::read_to_string(at.join(authority).join("bundle.pem")).unwrap();
        assert!(!bundle.contains("PRIVATE"), "a bundle is public");
    }
    fs::set_permissions(at.join("peer/issuer.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let ca = Ca::open(&at).unwrap();
    assert!(ca.issue(&order(ca.node(NodeId::new(1)))).is_err(), "everybody could issue");
}

#[test]
fn leaves_say_what_was_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::init(&dir.path().join("ca"), CLUSTER).unwrap();
    let node = facts(&node_one(&ca));
    assert_eq!(node.subject.node(), Some(NodeId::new(1)));
    assert!(node.serves && node.calls);
    let lives = node.not_after.duration_since(node.not_before).unwrap();
    assert!((DAY..=DAY + 2 * CLOCKS_DIFFER).contains(&lives), "{lives:?}");
    let client = facts(&ca.issue(&order(ca.client("reports").unwrap())).unwrap());
    assert_eq!((client.subject.name(), client.subject.node()), ("reports", None));
    assert!(client.calls && !client.serves, "a caller cannot play a node");

    let wrong =
        |order: LeafOrder| assert!(matches!(ca.issue(&order), Err(CaError::Invalid { .. })));
    wrong(order(Subject::of_node(ClusterId::new(1), NodeId::new(1))));
    wrong(LeafOrder { hours: 0, ..order(ca.node(NodeId::new(1))) });
    wrong(LeafOrder { hours: LEAF_HOURS_MAX + 1, ..order(ca.node(NodeId::new(1))) });
    assert!(ca.client("a/../b").is_err());
}

/// What a request asks for itself would be an escalation: a node's name, or the right to issue.
#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::init(&dir.path().join("ca"), CLUSTER).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut wants = CertificateParams::default();
    wants.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let uri = Subject::of_node(CLUSTER, NodeId::new(1)).to_string();
    wants.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    wants.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let request = wants.serialize_request(&key).unwrap().pem().unwrap();
    let order = order(ca.client("reports").unwrap());
    let leaf = ca.sign(&order, &request).unwrap();
    assert!(leaf.key_pem.is_none());
    let found = facts(&leaf);
    assert_eq!(found.subject, order.subject);
    assert!(found.calls && !found.serves);
    // It is the request's key, and a request that was changed is none.
    let read = Credentials {
        certificates_pem: leaf.certificate_pem.into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
        authorities_pem: ca.bundle(Authority::Peer).unwrap().into_bytes(),
    };
    palisade::tls::TlsSetup::read(&read, &[]).unwrap();
    let broken = request.replacen("MI", "MJ", 1);
    assert!(ca.sign(&order, &broken).is_err());
}

#[test]
fn both_are_believed_until_the_former_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::init(&dir.path().join("ca"), CLUSTER).unwrap();
    let before = node_one(&ca);
    let alone = ca.bundle(Authority::Peer).unwrap();
    ca.rotate(Authority::Peer).unwrap();
    let after = node_one(&ca);
    let both = ca.bundle(Authority::Peer).unwrap();
    ca.drop_former(Authority::Peer).unwrap();
    let new = ca.bundle(Authority::Peer).unwrap();
    let believed =
        |leaf, bundle| PeerTls::new(CLUSTER, NodeId::new(1), &credentials(leaf, bundle)).is_ok();
    for (leaf, bundle, expected) in [
        (&before, &alone, true),
        (&before, &both, true),
        (&after, &both, true),
        (&after, &new, true),
        (&before, &new, false),
        (&after, &alone, false),
    ] {
        assert_eq!(believed(leaf, bundle), expected);
    }
    assert_eq!(mode(&dir.path().join("ca/peer/issuer.pem")), 0o600);
    // The two authorities are two.
    let client = ca.bundle(Authority::Client).unwrap();
    assert!(!believed(&after, &client));
    while ca.rotate(Authority::Peer).is_ok() {}
    let bundle = ca.bundle(Authority::Peer).unwrap();
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), BUNDLE_MAX);
}

#[test]
fn a_leaf_is_replaced_only_when_it_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::init(&dir.path().join("ca"), CLUSTER).unwrap();
    let out = dir.path().join("node");
    node_one(&ca).write(&out, "node-1", false).unwrap();
    assert_eq!(mode(&out.join("node-1.key")), 0o600);
    let first = fs::read(out.join("node-1.pem")).unwrap();
    let again = node_one(&ca);
    assert!(matches!(again.write(&out, "node-1", false), Err(CaError::Exists { .. })));
    assert_eq!(fs::read(out.join("node-1.pem")).unwrap(), first);
    again.write(&out, "node-1", true).unwrap();
    assert_eq!(fs::read(out.join("node-1.pem")).unwrap(), again.certificate_pem.as_bytes());
    assert_eq!(mode(&out.join("node-1.key")), 0o600);
    let left: Vec<_> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// What is issued without another word is not good for longer than a day.
#[test]
fn a_leaf_lives_a_day_if_nothing_else_is_said() {
    assert_eq!(LEAF_HOURS, 24);
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::init(&dir.path().join("ca"), CLUSTER).unwrap();
    let leaf =
        ca.issue(&LeafOrder { hours: LEAF_HOURS, ..order(ca.node(NodeId::new(1))) }).unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert!(facts(&leaf).not_after <= now() + day);
    let longer = LeafOrder { hours: LEAF_HOURS_MAX + 1, ..order(ca.node(NodeId::new(1))) };
    assert!(ca.issue(&longer).is_err(), "nor for longer than a year, whatever is said");
}
