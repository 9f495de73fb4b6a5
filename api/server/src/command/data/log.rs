//! `palisade log`: logs of a running cluster.

use bytes::Bytes;
use clap::{Args, Subcommand};
use palisade_client::proto::log::v1::set_consumer_request::Change;
use palisade_client::proto::log::v1::{Forget, GetBoundsResponse, Retention};
use palisade_client::{Client, Entry, Log, Position};
use serde_json::{Value, json};

use super::position::{position, show};
use super::value::{Raw, ValueArgs};
use super::{FreshArgs, ResourceArgs, receipt_json, receipt_text};
use crate::command::confirm::ConfirmArgs;
use crate::command::failed::Failed;
use crate::command::output::{Found, Output};
use crate::command::table::table;

/// Append to logs, read and follow them, and say what they keep.
#[derive(Args)]
pub(in crate::command) struct LogCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Append values in one record: all of them or none.
    Append(AppendArgs),
    /// Read a part of a log.
    Scan(ScanArgs),
    /// Follow a log; with --json, one document on each line.
    Tail(TailArgs),
    /// Say how far a log goes, and what it keeps.
    Bounds(BoundsArgs),
    /// Remove the entries before a position.
    Trim(TrimArgs),
    /// Say or set how long entries are kept.
    Retention(RetentionArgs),
    /// Say where a named consumer is, or move it.
    Consumers(ConsumersArgs),
}

#[derive(Args)]
struct AppendArgs {
    #[command(flatten)]
    log: ResourceArgs,
    /// Text, @FILE, or @- for stdin; a text that begins with @ is written @@.
    #[arg(required = true)]
    values: Vec<String>,
    #[command(flatten)]
    form: ValueArgs,
    /// Only if the log ends here; for one value.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    expect_tail: Option<Position>,
}

#[derive(Args)]
struct ScanArgs {
    #[command(flatten)]
    log: ResourceArgs,
    /// Begin with this entry; with --backward, with the one before it.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    from: Option<Position>,
    /// The newest first.
    #[arg(long)]
    backward: bool,
    /// At most so many entries.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct TailArgs {
    #[command(flatten)]
    log: ResourceArgs,
    /// Begin with this entry; with the first that the log has if nothing is said.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    from: Option<Position>,
    /// Only what is appended from now on.
    #[arg(long, conflicts_with = "from")]
    new: bool,
    /// End after so many entries.
    #[arg(long)]
    count: Option<u64>,
    #[command(flatten)]
    form: ValueArgs,
}

#[derive(Args)]
struct BoundsArgs {
    #[command(flatten)]
    log: ResourceArgs,
    #[command(flatten)]
    fresh: FreshArgs,
}

