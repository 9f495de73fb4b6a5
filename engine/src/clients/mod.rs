//! Client sessions: commands with numbers, each of which takes effect at most once (G6). What is judged and
//! what is kept is in `docs/sessions.md`.

#[cfg(test)]
pub(crate) mod check;
mod counts;
mod numbers;
mod of_groups;
mod register;
mod registrant;
mod reply;
mod rows;
mod table;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use palisade_replication::{ClusterId, GroupId, Offset};

pub(crate) use self::counts::Counts;
use self::numbers::ClientNumbers;
pub(crate) use self::of_groups::Clients;
pub use self::registrant::Registrant;
#[cfg(test)]
pub(crate) use self::reply::counted_bytes;
pub(crate) use self::table::{ClientBounds, ClientTable, NumberRefusal, due, numbered};
use crate::codec::{DecodeError, Reader};
use crate::freshness::{put_record, take_record};
use crate::stored::Stored;

/// Most commands of one client whose answers are kept, and so most that it can have under way.
pub const CLIENT_COMMANDS_MAX: usize = 64;
/// Most bytes that the outcomes of a numbered batch have together.
pub const REPLY_BYTES_MAX: usize = 16 << 10;
/// Longest time that a client can ask to be known without a command.
pub const CLIENT_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const VERSION: u8 = 1;

/// Who numbers his commands: see [`crate::Group::register_client`]. Unique for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId {
    /// Whose client it is.
    pub cluster: ClusterId,
    /// The group that knows it.
    pub group: GroupId,
    /// The record that registered it.
    pub offset: Offset,
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.cluster, self.group, self.offset)
    }
}

/// ```text
/// version 1 byte (1), cluster 16 bytes, little-endian, group, offset
/// ```
/// Other numbers as LEB128 varints of the shortest form.
impl Stored for ClientId {
    fn to_bytes(&self) -> Bytes {
        let mut out = vec![VERSION];
        put_record(&mut out, self.cluster, self.group, self.offset);
        out.into()
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.byte("client version")? != VERSION {
            return Err(DecodeError { what: "client version" });
        }
        let (cluster, group, offset) = take_record(&mut reader)?;
        reader.end("client")?;
        Ok(Self { cluster, group, offset })
    }
}

/// Which command of which client a batch is: see [`crate::Batch::numbered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandNumber {
    /// Who makes it.
    pub client: ClientId,
    /// Its number, from 1 on. The same command has the same number however often it is sent.
    pub seq: u64,
    /// Up to this number, which is below `seq`, the client wants no answer any more: it has them, or gave
    /// the commands up. At most [`CLIENT_COMMANDS_MAX`] numbers can be above it.
    pub acked_up_to: u64,
}
