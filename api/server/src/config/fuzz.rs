//! What fuzzing calls of the configuration: the text of a file, to the settings of a node.

use std::path::Path;

use super::{Layers, file};

/// Every cause of a refusal is told, with its line.
pub(crate) fn text(raw: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(raw) else { return false };
    let said = file::said(Path::new("node.toml"), text);
    let config = Layers::default().over(Some(said)).and_then(|resolved| resolved.config());
    let is_good = config.is_ok();
    for error in config.err().into_iter().flatten() {
        assert!(!error.to_string().is_empty() && !error.help().is_empty());
    }
    is_good
}
