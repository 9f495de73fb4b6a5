//! The configuration: which layer counts, and that nothing wrong passes in silence.

use std::path::PathBuf;

use palisade_server::config::{ConfigError, KEYS, Kind, Layers, Resolved, Source};
use palisade_server::node::Security;

/// A value that the key can have, other than its default, and still another.
fn two_values(kind: Kind, default: Option<&str>) -> [String; 2] {
    let texts: [&str; 2] = match kind {
        Kind::Number(least, _) => return [least.to_string(), (least + 1).to_string()],
        Kind::Switch => ["true", "false"],
        Kind::Path => ["/a", "/b"],
        Kind::Domain => ["a/b/c", "d/e/f"],
        Kind::Cluster => ["000000000000000000000000000000aa", "000000000000000000000000000000bb"],
        Kind::Address => ["127.0.0.1:1", "[::1]:2"],
        Kind::Choice(words) => {
            let other = words.iter().find(|word| Some(**word) != default).unwrap();
            return [(*other).to_owned(), default.unwrap_or(words[0]).to_owned()];
        }
        Kind::Names => ["alice,bob", "ops"],
        Kind::LogFilter => ["warn", "warn,raft=debug"],
        Kind::Voters => ["1=127.0.0.1:1", "2=127.0.0.1:2@a/b/c"],
    };
    texts.map(str::to_owned)
}

fn in_toml(kind: Kind, path: &str, text: &str) -> String {
    if path == "voters" {
        let (id, rest) = text.split_once('=').unwrap();
        let (address, domain) = rest.split_once('@').unwrap_or((rest, ""));
        let domain =
            if domain.is_empty() { String::new() } else { format!("domain = {domain:?}\n") };
        return format!("[[voters]]\nid = {id}\naddress = {address:?}\n{domain}");
    }
    let (section, name) = path.split_once('.').unwrap();
    match kind {
        Kind::Number(..) | Kind::Switch => format!("[{section}]\n{name} = {text}\n"),
        _ => format!("[{section}]\n{name} = {text:?}\n"),
    }
}

fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn counts(resolved: &Resolved, path: &str) -> (String, Source) {
    let (value, source) = resolved.get(path).unwrap();
    (value.to_string(), source.clone())
}

/// Flags over environment over file over default, for each key there is.
#[test]
fn of_every_key_the_nearest_layer_counts() {
    for key in KEYS {
        let [one, other] = two_values(key.kind, key.default);
        let (_dir, file) = write(&in_toml(key.kind, key.path, &one));
        let mut layers = Layers::default();
        let set = |layers: &Layers| layers.resolve().unwrap();
        assert_eq!(set(&layers).get(key.path).is_some(), key.default.is_some(), "{}", key.path);
        if key.default.is_some() {
            assert_eq!(counts(&set(&layers), key.path).1, Source::Default);
        }
        layers.file = Some(file);
        let (found, source) = counts(&set(&layers), key.path);
        assert_eq!(found, one, "{}: the file over the default", key.path);
        assert!(matches!(source, Source::File { .. }), "{}", key.path);
        layers.environment = vec![(key.variable(), other.clone())];
        let (found, source) = counts(&set(&layers), key.path);
        assert_eq!(found, other, "{}: the environment over the file", key.path);
        assert_eq!(source, Source::Environment(key.variable()));
        layers.flags = vec![(key.path, one.clone(), key.flag())];
        let (found, source) = counts(&set(&layers), key.path);
        assert_eq!(found, one, "{}: the flag over the environment", key.path);
        assert_eq!(source, Source::Flag(key.flag()));
    }
}

fn refused(text: &str) -> Vec<ConfigError> {
    let (_dir, file) = write(text);
    let layers = Layers { file: Some(file), ..Layers::default() };
    match layers.resolve() {
        Err(errors) => errors,
        Ok(resolved) => resolved.config().unwrap_err(),
    }
}

