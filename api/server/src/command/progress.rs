//! How far something is, on stderr, and only where somebody watches.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// Shown until it is dropped; nothing without a terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Of something that nobody knows the length of.
    pub(super) fn waiting(what: &'static str) -> Self {
        let bar = bar(None, "{spinner} {prefix} {elapsed}: {msg}");
        bar.set_prefix(what);
        Self(bar)
    }

    /// Of something that is so long.
    pub(super) fn of(length: u64, what: &'static str) -> Self {
        let bar = bar(Some(length), "{prefix} [{wide_bar}] {percent} % {msg}");
        bar.set_prefix(what);
        Self(bar)
    }

    pub(super) fn says(&self, message: &str) {
        self.0.set_message(message.to_owned());
    }

    pub(super) fn is_at(&self, position: u64) {
        self.0.set_position(position);
    }
}

fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::new_spinner(),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a template of ours"));
    bar.enable_steady_tick(TICK);
    bar
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
