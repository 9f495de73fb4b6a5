//! The palisade command, its HTTP face, and the durable report service.
//!
//! [`reports`] is the reference application: a service as its author would write it, over the
//! engine's public handles. [`http`] lets others call it, [`node`] runs it as one process, and
//! [`demo`] runs three of those, breaks them, and checks what they promised. [`security`] is who may call,
//! and what for; [`command`] has the subcommands that are more than a few lines.

pub mod command;
pub mod demo;
pub mod http;
pub mod node;
pub mod reports;
pub mod security;
