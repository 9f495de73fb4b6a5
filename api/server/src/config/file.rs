//! The file layer: TOML to the texts of keys, each with its line.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::{self, KEYS, Kind};
use super::layers::Source;

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What a table of `[[voters]]` may hold.
const VOTER_KEYS: [&str; 3] = ["id", "address", "domain"];

/// What a file says: of each key the text and the place, and what is wrong with the rest.
#[derive(Default)]
pub(super) struct Said {
    pub(super) values: Vec<(&'static keys::Key, String, Source)>,
    pub(super) errors: Vec<ConfigError>,
}

/// Reads a file. Everything that is wrong with it is found at once.
pub(super) fn read(path: &Path) -> Result<Said, ConfigError> {
    let unreadable =
        |what: String| ConfigError::Unreadable { path: path.to_owned(), what: what.to_lowercase() };
    let found = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if found.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    said(path, &text)
}

pub(super) fn said(path: &Path, text: &str) -> Result<Said, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().unwrap_or_default()),
        what: error.message().to_owned(),
    })?;
    let mut reader = Reader { path, text, said: Said::default() };
    for (name, value) in table.get_ref() {
        reader.top(name, value);
    }
    Ok(reader.said)
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    said: Said,
}

impl Reader<'_> {
    fn source(&self, span: Range<usize>) -> Source {
        Source::File { path: self.path.to_owned(), line: line_of(self.text, span) }
    }

    fn top(&mut self, name: &Spanned<std::borrow::Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let section = name.get_ref().as_ref();
        if section == "voters" {
            return self.voters(value);
        }
        let prefix = format!("{section}.");
        let is_section = KEYS.iter().any(|key| key.path.starts_with(&prefix));
        let table = value.get_ref().as_table();
        let Some(table) = table.filter(|_| is_section) else {
            let sections = KEYS.iter().filter_map(|key| Some(key.path.split_once('.')?.0));
            // A key without its section is more likely than a section of another name.
            let bare = KEYS.iter().find(|key| key.path.ends_with(&format!(".{section}")));
            let nearest = bare.map(|key| key.path.to_owned());
            let nearest = nearest.or_else(|| keys::nearest(section, sections.chain(["voters"])));
            return self.unknown(section.to_owned(), name.span(), nearest);
        };
        for (name, value) in table {
            let path = format!("{prefix}{}", name.get_ref());
            match keys::find(&path) {
                Some(key) => self.value(key, value, name.span()),
                None => {
                    let nearest = keys::nearest(&path, KEYS.iter().map(|key| key.path));
                    self.unknown(path, name.span(), nearest);
                }
            }
        }
    }

    fn unknown(&mut self, key: String, span: Range<usize>, nearest: Option<String>) {
        let source_of = self.source(span);
        self.said.errors.push(ConfigError::UnknownKey { key, source_of, nearest });
    }

    fn invalid(&mut self, key: &str, span: Range<usize>, expected: &str) {
        let found = self.text.get(span.clone()).unwrap_or_default();
        let error = ConfigError::InvalidValue {
            key: key.to_owned(),
            source_of: self.source(span),
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        self.said.errors.push(error);
    }

    fn value(&mut self, key: &'static keys::Key, value: &Spanned<DeValue<'_>>, at: Range<usize>) {
        let source = self.source(at);
        match text_of(key.kind, value.get_ref()) {
            Ok(text) => self.said.values.push((key, text, source)),
            Err(expected) => self.invalid(key.path, value.span(), expected),
        }
    }

    /// `[[voters]]` tables become the one text that the other layers have too.
    fn voters(&mut self, value: &Spanned<DeValue<'_>>) {
        let key = keys::find("voters").expect("it is in the table");
        let Some(tables) = value.get_ref().as_array() else {
            return self.invalid("voters", value.span(), "[[voters]] tables with id and address");
        };
        let mut texts = Vec::new();
        for table in tables.iter() {
            let Some(fields) = table.get_ref().as_table() else {
                return self.invalid(
                    "voters",
                    table.span(),
                    "[[voters]] tables with id and address",
                );
            };
            for name in fields.keys() {
                if !VOTER_KEYS.contains(&name.get_ref().as_ref()) {
                    let nearest = keys::nearest(name.get_ref(), VOTER_KEYS);
                    let nearest = nearest.map(|name| format!("voters.{name}"));
                    self.unknown(format!("voters.{}", name.get_ref()), name.span(), nearest);
                }
            }
            let field = |name: &str| fields.get(name).map(Spanned::get_ref);
            let id = field("id").and_then(|id| text_of(Kind::Number(1, u64::MAX), id).ok());
            let address = field("address").and_then(DeValue::as_str);
            let (Some(id), Some(address)) = (id, address) else {
                self.invalid("voters", table.span(), "tables with a number id and a text address");
                continue;
            };
            let at = field("domain").and_then(DeValue::as_str);
            let at = at.map(|domain| format!("@{domain}")).unwrap_or_default();
            texts.push(format!("{id}={address}{at}"));
        }
        if !texts.is_empty() {
            let span = tables.first().map(Spanned::span).unwrap_or_default();
            let source = self.source(span);
            self.said.values.push((key, texts.join(","), source));
        }
    }
}

/// The text of a value of the right type, or what type is right.
fn text_of(kind: Kind, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (kind, value) {
        (Kind::Number(..), DeValue::Integer(number)) => {
            let number = i128::from_str_radix(number.as_str(), number.radix());
            number.map(|number| number.to_string()).map_err(|_| "a whole number")
        }
        (Kind::Number(..), _) => Err("a whole number, without quotes"),
        (Kind::Switch, DeValue::Boolean(switch)) => Ok(switch.to_string()),
        (Kind::Switch, _) => Err("true or false, without quotes"),
        (Kind::Names, DeValue::Array(names)) => {
            let names: Option<Vec<&str>> =
                names.iter().map(|name| name.get_ref().as_str()).collect();
            names.map(|names| names.join(",")).ok_or("a list of texts in quotes")
        }
        (_, DeValue::String(text)) => Ok(text.to_string()),
        (_, _) => Err("a text in quotes"),
    }
}
