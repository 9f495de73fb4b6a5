//! An embedded, replicated storage engine: one quorum-replicated, fenced log, and projections of it.
//!
//! A service links this crate and becomes one replica. Every change is a record in the group's log;
//! logs, maps and idempotency stores are computed from it, so one offset speaks for all of them. A
//! write returns a [`Receipt`] once a quorum has it on stable storage, and any replica can be read
//! at least at the receipt's offset.
//!
//! ```
//! use palisade::*;
//!
//! # async fn example(dir: &std::path::Path) -> Result<(), Error> {
//! let engine = Engine::builder(dir).open().await?;
//! let spec = ResourceSpec::new("greetings", "greeting.v1")?;
//! let map: ReplicatedMap<String, String> = ReplicatedMap::open(&engine, spec).await?;
//! let receipt = map.put(&"hello".into(), &"world".into()).await?;
//! let read = map.get(&"hello".into(), ReadConsistency::AtLeastOffset(receipt.offset)).await?;
//! assert_eq!(read.value.unwrap().value, "world");
//! engine.close().await
//! # }
//! # let dir = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
//! ```
//!
//! A service without a runtime opens it with [`EngineBuilder::open_blocking`], and finds the same handles in
//! [`blocking`].
//!
//! The guarantees have numbers, G1 to G12; the README lists them. `docs/architecture.md` is the map
//! of this crate.

#![warn(clippy::missing_errors_doc)]

mod alteration;
pub mod audit;
mod backend;
#[cfg(feature = "backup")]
pub mod backup;
mod batch;
mod batch_apply;
pub mod blocking;
mod bounds;
mod builder;
mod caretaker;
mod chain;
mod clients;
mod codec;
mod command;
mod comparing;
mod contracts;
pub mod degradation;
mod digest;
mod directory;
mod engine;
mod error;
mod failure;
mod freshness;
mod gatekeeper;
#[cfg(test)]
mod golden;
mod group;
mod handle;
mod idempotency;
pub mod inspect;
mod keys;
mod kind;
mod locate;
mod log;
mod machine;
mod map;
mod members;
#[cfg(test)]
mod model;
mod names;
mod node_backend;
mod observation;
mod open_resource;
mod outcome;
mod page;
mod profile;
mod projection;
mod projections;
mod prove;
mod read;
mod readers;
mod receipt;
mod records;
mod refusal;
mod resource;
mod resource_row;
mod resource_table;
mod schemas;
mod session;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshot;
mod spec_codec;
mod store;
mod stored;
mod throttle;
mod trace;
mod view;

