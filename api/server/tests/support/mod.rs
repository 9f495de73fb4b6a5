//! Runs the program as a person would, with nothing of this environment that it could take for its own.

use std::path::Path;
use std::process::{Command, Output};

/// The command, in a directory.
pub(crate) fn palisade(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.current_dir(dir).env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PALISADE_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it to its end.
#[allow(dead_code, reason = "not every test file runs it so")]
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    palisade(dir).args(args).output().unwrap()
}

/// Runs it with `--json`: the exit code, and the one document on stdout.
#[allow(dead_code, reason = "not every test file runs it so")]
pub(crate) fn json(dir: &Path, args: &[&str]) -> (i32, serde_json::Value) {
    let output = palisade(dir).args(args).arg("--json").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let document = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{args:?} gave no document, {error}: {text}"));
    (output.status.code().unwrap(), document)
}
