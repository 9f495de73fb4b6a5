//! The configuration of a node: a table of keys, and the layers that values come from.
//!
//! Every key can be set in four places, and its name there follows from its path by one rule:
//!
//! ```text
//! flag           --node-data-dir DIR            over
//! environment    PALISADE_NODE_DATA_DIR=DIR     over
//! file           [node] data_dir = "DIR"        over
//! default        as `keys` says
//! ```
//! A value goes with the place that it came from: whatever is wrong with it names both. What no key is
//! called is refused, and the nearest key is named.

mod error;
mod file;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod keys;
mod layers;
mod node;
mod value;
mod written;

pub use error::ConfigError;
pub use keys::{KEYS, Key, Kind};
pub use layers::{Layers, Resolved, Source};
pub use node::{Config, LogFormat, LogSettings};
pub use value::{Value, VoterText};
pub(crate) use value::{client, cluster, domain, domain_rule, voter};
pub use written::{CERTS, NodeFile, random_cluster};