fn nearest(text: &str) -> Option<String> {
    match &refused(text)[0] {
        ConfigError::UnknownKey { nearest, .. } => nearest.clone(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_key_that_nobody_knows_is_refused_and_the_nearest_named() {
    assert_eq!(nearest("[node]\ndata_dri = 'x'").as_deref(), Some("node.data_dir"));
    assert_eq!(nearest("[nod]\nid = 1").as_deref(), Some("node"));
    assert_eq!(nearest("data_dir = 'x'").as_deref(), Some("node.data_dir"));
    assert_eq!(nearest("[[voter]]\nid = 1").as_deref(), Some("voters"));
    let voter = "[[voters]]\nid = 1\naddress = '127.0.0.1:1'\nzone = 'a/b/c'";
    assert!(
        matches!(&refused(voter)[0], ConfigError::UnknownKey { key, .. } if key == "voters.zone")
    );
    assert_eq!(nearest("[completely_different]\nx = 1"), None);
    let variable = |name: &str| {
        let environment = vec![(name.to_owned(), "1".to_owned())];
        Layers { environment, ..Layers::default() }.resolve().map(|_| ())
    };
    let errors = variable("PALISADE_NODE_IDD").unwrap_err();
    assert!(
        matches!(&errors[..], [ConfigError::UnknownKey { nearest: Some(nearest), .. }] if nearest == "PALISADE_NODE_ID"),
        "{errors:?}"
    );
    // Those of others, and of other parts of this program, are let be.
    variable("PALISADE_GOLDEN").unwrap();
    variable("NODE_ID").unwrap();
}

#[test]
fn whatever_is_wrong_names_its_key_and_its_place() {
    let errors =
        refused("[node]\nid = \"1\"\ncluster = 'abc'\ndomain = 'a/b'\n[listen]\ngrpc = 7\n");
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    for (key, line) in [("node.id", 2), ("node.cluster", 3), ("node.domain", 4), ("listen.grpc", 6)]
    {
        let line = format!("node.toml:{line})");
        let found = said.iter().find(|text| text.starts_with(key));
        assert!(found.is_some_and(|text| text.ends_with(&line)), "{key}: {said:?}");
    }
    // A value that another layer covers would count one day.
    let (_dir, file) = write("[node]\nid = 0\n");
    let flags = vec![("node.id", "1".to_owned(), "--node-id".to_owned())];
    let layers = Layers { file: Some(file), flags, ..Layers::default() };
    assert!(matches!(&layers.resolve().unwrap_err()[..], [ConfigError::InvalidValue { .. }]));
    let syntax = refused("[node]\nid = 1\ndata_dir = /var/lib\n");
    assert!(matches!(&syntax[..], [ConfigError::Syntax { line: 3, .. }]), "{syntax:?}");
    let modes = refused("[node]\nmode = 'worker-tier'\n");
    assert!(modes[0].to_string().contains("workers are clients"), "{modes:?}");
    let absent = Layers { file: Some("/nonexistent/node.toml".into()), ..Layers::default() };
    assert!(matches!(&absent.resolve().unwrap_err()[..], [ConfigError::Unreadable { .. }]));
}

const NODE: &str = "[node]\nid = 1\ncluster = '000000000000000000000000000000aa'\n";

fn codes(text: &str) -> Vec<&'static str> {
    let (_dir, file) = write(text);
    let layers = Layers { file: Some(file), ..Layers::default() };
    match layers.resolve().and_then(|resolved| resolved.config()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ConfigError::code).collect(),
    }
}

/// Fails closed: without certificates nobody outside this machine is let in, and that must be asked for.
#[test]
fn who_listens_says_for_whom() {
    let alone = format!("{NODE}data_dir = 'd'\n");
    let (_dir, file) = write(&alone);
    let layers = Layers { file: Some(file), ..Layers::default() };
    let config = layers.resolve().unwrap().config().unwrap();
    assert_eq!(config.node.security, Security::Closed);
    assert_eq!(codes(&format!("{alone}[listen]\ngrpc = '127.0.0.1:1'\n")), ["MissingKey"; 4]);
    let loopback = "[security]\nmode = 'insecure-loopback'\n";
    assert_eq!(codes(&format!("{alone}[listen]\ngrpc = '127.0.0.1:1'\n{loopback}")), [""; 0]);
    for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
        let text = format!("{alone}[listen]\ngrpc = '{address}'\n{loopback}");
        assert_eq!(codes(&text), ["UnfitKeys"], "{address}");
        let admin = format!("{alone}[listen]\nadmin = '{address}'\n{loopback}");
        assert_eq!(codes(&admin), ["UnfitKeys"], "{address}");
    }
    let files = "[security]\nnode_cert_file = 'a'\nnode_key_file = 'b'\npeer_ca_file = 'c'\nclient_ca_file = 'd'\n";
    let (dir, file) = write(&format!("{alone}[listen]\ngrpc = '0.0.0.0:1'\n{files}"));
    let layers = Layers { file: Some(file), ..Layers::default() };
    let config = layers.resolve().unwrap().config().unwrap();
    let Security::MutualTls(certificates) = config.node.security else { panic!("certificates") };
    assert_eq!(certificates.node_key_file, dir.path().join("b"), "paths count from the file");
    assert_eq!(certificates.grants_age_ms_max, 30_000);
    // The report service asks nobody who he is.
    let reports = "[reports]\nlisten = '127.0.0.1:2'\n";
    assert_eq!(codes(&format!("{alone}{reports}{files}")), ["UnfitKeys"]);
    assert_eq!(codes(&format!("{alone}{reports}{loopback}")), [""; 0]);
}

