//! One ordered, agreed log out of several write-ahead logs.

mod acquaintances;
mod ages;
mod applier;
mod ceiling;
mod directory;
mod driver;
mod effects;
mod entry;
mod error;
mod founding;
mod frame;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod greeting;
mod guests;
mod host;
mod identity;
mod inbox;
mod inspect;
mod keeper;
mod link;
mod load;
pub mod lobby;
mod log_store;
mod membership;
mod node;
mod node_load;
mod open_disk;
mod options;
mod peer_faults;
mod proposals;
mod raft_log;
mod reads;
mod records;
mod register;
mod repair;
mod replica;
mod scrubber;
mod shelf;
#[cfg(feature = "sim")]
pub mod sim;
mod small_file;
mod snapshot;
mod state_machine;
mod sync;
mod tls;
mod tracker;
mod transport;
mod unread;
mod vigil;
mod wire;

pub use applier::Committed;
pub use effects::{GroupStatus, Role, VoterStatus};
pub use entry::{AppliedPosition, CommittedEntry, ProposalId, RECORD_HEADER_BYTES, Record};
pub use error::{NodeError, RebuildRefusal};
pub use founding::Founding;
pub use identity::{ClusterId, Incarnation, LogTime, NodeId, Offset, Term};
pub use inspect::{
    DirectoryOwner, StoredEntry, StoredRegister, directory_owner, stored_entry, stored_register,
    wal_dir_of,
};
pub use membership::{
    ChangeRefusal, DOMAIN_BYTES_MAX, MEMBERS_MAX, Member, MemberChange, MemberRole, Membership,
    PROMOTION_LAG_MAX,
};
pub use node::{Node, NodeConfig, Proposal};
pub use node_load::{NodeLoad, QueueLoad};
pub use open_disk::OpenDisk;
pub use options::Options;
pub use palisade_wal::{
    Disk, Disposition, GroupId, KeyEpoch, KeyError, KeyHold, KeyRing, KeyState, Keys, LogIndex,
    Randomness, SYNC_EDGES_US, SyncTimes, SystemRandomness, WalOptions, guarded,
};
pub use peer_faults::PeerFault;
pub use records::RecordRun;
pub use snapshot::{CHUNK_BYTES_MAX, CHUNK_BYTES_TARGET, SnapshotId};
pub use state_machine::{ApplyError, Export, Exporter, HaltScope, StateMachine, TakeChunk};
pub use tls::{
    CLIENT_NAME_BYTES_MAX, CertificateFacts, CertificateRole, Credentials, CredentialsError,
    PeerLinks, PeerTls, Subject, SubjectError, TlsSetup,
};
pub use transport::Transport;
pub use wire::{Beat, Body, Envelope, Forward, WireError};
