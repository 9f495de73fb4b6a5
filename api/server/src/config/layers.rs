//! Layers of values, and which of them counts: flags over environment over file over default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::file;
use super::keys::{self, KEYS};
use super::node::Config;
use super::value::Value;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The key's own default.
    Default,
    /// A line of a file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// What was said in each place, before it is looked at.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are not ours are let be.
    pub environment: Vec<(String, String)>,
    /// Paths of keys and the texts that flags gave them, with the flag's name.
    pub flags: Vec<(&'static str, String, String)>,
}

/// What counts of each key that is set, and where it comes from.
#[derive(Clone, Debug)]
pub struct Resolved {
    values: BTreeMap<&'static str, (Value, Source)>,
}

impl Layers {
    /// Takes the layers together.
    ///
    /// # Errors
    /// All that is wrong with any of them, in the order of the layers; also with a value that another
    /// layer covers: it would count one day.
    pub fn resolve(&self) -> Result<Resolved, Vec<ConfigError>> {
        self.over(self.file.as_deref().map(file::read))
    }

    /// The others over what a file says.
    pub(super) fn over(
        &self,
        said: Option<Result<file::Said, ConfigError>>,
    ) -> Result<Resolved, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut values = BTreeMap::new();
        let mut take =
            |errors: &mut Vec<_>, key: &'static keys::Key, text: &str, source: Source| {
                match Value::parse(key.kind, text) {
                    Ok(value) => {
                        values.insert(key.path, (from_there(value, &source), source));
                    }
                    Err(expected) => errors.push(ConfigError::InvalidValue {
                        key: key.path.to_owned(),
                        source_of: source,
                        found: text.to_owned(),
                        expected,
                    }),
                }
            };
        // The later layer takes the place of the earlier one.
        for key in KEYS {
            if let Some(default) = key.default {
                take(&mut errors, key, default, Source::Default);
            }
        }
        match said {
            Some(Ok(said)) => {
                errors.extend(said.errors);
                for (key, text, source) in said.values {
                    take(&mut errors, key, &text, source);
                }
            }
            Some(Err(error)) => errors.push(error),
            None => {}
        }
        for (name, text) in &self.environment {
            match of_variable(name) {
                Variable::Key(key) => {
                    take(&mut errors, key, text, Source::Environment(name.clone()));
                }
                Variable::Misspelled(nearest) => errors.push(ConfigError::UnknownKey {
                    key: name.clone(),
                    source_of: Source::Environment(name.clone()),
                    nearest,
                }),
                Variable::Other => {}
            }
        }
        for (path, text, flag) in &self.flags {
            let key = keys::find(path).expect("flags are made from the table of keys");
            take(&mut errors, key, text, Source::Flag(flag.clone()));
        }
        if errors.is_empty() { Ok(Resolved { values }) } else { Err(errors) }
    }
}

/// A path in a file counts from the file.
fn from_there(value: Value, source: &Source) -> Value {
    match (value, source) {
        (Value::Path(path), Source::File { path: file, .. }) => {
            Value::Path(file.parent().unwrap_or(Path::new("")).join(path))
        }
        (value, _) => value,
    }
}

enum Variable {
    Key(&'static keys::Key),
    /// It names a section of ours, and no key of it.
    Misspelled(Option<String>),
    /// Somebody else's, or of another part of this program.
    Other,
}

fn of_variable(name: &str) -> Variable {
    if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
        return Variable::Key(key);
    }
    let of_section = KEYS.iter().any(|key| {
        let section = key.path.split_once('.').map_or(key.path, |(section, _)| section);
        let section = section.to_uppercase();
        name.strip_prefix("PALISADE_")
            .and_then(|name| name.strip_prefix(&section))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    if !of_section {
        return Variable::Other;
    }
    Variable::Misspelled(keys::nearest(name, KEYS.iter().map(keys::Key::variable)))
}

impl Resolved {
    /// The value of a key, and where it comes from; none if it is not set.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&(Value, Source)> {
        self.values.get(path)
    }

    /// What a node is to be opened with.
    ///
    /// # Errors
    /// Every key that is missing, and all that do not fit together.
    pub fn config(&self) -> Result<Config, Vec<ConfigError>> {
        Config::of(self)
    }
}
