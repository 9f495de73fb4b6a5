//! Flags for every key of the configuration, made from its table.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use crate::config::{Config, KEYS, Layers, Resolved};

use super::failed::Failed;

const HEADING: &str = "Configuration, over environment and file";

/// How environment variables of ours begin.
const OURS: &str = "PALISADE_";

fn not_text(name: &str) -> Failed {
    let what = format!("environment {name} is not UTF-8");
    Failed::new("InvalidValue", what, "write it as text, or take it out")
}

/// A file, and a flag for each key.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigArgs {
    file: Option<PathBuf>,
    flags: Vec<(&'static str, String, String)>,
}

impl ConfigArgs {
    /// Only what a file says, whatever the environment is.
    pub(super) fn of_file(file: PathBuf) -> Layers {
        Layers { file: Some(file), ..Layers::default() }
    }

    /// All layers, as this process was started with.
    pub(super) fn resolved(&self) -> Result<Resolved, Failed> {
        let mut environment = Vec::new();
        for (name, text) in std::env::vars_os() {
            match (name.into_string(), text.into_string()) {
                (Ok(name), Ok(text)) => environment.push((name, text)),
                (Ok(name), Err(_)) if name.starts_with(OURS) => return Err(not_text(&name)),
                (Err(name), _) if name.as_bytes().starts_with(OURS.as_bytes()) => {
                    return Err(not_text(&name.to_string_lossy()));
                }
                _ => {}
            }
        }
        let layers = Layers { file: self.file.clone(), environment, flags: self.flags.clone() };
        Ok(layers.resolve()?)
    }

    pub(super) fn config(&self) -> Result<Config, Failed> {
        Ok(self.resolved()?.config()?)
    }

    /// Whether anything was said at all.
    pub(super) fn is_empty(&self) -> bool {
        self.file.is_none() && self.flags.is_empty()
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("PALISADE_CONFIG")
            .value_parser(value_parser!(PathBuf))
            .help("The configuration file, TOML");
        let loopback = Arg::new("insecure-loopback")
            .long("insecure-loopback")
            .action(ArgAction::SetTrue)
            .help_heading(HEADING)
            .help("The same as --security-mode insecure-loopback");
        let flags = KEYS.iter().map(|key| {
            let mut help = key.about.to_owned();
            help[..1].make_ascii_uppercase();
            if let Some(default) = key.default {
                help.push_str(&format!(" [default: {default}]"));
            }
            Arg::new(key.path)
                .long(key.flag().trim_start_matches('-').to_owned())
                .value_name(key.placeholder())
                .help_heading(HEADING)
                .help(help)
        });
        command.arg(file).args(flags).arg(loopback)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        if matches.get_flag("insecure-loopback") {
            let (mode, flag) = ("insecure-loopback".to_owned(), "--insecure-loopback".to_owned());
            self.flags.push(("security.mode", mode, flag));
        }
        for key in KEYS {
            if let Some(text) = matches.get_one::<String>(key.path) {
                self.flags.push((key.path, text.clone(), key.flag()));
            }
        }
        Ok(())
    }
}
