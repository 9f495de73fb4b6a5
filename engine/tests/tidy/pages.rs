//! What pages name must be there: the tests that hold each guarantee and each fault, and on the page of faults
//! whatever the simulator draws and counts.

use std::fs;

use super::tree::{hold, read, root};

/// A page whose sections name the tests that hold what they say.
struct Page {
    path: &'static str,
    /// How the heading of such a section begins.
    heading: &'static str,
    /// What a section says that names no test.
    excuse: &'static str,
}

const GUARANTEES: Page =
    Page { path: "engine/docs/guarantees.md", heading: "## G", excuse: "nothing promises it" };

const FAULTS: Page = Page { path: "jepsen/docs/faults.md", heading: "### ", excuse: "Not shown:" };

/// Where checkers are: a function that a campaign calls, and no test by itself.
const CHECKERS: &str = "jepsen/src/sim/";

/// Whether a function of this name is run as a test, or is a checker.
fn is_run(path: &str, text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let declares = |line: &str| {
        let rest = line.split_once("fn ").and_then(|(_, rest)| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(['(', '<']))
    };
    lines.iter().enumerate().filter(|(_, line)| declares(line)).any(|(at, line)| {
        let above = lines[..at].iter().rev().map(|line| line.trim());
        let mut above =
            above.take_while(|line| !line.is_empty() && !line.ends_with(['}', '{', ';']));
        let is_checker = path.starts_with(CHECKERS) && line.trim_start().starts_with("pub");
        is_checker || above.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

/// The link of a page in a folder's `docs/` leads to this file.
fn leads_to(page: &Page, link: &str, path: &str) -> bool {
    let (folder, _) = page.path.split_once('/').expect("a page lies in a folder");
    let inside = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
    link == format!("../../{path}") || inside.is_some_and(|rest| link == format!("../{rest}"))
}

/// Lines of a section that begin with a file name tests in it, each of which must be there. There is at least
/// one, or the section says why there is none.
fn unheld(page: &Page, text: &str, text_of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for section in text.split(&format!("\n{}", page.heading)).skip(1) {
        // What follows the last section of its part is none of it.
        let section = section.split("\n## ").next().unwrap_or_default();
        let heading = format!("{}{}", page.heading, section.lines().next().unwrap_or_default());
        let named = section.lines().filter_map(|line| line.strip_prefix("- [`"));
        let lines: Vec<(&str, &str)> = named.filter_map(|line| line.split_once("`](")).collect();
        if lines.is_empty() && !section.contains(page.excuse) {
            findings.push(format!("{heading}: no test is named"));
        }
        for (path, rest) in lines {
            let (link, names) = rest.split_once(')').unwrap_or_default();
            if !leads_to(page, link, path) {
                findings.push(format!("{heading}: {link} does not lead to {path}"));
            }
            let Some(text) = text_of(path) else {
                findings.push(format!("{heading}: no file {path}"));
                continue;
            };
            // Every second piece is between backticks.
            let names: Vec<&str> = names.split('`').skip(1).step_by(2).collect();
            if names.is_empty() {
                findings.push(format!("{heading}: no test of {path} is named"));
            }
            let missing = names.into_iter().filter(|name| !is_run(path, &text, name));
            findings.extend(missing.map(|name| format!("{heading}: no test {name} in {path}")));
        }
    }
    findings
}

fn unheld_of(page: &Page) -> Vec<String> {
    let text_of = |path: &str| fs::read_to_string(root().join(path)).ok();
    unheld(page, &read(page.path), text_of)
}

#[test]
fn every_guarantee_names_tests_that_are_there() {
    hold(
        "engine/docs/guarantees.md: name a test that fails when the guarantee is broken.",
        unheld_of(&GUARANTEES),
    );
}

#[test]
fn every_fault_names_tests_that_are_there() {
    hold(
        "jepsen/docs/faults.md: name a test that fails when the fault is not survived as it says, or say what is \
         \"Not shown:\".",
        unheld_of(&FAULTS),
    );
}

#[test]
fn names_of_tests_catch_a_fake() {
    let fake = |_: &str| {
        let held = "    #[test]\n    fn held() {\n    }\n\n    fn gone() {\n    }\n\n    \
                    pub fn check() {\n    }\n";
        Some(held.to_owned())
    };
    for page in [GUARANTEES, FAULTS] {
        let found = |line: &str| {
            let heading = page.heading;
            let text = format!("# Page\n\n{heading}1 first\n\n{line}\n\n## Rest\n\nText.\n");
            unheld(&page, &text, fake)
        };
        assert_eq!(found("- [`wal/a.rs`](../../wal/a.rs): `held`"), [""; 0]);
        assert_eq!(found("- [`wal/a.rs`](../../wal/a.rs): `held`, `gone`").len(), 1);
        assert_eq!(found("- [`wal/a.rs`](../../wal/a.rs): `check`").len(), 1);
        assert_eq!(found("- [`jepsen/src/sim/a.rs`](../../jepsen/src/sim/a.rs): `check`").len(), 0);
        assert_eq!(found("- [`wal/a.rs`](../../wal/a.rs)").len(), 1);
        assert_eq!(found("- [`wal/a.rs`](../../wal/b.rs): `held`").len(), 1);
        assert_eq!(found("- [`wal/a.rs`](../a.rs): `held`").len(), 1);
        assert_eq!(found("Nothing.").len(), 1);
        assert_eq!(found(page.excuse), [""; 0]);
        let line = "- [`wal/a.rs`](../../wal/a.rs): `held`";
        let text = format!("# Page\n\n{}1 first\n\n{line}\n", page.heading);
        assert_eq!(unheld(&page, &text, |_| None).len(), 1);
    }
    let own = "\n## G1 first\n\n- [`engine/tests/a.rs`](../tests/a.rs): `held`\n";
    assert_eq!(unheld(&GUARANTEES, own, fake), [""; 0]);
    let last = "\n### Last\n\nNothing.\n\n## Rest\n\n- [`wal/a.rs`](../../wal/a.rs): `held`\n";
    assert_eq!(unheld(&FAULTS, last, fake).len(), 1, "what another part names holds nothing here");
}

/// The items of a constant list: variants or strings, by their bare names.
fn items(text: &str, constant: &str) -> Vec<String> {
    let list = text.split_once(&format!("const {constant}:")).and_then(|(_, rest)| {
        let (_, rest) = rest.split_once("= ")?;
        Some(rest.split_once("];")?.0)
    });
    let bare = |item: &str| {
        let item = item.trim_start_matches(['&', '[']).trim();
        item.trim_start_matches("Self::").trim_matches('"').to_owned()
    };
    list.into_iter().flat_map(|list| list.split(',')).map(bare).filter(|i| !i.is_empty()).collect()
}

/// What a source lists and the page does not name.
fn unnamed(page: &str, (source, constant): (&str, &str), text: &str) -> Vec<String> {
    let items = items(text, constant);
    if items.is_empty() {
        return vec![format!("{source}: no list {constant} is found")];
    }
    let missing = items.iter().filter(|item| !page.contains(&format!("`{item}`")));
    missing.map(|item| format!("`{item}` of {constant} in {source}")).collect()
}

#[test]
fn the_page_of_faults_names_all_that_is_drawn_and_counted() {
    let page = read(FAULTS.path);
    let lists =
        [("replication/src/sim/nemesis.rs", "ALL"), ("jepsen/src/sim/report.rs", "EXPECTED")];
    hold(
        "jepsen/docs/faults.md: say of which fault it is, and what holds that.",
        lists.into_iter().flat_map(|list| unnamed(&page, list, &read(list.0))).collect(),
    );
    let drawn =
        "    pub const ALL: [Self; 2] = [\n        Self::One,\n        Self::Two,\n    ];\n";
    let counted = "const EXPECTED: &[&str] = &[\n    \"a kill\",\n    \"a cut\",\n];\n";
    for (text, constant) in [(drawn, "ALL"), (counted, "EXPECTED")] {
        let missing = |page: &str| unnamed(page, ("a.rs", constant), text).len();
        assert_eq!(missing("`One`, `Two`: `a kill`, `a cut`"), 0);
        assert_eq!(missing("`One`: `a kill`"), 1);
        assert_eq!(missing("One, Two: a kill, a cut"), 2);
        assert_eq!(unnamed("`One`", ("a.rs", constant), "const OTHER: u8 = 1;").len(), 1);
    }
}
