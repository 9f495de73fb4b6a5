//! What threads meet at: the standard library's primitives, or in models loom's, which runs a model
//! through every order in which its threads can take their steps (`make loom`).
//!
//! The models have a `cfg` of their own, not the usual `loom`: a whole graph is built with it, and
//! some crates, tokio among them, leave parts of themselves out under that name.

#[cfg(palisade_loom)]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
#[cfg(not(palisade_loom))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
