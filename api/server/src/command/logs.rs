//! Log lines, on stderr, and spans, to a collector.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogFormat, LogSettings};

/// Starts to write log lines of this process, and to do this with its spans.
pub(super) fn start(settings: &LogSettings, spans: Option<Box<dyn Layer<Registry> + Send + Sync>>) {
    let filter = EnvFilter::new(&settings.filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    Registry::default().with(spans).with(lines).init();
}
