//! `palisade wal`: the write-ahead log of a node that is not running, offline and read-only.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use palisade::encryption::KeyError;
use palisade::inspect::{
    GroupLog, ItemBody, RecordView, WalFiles, WalFrame, WalItem, WalPlace, WalVerdict,
};
use serde_json::{Map, Value, json};

use super::failed::Failed;
use super::hexdump::hexdump;
use super::keys::RingArgs;
use super::output::Found;
use super::printable::printable;
use super::table::table;

/// Frames that are shown if nothing else is said.
const FRAMES_DEFAULT: u64 = 1000;
/// Most that can be asked for at once.
const FRAMES_MAX: u64 = 100_000;
/// Bytes that are shown of what is no frame.
const DUMPED_BYTES_MAX: usize = 256;
/// Places without a frame that are listed.
const PLACES_MAX: usize = 100;

/// Look at the write-ahead log of a node that is not running; nothing is changed.
#[derive(Args)]
pub(super) struct WalCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show frames with the records in them, decoded; a hexdump of what is no frame.
    Dump(DumpArgs),
    /// Say whether all that was synced is there; exit code 6 if not.
    Verify(DirArgs),
    /// Say how many files, frames and entries there are, and of which groups.
    Stat(DirArgs),
}

#[derive(Args)]
struct DirArgs {
    /// The node's data directory, or its log's own.
    dir: PathBuf,
    #[command(flatten)]
    ring: RingArgs,
}

#[derive(Args)]
struct DumpArgs {
    /// The node's data directory, or its log's own.
    dir: PathBuf,
    #[command(flatten)]
    ring: RingArgs,
    /// Only this group's changes.
    #[arg(long, value_name = "NUMBER")]
    group: Option<u64>,
    /// From this batch on.
    #[arg(long, value_name = "BATCH", default_value_t = 1)]
    from: u64,
    /// Up to this batch, it included.
    #[arg(long, value_name = "BATCH", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// At most so many frames.
    #[arg(long, value_name = "FRAMES", default_value_t = FRAMES_DEFAULT,
        value_parser = clap::value_parser!(u64).range(1..=FRAMES_MAX))]
    limit: u64,
}

impl WalCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::Dump(args) => dump(&args),
            Action::Verify(args) => verify(&args),
            Action::Stat(args) => stat(&args),
        }
    }
}

fn dump(args: &DumpArgs) -> Result<Found, Failed> {
    let files = WalFiles::open(&args.dir, args.ring.keys()?)?;
    let (mut text, mut places, mut frames, mut more) = (String::new(), Vec::new(), 0, false);
    files.walk(args.from, &mut |place| {
        match place {
            WalPlace::Frame(frame) => {
                let items: Vec<&WalItem> =
                    frame.items.iter().filter(|it| wanted(it, args)).collect();
                if frame.seq > args.to || items.is_empty() {
                    return ControlFlow::Continue(());
                }
                if frames == args.limit {
                    more = true;
                    return ControlFlow::Break(());
                }
                frames += 1;
                frame_text(&mut text, &frame, &items);
                places.push(frame_json(&frame, &items));
            }
            WalPlace::NoFrame { segment, byte_pos, raw } if places.len() < FRAMES_MAX as usize => {
                let shown = &raw[..raw.len().min(DUMPED_BYTES_MAX)];
                let _ = writeln!(
                    text,
                    "segment {segment} byte {byte_pos}: no frame, {} bytes that are not zero",
                    raw.len()
                );
                text.push_str(&hexdump(byte_pos, shown));
                places.push(json!({
                    "place": "no_frame",
                    "segment": segment,
                    "byte_pos": byte_pos,
                    "bytes": raw.len(),
                    "hex": hex(shown),
                }));
            }
            WalPlace::NoFrame { .. } => {}
        }
        ControlFlow::Continue(())
    })?;
    if more {
        let _ = writeln!(text, "there is more: ask for it with --from or a higher --limit");
    }
    let document = json!({ "owner": owner(&files), "places": places, "more": more });
    Ok(Found::new(document, text))
}

fn wanted(item: &WalItem, args: &DumpArgs) -> bool {
    args.group.is_none_or(|group| item.group.is_some_and(|of| of.get() == group))
}

