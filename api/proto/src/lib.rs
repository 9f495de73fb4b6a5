//! Palisade's messages and services as others see them, and what a failure looks like on the wire.
//!
//! The modules are named as the packages of the `.proto` files are; those files say what each message is.
//! Both the server and the client are made of this crate, so neither can say what the other does not know.

mod codec;
pub mod failure;
mod generated;

pub use self::codec::{MessageCodec, MessageEncoder};
pub use self::generated::palisade::*;

/// The descriptors of all packages, for reflection and for tools.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/palisade.binpb"));

/// The services, by their full names.
pub const SERVICES: [&str; 9] = [
    "palisade.access.v1.Access",
    "palisade.admin.v1.Backups",
    "palisade.batch.v1.Batch",
    "palisade.cluster.v1.Cluster",
    "palisade.directory.v1.Directory",
    "palisade.idempotency.v1.Idempotency",
    "palisade.log.v1.Log",
    "palisade.map.v1.Map",
    "palisade.session.v1.Session",
];

/// Longest message in either direction: the largest page there is, with room for what is around its rows.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
