//! `palisade backup`: backups of running nodes, and what is done with them where they lie.
//!
//! `create` asks a node, which writes into the directory of its own configuration (`backup.dir`). The others
//! need no node: they read the directory, wherever it was copied to.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use palisade::backup::{
    BackupError, BackupId, BackupPlace, BackupSummary, RestoreTo, Restored, restore, verify,
};
use palisade::{Error, GroupId, Offset};
use palisade_client::proto::admin::v1::create_response::Told;
use palisade_client::proto::admin::v1::{Backup, CreateRequest, Part};
use serde_json::{Value, json};

use super::client_args::ClientArgs;
use super::config_args::ConfigArgs;
use super::failed::Failed;
use super::keys::RingArgs;
use super::output::Found;
use super::progress::Progress;
use super::runtime;
use super::table::table;
use crate::backups::open;
use crate::security::files::make_dir;

/// Take backups of a running cluster; list, verify and restore them without one.
#[derive(Args)]
pub(super) struct BackupCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Take a backup of a running node, into the directory of its configuration.
    Create(CreateArgs),
    /// List the backups of a directory.
    List(ListArgs),
    /// Read every file of a backup and all before it, and say whether they are whole; exit code 6 if not.
    Verify(VerifyArgs),
    /// Make a node of a new cluster out of a backup: the one that its configuration opens then.
    Restore(RestoreArgs),
}

#[derive(Args)]
struct CreateArgs {
    /// What it is called: 1 to 64 letters, digits, '-', '_' or '.'; one that sorts by time is a good one.
    id: String,
    /// Only what came after this backup.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    parent: String,
    /// Of this node; of the first endpoint that answers if nothing is said.
    #[arg(long, value_name = "NUMBER")]
    node: Option<u64>,
    /// At most so many in a second; 0 for as fast as it goes.
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    bytes_per_second: u64,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct ListArgs {
    /// Where the backups lie.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
}

#[derive(Args)]
struct VerifyArgs {
    /// What it is called.
    id: String,
    /// Where the backups lie.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    ring: RingArgs,
}

#[derive(Args)]
struct RestoreArgs {
    /// What it is called.
    id: String,
    /// Where the backups lie.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// One group only as it was at this record; to the end of the backup if nothing is said.
    #[arg(long, value_name = "GROUP:OFFSET", value_parser = at)]
    at: Option<RestoreTo>,
    #[command(flatten)]
    config: ConfigArgs,
}

fn at(text: &str) -> Result<RestoreTo, String> {
    let parsed = text.split_once(':').and_then(|(group, offset)| {
        let (group, offset) = (group.parse().ok()?, offset.parse().ok()?);
        Some(RestoreTo::Offset { group: GroupId::new(group), offset: Offset::new(offset) })
    });
    parsed.ok_or_else(|| "as in 1:4711: a group's number and an offset in it".to_owned())
}

impl BackupCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self.action {
            Action::Create(args) => args.run(),
            Action::List(args) => list(&args.from),
            Action::Verify(args) => args.run(),
            Action::Restore(args) => args.run(),
        }
    }
}

impl CreateArgs {
    fn run(self) -> Result<Found, Failed> {
        let Self { id, parent, node, bytes_per_second, client } = self;
        client.run(|client| async move {
            let progress = Progress::waiting("backup");
            let asked = CreateRequest { id, parent, bytes_per_second };
            let mut backup = client.cluster().back_up(node, asked).await?;
            loop {
                match backup.next().await? {
                    Told::Progress(so_far) => {
                        progress.says(&format!("{} files, {} bytes", so_far.files, so_far.bytes));
                    }
                    Told::Backup(backup) => return Ok(created(&backup)),
                }
            }
        })
    }
}

fn created(backup: &Backup) -> Found {
    let row = |part: &Part| {
        let numbers = [part.group, part.from, part.to, part.files, part.bytes];
        numbers.map(|number| number.to_string()).to_vec()
    };
    let rows: Vec<Vec<String>> = backup.parts.iter().map(row).collect();
    let part = |part: &Part| {
        json!({
            "group": part.group,
            "from": part.from,
            "to": part.to,
            "log_time_ms": part.log_time_ms,
            "files": part.files,
            "bytes": part.bytes,
        })
    };
    let parts: Vec<Value> = backup.parts.iter().map(part).collect();
    let parent = (!backup.parent.is_empty()).then_some(&backup.parent);
    let document = json!({ "id": backup.id, "parent": parent, "groups": parts });
    Found::new(document, table(&PARTS, &rows))
}

const PARTS: [&str; 5] = ["GROUP", "FROM", "TO", "FILES", "BYTES"];

fn place(dir: &Path) -> Result<BackupPlace, Failed> {
    let opened = open(dir).map(|(place, _)| place);
    opened.map_err(|error| {
        let what = format!("{}: {error}", dir.display());
        match error.kind() {
            std::io::ErrorKind::NotFound => Failed::from(Error::NotFound { what }).helping(
                "name the directory that backups lie in: backup.dir of the node, or a copy",
            ),
            _ => Failed::new("InputOutput", what, "check the rights to read that place"),
        }
    })
}