fn frame_text(text: &mut String, frame: &WalFrame, items: &[&WalItem]) {
    let WalFrame { segment, byte_pos, bytes, seq, durable, .. } = frame;
    let _ = writeln!(
        text,
        "batch {seq}  segment {segment} byte {byte_pos}  {bytes} bytes  synced up to {durable}"
    );
    for item in items {
        let group = item.group.map(|group| format!(" group {group}")).unwrap_or_default();
        let index = match item.index.get() {
            0 => String::new(),
            index => format!(" index {index}"),
        };
        let damaged = if item.damaged { "  while damaged" } else { "" };
        let _ = writeln!(text, "  {}{group}{index}  {} bytes{damaged}", item.kind, item.bytes);
        match &item.body {
            ItemBody::Nothing => {}
            ItemBody::Register(register) => {
                let _ = writeln!(text, "    {}", fields_text(&register.fields));
            }
            ItemBody::Undecodable(why) => {
                let _ = writeln!(text, "    cannot be decoded: {}", printable(why));
            }
            ItemBody::Sealed { epoch, why } => {
                let _ = writeln!(text, "    sealed with key epoch {epoch}: {why}");
            }
            ItemBody::Entry { term, log_time, changes_members, records } => {
                let time = log_time.map(|at| format!(" log_time={at}")).unwrap_or_default();
                let change = if *changes_members { " changes who takes part" } else { "" };
                let _ = writeln!(text, "    term={term}{time}{change}");
                for record in records {
                    let _ = writeln!(text, "    {}", record_text(record));
                }
            }
        }
    }
}

fn record_text(record: &RecordView) -> String {
    let command = match &record.command {
        Ok(command) => (*command).to_owned(),
        Err(why) => format!("cannot be decoded: {}", printable(why)),
    };
    let fields = fields_text(&record.fields);
    format!("offset {}  {command}  {} bytes  {fields}", record.offset, record.bytes)
}

