//! Reading the tree, and the one way to fail.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Fails with what to do and where, unless there is nothing to do.
pub(crate) fn hold(what_to_do: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "\n\n{what_to_do}\n\n  {}\n", findings.join("\n  "));
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the engine lies in the workspace")
        .to_owned()
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The list of strings under a key, empty where there is none.
pub(crate) fn strings(table: &Value, key: &str) -> Vec<String> {
    let list = table.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub(crate) fn workspace() -> Table {
    read("Cargo.toml").parse().expect("Cargo.toml is valid TOML")
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().expect("an entry of a folder has a name").to_string_lossy().into_owned()
}

/// What cargo builds into, wherever a checkout keeps it.
pub(crate) fn is_build_folder(path: &Path) -> bool {
    path.join("CACHEDIR.TAG").exists()
}

/// Every text file below the workspace: its path, relative and with `/`, and its text.
pub(crate) fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if file_name(&path) == ".git" {
                continue; // a folder in a clone, a file in a worktree
            } else if kind.is_dir() && !is_build_folder(&path) {
                folders.push(path);
            } else if kind.is_file() {
                let relative = path.strip_prefix(&root).expect("the walk stays below the root");
                // What is not UTF-8 is no source of ours: a golden file, or a picture.
                if let Ok(text) = fs::read_to_string(&path) {
                    found.push((relative.to_string_lossy().into_owned(), text));
                }
            }
        }
    }
    found.sort();
    found
}
