//! Things that only one request has at a time: connections that wait, and keys whose version is known.

use std::sync::{Arc, Mutex, PoisonError};

/// As many as there are callers, so that there is always one.
pub(super) struct Pool<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Pool<T> {
    pub(super) fn of(all: Vec<T>) -> Self {
        Self(Arc::new(Mutex::new(all)))
    }

    pub(super) fn take(&self) -> Result<T, String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.pop().ok_or_else(|| "more requests than callers".to_owned())
    }

    pub(super) fn put(&self, one: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    }
}
