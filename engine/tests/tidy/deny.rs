//! What we depend on: licences, bans and sources.
//!
//! The rules are those of `.deny.toml`, so that cargo-deny, where it is installed, holds the same ones.
//! Licences come from `cargo tree`, for this platform and all features; the rest from the lock file,
//! which speaks for every platform.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use toml::{Table, Value};

use super::tree::{hold, read, root, strings};

struct DenyRules {
    licenses: BTreeSet<String>,
    /// Licences allowed for one package only.
    exceptions: BTreeMap<String, BTreeSet<String>>,
    registries: BTreeSet<String>,
    bans: Vec<Ban>,
}

struct Ban {
    package: String,
    reason: String,
    /// Packages that may still use it.
    wrappers: Vec<String>,
    /// Not banned as such: one version of it is fine, two are not.
    only_duplicates: bool,
}

impl DenyRules {
    fn parse(text: &str) -> Self {
        let rules: Table = text.parse().expect(".deny.toml is valid TOML");
        let tables = |section: &str, list: &str| {
            let list = rules[section].get(list).and_then(Value::as_array).cloned();
            list.unwrap_or_default()
        };
        let name_of = |entry: &Value| {
            let name =
                entry.get("crate").and_then(Value::as_str).expect("an entry names its crate");
            assert!(
                !name.contains(['@', ':']),
                "{name}: versions are not understood here, name the crate only"
            );
            name.to_owned()
        };
        let ban = |entry: &Value| Ban {
            package: name_of(entry),
            reason: entry
                .get("reason")
                .and_then(Value::as_str)
                .expect("a ban has a reason")
                .to_owned(),
            wrappers: strings(entry, "wrappers"),
            only_duplicates: entry.get("deny-multiple-versions").and_then(Value::as_bool)
                == Some(true),
        };
        let exception =
            |entry: &Value| (name_of(entry), strings(entry, "allow").into_iter().collect());
        Self {
            licenses: strings(&rules["licenses"], "allow").into_iter().collect(),
            exceptions: tables("licenses", "exceptions").iter().map(exception).collect(),
            registries: strings(&rules["sources"], "allow-registry").into_iter().collect(),
            bans: tables("bans", "deny").iter().map(ban).collect(),
        }
    }
}

/// Whether an SPDX expression can be met with allowed licences. `/` is the old way to write `OR`.
fn is_licensed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let met = any_of(&mut rest, allowed);
    met && rest.is_empty()
}

fn any_of(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(rest, allowed);
    while rest.first() == Some(&"OR") {
        *rest = &rest[1..];
        met |= all_of(rest, allowed);
    }
    met
}

fn all_of(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one_license(rest, allowed);
    while rest.first() == Some(&"AND") {
        *rest = &rest[1..];
        met &= one_license(rest, allowed);
    }
    met
}

fn one_license(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match **rest {
        ["(", ..] => {
            *rest = &rest[1..];
            let met = any_of(rest, allowed);
            let closed = rest.first() == Some(&")");
            *rest = rest.get(1..).unwrap_or_default();
            met && closed
        }
        [license, "WITH", exception, ..] => {
            *rest = &rest[3..];
            allowed.contains(&format!("{license} WITH {exception}"))
        }
        [license, ..] => {
            *rest = &rest[1..];
            allowed.contains(license)
        }
        [] => false,
    }
}

/// `packages` holds (name, licence) pairs.
fn wrong_licenses(rules: &DenyRules, packages: &BTreeSet<(String, String)>) -> Vec<String> {
    let is_fine = |name: &str, license: &str| {
        let exception = rules.exceptions.get(name).into_iter().flatten();
        is_licensed(license, &rules.licenses.iter().chain(exception).cloned().collect())
    };
    let wrong = packages.iter().filter(|(name, license)| !is_fine(name, license));
    wrong
        .map(|(name, license)| {
            format!("{name}: {}", if license.is_empty() { "no licence" } else { license })
        })
        .collect()
}

#[test]
fn licenses_are_allowed() {
    let rules = DenyRules::parse(&read(".deny.toml"));
    // Its plain text carries what cargo metadata would say in JSON, for this platform and all features.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--workspace",
            "--all-features",
            "--locked",
            "--prefix=none",
            "--format={p}|{l}",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let packages = licenses_in(&String::from_utf8(output.stdout).expect("cargo writes UTF-8"));
    assert!(packages.len() > 20, "cargo tree named only {} packages", packages.len());
    hold(
        "A licence outside .deny.toml. Look for another crate; widen the list only for a permissive licence.",
        wrong_licenses(&rules, &packages),
    );
}

