//! What the compiler is told to hold everywhere: no unsafe code, and arithmetic that does not wrap in silence.

use toml::{Table, Value};

use super::tree::{hold, read, workspace};

/// Members that take the workspace's lints say so; fuzz targets and benches beside peers are not members.
fn unsafe_settings(workspace: &Table, members: &[(String, Table)]) -> Vec<String> {
    let at = |path: &[&str]| {
        let mut found = Some(Value::Table(workspace.clone()));
        for key in path {
            found = found.and_then(|value| value.get(key).cloned());
        }
        found
    };
    let mut findings = Vec::new();
    if at(&["workspace", "lints", "rust", "unsafe_code"]) != Some("forbid".into()) {
        findings.push("Cargo.toml: workspace.lints.rust.unsafe_code is not \"forbid\"".to_owned());
    }
    if at(&["profile", "release", "overflow-checks"]) != Some(true.into()) {
        findings.push("Cargo.toml: profile.release.overflow-checks is not true".to_owned());
    }
    for profile in ["dev", "test", "bench", "release"] {
        if at(&["profile", profile, "overflow-checks"]) == Some(false.into()) {
            findings.push(format!("Cargo.toml: profile.{profile}.overflow-checks is false"));
        }
    }
    for (path, member) in members {
        let takes = member.get("lints").and_then(|lints| lints.get("workspace"));
        if takes != Some(&true.into()) {
            findings.push(format!("{path}: lints.workspace is not true"));
        }
    }
    findings
}

const WHAT_TO_DO: &str = "Put the setting back: input of others must end in an error, and never in a wrapped number \
     or in memory that is not ours.";

#[test]
fn nothing_is_unsafe_and_no_number_wraps() {
    let workspace = workspace();
    let members = workspace["workspace"]["members"].as_array().expect("members").iter();
    let members = members.map(|member| {
        let path = format!("{}/Cargo.toml", member.as_str().expect("a path"));
        let table = read(&path).parse().expect("valid TOML");
        (path, table)
    });
    hold(WHAT_TO_DO, unsafe_settings(&workspace, &members.collect::<Vec<_>>()));

    let fake: Table =
        "[workspace.lints.rust]\nunsafe_code = \"warn\"\n[profile.dev]\noverflow-checks = false"
            .parse()
            .unwrap();
    let findings = unsafe_settings(&fake, &[("a/Cargo.toml".to_owned(), Table::new())]);
    assert_eq!(findings.len(), 4, "{findings:?}");
}
