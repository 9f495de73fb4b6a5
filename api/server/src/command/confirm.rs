//! Steps that destroy something: they say what they would do, and do it when told to.

use clap::Args;
use serde_json::json;

use super::failed::Failed;
use super::output::Found;

/// Whether it is to be done.
#[derive(Args, Clone, Copy)]
pub(super) struct ConfirmArgs {
    /// Do it; without this, only say what would be done.
    #[arg(long)]
    confirm: bool,
}

impl ConfirmArgs {
    /// The plan, unless it was confirmed. Nothing may be done before this was asked.
    pub(super) fn planned(self, steps: &[String]) -> Option<Found> {
        if self.confirm {
            return None;
        }
        let text: String = steps.iter().map(|step| format!("would {step}\n")).collect();
        let wrong =
            Failed::new("Unconfirmed", "nothing was done", "read the plan, and add --confirm");
        Some(Found::new(json!({ "plan": steps }), text).but(Some(wrong)))
    }
}
