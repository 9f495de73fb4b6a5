//! A replica that has halted is made anew because somebody said so, for a reason that is written down.

use palisade::{Error, Group};

/// Most bytes of a reason.
const REASON_BYTES_MAX: usize = 256;

/// Gives up the state and the log of a replica that has halted here, and returns once it serves again. That it is
/// begun is logged before, and how it ended after, with the target `palisade::audit`.
pub(crate) async fn rebuild(group: &Group, reason: &str) -> Result<(), Error> {
    if !(1..=REASON_BYTES_MAX).contains(&reason.trim().len()) {
        let what = format!("a reason has 1 to {REASON_BYTES_MAX} bytes");
        return Err(Error::InvalidArgument { what });
    }
    let id = group.id();
    tracing::warn!(target: "palisade::audit", group = %id, %reason, "an operator clears a halted replica");
    let done = group.rebuild_replica().await;
    let error = done.as_ref().err().map(ToString::to_string);
    tracing::warn!(target: "palisade::audit", group = %id, ?error, "clearing it has ended");
    done
}
