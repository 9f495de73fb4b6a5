//! How large things may be (G12), and how many.

use palisade_replication::GroupId;

/// Most operations of one batch, and most guards.
pub const BATCH_OPS_MAX: usize = 256;
/// Longest key of a map or an idempotency store.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value, payload or result, and most that a batch holds of them together.
pub const VALUE_BYTES_MAX: usize = 512 << 10;
/// What a value in a log or map has before it: the number of its schema.
pub(crate) const SCHEMA_BYTES: usize = 1;

/// The group that says where names belong. Those that hold resources are numbered from 1.
pub const SYSTEM_GROUP: GroupId = GroupId::new(0);
/// Most groups that hold resources.
pub const DATA_GROUPS_MAX: u64 = 64;
