//! Who calls, and what he may do: certificates, tokens, grants. `docs/security.md` has the whole of it.
//!
//! Everything here fails closed: what is not understood, not found or not in time is refused, by a reason of
//! a closed set.

pub mod accept;
pub mod audit;
pub mod ca;
pub(crate) mod files;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
pub mod grants;
pub mod identity;
pub(crate) mod of_node;
pub(crate) mod ring_watch;
pub mod tls;
pub mod token;
pub mod watch;

use std::time::{Duration, SystemTime};

#[expect(clippy::disallowed_methods, reason = "certificates and tokens are of the calendar")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The time by this machine's clock, as tokens count it.
#[must_use]
pub fn now_ms() -> u64 {
    let since = now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
