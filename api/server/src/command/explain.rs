//! `palisade explain`: a page for every code that an error can have.

use clap::Args;
use serde_json::json;

use super::failed::Failed;
use super::output::Found;
use super::table::table;

/// Say what the code of an error means, and what to do.
#[derive(Args)]
pub(super) struct ExplainArgs {
    /// The code, as in error[CODE]; all of them are listed without one.
    code: Option<String>,
}

macro_rules! pages {
    ($($code:literal,)*) => {
        /// Codes and their pages.
        const PAGES: &[(&str, &str)] = &[
            $(($code, include_str!(concat!("../../docs/errors/", $code, ".md"))),)*
        ];
    };
}

pages! {
    "LeaseExpired", "Revoked", "Fenced", "Disconnected", "Degraded", "Incompatible", "RateLimited",
    "InternalError", "InvalidArgument", "NotFound", "AlreadyExists", "IdempotencyConflict",
    "DomainUnavailable", "NotYetApplied", "PreconditionFailed", "VersionMismatch", "Trimmed",
    "TailMismatch", "Compacted", "GuardFailed", "WindowExpired", "ClientEvicted", "ClientOfAnother",
    "InProgress",
    "Refused", "Usage", "UnreadableFile", "InvalidSyntax", "UnknownKey", "InvalidValue", "MissingKey",
    "UnfitKeys", "UnknownCode", "InUse", "Damaged", "Unfit", "Unready", "Interrupted",
    "Unconfirmed", "NotCompared", "Sealed",
    "NotAuthenticated", "NotAllowed", "OutcomeUnknown", "InputOutput", "DemoFailed",
}

impl ExplainArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let Some(code) = self.code else { return Ok(list()) };
        // On the wire they are in capitals: RATE_LIMITED.
        let plain = |text: &str| text.replace('_', "").to_lowercase();
        let page = PAGES.iter().find(|(known, _)| plain(known) == plain(&code));
        let (code, page) = page.ok_or_else(|| {
            let what = format!("no error has the code {code}");
            Failed::new("UnknownCode", what, "`palisade explain` lists all codes")
        })?;
        Ok(Found::new(json!({ "code": code, "page": page }), *page))
    }
}

fn list() -> Found {
    let rows: Vec<Vec<String>> =
        PAGES.iter().map(|(code, page)| vec![(*code).to_owned(), title(page).to_owned()]).collect();
    let codes: Vec<_> =
        PAGES.iter().map(|(code, page)| json!({ "code": code, "title": title(page) })).collect();
    Found::new(json!({ "codes": codes }), table(&["CODE", "WHAT IT MEANS"], &rows))
}

/// The first sentence of a page.
fn title(page: &str) -> &str {
    page.lines().skip(1).find(|line| !line.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use palisade::{Error, Failure};

    use super::super::failed::exit_of;
    use super::super::failed::{Exit, OWN_CODES};
    use super::*;

    #[test]
    fn every_code_has_a_page_and_every_page_a_code() {
        let own = OWN_CODES.iter().map(|(code, _)| *code);
        let mut all: Vec<&str> = Error::KINDS.iter().copied().chain(own).collect();
        let mut explained: Vec<&str> = PAGES.iter().map(|(code, _)| *code).collect();
        all.sort_unstable();
        explained.sort_unstable();
        assert_eq!(all, explained);
    }

    /// A page begins with its code, one sentence, and says what to do.
    #[test]
    fn every_page_has_its_parts() {
        for (code, page) in PAGES {
            assert!(page.starts_with(&format!("# {code}\n\n")), "{code}");
            assert!(title(page).ends_with('.'), "{code}: {}", title(page));
            assert!(page.contains("\n## What to do\n"), "{code}");
            assert!(page.contains("\nExit code: "), "{code}");
        }
    }

    /// The exit code that a page tells is the one that the command gives.
    #[test]
    fn every_page_tells_the_exit_code() {
        for (code, page) in PAGES {
            let own = OWN_CODES.iter().find(|(own, _)| own == code).map(|(_, exit)| *exit);
            let of_set = Failure::ALL.iter().find(|failure| failure.as_str() == *code);
            let Some(exit) = own.or(of_set.map(|failure| exit_of(*failure))) else {
                continue;
            };
            assert_ne!(exit, Exit::Ok, "{code}");
            assert!(page.contains(&format!("\nExit code: {}.", exit as u8)), "{code}");
        }
    }
}
