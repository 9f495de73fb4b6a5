//! Each public type and function of the engine is shown by an example that is run.
//!
//! Of what is `pub` the compiler sees to it that it can be reached (`unreachable_pub`). Twins of the blocking
//! face are shown by what they wait for, and what other crates declare is shown there. A type that a macro
//! declares is not seen here.

use std::collections::BTreeSet;

use crate::is_word;
use crate::readme::is_hidden;
use crate::tree::{hold, sources};
use crate::twins::type_of;

/// A block of code in a documentation, as a reader sees it.
struct Example {
    /// The type whose documentation it is in, or that of one of its functions; nothing for a module's.
    of: String,
    text: String,
}

/// What examples are looked for of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Type(String),
    /// Of a type, or of none.
    Function {
        of: String,
        name: String,
        /// Of a trait: whoever writes one of these shows it, too.
        is_of_trait: bool,
    },
}

#[derive(Default)]
struct Found {
    items: BTreeSet<(String, Item)>,
    examples: Vec<Example>,
}

/// What lies after one of these words, up to the end of a name.
fn declared<'a>(line: &'a str, words: &[&str]) -> Option<&'a str> {
    let rest = words.iter().find_map(|word| line.strip_prefix(word))?;
    rest.split(|c| !is_word(c)).next().filter(|name| !name.is_empty())
}

/// A block that is compiled and not run shows little: one that is marked so, or whose function nobody calls.
fn is_run(opening: &str, lines: &[&str]) -> bool {
    let calls = |line: &&&str| line.contains("example(");
    let is_called = !lines.iter().any(|line| line.contains("fn example("))
        || lines.iter().filter(calls).count() > 1;
    opening == "```" && is_called
}

/// Reads a file: blocks wait for the item that they are written above.
fn look(path: &str, text: &str, found: &mut Found) {
    let (mut of, mut in_trait) = (String::new(), false);
    let mut waiting: Vec<String> = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let doc = trimmed.strip_prefix("///").or(trimmed.strip_prefix("//!"));
        if let Some(doc) = doc {
            let doc = doc.strip_prefix(' ').unwrap_or(doc);
            match &mut open {
                None if doc.starts_with("```") => open = Some((doc, Vec::new())),
                None => {}
                Some((opening, inside)) if doc == "```" => {
                    if is_run(opening, inside) {
                        inside.retain(|line| !is_hidden(line));
                        waiting.push(inside.join("\n"));
                    }
                    open = None;
                }
                Some((_, inside)) => inside.push(doc),
            }
            continue;
        }
        // Tests of a file stand last in it.
        if line.starts_with("mod tests {") {
            break;
        }
        let opened = declared(line, &["pub struct ", "pub enum ", "pub trait "]);
        if let Some(name) = opened {
            (of, in_trait) = (name.to_owned(), line.starts_with("pub trait "));
            found.items.insert((path.to_owned(), Item::Type(of.clone())));
        } else if let Some(name) = type_of(line) {
            (of, in_trait) = (name.to_owned(), false);
        } else if line.starts_with("trait ") || line.starts_with("pub(crate) trait ") {
            in_trait = false;
        }
        let own = declared(trimmed, &["pub fn ", "pub async fn ", "pub const fn "]);
        let of_trait = if in_trait { declared(line, &["    fn "]) } else { None };
        let is_free = own.is_some() && !line.starts_with(' ');
        let owner = if is_free { "" } else { &of };
        if let Some(name) = own.or(of_trait) {
            let (of, name, is_of_trait) = (owner.to_owned(), name.to_owned(), own.is_none());
            // In a macro it may be of any type.
            if is_free || !of.is_empty() {
                let item = Item::Function { of, name, is_of_trait };
                found.items.insert((path.to_owned(), item));
            }
        }
        if !trimmed.is_empty() && !trimmed.starts_with("#[") {
            let of = owner.to_owned();
            found.examples.extend(waiting.drain(..).map(|text| Example { of: of.clone(), text }));
        }
    }
}

/// Whether the text has this as a whole word, with one of these behind it.
fn has(text: &str, word: &str, behind: &[&str]) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let starts = !word.starts_with(is_word) || !before.ends_with(is_word);
        let ends = !after.starts_with(is_word);
        starts && ends && (behind.is_empty() || behind.iter().any(|next| after.starts_with(next)))
    })
}

/// An example shows its own type, and those that it names.
fn is_about(example: &Example, name: &str) -> bool {
    example.of == name || has(&example.text, name, &[])
}

