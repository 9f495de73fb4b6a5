//! The connections that peers have opened, so that one can be closed from outside: only a replica can
//! tell that a message should never have been sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::identity::{Incarnation, NodeId};

/// Who opened a connection, as it greeted.
type Guest = (NodeId, Incarnation);

#[derive(Debug, Default)]
pub(crate) struct Guests {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: BTreeMap<(Guest, u64), Arc<Notify>>,
}

/// One open connection; it is forgotten with this.
#[derive(Debug)]
pub(crate) struct Visit {
    guests: Arc<Guests>,
    key: (Guest, u64),
    closing: Arc<Notify>,
}

impl Guests {
    pub(crate) fn enter(self: &Arc<Self>, node: NodeId, life: Incarnation) -> Visit {
        let closing = Arc::new(Notify::new());
        let mut inner = self.lock();
        inner.next += 1;
        let key = ((node, life), inner.next);
        inner.open.insert(key, Arc::clone(&closing));
        drop(inner);
        Visit { guests: Arc::clone(self), key, closing }
    }

    /// Asks for every connection of this life of a node to be closed.
    pub(crate) fn close(&self, node: NodeId, life: Incarnation) {
        let guest = (node, life);
        let inner = self.lock();
        for (_, closing) in inner.open.range((guest, 0)..=(guest, u64::MAX)) {
            // Kept for the connection if it is busy: it looks before it reads again.
            closing.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the list")
    }
}

impl Visit {
    /// Resolves when the connection is to be closed.
    pub(crate) async fn closing(&self) {
        self.closing.notified().await;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.guests.lock().open.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_life_is_shown_the_door_and_no_other() {
        let guests = Arc::new(Guests::default());
        let (node, life, other) = (NodeId::new(2), Incarnation::new(7), Incarnation::new(8));
        let visits = [guests.enter(node, life), guests.enter(node, life)];
        let stays = [guests.enter(node, other), guests.enter(NodeId::new(3), life)];
        guests.close(node, life);
        for visit in &visits {
            visit.closing().await;
        }
        for visit in &stays {
            let mut closing = std::pin::pin!(visit.closing());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(closing.as_mut().poll(&mut context).is_pending());
        }
        drop(visits);
        drop(stays);
        assert!(guests.lock().open.is_empty());
    }
}
