//! `palisade idem`: idempotency stores of a running cluster.

use clap::{Args, Subcommand};
use palisade_client::{Client, RequestState, Requests};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::value::ValueArgs;
use super::{FreshArgs, ResourceArgs, receipt_json, receipt_text};
use crate::command::confirm::ConfirmArgs;
use crate::command::failed::Failed;
use crate::command::output::Found;

/// Reserve and complete requests that take effect once, and say how they stand.
#[derive(Args)]
pub(in crate::command) struct IdemCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Reserve a request: the work is to be done unless it was completed before.
    Reserve(ReserveArgs),
    /// Complete a request that this owner has reserved.
    Complete(CompleteArgs),
    /// Say how a request stands.
    Status(StatusArgs),
    /// Set how long completed requests are known.
    Window(WindowArgs),
}

#[derive(Args)]
struct ReserveArgs {
    #[command(flatten)]
    store: ResourceArgs,
    /// The key of the request.
    key: String,
    /// What is asked for: text, @FILE, or @- for stdin. The key means this and nothing else.
    request: String,
    /// A higher owner takes over what a lower one has reserved.
    #[arg(long, default_value_t = 1)]
    owner: u64,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct CompleteArgs {
    #[command(flatten)]
    store: ResourceArgs,
    /// The key of the request.
    key: String,
    /// What came of it: text, @FILE, or @- for stdin.
    result: String,
    /// As it was reserved.
    #[arg(long, default_value_t = 1)]
    owner: u64,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct StatusArgs {
    #[command(flatten)]
    store: ResourceArgs,
    /// The key of the request.
    key: String,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct WindowArgs {
    #[command(flatten)]
    store: ResourceArgs,
    /// Completed requests are known for so long, in log time.
    #[arg(long, value_name = "MILLISECONDS")]
    retention_ms: u64,
    /// At most so many are known.
    #[arg(long, value_name = "REQUESTS")]
    requests_max: u64,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl ResourceArgs {
    async fn requests(&self, client: &Client) -> Result<Requests, Failed> {
        let schema = self.schema(client).await?;
        Ok(client.requests(&self.name, &schema).writing_as(self.epoch))
    }
}

impl IdemCommand {
    pub(in crate::command) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::Reserve(args) => args.run(),
            Action::Complete(args) => args.run(),
            Action::Status(args) => args.run(),
            Action::Window(args) => args.run(),
        }
    }
}

impl WindowArgs {
    fn run(&self) -> Result<Found, Failed> {
        let plan = format!(
            "forget completed requests of {} that are older than {} ms, and all but {} of them: who repeats one \
             of those is told to do the work again",
            self.store.name, self.retention_ms, self.requests_max
        );
        if let Some(planned) = self.confirm.planned(&[plan]) {
            return Ok(planned);
        }
        self.store.client.run(|client| async move {
            let requests = self.store.requests(&client).await?;
            let receipt = requests.set_window(self.retention_ms, self.requests_max).await?;
            Ok(Found::new(receipt_json(&receipt), receipt_text(&receipt)))
        })
    }
}

impl ReserveArgs {
    fn run(&self) -> Result<Found, Failed> {
        let fingerprint: [u8; 32] = Sha256::digest(self.form.value(&self.request)?).into();
        self.store.client.run(|client| async move {
            let requests = self.store.requests(&client).await?;
            let receipt = requests.reserve(&self.key, fingerprint, self.owner).await?;
            let mut document = receipt_json(&receipt);
            let state = if receipt.duplicate { "completed" } else { "reserved" };
            document["state"] = json!(state);
            Ok(Found::new(document, format!("{state}: {}", receipt_text(&receipt))))
        })
    }
}

impl CompleteArgs {
    fn run(&self) -> Result<Found, Failed> {
        let result = self.form.value(&self.result)?;
        self.store.client.run(|client| async move {
            let requests = self.store.requests(&client).await?;
            let receipt = requests.complete(&self.key, self.owner, result).await?;
            Ok(Found::new(receipt_json(&receipt), receipt_text(&receipt)))
        })
    }
}

impl StatusArgs {
    fn run(&self) -> Result<Found, Failed> {
        self.store.client.run(|client| async move {
            let requests = self.store.requests(&client).await?;
            let state = requests.status(&self.key, self.fresh.consistency()).await?;
            Ok(match state {
                RequestState::Unknown => Found::new(json!({ "state": "unknown" }), "unknown\n"),
                RequestState::InProgress { owner_epoch, age_ms } => Found::new(
                    json!({ "state": "in_progress", "owner": owner_epoch, "age_ms": age_ms }),
                    format!("in progress for {age_ms} ms, owner {owner_epoch}\n"),
                ),
                RequestState::Completed { offset, result } => {
                    let mut document = json!({ "state": "completed", "offset": offset });
                    self.form.into(&mut document, "result", &result);
                    let result = self.form.text(&result);
                    Found::new(document, format!("completed at offset {offset}: {result}\n"))
                }
            })
        })
    }
}