fn list(dir: &Path) -> Result<Found, Failed> {
    let listed = runtime()?.block_on(place(dir)?.list())?;
    let state = |complete| if complete { "complete" } else { "did not come to its end" };
    let rows: Vec<Vec<String>> =
        listed.iter().map(|it| vec![it.id.to_string(), state(it.complete).to_owned()]).collect();
    let documents: Vec<Value> =
        listed.iter().map(|it| json!({ "id": it.id.as_str(), "complete": it.complete })).collect();
    Ok(Found::new(json!({ "backups": documents }), table(&["BACKUP", "STATE"], &rows)))
}

fn summary_json(summary: &BackupSummary) -> Value {
    let groups = summary.groups.iter().map(|(group, part)| {
        json!({
            "group": group.get(),
            "from": part.from.get(),
            "to": part.to.get(),
            "log_time_ms": part.log_time.get(),
            "files": part.files,
            "bytes": part.bytes,
        })
    });
    json!({
        "id": summary.id.as_str(),
        "parent": summary.parent.as_ref().map(BackupId::as_str),
        "cluster": format!("{:032x}", summary.cluster.get()),
        "groups": groups.collect::<Vec<_>>(),
    })
}

impl VerifyArgs {
    fn run(self) -> Result<Found, Failed> {
        let place = place(&self.from)?.with_keys(self.ring.keys()?);
        let id = BackupId::new(&self.id)?;
        let chain = runtime()?.block_on(verify(&place, &id))?;
        let rows = chain.iter().flat_map(|backup| {
            let kind = if backup.parent.is_none() { "full" } else { "incremental" };
            backup.groups.iter().map(move |(group, part)| {
                vec![
                    backup.id.to_string(),
                    kind.to_owned(),
                    group.to_string(),
                    part.from.to_string(),
                    part.to.to_string(),
                    part.files.to_string(),
                    part.bytes.to_string(),
                ]
            })
        });
        let rows: Vec<Vec<String>> = rows.collect();
        let head = ["BACKUP", "KIND", "GROUP", "FROM", "TO", "FILES", "BYTES"];
        let text = table(&head, &rows) + "every file is what was written\n";
        let chain: Vec<Value> = chain.iter().map(summary_json).collect();
        Ok(Found::new(json!({ "chain": chain }), text))
    }
}

impl RestoreArgs {
    fn run(self) -> Result<Found, Failed> {
        let (place, id) = (place(&self.from)?, BackupId::new(&self.id)?);
        let node = self.config.config()?.node;
        let to = self.at.unwrap_or(RestoreTo::End);
        make_dir(&node.data_dir).map_err(|error| {
            let what = format!("could not make {}: {error}", node.data_dir.display());
            Failed::new("InputOutput", what, "check the rights and the space there")
        })?;
        let builder = node.builder().keys(node.keys()?);
        let restored = runtime()?.block_on(restore(&place, &id, &builder, to))?;
        Ok(told(&restored, &node.data_dir))
    }
}

fn told(restored: &Restored, dir: &Path) -> Found {
    let groups = &restored.groups;
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|(group, found)| vec![group.to_string(), found.digest.offset.to_string()])
        .collect();
    let documents: Vec<Value> = groups
        .iter()
        .map(|(group, found)| json!({ "group": group.get(), "offset": found.digest.offset.get() }))
        .collect();
    let mut text = table(&["GROUP", "RESTORED TO"], &rows);
    text.push_str("start it with the same configuration: `palisade node`; it is the only voter\n");
    text.push_str("open each resource with a higher epoch than before: older writers are fenced\n");
    text.push_str("what is not placed at its provider is used once `palisade directory alter --place` says so\n");
    Found::new(json!({ "data_dir": dir.display().to_string(), "groups": documents }), text)
}

impl From<BackupError> for Failed {
    fn from(error: BackupError) -> Self {
        let what = error.to_string();
        let help = match &error {
            BackupError::Engine(error) => return error.clone().into(),
            BackupError::Key(error) => return error.clone().into(),
            BackupError::Damaged { .. } => {
                let help = "restore an older backup, or fetch that file again from another copy";
                return Self::new("Damaged", what, help);
            }
            BackupError::Missing { .. } => "`palisade backup list` shows what is there",
            BackupError::UnknownFormat { .. } => "use the release that wrote it, or a later one",
            BackupError::Foreign { .. } => "keep a directory for each cluster",
            BackupError::BrokenChain { .. } => "restore an older backup, and take a full one",
            BackupError::Compacted { .. } => "restore an older backup of that group",
            BackupError::InvalidArgument { .. } => {
                "a restore needs an empty directory, a new cluster's number, and no other voters"
            }
            BackupError::Store { .. } => "check the rights and the space of that place",
            _ => "see docs/backup.md of the engine",
        };
        let code = match error {
            BackupError::Compacted { .. } => "Compacted",
            _ => error.failure().as_str(),
        };
        Self::of_set(code, error.failure(), what, help.to_owned())
    }
}
