//! The console: files that are part of the program. Nothing of it comes from elsewhere.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($name:literal: $kind:ident,)*) => {
        /// Name, type and content of each.
        const ASSETS: &[(&str, &str, &str)] =
            &[$(($name, $kind, include_str!(concat!("console/", $name))),)*];
    };
}

assets! {
    "index.html": HTML,
    "console.css": CSS,
    "icon.svg": SVG,
    "main.js": JS,
    "api.js": JS,
    "dom.js": JS,
    "plot.js": JS,
    "overview.js": JS,
    "groups.js": JS,
    "log.js": JS,
    "projections.js": JS,
    "latency.js": JS,
    "fences.js": JS,
    "audit.js": JS,
}

pub(super) async fn index() -> Response {
    found("index.html").await
}

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    found(&name).await
}

async fn found(name: &str) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => ([(header::CONTENT_TYPE, *kind)], *content).into_response(),
        None => super::not_found().await.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The console works on a machine without a network, and within its own policy.
    #[test]
    fn nothing_comes_from_elsewhere() {
        for (name, _, content) in ASSETS {
            let content = content.replace("http://www.w3.org/2000/svg", "");
            for elsewhere in ["http://", "https://", "@import", "eval(", "innerHTML", "<style"] {
                assert!(!content.contains(elsewhere), "{name} has {elsewhere}");
            }
        }
        let page = ASSETS[0].2;
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=").count()
        );
        assert!(
            !page.contains("style=\"") && !page.contains(" onclick="),
            "the policy refuses them"
        );
    }

    /// Whatever a file asks for is there.
    #[test]
    fn what_is_asked_for_is_there() {
        for (name, _, content) in ASSETS {
            for part in content.split(['"', '\'']).filter(|part| part.starts_with("./")) {
                let wanted = part.trim_start_matches("./").trim_start_matches("console/");
                assert!(ASSETS.iter().any(|(known, ..)| *known == wanted), "{name}: {wanted}");
            }
        }
    }
}
