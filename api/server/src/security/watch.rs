//! Files that are read again while the node runs: every few seconds, and at once when told to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// How often files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What was read out of files, and is read again.
pub trait Watched: Send + Sync {
    /// Looks now, and uses what is new. It reads files: not on a thread of a runtime.
    fn look_again(&self);
}

/// Looks at all of them every [`LOOK_EVERY`], and when `now_please` is notified, until it is dropped.
pub async fn watch(watched: Vec<Arc<dyn Watched>>, now_please: Arc<Notify>) -> ! {
    let watched: Arc<[_]> = watched.into();
    loop {
        let look = Arc::clone(&watched);
        // It panics only if a lock's holder did.
        let look = move || look.iter().for_each(|each| each.look_again());
        let _ = tokio::task::spawn_blocking(look).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = now_please.notified() => {}
        }
    }
}
