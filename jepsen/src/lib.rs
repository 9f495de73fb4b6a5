//! What Palisade is proven by: workloads that keep a history of what clients asked and were told,
//! whatever goes wrong meanwhile, and checkers that compare the history with the guarantees.
//!
//! [`sim`] runs whole clusters in one thread from one seed; `palisade-sim` is its command.

pub mod linear;
pub mod sim;
