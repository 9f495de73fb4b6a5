//! Entries of logs, for people: as text where they are text, in hex where not, and never more than so much.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use palisade::{
    Direction, Error, LogEntry, LogPosition, LogicalResourceName, Offset, ReadConsistency,
    ReplicatedLog,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Answer, asked};
use crate::grpc::Raw;
use crate::observe::Observed;
use crate::security::audit::{AUDIT_LOG, AuditRecord};

/// Entries of one answer, and those that it has if nothing is said.
const ENTRIES_MAX: usize = 200;
const ENTRIES: usize = 50;
/// Bytes of a value that are shown.
const VALUE_BYTES_MAX: usize = 2048;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfLog {
    resource: String,
    from: Option<u64>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfAudit {
    from: Option<u64>,
    limit: Option<usize>,
}

/// A value as it is shown: what it is shown as, the text, and whether that is all of it.
fn shown(value: &[u8]) -> (&'static str, String, bool) {
    let head = &value[..value.len().min(VALUE_BYTES_MAX)];
    let cut = head.len() < value.len();
    let is_plain = |text: &str| !text.chars().any(|c| c.is_control() && !"\n\r\t".contains(c));
    match std::str::from_utf8(value) {
        Ok(text) if is_plain(text) => {
            let is_json =
                matches!(serde_json::from_str(text), Ok(Value::Object(_) | Value::Array(_)));
            // As it was written: numbers that are too long for a browser stay what they are.
            let end = text.floor_char_boundary(head.len());
            (if is_json { "json" } else { "text" }, text[..end].to_owned(), cut)
        }
        _ => ("hex", head.iter().map(|byte| format!("{byte:02x}")).collect(), cut),
    }
}

fn entry(entry: &LogEntry<Raw>) -> Value {
    let data = &entry.value.data;
    let (kind, text, cut) = shown(data);
    json!({
        "offset": entry.position.offset.get(),
        "index": entry.position.index,
        "log_time_ms": entry.log_time.get(),
        "bytes": data.len(),
        "as": kind,
        "text": text,
        "cut": cut,
    })
}

/// An entry of the audit, as it says what happened; one that cannot be read says that.
fn audited(entry: &LogEntry<Raw>) -> Value {
    let (offset, log_time_ms) = (entry.position.offset.get(), entry.log_time.get());
    match AuditRecord::decode(&entry.value.data) {
        Ok(AuditRecord { facts, count, first_ms, last_ms, node }) => json!({
            "offset": offset,
            "log_time_ms": log_time_ms,
            "event": facts.event.as_str(),
            "count": count,
            "first_ms": first_ms,
            "last_ms": last_ms,
            "node": node,
            "who": facts.who,
            "token": facts.token,
            "address": facts.address,
            "method": facts.method,
            "resource": facts.resource,
            "right": facts.right,
            "why": facts.why,
        }),
        Err(error) => json!({
            "offset": offset,
            "log_time_ms": log_time_ms,
            "event": "unreadable",
            "why": error.to_string(),
        }),
    }
}

/// Entries from an offset on, as `show` shows each; without one, the last there are.
async fn page(
    observed: &Observed,
    name: &str,
    from: Option<u64>,
    limit: Option<usize>,
    show: impl Fn(&LogEntry<Raw>) -> Value,
) -> Result<Value, Error> {
    let name = LogicalResourceName::new(name)?;
    let engine = observed.engine();
    let found = engine.directory().describe(&name, ReadConsistency::Local).await?.value;
    let schema = found.schemas.first().map(|schema| schema.id.clone());
    let schema = schema.ok_or_else(|| Error::NotFound { what: format!("schema of {name}") })?;
    let log = ReplicatedLog::<Raw>::open_reader(engine, &name, &schema).await?;
    let limit = limit.unwrap_or(ENTRIES).clamp(1, ENTRIES_MAX);
    let bounds = log.bounds(ReadConsistency::Local).await?.value;
    // One that reaches below what was removed begins with what is there.
    let (from, direction) = match from {
        Some(from) => (LogPosition::from(Offset::new(from)).max(bounds.first), Direction::Forward),
        None => (bounds.tail, Direction::Backward),
    };
    let page = match log.scan(from, direction, limit, ReadConsistency::Local).await {
        Ok(read) => read.value.entries,
        // Nothing is left of it, or it went meanwhile.
        Err(Error::Trimmed { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut entries: Vec<Value> = page.iter().map(show).collect();
    if direction == Direction::Backward {
        entries.reverse();
    }
    Ok(json!({
        "resource": name.as_str(),
        "group": found.group.get(),
        "schema": schema.as_str(),
        "first": bounds.first.offset.get(),
        "tail": bounds.tail.offset.get(),
        "count": bounds.entries,
        "bytes": bounds.bytes,
        "entries": entries,
    }))
}

pub(super) async fn log(
    State(admin): State<Admin>,
    query: Result<Query<OfLog>, QueryRejection>,
) -> Answer {
    let OfLog { resource, from, limit } = asked(query)?;
    admin.may_show()?;
    Ok(Json(page(&admin.observed()?, &resource, from, limit, entry).await?))
}

/// The audit log, if the node keeps one.
pub(super) async fn audit(
    State(admin): State<Admin>,
    query: Result<Query<OfAudit>, QueryRejection>,
) -> Answer {
    let OfAudit { from, limit } = asked(query)?;
    admin.may_show()?;
    match page(&admin.observed()?, AUDIT_LOG, from, limit, audited).await {
        Err(Error::NotFound { .. }) => {
            Ok(Json(json!({ "resource": AUDIT_LOG, "kept": false, "entries": [] })))
        }
        found => {
            let mut found = found?;
            found["kept"] = json!(true);
            Ok(Json(found))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_as_what_it_is() {
        assert_eq!(shown(b"{\"n\":18446744073709551616}").0, "json");
        assert_eq!(shown(b"{\"n\":18446744073709551616}").1, "{\"n\":18446744073709551616}");
        assert_eq!(shown("häuser\n".as_bytes()), ("text", "häuser\n".to_owned(), false));
        assert_eq!(shown(b"12"), ("text", "12".to_owned(), false));
        assert_eq!(shown(&[0, 255]), ("hex", "00ff".to_owned(), false));
        assert_eq!(shown(b"a\x1b[2J").0, "hex", "what could steer a terminal is no text");
        assert_eq!(shown(b""), ("text", String::new(), false));
    }

    #[test]
    fn no_more_is_shown_than_the_bound() {
        let (kind, text, cut) = shown("ä".repeat(VALUE_BYTES_MAX).as_bytes());
        assert_eq!((kind, text.len(), cut), ("text", VALUE_BYTES_MAX, true));
        let odd = format!("a{}", "ä".repeat(VALUE_BYTES_MAX));
        assert_eq!(shown(odd.as_bytes()).1.len(), VALUE_BYTES_MAX - 1);
        let (kind, text, cut) = shown(&[0; VALUE_BYTES_MAX + 1]);
        assert_eq!((kind, text.len(), cut), ("hex", 2 * VALUE_BYTES_MAX, true));
    }
}
