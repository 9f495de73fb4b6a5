//! `palisade completions`: what a shell reads to complete a command line.

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use super::failed::Failed;
use super::output::Found;

/// Print the completions of a shell.
#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::cli(), "palisade", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        Ok(Found::new(json!({ "shell": self.shell.to_string(), "script": script }), script))
    }
}
