//! What threads meet at: the standard library's primitives, or in models loom's, which runs a model
//! through every order in which its threads can take their steps (`make loom`).
//!
//! Modelled are the inbox, the tracker and the load here, and the writer and the bell of the wal. What
//! follows is behind no lock, and not modelled: it orders nothing. What must come one after the other
//! does so by the lock or the join that is named.
//!
//! | what | why there is no model |
//! | --- | --- |
//! | `stopped` of `node.rs` | set once, before the waiters are told under the tracker's lock; who looks earlier goes on to the inbox or the tracker, and both are modelled |
//! | `closing` of `shelf.rs` | a flag that is set once: an export that reads it late writes some chunks more, and its thread is joined |
//! | `cancelled` of the engine's `projection/rebuild/job.rs` | set and looked at within the gate, a mutex, wherever a commit depends on it; outside the gate it only lets a thread end sooner, which is joined |
//! | `is_marked` of the engine's `store/rocks.rs` | marking twice is marking once, and one that failed is tried again at the next damage; RocksDB has locks of its own |
//! | `is_damaged` beside it, `waiting` of the engine's `readers.rs`, the counts of `peer_faults.rs` and of the wal's `sync_times.rs` | told and measured, and never decided by |

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
