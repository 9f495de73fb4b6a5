//! Subcommands, one file each.

pub mod ca;
