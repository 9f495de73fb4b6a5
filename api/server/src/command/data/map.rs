//! `palisade map`: maps of a running cluster.

use bytes::Bytes;
use clap::{Args, Subcommand};
use palisade_client::proto::map::v1::{Interval, range_request::Keys};
use palisade_client::{Change, Client, Event, Map, Range, Row};
use serde_json::{Value, json};

use super::value::{Raw, ValueArgs};
use super::{FreshArgs, ResourceArgs, receipt_json, receipt_text};
use crate::command::confirm::ConfirmArgs;
use crate::command::failed::Failed;
use crate::command::output::{Found, Output};
use crate::command::table::table;

type RawMap = Map<Raw, Raw>;

/// Read and change maps, watch them, and look at what they were.
#[derive(Args)]
pub(in crate::command) struct MapCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Write the value of a key to stdout; exit code 3 if there is none.
    Get(GetArgs),
    /// Set a key.
    Put(PutArgs),
    /// Remove a key; one that is not there stays so.
    Delete(DeleteArgs),
    /// Show the rows of a range of keys, all of one moment.
    Range(RangeArgs),
    /// Tell every change; with --json, one document on each line.
    Watch(WatchArgs),
    /// Say how far back a map can be read, or set it.
    History(HistoryArgs),
}