/// Spans leave without TLS, and a program that cannot send them does not pass the wish over.
#[test]
fn spans_go_to_a_collector_on_this_machine() {
    let to = |collector| format!("{NODE}data_dir = 'd'\n[traces]\ncollector = '{collector}'\n");
    let [near, far] = if cfg!(feature = "otel") { [0, 1] } else { [1, 2] };
    assert_eq!(codes(&to("127.0.0.1:4317")), vec!["UnfitKeys"; near]);
    assert_eq!(codes(&to("10.0.0.1:4317")), vec!["UnfitKeys"; far]);
}

#[test]
fn members_fit_together() {
    let raft = format!("{NODE}data_dir = 'd'\nmode = 'raft'\n");
    let end = "[security]\nmode = 'insecure-loopback'\n[listen]\npeers = '127.0.0.1:1'\n";
    let voter =
        |id: u64, port: u64| format!("[[voters]]\nid = {id}\naddress = '127.0.0.1:{port}'\n");
    assert_eq!(codes(&format!("{raft}{end}{}{}", voter(1, 1), voter(2, 2))), [""; 0]);
    assert_eq!(codes(&format!("{raft}joins = true\n{end}")), [""; 0]);
    assert_eq!(codes(&format!("{raft}{end}")), ["MissingKey"], "no voters");
    assert_eq!(codes(&format!("{raft}{end}{}", voter(2, 2))), ["UnfitKeys"], "not among them");
    assert_eq!(codes(&format!("{raft}joins = true\n{end}{}", voter(1, 1))), ["UnfitKeys"]);
    assert_eq!(codes(&format!("{raft}{end}{}{}", voter(1, 1), voter(1, 2))), ["UnfitKeys"]);
    assert_eq!(codes(&format!("{raft}{end}{}{}", voter(1, 1), voter(2, 1))), ["UnfitKeys"]);
    let single = format!("{NODE}data_dir = 'd'\n");
    assert_eq!(codes(&format!("{single}{end}{}", voter(1, 1))), ["UnfitKeys"; 2], "others of one");
    assert_eq!(codes(""), ["MissingKey"; 3]);
}