impl Item {
    fn is_shown_by(&self, example: &Example) -> bool {
        match self {
            Self::Type(name) => is_about(example, name),
            Self::Function { of, name, .. } if of.is_empty() => {
                has(&example.text, name, &["(", "::<"])
            }
            Self::Function { of, name, is_of_trait } => {
                let text = &example.text;
                let is_called = has(text, &format!(".{name}"), &["(", "::<"]);
                let is_named = has(text, &format!("::{name}"), &[]);
                let is_written = *is_of_trait && has(text, &format!("fn {name}"), &["("]);
                is_about(example, of) && (is_called || is_named || is_written)
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Type(name) => name.clone(),
            Self::Function { of, name, .. } if of.is_empty() => name.clone(),
            Self::Function { of, name, .. } => format!("{of}::{name}"),
        }
    }
}

fn unshown(sources: &[(String, String)]) -> Vec<String> {
    let mut found = Found::default();
    for (path, text) in sources {
        if path.starts_with("engine/src/") && !path.starts_with("engine/src/blocking/") {
            look(path, text, &mut found);
        }
    }
    let Found { items, examples } = found;
    let missing =
        items.iter().filter(|(_, item)| !examples.iter().any(|example| item.is_shown_by(example)));
    missing.map(|(path, item)| format!("{path}: {}", item.name())).collect()
}

#[test]
fn whatever_is_public_is_shown_by_an_example() {
    hold(
        "No example uses this. Write one in the documentation of the type or of one of its functions, or name the \
         type in another's: a block of code without a mark, which is run as a test, and in which these lines are \
         not hidden. It shows what it is good for, and asserts what comes of it.",
        unshown(&sources()),
    );
}

#[test]
fn examples_catch_a_fake() {
    let of = |text: &str| unshown(&[("engine/src/a.rs".to_owned(), text.to_owned())]);
    let a = |docs: &str, inside: &str| {
        format!("{docs}#[derive(Clone)]\npub struct A<T> {{\n}}\n{inside}")
    };
    let get = "impl<T> A<T> {\n    /// B.\n    pub async fn get(&self) {}\n}\n";
    let block = |line: &str| format!("/// A.\n///\n/// ```\n/// {line}\n/// ```\n");
    assert_eq!(of(&a("/// A.\n", "")), ["engine/src/a.rs: A"]);
    assert_eq!(of(&a(&block("let a = 1;"), "")), [""; 0]);
    assert_eq!(of(&a(&block("let a = 1;"), get)), ["engine/src/a.rs: A::get"]);
    assert_eq!(of(&a(&block("a.get_all();"), get)), ["engine/src/a.rs: A::get"]);
    assert_eq!(of(&a(&block("# a.get();"), get)), ["engine/src/a.rs: A::get"]);
    for call in ["a.get();", "a.get::<u8>();", "x.map(A::get)"] {
        assert_eq!(of(&a(&block(call), get)), [""; 0], "{call}");
    }
    // Of a function, and of another type that is named.
    let own = get
        .replace("    /// B.\n", "    /// ```\n    /// a.get();\n    /// ```\n    #[must_use]\n");
    assert_eq!(of(&a("/// A.\n", &own)), [""; 0]);
    let other = |line: &str| format!("{}pub enum B {{}}\n{}", block(line), a("/// A.\n", get));
    assert_eq!(of(&other("let a: A = b.get();")), [""; 0]);
    assert_eq!(of(&other("let a: AB = b.get();")).len(), 2);
    // Not run.
    let marked = block("a.get();").replacen("```", "```no_run", 1);
    assert_eq!(of(&a(&marked, get)).len(), 2);
    let uncalled = block("# fn example(a: &A) {\n/// a.get();\n/// # }");
    assert_eq!(of(&a(&uncalled, get)).len(), 2);
    let called = uncalled.replace("# }", "# }\n/// # example(&a);");
    assert_eq!(of(&a(&called, get)), [""; 0]);
    // Free functions, and those of traits.
    assert_eq!(of("pub fn free() {}\n"), ["engine/src/a.rs: free"]);
    assert_eq!(of(&format!("{}pub fn free() {{}}\n", block("free();"))), [""; 0]);
    let form = "pub trait T {\n    fn own(&self);\n}\n";
    assert_eq!(of(form).len(), 2);
    assert_eq!(of(&format!("{}{form}", block("fn own(&self) {}"))), [""; 0]);
    // What is in nobody's reach.
    assert_eq!(
        of("struct A;\nimpl A {\n    pub(crate) fn get() {}\n    fn own() {}\n}\n"),
        [""; 0]
    );
}
