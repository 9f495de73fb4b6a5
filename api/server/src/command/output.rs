//! The only place that writes what a command found: data to stdout, errors to stderr.
//!
//! With `--json` stdout gets exactly one document, whatever happens, and an error is part of it. Of what goes on
//! until somebody ends it, it gets one document on each line, and an error is the last of them.

use std::cell::Cell;
use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use super::failed::{Exit, Failed};

/// What a command found: for programs, for people, and whether something is wrong with it.
#[derive(Debug)]
pub(super) struct Found {
    document: Value,
    text: String,
    wrong: Option<Failed>,
}

impl Found {
    /// A document, and the same for people.
    pub(super) fn new(document: Value, text: impl Into<String>) -> Self {
        Self { document, text: text.into(), wrong: None }
    }

    /// Nothing to say: what there was to say was said, or nothing is no news.
    pub(super) fn nothing() -> Self {
        Self::new(json!({}), "")
    }

    /// What is wrong with it.
    #[cfg(test)]
    pub(super) fn wrong(&self) -> Option<&Failed> {
        self.wrong.as_ref()
    }

    /// Found, and not as it should be.
    pub(super) fn but(mut self, wrong: Option<Failed>) -> Self {
        self.wrong = wrong;
        self
    }
}

/// How a command speaks.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    /// It speaks line by line.
    has_lines: Cell<bool>,
}

/// What is told while it happens.
pub(super) struct Lines {
    json: bool,
}

impl Lines {
    /// One of them: a document, and the same for people with its line feed. Whether anybody reads on.
    pub(super) fn tell(&self, document: &Value, text: &str) -> bool {
        let mut out = std::io::stdout().lock();
        let told = if self.json { writeln!(out, "{document}") } else { write!(out, "{text}") };
        told.and_then(|()| out.flush()).is_ok()
    }
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, has_lines: Cell::new(false) }
    }

    /// From now on line by line.
    pub(super) fn lines(&self) -> Lines {
        self.has_lines.set(true);
        Lines { json: self.json }
    }

    /// Writes what was found, or why not, and says how the process ends.
    pub(super) fn finish(self, done: Result<Found, Failed>) -> Exit {
        let (document, text, wrong) = match done {
            Ok(Found { document, text, wrong }) => (document, text, wrong),
            Err(failed) => (json!({}), String::new(), Some(failed)),
        };
        let exit = wrong.as_ref().map_or(Exit::Ok, Failed::exit);
        let written = if self.json {
            let mut document = document;
            if let Some(wrong) = &wrong {
                document["error"] = wrong.json();
            }
            match (self.has_lines.get(), &wrong) {
                (false, _) => writeln!(std::io::stdout(), "{document:#}"),
                (true, Some(_)) => writeln!(std::io::stdout(), "{document}"),
                (true, None) => Ok(()),
            }
        } else {
            let written = write!(std::io::stdout(), "{text}");
            if let Some(wrong) = &wrong {
                let (red, plain) = if colors() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
                eprint!("{}", wrong.lines(red, plain));
            }
            written
        };
        match written.and_then(|()| std::io::stdout().flush()) {
            // Who reads has enough: `palisade wal dump | head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => exit,
            Err(_) if exit == Exit::Ok => Exit::Unexpected,
            _ => exit,
        }
    }
}

/// On a terminal, and unless `NO_COLOR` says otherwise.
fn colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal()
}
