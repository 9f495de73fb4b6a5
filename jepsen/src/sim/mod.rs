//! The simulator's campaign: what a seed draws ([`Shape`]), the run of it ([`run`]), a shorter run
//! that fails alike ([`shrink`]), and many of them ([`campaign`]).

mod book;
pub mod campaign;
mod failure;
mod registers;
mod report;
mod shape;
pub mod shrink;
mod workload;

pub use failure::{Failure, Run, run};
pub use report::Report;
pub use shape::{Shape, parse_spans};
