//! Connections of which nobody has said yet who they are: so many, and the one that has been there longest
//! makes room for the next. Whoever means it is through in no time, so that a crowd that never speaks keeps
//! nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// Connections without a greeting, at most.
pub(crate) const STRANGERS_MAX: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct Lobby {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// One of them; given back with this.
#[derive(Debug)]
pub(crate) struct Place {
    lobby: Arc<Lobby>,
    number: u64,
    taken: Arc<Notify>,
}

impl Lobby {
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        let taken = Arc::new(Notify::new());
        let mut inner = self.lock();
        if inner.waiting.len() >= STRANGERS_MAX
            && let Some((_, oldest)) = inner.waiting.pop_first()
        {
            oldest.notify_one();
        }
        inner.next += 1;
        let number = inner.next;
        inner.waiting.insert(number, Arc::clone(&taken));
        drop(inner);
        Place { lobby: Arc::clone(self), number, taken }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the list")
    }
}

impl Place {
    /// Resolves when another one needed it.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let lobby = Arc::new(Lobby::default());
        let mut places: Vec<Place> = (0..STRANGERS_MAX).map(|_| lobby.enter()).collect();
        let next = lobby.enter();
        places[0].taken().await;
        for place in places[1..].iter().chain([&next]) {
            let mut taken = std::pin::pin!(place.taken());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(taken.as_mut().poll(&mut context).is_pending());
        }
        places.clear();
        drop(next);
        assert!(lobby.lock().waiting.is_empty());
    }
}