fn fields_text(fields: &[(&'static str, String)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", printable(value))).collect();
    fields.join(" ")
}

fn frame_json(frame: &WalFrame, items: &[&WalItem]) -> Value {
    let items: Vec<Value> = items.iter().map(|item| item_json(item)).collect();
    json!({
        "place": "frame",
        "segment": frame.segment,
        "byte_pos": frame.byte_pos,
        "bytes": frame.bytes,
        "batch": frame.seq,
        "synced_up_to": frame.durable,
        "items": items,
    })
}

fn item_json(item: &WalItem) -> Value {
    let mut document = json!({
        "kind": item.kind,
        "group": item.group.map(|group| group.get()),
        "index": item.index.get(),
        "bytes": item.bytes,
        "damaged": item.damaged,
    });
    match &item.body {
        ItemBody::Nothing => {}
        ItemBody::Register(register) => document["register"] = fields_json(&register.fields),
        ItemBody::Undecodable(why) => document["undecodable"] = json!(why),
        ItemBody::Sealed { epoch, why } => {
            document["sealed"] = json!({ "key_epoch": epoch.get(), "why": why.to_string() });
        }
        ItemBody::Entry { term, log_time, changes_members, records } => {
            let records: Vec<Value> = records.iter().map(record_json).collect();
            document["entry"] = json!({
                "term": term.get(),
                "log_time": log_time.map(|at| at.get()),
                "changes_members": changes_members,
                "records": records,
            });
        }
    }
    document
}

fn record_json(record: &RecordView) -> Value {
    json!({
        "offset": record.offset.get(),
        "command": record.command.as_ref().ok(),
        "undecodable": record.command.as_ref().err(),
        "bytes": record.bytes,
        "proposer": { "session": record.proposer.0, "seq": record.proposer.1 },
        "fields": fields_json(&record.fields),
    })
}

fn fields_json(fields: &[(&'static str, String)]) -> Value {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn hex(raw: &[u8]) -> String {
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn owner(files: &WalFiles) -> Value {
    let (cluster, node, incarnation) = files.owner();
    json!({
        "cluster": format!("{:032x}", cluster.get()),
        "node": node.get(),
        "incarnation": format!("{:032x}", incarnation.get()),
    })
}

fn owner_text(files: &WalFiles) -> String {
    let (cluster, node, incarnation) = files.owner();
    format!("cluster {:032x}  node {node}  incarnation {:032x}\n", cluster.get(), incarnation.get())
}

fn verdict_name(verdict: WalVerdict) -> &'static str {
    match verdict {
        WalVerdict::Clean => "clean",
        WalVerdict::TornTail { .. } => "torn_tail",
        WalVerdict::Damaged { .. } => "damaged",
    }
}

fn verdict_text(verdict: WalVerdict) -> String {
    match verdict {
        WalVerdict::Clean => "clean: all that was written is there".to_owned(),
        WalVerdict::TornTail { segment, byte_pos } => format!(
            "torn tail: the last write was interrupted at segment {segment} byte {byte_pos}; \
             nobody was told that it was done, and a start cuts it"
        ),
        WalVerdict::Damaged { segment, byte_pos } => format!(
            "damaged: something that had been synced cannot be read, first at segment {segment} \
             byte {byte_pos}"
        ),
    }
}

fn verdict_json(verdict: WalVerdict) -> Value {
    let name = verdict_name(verdict);
    match verdict {
        WalVerdict::Clean => json!({ "verdict": name }),
        WalVerdict::TornTail { segment, byte_pos } | WalVerdict::Damaged { segment, byte_pos } => {
            json!({ "verdict": name, "segment": segment, "byte_pos": byte_pos })
        }
    }
}

/// What is read of all frames.
#[derive(Default)]
struct Counted {
    frames: u64,
    frame_bytes: u64,
    entries: u64,
    records: u64,
    batches: Option<(u64, u64)>,
    /// Entries, registers and records that hold and are still not what this release writes.
    undecodable: u64,
    /// Entries and registers that are sealed, and were not opened.
    sealed: u64,
    /// The first that does not open although its key is there.
    tampered: Option<KeyError>,
    /// Where there is no frame: segment, byte, bytes. The first ones.
    no_frames: Vec<(u64, u64, u64)>,
}

fn count(files: &WalFiles) -> Result<Counted, Failed> {
    let mut counted = Counted::default();
    files.walk(0, &mut |place| {
        match place {
            WalPlace::NoFrame { segment, byte_pos, raw } => {
                if counted.no_frames.len() < PLACES_MAX {
                    counted.no_frames.push((segment, byte_pos, raw.len() as u64));
                }
            }
            WalPlace::Frame(frame) => {
                counted.frames += 1;
                counted.frame_bytes += frame.bytes;
                let first = counted.batches.map_or(frame.seq, |(first, _)| first);
                counted.batches = Some((first, frame.seq));
                for item in &frame.items {
                    match &item.body {
                        ItemBody::Entry { records, .. } => {
                            counted.entries += 1;
                            counted.records += records.len() as u64;
                            let bad = records.iter().filter(|record| record.command.is_err());
                            counted.undecodable += bad.count() as u64;
                        }
                        ItemBody::Undecodable(_) => counted.undecodable += 1,
                        ItemBody::Sealed { why, .. } => {
                            counted.sealed += 1;
                            if matches!(why, KeyError::Tampered { .. }) {
                                counted.tampered.get_or_insert_with(|| why.clone());
                            }
                        }
                        ItemBody::Nothing | ItemBody::Register(_) => {}
                    }
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(counted)
}

fn verify(args: &DirArgs) -> Result<Found, Failed> {
    let files = WalFiles::open(&args.dir, args.ring.keys()?)?;
    let counted = count(&files)?;
    let groups: Vec<GroupLog> = files.groups().collect();
    let verdict = files.verdict();
    let mut text = owner_text(&files);
    let _ = writeln!(text, "{}", verdict_text(verdict));
    let _ = writeln!(
        text,
        "{} frames, {} entries, {} records",
        counted.frames, counted.entries, counted.records
    );
    if counted.sealed > 0 {
        let _ =
            writeln!(text, "{} entries and registers are sealed, not looked into", counted.sealed);
    }
    text.push_str(&groups_table(&groups));
    for (segment, byte_pos, bytes) in &counted.no_frames {
        let _ = writeln!(text, "no frame at segment {segment} byte {byte_pos}, {bytes} bytes");
    }
    let places: Vec<Value> = counted
        .no_frames
        .iter()
        .map(|(segment, byte_pos, bytes)| {
            json!({ "segment": segment, "byte_pos": byte_pos, "bytes": bytes })
        })
        .collect();
    let mut document = verdict_json(verdict);
    document["owner"] = owner(&files);
    document["frames"] = json!(counted.frames);
    document["entries"] = json!(counted.entries);
    document["records"] = json!(counted.records);
    document["undecodable"] = json!(counted.undecodable);
    document["sealed"] = json!(counted.sealed);
    document["unlisted_damaged"] = json!(files.is_unlisted_damaged());
    document["no_frames"] = json!(places);
    document["groups"] = json!(groups.iter().map(group_json).collect::<Vec<_>>());
    Ok(Found::new(document, text).but(wrong(&files, &groups, &counted)))
}

/// What is wrong with the log, if anything is: damage that nobody told of, and damage that is known.
fn wrong(files: &WalFiles, groups: &[GroupLog], counted: &Counted) -> Option<Failed> {
    let help = "start the node: its damaged groups neither vote nor campaign until the leader has \
                refilled them; if no replica has what is missing, restore a backup";
    if let WalVerdict::Damaged { .. } = files.verdict() {
        return Some(Failed::new(
            "Damaged",
            format!("the log is {}", verdict_text(files.verdict())),
            help,
        ));
    }
    if let Some(group) = groups.iter().find(|group| is_damaged(group)) {
        let what = format!("group {} of the log is {}", group.group, verdict_text(group.verdict));
        return Some(Failed::new("Damaged", what, help));
    }
    if files.is_unlisted_damaged() {
        let what = "batches of the log are missing, and nothing tells of which groups";
        return Some(Failed::new("Damaged", what, help));
    }
    // With another key nothing opens: that comes before what looks changed by it.
    let refused = files.refused().filter(|refused| !matches!(refused, KeyError::NotGiven { .. }));
    if let Some(refused) = refused.or(counted.tampered.as_ref()) {
        return Some(refused.clone().into());
    }
    (counted.undecodable > 0).then(|| {
        let what = format!(
            "{} entries, registers or records hold and cannot be decoded by this release",
            counted.undecodable
        );
        let help = "look at them with `palisade wal dump`; a newer release may have written them";
        Failed::new("Damaged", what, help)
    })
}

fn is_damaged(group: &GroupLog) -> bool {
    matches!(group.verdict, WalVerdict::Damaged { .. })
}

fn groups_table(groups: &[GroupLog]) -> String {
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|group| {
            vec![
                group.group.to_string(),
                group.first.to_string(),
                group.last.to_string(),
                verdict_name(group.verdict).to_owned(),
            ]
        })
        .collect();
    table(&["GROUP", "FIRST", "LAST", "VERDICT"], &rows)
}

fn group_json(group: &GroupLog) -> Value {
    let mut document = verdict_json(group.verdict);
    let holes: Vec<Value> =
        group.holes.iter().map(|(first, last)| json!([first.get(), last.get()])).collect();
    document["group"] = json!(group.group.get());
    document["first"] = json!(group.first.get());
    document["last"] = json!(group.last.get());
    document["holes"] = json!(holes);
    document["register"] = json!(group.register.as_ref().map(|it| fields_json(&it.fields)));
    document
}

fn stat(args: &DirArgs) -> Result<Found, Failed> {
    let files = WalFiles::open(&args.dir, args.ring.keys()?)?;
    let counted = count(&files)?;
    let groups: Vec<GroupLog> = files.groups().collect();
    let segments: Vec<_> = files.segments().collect();
    let segment_bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let (spares, spare_bytes) = files.spares();
    let mut text = owner_text(&files);
    let batches =
        counted.batches.map_or("none".to_owned(), |(first, last)| format!("{first} to {last}"));
    for (name, value) in [
        ("segments", format!("{}, {segment_bytes} bytes", segments.len())),
        ("spare files", format!("{spares}, {spare_bytes} bytes")),
        ("frames", format!("{}, {} bytes", counted.frames, counted.frame_bytes)),
        ("batches", batches),
        ("entries", counted.entries.to_string()),
        ("records", counted.records.to_string()),
        ("verdict", verdict_name(files.verdict()).to_owned()),
    ] {
        let _ = writeln!(text, "{name:<12}  {value}");
    }
    text.push_str(&groups_table(&groups));
    let segments: Vec<Value> = segments
        .iter()
        .map(|segment| {
            json!({
                "segment": segment.segment,
                "bytes": segment.bytes,
                "first_batch": segment.first_seq,
                "after_damage": segment.after_damage,
                "key_epoch": segment.key_epoch.map(|epoch| epoch.get()),
            })
        })
        .collect();
    let document = json!({
        "owner": owner(&files),
        "verdict": verdict_name(files.verdict()),
        "segments": segments,
        "segment_bytes": segment_bytes,
        "spares": spares,
        "spare_bytes": spare_bytes,
        "frames": counted.frames,
        "frame_bytes": counted.frame_bytes,
        "entries": counted.entries,
        "records": counted.records,
        "groups": groups.iter().map(group_json).collect::<Vec<_>>(),
    });
    Ok(Found::new(document, text))
}
