//! Data of a running cluster: logs, maps, idempotency stores, and which of them there are.
//!
//! Data goes to stdout; values are text where they are text. A resource is named with the schema that it has,
//! unless another is asked for.

mod directory;
mod idem;
mod log;
mod map;
mod position;
mod value;

use clap::{Args, ValueEnum};
use palisade_client::proto::common::v1::Receipt;
use palisade_client::{Client, Consistency};
use serde_json::{Value, json};

pub(super) use directory::DirectoryCommand;
pub(super) use idem::IdemCommand;
pub(super) use log::LogCommand;
pub(super) use map::MapCommand;

use super::client_args::ClientArgs;
use super::failed::Failed;

/// Which resource, and as whom it is written to.
#[derive(Args)]
struct ResourceArgs {
    /// The name of the resource.
    name: String,
    /// The schema of its values; the one that it has if nothing is said.
    #[arg(long)]
    schema: Option<String>,
    /// The epoch of the writer: it must not be below the one that the resource was opened with last.
    #[arg(long, default_value_t = 1)]
    epoch: u64,
    #[command(flatten)]
    client: ClientArgs,
}

impl ResourceArgs {
    /// The schema to name it with.
    async fn schema(&self, client: &Client) -> Result<String, Failed> {
        if let Some(schema) = &self.schema {
            return Ok(schema.clone());
        }
        let found = client.directory().describe(&self.name, Consistency::Linearizable).await?;
        let first = found.spec.map(|spec| spec.schema).unwrap_or_default();
        let newest = found.schemas.into_iter().rev().find(|schema| !schema.retired);
        Ok(newest.map_or(first, |schema| schema.id))
    }
}

/// How fresh what is read must be.
#[derive(Args)]
struct FreshArgs {
    /// How fresh it must be.
    #[arg(long, value_enum, default_value_t = Fresh::Linearizable)]
    consistency: Fresh,
    /// No older than this record of the group; weaker than linearizable, and any node can answer.
    #[arg(long, value_name = "OFFSET", conflicts_with = "consistency")]
    at_least: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fresh {
    /// Everything that was acknowledged to anyone before.
    Linearizable,
    /// Whatever the node has that is asked.
    Local,
}

impl FreshArgs {
    fn consistency(&self) -> Consistency {
        match (self.at_least, self.consistency) {
            (Some(offset), _) => Consistency::AtLeastOffset(offset),
            (None, Fresh::Linearizable) => Consistency::Linearizable,
            (None, Fresh::Local) => Consistency::Local,
        }
    }
}

/// Where a write took effect.
fn receipt_json(receipt: &Receipt) -> Value {
    json!({
        "group": receipt.group,
        "offset": receipt.offset,
        "log_time_ms": receipt.log_time_ms,
        "duplicate": receipt.duplicate,
    })
}

fn receipt_text(receipt: &Receipt) -> String {
    let before = if receipt.duplicate { ", before this call" } else { "" };
    format!("group {} offset {}{before}\n", receipt.group, receipt.offset)
}
