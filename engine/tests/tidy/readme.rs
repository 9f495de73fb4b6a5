//! The first thing that anybody copies: the example of the README is the one that runs.

use crate::tree::{hold, read};

/// The lines of the first block that opens like this, without those that a page does not show.
fn block<'a>(lines: impl Iterator<Item = &'a str>, opening: &str) -> Vec<&'a str> {
    let inside = lines.skip_while(|line| *line != opening).skip(1);
    inside.take_while(|line| *line != "```").filter(|line| !is_hidden(line)).collect()
}

/// Whether a line of an example is there for the compiler alone.
pub(crate) fn is_hidden(line: &str) -> bool {
    let line = line.trim_start();
    line == "#" || line.starts_with("# ")
}

fn differing(readme: &str, lib: &str) -> Vec<String> {
    let docs = lib.lines().map_while(|line| line.strip_prefix("//!"));
    let docs = docs.map(|line| line.strip_prefix(' ').unwrap_or(line));
    let (shown, run) = (block(readme.lines(), "```rust"), block(docs, "```"));
    if run.is_empty() {
        return vec!["engine/src/lib.rs: its documentation has no example".to_owned()];
    }
    let most = shown.len().max(run.len());
    let line =
        |lines: &[&str], at: usize| lines.get(at).map_or("(nothing)", |line| line).to_owned();
    let pairs = (0..most).map(|at| (line(&shown, at), line(&run, at)));
    pairs
        .filter(|(shown, run)| shown != run)
        .map(|(shown, run)| format!("README.md: {shown}\n      runs as: {run}"))
        .collect()
}

#[test]
fn the_example_of_the_readme_is_the_one_that_runs() {
    hold(
        "The first block of README.md is the example at the head of engine/src/lib.rs, which is run as a test: \
         make its lines the same, without the hidden ones.",
        differing(&read("README.md"), &read("engine/src/lib.rs")),
    );
    let lib = "//! A.\n//!\n//! ```\n//! # fn f() {\n//! let a = 1;\n//!\n//! f(a)\n//! # }\n//! ```\nmod a;\n";
    let readme = |text: &str| differing(&format!("# A\n\n```rust\n{text}```\n"), lib);
    assert_eq!(readme("let a = 1;\n\nf(a)\n"), [""; 0]);
    assert_eq!(readme("let a = 2;\n\nf(a)\n").len(), 1);
    assert_eq!(readme("let a = 1;\n").len(), 2);
    assert_eq!(differing("no block", lib).len(), 3);
    assert_eq!(differing("no block", "//! A.\n").len(), 1);
}
