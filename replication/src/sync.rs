//! What threads meet at: the standard library's primitives, or in models loom's, which runs a model
//! through every order in which its threads can take their steps (`make loom`).

#[cfg(palisade_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};
#[cfg(not(palisade_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};
