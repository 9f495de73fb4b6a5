//! A client of Palisade's endpoint: typed, over several nodes, and careful about what may have happened.
//!
//! ```no_run
//! use palisade_client::{Client, Error};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::builder()
//!     .endpoint("http://127.0.0.1:7201")
//!     .endpoint("http://127.0.0.1:7202")
//!     .connect()?;
//! let stock = client.map::<String, u64>("stock", "stock.v1");
//! stock.open().await?;
//! stock.put(&"apples".to_owned(), &7).await?;
//! let found = stock.get(&"apples".to_owned()).await?;
//! assert_eq!(found.unwrap().value, 7);
//! # Ok(())
//! # }
//! ```
//!
//! What is written through one client is numbered, so a write that is repeated because nobody knows what became
//! of it takes effect once. What is read is never older than what the same client has written or read before,
//! whichever node answers. `docs/client.md` says what is repeated, and for how long.

mod access;
mod appends;
mod batch;
mod client;
mod cluster;
mod directory;
mod error;
mod idempotency;
mod keeping;
mod log;
mod map;
mod numbers;
mod resource;
mod retry;
mod route;
mod seen;
mod stored;
mod tls;

pub use self::access::{Access, AuditPage, Revoked};
pub use self::appends::Appends;
pub use self::batch::{Batch, BatchDone};
pub use self::client::{Client, ClientBuilder};
pub use self::cluster::{Backup, Cluster, NodeStatus};
pub use self::directory::{Directory, Listed};
pub use self::error::Error;
pub use self::idempotency::{RequestState, Requests};
pub use self::log::{Appended, Entry, Log, Page, Tail};
pub use self::map::{Change, Event, Map, Range, Row, Rows, Watch};
pub use self::resource::Consistency;
pub use self::stored::{Key, Stored};
/// What the messages are made of.
pub use palisade_proto as proto;
pub use palisade_proto::access::v1::{AuditEvent, AuditRecord, Grant, Granted, Right};
pub use palisade_proto::common::v1::{Position, Receipt};
pub use palisade_proto::failure::{Code, Disposition, Failure};
