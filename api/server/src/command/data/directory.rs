//! `palisade directory`: which resources there are, and what they are.

use std::fmt::Write;

use clap::{Args, Subcommand, ValueEnum};
use palisade_client::proto::directory::v1 as proto;
use palisade_client::proto::directory::v1::alteration::Alteration;
use palisade_client::{Client, Consistency};
use serde_json::{Value, json};

use super::FreshArgs;
use crate::command::client_args::ClientArgs;
use crate::command::confirm::ConfirmArgs;
use crate::command::failed::Failed;
use crate::command::output::Found;
use crate::command::placement::everywhere;
use crate::command::printable::printable;
use crate::command::table::table;

/// How long a deleted resource can be taken back if nothing is said: a day.
const RETAIN_MS: u64 = 24 * 3600 * 1000;

/// Make resources, list them, and change what they are.
#[derive(Args)]
pub(in crate::command) struct DirectoryCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List resources in the order of their names.
    List(ListArgs),
    /// Say what a resource is, and how it was altered.
    Describe(DescribeArgs),
    /// Make a resource; exit code 4 if it is there.
    Create(SpecArgs),
    /// Open a resource for writing, making it if it is not there; a higher epoch fences older writers.
    Open(SpecArgs),
    /// Change what a resource is.
    Alter(AlterArgs),
    /// Delete a resource; it can be taken back for a while.
    Delete(DeleteArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Names that begin with this.
    #[arg(long, default_value = "")]
    prefix: String,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct DescribeArgs {
    /// The name of the resource.
    name: String,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct SpecArgs {
    /// 1 to 128 letters, digits, '-', '_', '.' or '/'.
    name: String,
    /// What it is.
    #[arg(long, value_enum)]
    kind: Kind,
    /// The schema of its values.
    #[arg(long)]
    schema: String,
    /// The writer's epoch.
    #[arg(long, default_value_t = 1)]
    epoch: u64,
    /// A majority of so many replicas holds each acknowledged write.
    #[arg(long, default_value_t = 1)]
    replicas: u32,
    /// In so many failure domains.
    #[arg(long, default_value_t = 1)]
    domains: u32,
    /// Where it may be used, provider[/region[/zone]]; once for each. With every provider that the cluster has a
    /// node at if nothing is said.
    #[arg(long = "place", value_name = "DOMAIN", value_parser = rule)]
    placement: Vec<proto::DomainRule>,
    /// Resources of one affinity lie in one group, and can be changed in one batch.
    #[arg(long, default_value = "")]
    affinity: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Log,
    Map,
    Idempotency,
}

#[derive(Args)]
struct AlterArgs {
    /// The name of the resource.
    name: String,
    /// The revision that was seen, as `describe` tells it.
    #[arg(long)]
    revision: u64,
    /// Why; it is kept.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    change: AlterationArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct AlterationArgs {
    /// Its values may have this schema, too.
    #[arg(long, value_name = "SCHEMA")]
    add_schema: Option<String>,
    /// Nobody opens it for writing with this schema any more.
    #[arg(long, value_name = "SCHEMA")]
    retire_schema: Option<String>,
    /// Where it may be used, provider[/region[/zone]]; once for each.
    #[arg(long = "place", value_name = "DOMAIN", value_parser = rule)]
    place: Vec<proto::DomainRule>,
    /// It is there again.
    #[arg(long)]
    undelete: bool,
}

#[derive(Args)]
struct DeleteArgs {
    /// The name of the resource.
    name: String,
    /// Why; it is kept.
    #[arg(long)]
    reason: String,
    /// It can be taken back for so long, in log time; at most 30 days.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = RETAIN_MS)]
    retain_ms: u64,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    client: ClientArgs,
}

fn rule(text: &str) -> Result<proto::DomainRule, String> {
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
        return Err(
            "a domain is written provider, provider/region or provider/region/zone".to_owned()
        );
    }
    let part = |at: usize| parts.get(at).copied().unwrap_or_default().to_owned();
    Ok(proto::DomainRule { provider: part(0), region: part(1), zone: part(2) })
}

fn rule_text(rule: &proto::DomainRule) -> String {
    let parts = [&rule.provider, &rule.region, &rule.zone];
    let parts: Vec<&str> =
        parts.into_iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
    parts.join("/")
}

fn kind_text(kind: proto::Kind) -> &'static str {
    match kind {
        proto::Kind::Unspecified => "unknown",
        proto::Kind::Log => "log",
        proto::Kind::Map => "map",
        proto::Kind::Idempotency => "idempotency",
    }
}

fn described_json(found: &proto::Described) -> Value {
    let spec = found.spec.clone().unwrap_or_default();
    let schemas: Vec<Value> =
        found.schemas.iter().map(|it| json!({ "schema": it.id, "retired": it.retired })).collect();
    json!({
        "name": spec.name,
        "kind": kind_text(spec.kind()),
        "schema": spec.schema,
        "schemas": schemas,
        "group": found.group,
        "epoch": spec.epoch,
        "revision": found.revision,
        "replicas": spec.replicas,
        "domains": spec.domains,
        "placement": spec.placement.iter().map(rule_text).collect::<Vec<_>>(),
        "affinity": spec.affinity,
        "has_contract": spec.contract.is_some(),
        "policy_hash": found.policy_hash,
        "made_offset": found.made_offset,
        "made_at_ms": found.made_at_ms,
        "deleted_until_ms": found.deleted_until_ms,
    })
}