#[derive(Args)]
struct TrimArgs {
    #[command(flatten)]
    log: ResourceArgs,
    /// The first entry that stays.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    before: Position,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

#[derive(Args)]
struct RetentionArgs {
    #[command(flatten)]
    log: ResourceArgs,
    /// Keep entries for so long, in log time.
    #[arg(long, value_name = "MILLISECONDS")]
    keep_ms: Option<u64>,
    /// Keep so many bytes of values.
    #[arg(long, value_name = "BYTES")]
    keep_bytes: Option<u64>,
    /// Keep everything.
    #[arg(long, conflicts_with_all = ["keep_ms", "keep_bytes"])]
    keep_all: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

#[derive(Args)]
struct ConsumersArgs {
    #[command(flatten)]
    log: ResourceArgs,
    /// The name of the consumer.
    consumer: String,
    /// Everything before this is done; never goes back.
    #[arg(long, value_name = "POSITION", value_parser = position, group = "change")]
    commit: Option<Position>,
    /// Go to this position, also back; with --confirm.
    #[arg(long, value_name = "POSITION", value_parser = position, group = "change")]
    reset: Option<Position>,
    /// Forget the consumer; with --confirm.
    #[arg(long, group = "change")]
    forget: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    fresh: FreshArgs,
}

impl LogCommand {
    pub(in crate::command) fn run(self, output: &Output) -> Result<Found, Failed> {
        match self.action {
            Action::Append(args) => args.run(),
            Action::Scan(args) => args.run(),
            Action::Tail(args) => args.run(output),
            Action::Bounds(args) => args.run(),
            Action::Trim(args) => args.run(),
            Action::Retention(args) => args.run(),
            Action::Consumers(args) => args.run(),
        }
    }
}

impl ResourceArgs {
    async fn log(&self, client: &Client) -> Result<Log<Raw>, Failed> {
        let schema = self.schema(client).await?;
        Ok(client.log::<Raw>(&self.name, &schema).writing_as(self.epoch))
    }
}

impl AppendArgs {
    fn run(&self) -> Result<Found, Failed> {
        let values = self.values.iter().map(|text| self.form.value(text));
        let values: Vec<Bytes> = values.collect::<Result<_, _>>()?;
        let values: Vec<Raw> = values.into_iter().map(Raw::from).collect();
        self.log.client.run(|client| async move {
            let log = self.log.log(&client).await?;
            let done = match (self.expect_tail, &values[..]) {
                (None, values) => log.append(values).await?,
                (Some(tail), [value]) => log.append_if(value.clone(), tail).await?,
                (Some(_), _) => {
                    let help = "append one value, or leave --expect-tail out";
                    return Err(Failed::new("Usage", "--expect-tail is for one value", help));
                }
            };
            let first = done.first.unwrap_or(Position { offset: done.receipt.offset, index: 0 });
            let positions = (0..values.len() as u32)
                .map(|at| show(&Position { index: first.index + at, ..first }));
            let positions: Vec<String> = positions.collect();
            let mut document = receipt_json(&done.receipt);
            document["positions"] = json!(positions);
            Ok(Found::new(document, positions.join("\n") + "\n"))
        })
    }
}

fn entry_json(entry: &Entry<Raw>, form: ValueArgs) -> Value {
    let mut document =
        json!({ "position": show(&entry.position), "log_time_ms": entry.log_time_ms });
    form.into(&mut document, "value", &entry.value.data);
    if let Some(schema) = &entry.value.schema {
        document["schema"] = json!(schema);
    }
    document
}

impl ScanArgs {
    fn run(&self) -> Result<Found, Failed> {
        self.log.client.run(|client| async move {
            let log = self.log.log(&client).await?;
            let (mut entries, mut from) = (Vec::new(), self.from);
            let (next, first, tail) = loop {
                let limit = self.limit - entries.len() as u32;
                // An answer has 4096 at most.
                let (limit, fresh) = (limit.min(4096), self.fresh.consistency());
                let page = match self.backward {
                    false => log.scan(from, limit, fresh).await?,
                    true => log.scan_back(from, limit, fresh).await?,
                };
                entries.extend(page.entries);
                from = page.next;
                if from.is_none() || self.limit as usize <= entries.len() {
                    break (page.next, page.first, page.tail);
                }
            };
            let row = |entry: &Entry<Raw>| {
                let (at, time) = (show(&entry.position), entry.log_time_ms.to_string());
                vec![at, time, self.form.text(&entry.value.data)]
            };
            let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
            let text = table(&["POSITION", "LOG TIME", "VALUE"], &rows);
            let documents: Vec<Value> =
                entries.iter().map(|entry| entry_json(entry, self.form)).collect();
            let document = json!({
                "entries": documents,
                "next": next.as_ref().map(show),
                "first": show(&first),
                "tail": show(&tail),
            });
            Ok(Found::new(document, text))
        })
    }
}

impl TailArgs {
    fn run(&self, output: &Output) -> Result<Found, Failed> {
        let lines = output.lines();
        self.log.client.run(|client| async move {
            let log = self.log.log(&client).await?;
            let from = match self.new {
                true => log.bounds(palisade_client::Consistency::Linearizable).await?.tail,
                false => self.from,
            };
            let mut tail = log.tail(from);
            let mut left = self.count.unwrap_or(u64::MAX);
            while left > 0 {
                let entry = tail.next().await?;
                let at = show(&entry.position);
                let text = format!("{at}  {}\n", self.form.text(&entry.value.data));
                if !lines.tell(&entry_json(&entry, self.form), &text) {
                    break;
                }
                left -= 1;
            }
            Ok(Found::nothing())
        })
    }
}

fn retention_json(retention: &Retention) -> Value {
    json!({ "keep_ms": retention.keep_ms, "keep_bytes": retention.keep_bytes })
}

impl BoundsArgs {
    fn run(&self) -> Result<Found, Failed> {
        self.log.client.run(|client| async move {
            let log = self.log.log(&client).await?;
            Ok(bounds(&log.bounds(self.fresh.consistency()).await?))
        })
    }
}

fn bounds(found: &GetBoundsResponse) -> Found {
    let (first, tail) = (found.first.unwrap_or_default(), found.tail.unwrap_or_default());
    let retention = found.retention.unwrap_or_default();
    let bound = |bound: Option<u64>| bound.map_or("-".to_owned(), |bound| bound.to_string());
    let rows = vec![vec![
        show(&first),
        show(&tail),
        found.entries.to_string(),
        found.bytes.to_string(),
        bound(retention.keep_ms),
        bound(retention.keep_bytes),
    ]];
    let head = ["FIRST", "TAIL", "ENTRIES", "BYTES", "KEEPS MS", "KEEPS BYTES"];
    let document = json!({
        "first": show(&first),
        "tail": show(&tail),
        "entries": found.entries,
        "bytes": found.bytes,
        "retention": retention_json(&retention),
    });
    Found::new(document, table(&head, &rows))
}

impl TrimArgs {
    fn run(&self) -> Result<Found, Failed> {
        let before = show(&self.before);
        let plan = format!("remove the entries of log {} before {before}", self.log.name);
        if let Some(planned) = self.confirm.planned(&[plan]) {
            return Ok(planned);
        }
        self.log.client.run(|client| async move {
            let first = self.log.log(&client).await?.trim(self.before).await?;
            let text = format!("the log begins at {}\n", show(&first));
            Ok(Found::new(json!({ "first": show(&first) }), text))
        })
    }
}

impl RetentionArgs {
    fn run(&self) -> Result<Found, Failed> {
        let retention = Retention { keep_ms: self.keep_ms, keep_bytes: self.keep_bytes };
        if retention == Retention::default() && !self.keep_all {
            return self.log.client.run(|client| async move {
                let log = self.log.log(&client).await?;
                let found = log.bounds(palisade_client::Consistency::Linearizable).await?;
                Ok(said(&found.retention.unwrap_or_default()))
            });
        }
        // Keeping more removes nothing.
        let plan = format!("set how long log {} keeps: {}", self.log.name, text(&retention));
        if !self.keep_all
            && let Some(planned) = self.confirm.planned(&[plan])
        {
            return Ok(planned);
        }
        self.log.client.run(|client| async move {
            self.log.log(&client).await?.set_retention(retention).await?;
            Ok(said(&retention))
        })
    }
}

fn text(retention: &Retention) -> String {
    match (retention.keep_ms, retention.keep_bytes) {
        (None, None) => "everything is kept".to_owned(),
        (Some(ms), None) => format!("the appends that follow remove what is older than {ms} ms"),
        (None, Some(bytes)) => {
            format!("the appends that follow remove what is beyond {bytes} bytes")
        }
        (Some(ms), Some(bytes)) => format!(
            "the appends that follow remove what is older than {ms} ms, and what is beyond {bytes} bytes"
        ),
    }
}

fn said(retention: &Retention) -> Found {
    Found::new(retention_json(retention), text(retention) + "\n")
}

impl ConsumersArgs {
    fn run(&self) -> Result<Found, Failed> {
        let change = match (self.commit, self.reset, self.forget) {
            (Some(to), ..) => Some(Change::Commit(to)),
            (_, Some(to), _) => Some(Change::Reset(to)),
            (.., true) => Some(Change::Forget(Forget {})),
            _ => None,
        };
        // Where a consumer was is nowhere else.
        let plan = match &change {
            Some(Change::Reset(to)) => {
                Some(format!("have consumer {} go on at {}", self.consumer, show(to)))
            }
            Some(Change::Forget(_)) => Some(format!("forget consumer {}", self.consumer)),
            _ => None,
        };
        if let Some(planned) = plan.and_then(|plan| self.confirm.planned(&[plan])) {
            return Ok(planned);
        }
        self.log.client.run(|client| async move {
            let log = self.log.log(&client).await?;
            let Some(change) = change else {
                let at = log.consumer(&self.consumer, self.fresh.consistency()).await?;
                let document = json!({ "consumer": self.consumer, "position": show(&at) });
                return Ok(Found::new(document, show(&at) + "\n"));
            };
            let receipt = log.set_consumer(&self.consumer, change).await?;
            Ok(Found::new(receipt_json(&receipt), receipt_text(&receipt)))
        })
    }
}