#[derive(Args)]
struct GetArgs {
    #[command(flatten)]
    map: ResourceArgs,
    /// The key.
    key: String,
    /// As it was once this record was applied.
    #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
    at: u64,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct PutArgs {
    #[command(flatten)]
    map: ResourceArgs,
    /// The key.
    key: String,
    /// Text, @FILE, or @- for stdin; a text that begins with @ is written @@.
    value: String,
    /// Only if the key has this version; 0 if it must not be there.
    #[arg(long, value_name = "OFFSET")]
    expect_version: Option<u64>,
    /// Remove it by itself so much later, in log time.
    #[arg(long, value_name = "MILLISECONDS", conflicts_with = "expect_version")]
    ttl_ms: Option<u64>,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct DeleteArgs {
    #[command(flatten)]
    map: ResourceArgs,
    /// The key.
    key: String,
    /// Only if the key has this version.
    #[arg(long, value_name = "OFFSET")]
    expect_version: Option<u64>,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct RangeArgs {
    #[command(flatten)]
    map: ResourceArgs,
    /// Keys that begin with this.
    #[arg(long, conflicts_with_all = ["from", "end"])]
    prefix: Option<String>,
    /// Keys from this one on.
    #[arg(long)]
    from: Option<String>,
    /// Keys before this one.
    #[arg(long)]
    end: Option<String>,
    /// The highest first.
    #[arg(long)]
    backward: bool,
    /// At most so many rows.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    limit: u32,
    /// As the map was once this record was applied.
    #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
    at: u64,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct WatchArgs {
    #[command(flatten)]
    map: ResourceArgs,
    /// Tell changes behind this record; from now on if nothing is said.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Only of keys that begin with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// End after so many changes.
    #[arg(long)]
    count: Option<u64>,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct HistoryArgs {
    #[command(flatten)]
    map: ResourceArgs,
    /// Keep earlier versions for so long, in log time; 0 for the newest only.
    #[arg(long, value_name = "MILLISECONDS", requires = "changes_max")]
    keep_ms: Option<u64>,
    /// Keep so many changes at most.
    #[arg(long, value_name = "CHANGES", requires = "keep_ms")]
    changes_max: Option<u64>,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    fresh: FreshArgs,
}

impl MapCommand {
    pub(in crate::command) fn run(self, output: &Output) -> Result<Found, Failed> {
        match self.action {
            Action::Get(args) => args.run(),
            Action::Put(args) => args.run(),
            Action::Delete(args) => args.run(),
            Action::Range(args) => args.run(),
            Action::Watch(args) => args.run(output),
            Action::History(args) => args.run(),
        }
    }
}

impl ResourceArgs {
    async fn map(&self, client: &Client) -> Result<RawMap, Failed> {
        let schema = self.schema(client).await?;
        Ok(client.map::<Raw, Raw>(&self.name, &schema).writing_as(self.epoch))
    }
}

fn row_json(row: &Row<Raw, Raw>, form: ValueArgs) -> Value {
    let mut document = json!({ "version": row.version });
    form.into(&mut document, "key", &row.key.data);
    form.into(&mut document, "value", &row.value.data);
    if row.ends_at_ms > 0 {
        document["ends_at_ms"] = json!(row.ends_at_ms);
    }
    if let Some(schema) = &row.value.schema {
        document["schema"] = json!(schema);
    }
    document
}

impl GetArgs {
    fn run(&self) -> Result<Found, Failed> {
        let key = Raw::from(self.form.key(&self.key)?);
        self.map.client.run(|client| async move {
            let map = self.map.map(&client).await?;
            match map.get_at(&key, self.at, self.fresh.consistency()).await? {
                Some(row) => {
                    let text = self.form.text(&row.value.data) + "\n";
                    Ok(Found::new(row_json(&row, self.form), text))
                }
                None => {
                    let what = format!("map {} has no key {:?}", self.map.name, self.key);
                    Err(Failed::from(palisade::Error::NotFound { what })
                        .helping("`palisade map range` shows the keys that it has"))
                }
            }
        })
    }
}

impl PutArgs {
    fn run(&self) -> Result<Found, Failed> {
        let key = Raw::from(self.form.key(&self.key)?);
        let value = Raw::from(self.form.value(&self.value)?);
        self.map.client.run(|client| async move {
            let map = self.map.map(&client).await?;
            let receipt = match (self.expect_version, self.ttl_ms) {
                (Some(version), _) => map.put_if(&key, &value, version).await?,
                (None, Some(ttl_ms)) => map.put_with_ttl_ms(&key, &value, ttl_ms).await?,
                (None, None) => map.put(&key, &value).await?,
            };
            Ok(Found::new(receipt_json(&receipt), receipt_text(&receipt)))
        })
    }
}

impl DeleteArgs {
    fn run(&self) -> Result<Found, Failed> {
        let key = Raw::from(self.form.key(&self.key)?);
        self.map.client.run(|client| async move {
            let map = self.map.map(&client).await?;
            let receipt = match self.expect_version {
                Some(version) => map.delete_if(&key, version).await?,
                None => map.delete(&key).await?,
            };
            Ok(Found::new(receipt_json(&receipt), receipt_text(&receipt)))
        })
    }
}

impl RangeArgs {
    fn keys(&self) -> Result<Keys, Failed> {
        let key = |text: &Option<String>| {
            text.as_ref().map_or(Ok(Bytes::new()), |text| self.form.key(text))
        };
        Ok(match &self.prefix {
            Some(_) => Keys::Prefix(key(&self.prefix)?),
            None => Keys::Interval(Interval { from: key(&self.from)?, end: key(&self.end)? }),
        })
    }

    fn run(&self) -> Result<Found, Failed> {
        let keys = self.keys()?;
        self.map.client.run(|client| async move {
            let map = self.map.map(&client).await?;
            let range = Range { keys, backward: self.backward, limit: self.limit, at: self.at };
            let found = map.range_of(range, self.fresh.consistency()).await?;
            let cells = |row: &Row<Raw, Raw>| {
                let (key, value) = (&row.key.data, &row.value.data);
                vec![self.form.text(key), row.version.to_string(), self.form.text(value)]
            };
            let rows: Vec<Vec<String>> = found.rows.iter().map(cells).collect();
            let mut text = table(&["KEY", "VERSION", "VALUE"], &rows);
            if found.more {
                let more = "there is more: go on behind the last key, or with a higher --limit\n";
                text.push_str(more);
            }
            let rows: Vec<Value> = found.rows.iter().map(|row| row_json(row, self.form)).collect();
            Ok(Found::new(
                json!({ "rows": rows, "more": found.more, "offset": found.offset }),
                text,
            ))
        })
    }
}

/// One line for each change.
fn change(event: &Event<Raw, Raw>, change: &Change<Raw, Raw>, form: ValueArgs) -> (Value, String) {
    let mut document = json!({ "offset": event.position, "ended": change.ended });
    form.into(&mut document, "key", &change.key.data);
    document["now"] = change.now.as_ref().map_or(Value::Null, |row| row_json(row, form));
    document["before"] = change.before.as_ref().map_or(Value::Null, |row| row_json(row, form));
    let key = form.text(&change.key.data);
    let text = match (&change.now, change.ended) {
        (Some(row), _) => {
            format!("{}  put     {key}  {}\n", event.position, form.text(&row.value.data))
        }
        (None, false) => format!("{}  delete  {key}\n", event.position),
        (None, true) => format!("{}  end     {key}\n", event.position),
    };
    (document, text)
}

impl WatchArgs {
    fn run(&self, output: &Output) -> Result<Found, Failed> {
        let prefix = self.form.key(&self.prefix)?;
        let lines = output.lines();
        self.map.client.run(|client| async move {
            let map = self.map.map(&client).await?;
            let from = match self.from {
                Some(from) => from,
                // The place of a read that reflects all that was acknowledged.
                None => {
                    let now = map.bounds(palisade_client::Consistency::Linearizable).await?;
                    now.reflected.map_or(0, |reflected| reflected.offset)
                }
            };
            let mut watch = map.watch(from, &prefix);
            let mut left = self.count.unwrap_or(u64::MAX);
            while left > 0 {
                let event = watch.next().await?;
                for each in &event.changes {
                    let (document, text) = change(&event, each, self.form);
                    if left == 0 || !lines.tell(&document, &text) {
                        return Ok(Found::nothing());
                    }
                    left -= 1;
                }
            }
            Ok(Found::nothing())
        })
    }
}

impl HistoryArgs {
    fn run(&self) -> Result<Found, Failed> {
        if let (Some(keep_ms), Some(changes_max)) = (self.keep_ms, self.changes_max) {
            let plan = format!(
                "forget versions of map {} that are older than {keep_ms} ms, and all but {changes_max} changes",
                self.map.name
            );
            if let Some(planned) = self.confirm.planned(&[plan]) {
                return Ok(planned);
            }
        }
        self.map.client.run(|client| async move {
            let map = self.map.map(&client).await?;
            if let (Some(keep_ms), Some(changes_max)) = (self.keep_ms, self.changes_max) {
                let receipt = map.set_history(keep_ms, changes_max).await?;
                return Ok(Found::new(receipt_json(&receipt), receipt_text(&receipt)));
            }
            let found = map.bounds(self.fresh.consistency()).await?;
            let now = found.reflected.map_or(0, |reflected| reflected.offset);
            let document = json!({ "floor": found.floor, "offset": now, "keys": found.keys });
            let row = vec![found.floor.to_string(), now.to_string(), found.keys.to_string()];
            Ok(Found::new(document, table(&["FROM", "TO", "KEYS"], &[row])))
        })
    }
}
