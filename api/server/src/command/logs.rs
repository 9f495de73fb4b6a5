//! Log lines, on stderr.

use crate::config::{LogFormat, LogSettings};

/// Starts to write log lines of this process.
pub(super) fn start(settings: &LogSettings) {
    let filter = tracing_subscriber::EnvFilter::new(&settings.filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
