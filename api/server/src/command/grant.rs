//! `palisade grant`: what callers may do.

use clap::{Args, Subcommand, ValueEnum};
use palisade::{DomainRule, Failure};
use palisade_client::proto::directory::v1 as directory;
use palisade_client::{Grant, Granted, Right};
use serde_json::{Value, json};

use super::client_args::ClientArgs;
use super::confirm::ConfirmArgs;
use super::failed::Failed;
use super::output::Found;
use super::table::table;
use crate::config::domain_rule;

/// Say what callers may do, or take it back. It takes the right to administer palisade.access.
#[derive(Subcommand)]
pub(super) enum GrantCommand {
    /// Let a caller do more.
    Add(AddArgs),
    /// Take rights away from a caller.
    Remove(RemoveArgs),
    /// Show what callers may do.
    List(ListArgs),
}

/// Of `palisade grant add`.
#[derive(Args)]
pub(super) struct AddArgs {
    /// The caller, as its certificate names it.
    client: String,
    /// The name of a resource, or how names begin and `*`.
    resource: String,
    /// What it may do with it, with commas between.
    #[arg(value_enum, value_delimiter = ',', required = true)]
    rights: Vec<WhichRight>,
    /// Only at nodes there, as PROVIDER[/REGION[/ZONE]]; once for each.
    #[arg(long = "domain", value_parser = domain_rule)]
    domains: Vec<DomainRule>,
    #[command(flatten)]
    client_args: ClientArgs,
}

/// Of `palisade grant remove`.
#[derive(Args)]
pub(super) struct RemoveArgs {
    /// The caller.
    client: String,
    /// What it was granted, as it was written then; everything if nothing is said.
    resource: Option<String>,
    /// Only these rights, with commas between.
    #[arg(long, value_enum, value_delimiter = ',')]
    rights: Vec<WhichRight>,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    client_args: ClientArgs,
}

/// Of `palisade grant list`.
#[derive(Args)]
pub(super) struct ListArgs {
    /// Of this caller alone.
    client: Option<String>,
    #[command(flatten)]
    client_args: ClientArgs,
}

/// A right, as it is typed.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum WhichRight {
    /// Get, scan, watch, tail, describe.
    Read,
    /// Put, append, reserve, batch.
    Append,
    /// Create, alter, delete, grants, members, backups.
    Admin,
}

impl From<WhichRight> for Right {
    fn from(right: WhichRight) -> Self {
        match right {
            WhichRight::Read => Self::Read,
            WhichRight::Append => Self::Append,
            WhichRight::Admin => Self::Admin,
        }
    }
}

impl GrantCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self {
            Self::Add(args) => args.run(),
            Self::Remove(args) => args.run(),
            Self::List(args) => args.run(),
        }
    }
}

impl AddArgs {
    fn run(self) -> Result<Found, Failed> {
        let Self { client, resource, rights, domains, client_args } = self;
        let rights = rights.into_iter().map(|right| Right::from(right).into()).collect();
        let domain = |rule: DomainRule| directory::DomainRule {
            provider: rule.provider,
            region: rule.region.unwrap_or_default(),
            zone: rule.zone.unwrap_or_default(),
        };
        let grant = Grant { resource, rights, domains: domains.into_iter().map(domain).collect() };
        let now = client_args.run(|node| async move {
            let grants = node.access().grant(&client, grant).await?;
            Ok(vec![Granted { client, grants, unreadable: false }])
        });
        Ok(found(&now?))
    }
}

impl RemoveArgs {
    fn run(self) -> Result<Found, Failed> {
        let Self { client, resource, rights, confirm, client_args } = self;
        let rights: Vec<Right> = rights.into_iter().map(Right::from).collect();
        let named: Vec<&str> = rights.iter().copied().map(name_of).collect();
        let named = if named.is_empty() { "every right".to_owned() } else { named.join(", ") };
        let of = resource.as_deref().unwrap_or("everything it was granted");
        let plan = format!("take {named} on {of} away from {client}");
        if let Some(planned) = confirm.planned(&[plan]) {
            return Ok(planned);
        }
        let what = match &resource {
            Some(resource) => format!("nothing of that was granted to {client} as {resource}"),
            None => format!("nothing of that was granted to {client}"),
        };
        let revoked = client_args.run(|node| async move {
            let revoked = node.access().revoke(&client, resource.as_deref(), &rights).await?;
            let left = Granted { client, grants: revoked.left, unreadable: false };
            Ok((left, revoked.changed))
        });
        let (left, changed) = revoked?;
        let wrong = (!changed).then(|| {
            let help = "name it as it was granted, as `palisade grant list` shows it";
            Failed::of(Failure::NotFound, what, help)
        });
        Ok(found(&[left]).but(wrong))
    }
}

impl ListArgs {
    fn run(self) -> Result<Found, Failed> {
        let client = self.client;
        let granted = self
            .client_args
            .run(|node| async move { Ok(node.access().list(client.as_deref()).await?) });
        Ok(found(&granted?))
    }
}

fn name_of(right: Right) -> &'static str {
    match right {
        Right::Read => "read",
        Right::Append => "append",
        Right::Admin => "admin",
        Right::Unspecified => "unknown",
    }
}

fn rights(grant: &Grant) -> String {
    grant.rights().map(name_of).collect::<Vec<_>>().join(",")
}

fn domains(grant: &Grant) -> Vec<String> {
    let text = |rule: &directory::DomainRule| {
        let parts = [&rule.provider, &rule.region, &rule.zone];
        let parts: Vec<&str> = parts.into_iter().map(String::as_str).collect();
        parts.join("/").trim_end_matches('/').to_owned()
    };
    grant.domains.iter().map(text).collect()
}

fn found(granted: &[Granted]) -> Found {
    let document: Vec<Value> = granted
        .iter()
        .map(|row| {
            let grant = |grant: &Grant| {
                json!({
                    "resource": grant.resource,
                    "rights": rights(grant),
                    "domains": domains(grant),
                })
            };
            let grants: Vec<Value> = row.grants.iter().map(grant).collect();
            json!({ "client": row.client, "grants": grants, "unreadable": row.unreadable })
        })
        .collect();
    let rows = granted.iter().flat_map(|row| {
        let line = |grant: &Grant| {
            let domains = match &domains(grant)[..] {
                [] => "everywhere".to_owned(),
                some => some.join(","),
            };
            vec![row.client.clone(), grant.resource.clone(), rights(grant), domains]
        };
        let nothing = match (&row.grants[..], row.unreadable) {
            ([], true) => Some("cannot be read: nothing"),
            ([], false) => Some("nothing"),
            _ => None,
        };
        let nothing = nothing
            .map(|text| vec![row.client.clone(), "-".to_owned(), text.to_owned(), "-".to_owned()]);
        row.grants.iter().map(line).chain(nothing).collect::<Vec<_>>()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let text = table(&["CLIENT", "RESOURCE", "RIGHTS", "AT NODES"], &rows);
    Found::new(json!({ "granted": document }), text)
}
