//! `palisade config`: what a node would be configured with, and whether that is right.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::config_args::ConfigArgs;
use super::failed::Failed;
use super::output::Found;
use super::table::table;
use crate::config::KEYS;

/// Show or check the configuration of a node.
#[derive(Args)]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show every key with the value that counts.
    Show(ShowArgs),
    /// Check a file by itself, whatever the environment says.
    Check(CheckArgs),
}

#[derive(Args)]
struct ShowArgs {
    /// Say where each value comes from, and what each key is for.
    #[arg(long)]
    sources: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Args)]
struct CheckArgs {
    /// The configuration file, TOML.
    file: PathBuf,
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::Show(args) => show(&args),
            Action::Check(args) => check(args.file),
        }
    }
}

fn show(args: &ShowArgs) -> Result<Found, Failed> {
    let resolved = args.config.resolved()?;
    let (mut rows, mut keys) = (Vec::new(), Vec::new());
    for key in KEYS {
        let found = resolved.get(key.path);
        let value = found.map(|(value, _)| value.to_string());
        let source = found.map_or("not set".to_owned(), |(_, source)| source.to_string());
        let cell = value.clone().unwrap_or_else(|| "-".to_owned());
        let mut row = vec![key.path.to_owned(), cell];
        if args.sources {
            row.extend([source.clone(), key.about.to_owned()]);
        }
        rows.push(row);
        keys.push(json!({ "key": key.path, "value": value, "source": source }));
    }
    let head: &[&str] =
        if args.sources { &["KEY", "VALUE", "SOURCE", "WHAT IT IS"] } else { &["KEY", "VALUE"] };
    Ok(Found::new(json!({ "keys": keys }), table(head, &rows)))
}

fn check(file: PathBuf) -> Result<Found, Failed> {
    let config = ConfigArgs::of_file(file.clone()).resolve()?.config()?;
    let document = json!({
        "file": file.display().to_string(),
        "ok": true,
        "node": config.node.id.get(),
        "cluster": format!("{:032x}", config.node.cluster.get()),
    });
    let text = format!(
        "{}: ok, node {} of cluster {:032x}\n",
        file.display(),
        config.node.id,
        config.node.cluster.get()
    );
    Ok(Found::new(document, text))
}