/// Lines such as `syn v2.0.119 (proc-macro)|MIT OR Apache-2.0 (*)`, where `(*)` marks a repetition.
fn licenses_in(tree: &str) -> BTreeSet<(String, String)> {
    let parse = |line: &str| {
        let (package, license) = line.split_once('|')?;
        let name = package.split(' ').next().expect("split yields at least one part");
        Some((name.to_owned(), license.trim_end_matches("(*)").trim().to_owned()))
    };
    tree.lines().filter_map(parse).collect()
}

#[test]
fn licenses_catch_a_fake() {
    let allowed: BTreeSet<_> = ["MIT", "Apache-2.0", "A WITH e"].map(str::to_owned).into();
    for fine in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "(MIT OR X) AND Apache-2.0",
        "A WITH e OR X",
        "X AND Y OR MIT",
    ] {
        assert!(is_licensed(fine, &allowed), "refused: {fine}");
    }
    for wrong in
        ["", "GPL-3.0", "MIT AND X", "X AND (MIT OR Y)", "A", "(MIT", "MIT MIT", "MIT WITH e"]
    {
        assert!(!is_licensed(wrong, &allowed), "let through: {wrong}");
    }
    let rules = DenyRules::parse(
        "[licenses]\nallow = ['MIT']\nexceptions = [{ crate = 'odd', allow = ['X'] }]\n[sources]\n[bans]",
    );
    let packages =
        licenses_in("a v1.0.0 (proc-macro)|MIT (*)\n\nodd v1.0.0|X\nb v1.0.0|X\nc v1.0.0|");
    assert_eq!(wrong_licenses(&rules, &packages), ["b: X", "c: no licence"]);
}

/// Bans, duplicates and sources, of every platform and feature: what the lock file says may be built.
fn wrong_packages(rules: &DenyRules, lock: &Table) -> Vec<String> {
    let packages = lock["package"].as_array().expect("a lock file lists packages");
    let text = |package: &Value, key: &str| {
        package.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut findings = Vec::new();
    for package in packages {
        let source = text(package, "source");
        let registry = source.strip_prefix("registry+").unwrap_or(&source);
        // A package of the workspace has no source.
        if !source.is_empty() && !rules.registries.contains(registry) {
            findings.push(format!("{} comes from {source}", text(package, "name")));
        }
    }
    for ban in &rules.bans {
        let versions =
            packages.iter().filter(|package| text(package, "name") == ban.package).count();
        if ban.only_duplicates && versions > 1 {
            findings.push(format!("{}: {versions} versions; {}", ban.package, ban.reason));
        }
        if ban.only_duplicates || versions == 0 {
            continue;
        }
        let uses = |user: &&Value| {
            // `name`, or `name version` where two versions exist.
            let names = strings(user, "dependencies");
            names.iter().any(|dependency| dependency.split(' ').next() == Some(&ban.package))
        };
        let users = packages.iter().filter(uses).map(|user| text(user, "name"));
        let wrong: Vec<_> = users.filter(|user| !ban.wrappers.contains(user)).collect();
        if !wrong.is_empty() || ban.wrappers.is_empty() {
            findings.push(format!(
                "{} (used by {}): {}",
                ban.package,
                wrong.join(", "),
                ban.reason
            ));
        }
    }
    findings
}

#[test]
fn dependencies_are_allowed() {
    let lock = read("Cargo.lock").parse().expect("Cargo.lock is valid TOML");
    hold(
        "A dependency that .deny.toml refuses. `cargo tree -i NAME --target all` shows who brings it; turn off the \
         feature that does, or choose another crate.",
        wrong_packages(&DenyRules::parse(&read(".deny.toml")), &lock),
    );
}

#[test]
fn dependencies_catch_a_fake() {
    let rules = DenyRules::parse(
        "[licenses]\n[sources]\nallow-registry = ['https://good']\n[bans]\n\
         deny = [{ crate = 'bad', reason = 'r', wrappers = ['old'] }, \
                 { crate = 'one', reason = 'r', deny-multiple-versions = true }]",
    );
    let package = |name: &str, source: &str, uses: &str| {
        format!("[[package]]\nname = '{name}'\nsource = '{source}'\ndependencies = [{uses}]\n")
    };
    let findings =
        |packages: &[String]| wrong_packages(&rules, &packages.concat().parse().unwrap());
    let good = "registry+https://good";
    let bad = package("bad", good, "");
    assert_eq!(findings(&[package("one", good, "")]), [""; 0]);
    assert_eq!(
        findings(&[package("one", good, ""), package("one", good, "")]),
        ["one: 2 versions; r"]
    );
    assert_eq!(findings(&[bad.clone(), package("old", good, "'bad 1.0.0'")]), [""; 0]);
    assert_eq!(findings(&[bad, package("new", good, "'bad'")]), ["bad (used by new): r"]);
    assert_eq!(
        findings(&[package("a", "registry+https://evil", "")]),
        ["a comes from registry+https://evil"]
    );
    assert_eq!(
        findings(&[package("a", "git+https://good", "")]),
        ["a comes from git+https://good"]
    );
}
