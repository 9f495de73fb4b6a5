//! `palisade audit`: what was refused, granted and revoked.

use clap::Args;
use palisade_client::{AuditEvent, AuditRecord};
use serde_json::{Value, json};

use super::client_args::ClientArgs;
use super::failed::Failed;
use super::output::Found;
use super::table::table;
use super::when::utc;

/// Show what was refused, granted and revoked, the newest first. It takes the right to administer
/// palisade.audit.
#[derive(Args)]
pub(super) struct AuditArgs {
    /// At most so many records.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Begin with the oldest that is kept.
    #[arg(long)]
    oldest_first: bool,
    #[command(flatten)]
    client_args: ClientArgs,
}

impl AuditArgs {
    pub(super) fn run(self) -> Result<Found, Failed> {
        let Self { limit, oldest_first, client_args } = self;
        let records = client_args.run(|node| async move {
            let (mut records, mut from) = (Vec::new(), None);
            while (records.len() as u32) < limit {
                let left = limit - records.len() as u32;
                let page = node.access().audit(from, left, !oldest_first).await?;
                records.extend(page.records);
                match page.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
            Ok(records)
        });
        Ok(found(&records?))
    }
}

fn event(record: &AuditRecord) -> &'static str {
    match record.event() {
        AuditEvent::NotAuthenticated => "not authenticated",
        AuditEvent::TokenRefused => "token refused",
        AuditEvent::NotAllowed => "not allowed",
        AuditEvent::Granted => "granted",
        AuditEvent::Revoked => "revoked",
        AuditEvent::Cleared => "cleared",
        AuditEvent::Placed => "placed",
        AuditEvent::Unspecified if record.unreadable => "unreadable",
        AuditEvent::Unspecified => "unknown",
    }
}

/// When it was last, by the node that was called; by the leader, of what cannot be read.
fn last(record: &AuditRecord) -> String {
    utc(if record.unreadable { record.log_time_ms } else { record.last_ms })
}

fn document(record: &AuditRecord) -> Value {
    let offset = record.position.as_ref().map(|position| position.offset);
    json!({
        "offset": offset,
        "event": event(record),
        "count": record.count,
        "first": utc(record.first_ms),
        "last": utc(record.last_ms),
        "node": record.node,
        "who": record.who,
        "token": record.token,
        "address": record.address,
        "method": record.method,
        "resource": record.resource,
        "right": record.right,
        "why": record.why,
    })
}

/// What callers have sent is in here: on a terminal it moves no cursor.
fn line(record: &AuditRecord) -> Vec<String> {
    let text = |text: &str| match text {
        "" => "-".to_owned(),
        text => text.escape_debug().to_string(),
    };
    vec![
        last(record),
        event(record).to_owned(),
        record.count.to_string(),
        text(&record.who),
        text(&record.address),
        text(&record.resource),
        text(&record.right),
        text(&record.why),
    ]
}

fn found(records: &[AuditRecord]) -> Found {
    let documents: Vec<Value> = records.iter().map(document).collect();
    let rows: Vec<Vec<String>> = records.iter().map(line).collect();
    let head = ["LAST", "EVENT", "COUNT", "WHO", "FROM", "RESOURCE", "RIGHT", "WHY"];
    Found::new(json!({ "records": documents }), table(&head, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_sent_stays_on_its_line() {
        let record = AuditRecord { resource: "a\x1b[2J\nb".to_owned(), ..Default::default() };
        let line = line(&record).join(" ");
        assert!(line.chars().all(|letter| !letter.is_control()), "{line:?}");
    }
}