/// One member of a document on each line.
fn lines(document: &Value) -> String {
    let mut text = String::new();
    for (name, value) in document.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let line = format!("{name:<17} {value}");
        let _ = writeln!(text, "{}", printable(line.trim_end()));
    }
    text
}

impl DirectoryCommand {
    pub(in crate::command) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::List(args) => args.run(),
            Action::Describe(args) => args.run(),
            Action::Create(args) => args.run(true),
            Action::Open(args) => args.run(false),
            Action::Alter(args) => args.run(),
            Action::Delete(args) => args.run(),
        }
    }
}

impl ListArgs {
    fn run(self) -> Result<Found, Failed> {
        self.client.run(|client| async move {
            let (directory, mut found, mut after) =
                (client.directory(), Vec::new(), Some(String::new()));
            while let Some(behind) = after {
                let fresh = self.fresh.consistency();
                let listed = directory.list(&self.prefix, &behind, fresh).await?;
                found.extend(listed.described);
                after = listed.next;
            }
            let row = |found: &proto::Described| {
                let spec = found.spec.clone().unwrap_or_default();
                let kind = kind_text(spec.kind()).to_owned();
                let state = if found.deleted_until_ms > 0 { "deleted" } else { "there" };
                vec![
                    spec.name,
                    kind,
                    spec.schema,
                    found.group.to_string(),
                    spec.epoch.to_string(),
                    found.revision.to_string(),
                    state.to_owned(),
                ]
            };
            let rows: Vec<Vec<String>> = found.iter().map(row).collect();
            let head = ["NAME", "KIND", "SCHEMA", "GROUP", "EPOCH", "REVISION", "STATE"];
            let documents: Vec<Value> = found.iter().map(described_json).collect();
            Ok(Found::new(json!({ "resources": documents }), table(&head, &rows)))
        })
    }
}

impl DescribeArgs {
    fn run(self) -> Result<Found, Failed> {
        self.client.run(|client| async move {
            let (directory, fresh) = (client.directory(), self.fresh.consistency());
            let mut document = described_json(&directory.describe(&self.name, fresh).await?);
            let mut text = lines(&document);
            let altered = directory.alterations(&self.name, fresh).await?;
            for each in &altered {
                let _ = writeln!(
                    text,
                    "altered           revision {}: {}",
                    each.revision,
                    printable(&each.reason)
                );
            }
            let altered = altered.iter().map(|each| {
                json!({
                    "revision": each.revision,
                    "offset": each.offset,
                    "log_time_ms": each.log_time_ms,
                    "node": each.node,
                    "reason": each.reason,
                })
            });
            document["alterations"] = altered.collect();
            Ok(Found::new(document, text))
        })
    }
}

impl SpecArgs {
    fn run(self, is_new: bool) -> Result<Found, Failed> {
        let kind = match self.kind {
            Kind::Log => proto::Kind::Log,
            Kind::Map => proto::Kind::Map,
            Kind::Idempotency => proto::Kind::Idempotency,
        };
        let mut spec = proto::Spec {
            name: self.name,
            schema: self.schema,
            kind: kind.into(),
            epoch: self.epoch,
            replicas: self.replicas,
            domains: self.domains,
            placement: self.placement,
            affinity: self.affinity,
            contract: None,
        };
        self.client.run(|client| async move {
            let directory = client.directory();
            if spec.placement.is_empty() {
                spec.placement = everywhere(&client).await?;
            }
            let described = match is_new {
                true => directory.create(spec).await?,
                false => directory.open(spec).await?,
            };
            let document = described_json(&described);
            let text = lines(&document);
            Ok(Found::new(document, text))
        })
    }
}

impl AlterArgs {
    fn run(self) -> Result<Found, Failed> {
        let change = self.change;
        let alteration = match (change.add_schema, change.retire_schema, change.undelete) {
            (Some(schema), ..) => Alteration::AddSchema(schema),
            (_, Some(schema), _) => Alteration::RetireSchema(schema),
            (.., true) => Alteration::Undelete(proto::Undelete {}),
            _ => Alteration::Place(proto::Placement { rules: change.place }),
        };
        self.client.run(|client| async move {
            let altered = client
                .directory()
                .alter(&self.name, self.revision, &self.reason, alteration)
                .await?;
            Ok(revised(altered.1))
        })
    }
}

fn revised(revision: u64) -> Found {
    Found::new(json!({ "revision": revision }), format!("revision {revision}\n"))
}

async fn revision_of(client: &Client, name: &str) -> Result<u64, Failed> {
    Ok(client.directory().describe(name, Consistency::Linearizable).await?.revision)
}

impl DeleteArgs {
    fn run(self) -> Result<Found, Failed> {
        let plan = [
            format!("delete {}: nobody reads or writes it any more", self.name),
            format!(
                "drop what it holds in {} ms of log time, unless it is taken back",
                self.retain_ms
            ),
        ];
        if let Some(planned) = self.confirm.planned(&plan) {
            return Ok(planned);
        }
        self.client.run(|client| async move {
            let revision = revision_of(&client, &self.name).await?;
            let delete = Alteration::Delete(proto::Delete { retain_ms: self.retain_ms });
            let altered =
                client.directory().alter(&self.name, revision, &self.reason, delete).await?;
            Ok(revised(altered.1))
        })
    }
}