pub use alteration::{Alteration, Altered, Reason, Revision};
pub use batch::{Batch, BatchDone, Guard, OpOutcome};
pub use bounds::{BATCH_OPS_MAX, DATA_GROUPS_MAX, KEY_BYTES_MAX, SYSTEM_GROUP, VALUE_BYTES_MAX};
pub use builder::{EngineBuilder, READER_THREADS_MAX, STATE_MEMORY_BYTES_MIN};
pub use chain::ChainHead;
pub use clients::{
    CLIENT_COMMANDS_MAX, CLIENT_TTL_MAX, ClientId, CommandNumber, REPLY_BYTES_MAX, Registrant,
};
pub use codec::DecodeError;
pub use comparing::{Compared, Divergence};
pub use digest::StateDigest;
pub use directory::{Described, DescribedSchema, Directory, LISTED_MAX, Listed, ResourceState};
pub use engine::Engine;
pub use error::Error;
pub use failure::Failure;
pub use freshness::{Freshness, Read};
pub use group::Group;
pub use handle::{Done, Handle};
pub use idempotency::{ReplicatedIdempotencyStore, RequestStatus, Reservation};
pub use log::{
    Consumer, LogBounds, LogEntry, LogPage, LogTail, ReplicatedLog, SCAN_ENTRIES_MAX,
    TAIL_BYTES_MAX, TAIL_ENTRIES_MAX,
};
pub use map::{
    GET_KEYS_MAX, MapAt, MapChange, MapPage, MapRange, RANGE_ROWS_MAX, ReplicatedMap, Versioned,
    Watch, WatchEvent, WatchOptions,
};
pub use members::MembersChanged;
pub use observation::Observation;
pub use outcome::{Branch, Completion};
pub use page::SCAN_BYTES_MAX;
pub use palisade_replication::{
    ChangeRefusal, ClusterId, Disk, Disposition, GroupId, GroupStatus, Incarnation, LogTime,
    Member, MemberChange, MemberRole, Membership, NodeId, NodeLoad, Offset, OpenDisk, Options,
    PeerFault, QueueLoad, Role, SYNC_EDGES_US, SyncTimes, Term, WalOptions,
};
/// Keys for what lies on disks: rings of them, epochs, and why something is not opened.
///
/// `wal/docs/encryption.md` is the whole of it. A ring is a file; a node is opened with it, and with a
/// statement about the disk of its state, which is not sealed:
///
/// ```
/// use palisade::encryption::{KeyRing, Keys, SystemRandomness};
/// use palisade::{Engine, Error};
///
/// # async fn example(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
/// let mut ring = KeyRing::default();
/// ring.rotate(&SystemRandomness)?;
/// ring.write(&dir.join("ring"))?;
///
/// let keys = Keys::new(KeyRing::read(&dir.join("ring"))?);
/// let builder = Engine::builder(dir.join("node")).keys(keys.clone()).state_disk_is_encrypted();
/// let engine = builder.open().await?;
/// // From the next batch on, the log is sealed with another epoch.
/// ring.rotate(&SystemRandomness)?;
/// keys.replace(ring)?;
/// engine.close().await?;
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # tokio::runtime::Runtime::new().unwrap().block_on(example(dir.path())).unwrap();
/// ```
pub mod encryption {
    pub use palisade_replication::{
        KeyEpoch, KeyError, KeyHold, KeyRing, KeyState, Keys, Randomness, SystemRandomness,
    };
}
/// Connections of which nobody has said yet who they are.
pub mod lobby {
    pub use palisade_replication::lobby::{Lobby, Origin, Place, STRANGERS_MAX};
}
/// Certificates: whom they name, and what TLS between nodes, or with callers, is made of.
pub mod tls {
    pub use palisade_replication::{
        CLIENT_NAME_BYTES_MAX, CertificateFacts, CertificateRole, Credentials, CredentialsError,
        PeerTls, Subject, SubjectError, TlsSetup,
    };
}
pub use profile::{PlacementProfile, PolicyHash};
pub use projection::rebuild::{RebuildFailure, RebuildHere, RebuildStage, RebuildStatus};
pub use projection::{
    Applied, At, Imported, NewRows, OUTCOME_BYTES_MAX, Projection, ProjectionFault,
    ROW_KEY_BYTES_MAX, ROW_VALUE_BYTES_MAX, Rows, RowsRead,
};
pub use projections::idempotency::{Fingerprint, RequestOutcome, RequestWindow};
pub use projections::log::{
    APPEND_ENTRIES_MAX, CONSUMER_NAME_BYTES_MAX, CONSUMERS_MAX, ConsumerPosition, LogPosition,
    LogRetention, LogTrim, TRIM_ENTRIES_MAX,
};
pub use projections::map::{History, MapBounds, Version};
pub use read::{ReadConsistency, ReadOptions};
pub use receipt::Receipt;
pub use resource::{
    Affinity, DomainRule, FailureDomain, FenceEpoch, FenceGuard, LogicalResourceName, Placement,
    ReplicaPolicy, ResourceId, ResourceKind, ResourceSpec, SchemaId,
};
pub use session::Session;
pub use store::{Direction, EachRow, Walk};
pub use stored::{Key, Stored};
pub use trace::{TraceContext, TracedRecord, TracedRecords};
