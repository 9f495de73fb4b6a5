//! The palisade command, its HTTP face, and the durable report service.
//!
//! [`command`] is what a person types; [`config`] is what a node is configured with, from flags,
//! environment and file. [`reports`] is the reference application: a service as its author would write it,
//! over the engine's public handles. [`http`] lets others call it, [`grpc`] lets others call the engine
//! itself, and [`security`] is who may call, and what for. [`node`] runs it all as one process, and [`demo`]
//! runs three of those, breaks them, and checks what they promised; [`local`] keeps three of them up on one
//! machine. [`backups`] is where backups lie.
//! [`doctor`] looks at a machine before a node does. [`plot`] draws what benches have measured.

pub mod admin;
pub mod backups;
pub mod command;
pub mod config;
pub mod demo;
pub mod doctor;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod grpc;
pub mod http;
pub mod local;
pub mod node;
pub mod observe;
pub mod plot;
mod rebuild;
pub mod reports;
pub mod security;
