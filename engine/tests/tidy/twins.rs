//! Each public method that waits has a blocking twin: a service without a runtime has the whole engine.

use std::collections::BTreeSet;

use crate::tree::{hold, sources};

/// Twins that are elsewhere, or called otherwise.
const MOVED: &[(&str, &str)] = &[
    ("EngineBuilder::open", "EngineBuilder::open_blocking"),
    ("Batch::commit", "Engine::commit"),
    ("BackupPlace::list", "list"),
    ("BackupPlace::key_epochs", "key_epochs"),
];

/// What the macro of `blocking/handles.rs` makes for a handle.
const OPENING: &[&str] = &["open", "open_existing", "open_reader", "admit"];

/// The type of an `impl`, without what the blocking module wraps it in.
pub(crate) fn type_of(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += i32::from(c == '<') - i32::from(c == '>');
            depth == 0
        })?;
        rest = &rest[end + 1..];
    }
    let named = rest.rsplit(" for ").next()?.trim_start();
    let named =
        named.strip_prefix("Blocking<").or(named.strip_prefix("Following<")).unwrap_or(named);
    let named = named.trim_start_matches("crate::").trim_start_matches("backup::");
    named.split(|c: char| !c.is_alphanumeric()).next()
}

/// `Type::name` of each function that is declared by one of these words, `name` of those of no type.
fn functions(text: &str, declared_by: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut of = "";
    for line in text.lines() {
        of = type_of(line).unwrap_or(of);
        let name = |rest: &str| rest.split(['(', '<']).next().unwrap_or_default().to_owned();
        let declared = line.trim_start().strip_prefix(declared_by).map(name);
        match declared {
            Some(name) if !line.starts_with(' ') => found.extend([name]),
            Some(name) => found.extend([format!("{of}::{name}")]),
            None if line.trim_start().starts_with("opening! {") => {
                found.extend(OPENING.iter().map(|name| format!("{of}::{name}")));
            }
            None => {}
        }
    }
    found
}

fn missing(sources: &[(String, String)]) -> Vec<String> {
    let (mut waiting, mut twins) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in sources {
        if path.starts_with("engine/src/blocking/") {
            twins.extend(functions(text, "fn "));
            twins.extend(functions(text, "pub fn "));
        } else if path.starts_with("engine/src/") && !path.starts_with("engine/src/sim") {
            waiting.extend(functions(text, "pub async fn "));
        }
    }
    let twin = |name: &String| {
        MOVED.iter().find(|(of, _)| of == name).map_or(name.clone(), |(_, to)| (*to).to_owned())
    };
    waiting.into_iter().filter(|name| !twins.contains(&twin(name))).collect()
}

#[test]
fn whatever_waits_has_a_blocking_twin() {
    hold(
        "A service without a runtime cannot call this. Give it a line in engine/src/blocking/.",
        missing(&sources()),
    );
}

#[test]
fn twins_catch_a_fake() {
    let tree = |engine: &str, blocking: &str| {
        missing(&[
            ("engine/src/map.rs".to_owned(), engine.to_owned()),
            ("engine/src/blocking/handles.rs".to_owned(), blocking.to_owned()),
        ])
    };
    let map = "impl<K: Key<u8>, V> Map<K, V> {\n    pub async fn get<T>(&self) {}\n    async fn own(&self) {}\n";
    assert_eq!(tree(map, ""), ["Map::get"]);
    assert_eq!(tree(map, "impl Blocking<crate::Log> {\n    fn get() -> ();\n"), ["Map::get"]);
    assert_eq!(tree(map, "impl<K> Blocking<crate::Map<K>> {\n    fn get() -> ();\n"), [""; 0]);
    assert_eq!(
        tree(map, "impl<K> Iterator for Following<Map<K>> {\n    fn get(&self) {}\n"),
        [""; 0]
    );
    let opened = "impl Map {\n    pub async fn open() {}\n}\n\npub async fn verify() {}\n";
    assert_eq!(
        tree(opened, "impl Blocking<crate::Map> {\n    opening! { \"Map\": Map }\n"),
        ["verify"]
    );
    assert_eq!(tree(opened, "pub fn verify() {}\n"), ["Map::open"]);
}
