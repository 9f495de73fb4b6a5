//! `palisade keys`: the ring of keys that the files of a node are sealed with. It speaks to no node: a node that
//! runs reads the file again by itself, and at once when it is sent SIGHUP.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use palisade::Error;
use palisade::backup::BackupError;
use palisade::encryption::{KeyEpoch, KeyError, KeyRing, Keys, SystemRandomness};
use palisade::inspect::{KeyNeeds, key_needs};
use serde_json::{Value, json};

use super::confirm::ConfirmArgs;
use super::failed::Failed;
use super::output::Found;
use super::runtime;
use super::table::table;
use crate::backups::open;

/// Make keys for what lies on disks, change them, and see what needs which.
#[derive(Subcommand)]
pub(super) enum KeysCommand {
    /// Make a ring with a first key.
    New(NewArgs),
    /// Say which epochs a ring has, and what needs them.
    Status(StatusArgs),
    /// Add an epoch, which seals from now on; what is sealed with the former stays readable.
    Rotate(RotateArgs),
    /// Let go of a key for good; refused while anything that is named needs it.
    Retire(RetireArgs),
}

/// Of `palisade keys new`.
#[derive(Args)]
pub(super) struct NewArgs {
    /// The new file: encryption.key_ring_file of nodes.
    #[arg(long, value_name = "FILE")]
    ring: PathBuf,
}

/// Of `palisade keys status`.
#[derive(Args)]
pub(super) struct StatusArgs {
    /// The ring.
    #[arg(long, value_name = "FILE")]
    ring: PathBuf,
    #[command(flatten)]
    places: Places,
}

/// Of `palisade keys rotate`.
#[derive(Args)]
pub(super) struct RotateArgs {
    /// The ring.
    #[arg(long, value_name = "FILE")]
    ring: PathBuf,
    /// Seal nothing from now on.
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// Of `palisade keys retire`.
#[derive(Args)]
pub(super) struct RetireArgs {
    /// The ring.
    #[arg(long, value_name = "FILE")]
    ring: PathBuf,
    /// The epoch whose key is to go.
    #[arg(long, value_name = "NUMBER", value_parser = epoch)]
    epoch: KeyEpoch,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// Where files lie that may need a key.
#[derive(Args)]
struct Places {
    /// A node's data directory, whether it runs or not; once for each that shares the ring.
    #[arg(long = "data-dir", value_name = "DIR")]
    data_dirs: Vec<PathBuf>,
    /// A directory of backups; once for each.
    #[arg(long, value_name = "DIR")]
    backups: Vec<PathBuf>,
}

/// A ring for what is looked at offline.
#[derive(Args)]
pub(super) struct RingArgs {
    /// The key ring, to open what is sealed.
    #[arg(long, value_name = "FILE")]
    key_ring: Option<PathBuf>,
}

impl RingArgs {
    pub(super) fn keys(&self) -> Result<Keys, Failed> {
        let ring = self.key_ring.as_deref().map(KeyRing::read).transpose()?;
        Ok(ring.map_or_else(Keys::none, Keys::new))
    }
}

fn epoch(text: &str) -> Result<KeyEpoch, String> {
    let number = text.parse().ok().and_then(KeyEpoch::new);
    number.ok_or_else(|| "an epoch is a number from 1".to_owned())
}

impl From<KeyError> for Failed {
    fn from(error: KeyError) -> Self {
        let what = error.to_string();
        match error {
            KeyError::Tampered { .. } => Self::new(
                "Damaged",
                what,
                "find out who writes there; then replace this node, or restore a backup",
            ),
            KeyError::InUse { .. } => {
                Self::new("InUse", what, "`palisade keys status` says what needs it")
            }
            KeyError::BadRing { .. } => {
                Self::new("UnreadableFile", what, "take a copy of the ring that is whole")
            }
            KeyError::NoRandomness => Self::new("InputOutput", what, "try again"),
            _ => Self::new("Sealed", what, "name the ring that has this epoch: --key-ring"),
        }
    }
}

impl KeysCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self {
            Self::New(args) => new(&args.ring),
            Self::Status(args) => status(&args),
            Self::Rotate(args) => rotate(&args),
            Self::Retire(args) => retire(&args),
        }
    }
}

/// Nobody else changes rings of this directory meanwhile.
fn hold(ring: &Path) -> Result<File, Failed> {
    let dir = ring.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let held = File::open(dir).and_then(|dir| dir.lock().map(|()| dir));
    held.map_err(|error| {
        let what = format!("{}: {error}", dir.display());
        Failed::new("UnreadableFile", what, "check its path and rights")
    })
}

fn new(path: &Path) -> Result<Found, Failed> {
    let _held = hold(path)?;
    if path.symlink_metadata().is_ok() {
        let what = format!("{} is there already", path.display());
        return Err(Failed::from(Error::AlreadyExists { what })
            .helping("`palisade keys rotate` adds a key to it"));
    }
    let mut ring = KeyRing::default();
    let epoch = ring.rotate(&SystemRandomness)?;
    ring.write(path)?;
    let text = format!(
        "made {} with key epoch {epoch}\nkeep a copy in a safe: without it, what is sealed is gone\n",
        path.display()
    );
    Ok(Found::new(json!({ "ring": path.display().to_string(), "epoch": epoch.get() }), text))
}

fn rotate(args: &RotateArgs) -> Result<Found, Failed> {
    let plan =
        format!("have every node that shares {} write what follows in clear", args.ring.display());
    if args.off
        && let Some(planned) = args.confirm.planned(&[plan])
    {
        return Ok(planned);
    }
    let _held = hold(&args.ring)?;
    let mut ring = KeyRing::read(&args.ring)?;
    let made = if args.off {
        ring.seal_no_more();
        None
    } else {
        Some(ring.rotate(&SystemRandomness)?)
    };
    ring.write(&args.ring)?;
    let done = match made {
        Some(epoch) => format!("key epoch {epoch} seals from now on"),
        None => "nothing is sealed from now on".to_owned(),
    };
    let text = format!(
        "{done}\ncopy the ring to the safe and to every node that shares it; each takes it within seconds, \
         or at SIGHUP\n"
    );
    let active = made.map(KeyEpoch::get);
    Ok(Found::new(json!({ "ring": args.ring.display().to_string(), "active": active }), text))
}

/// What needs an epoch: a place, and how many files of what kind.
#[derive(Default)]
struct Needs {
    by_epoch: BTreeMap<KeyEpoch, Vec<String>>,
    clear: Vec<String>,
    /// What may need any epoch.
    unknown: Vec<String>,
}

impl Places {
    fn needs(&self) -> Result<Needs, Failed> {
        let mut needs = Needs::default();
        for dir in &self.data_dirs {
            let found = key_needs(dir)?;
            needs.add(&dir.display().to_string(), &found);
        }
        for dir in &self.backups {
            let (complete, begun) = runtime()?.block_on(of_backups(dir))?;
            if !begun.is_empty() {
                let shown = format!("{}: not complete: backups {}", dir.display(), begun.join(" "));
                needs.unknown.push(shown);
            }
            for (epoch, ids) in complete {
                let shown = format!("{}: backups {}", dir.display(), ids.join(" "));
                match epoch {
                    Some(epoch) => needs.by_epoch.entry(epoch).or_default().push(shown),
                    None => needs.clear.push(shown),
                }
            }
        }
        Ok(needs)
    }
}

impl Needs {
    fn add(&mut self, dir: &str, found: &KeyNeeds) {
        let running = if found.is_running { " (running)" } else { "" };
        for (what, by_epoch) in
            [("log segments", &found.segments), ("snapshot files", &found.snapshots)]
        {
            for (epoch, count) in by_epoch {
                let shown = format!("{dir}{running}: {count} {what}");
                self.by_epoch.entry(*epoch).or_default().push(shown);
            }
        }
        if found.clear_segments > 0 {
            self.clear.push(format!("{dir}{running}: {} log segments", found.clear_segments));
        }
        if found.unknown_segments > 0 {
            let count = found.unknown_segments;
            self.unknown
                .push(format!("{dir}{running}: {count} log segments with a damaged header"));
        }
    }
}

/// The complete backups of a directory, by the epoch that each needs, and those that are not: one may be under way.
async fn of_backups(
    dir: &Path,
) -> Result<(BTreeMap<Option<KeyEpoch>, Vec<String>>, Vec<String>), Failed> {
    let place = open(dir).map(|(place, _)| place).map_err(|error| {
        let what = format!("{}: {error}", dir.display());
        Failed::new("UnreadableFile", what, "name the directory that backups lie in")
    })?;
    let mut found: BTreeMap<Option<KeyEpoch>, Vec<String>> = BTreeMap::new();
    let listed: Result<_, BackupError> = place.list().await;
    let mut begun = Vec::new();
    for backup in listed? {
        if !backup.complete {
            begun.push(backup.id.to_string());
            continue;
        }
        let chain = place.key_epochs(&backup.id).await?;
        let own = chain.into_iter().find(|(id, _)| *id == backup.id);
        let epoch = own.and_then(|(_, epoch)| epoch);
        found.entry(epoch).or_default().push(backup.id.to_string());
    }
    Ok((found, begun))
}

fn status(args: &StatusArgs) -> Result<Found, Failed> {
    let ring = KeyRing::read(&args.ring)?;
    let needs = args.places.needs()?;
    let none = Vec::new();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut documents: Vec<Value> = Vec::new();
    let mut unopened = Vec::new();
    let known: BTreeMap<KeyEpoch, String> =
        ring.epochs().map(|(epoch, state)| (epoch, state.to_string())).collect();
    let mut all: Vec<KeyEpoch> = known.keys().chain(needs.by_epoch.keys()).copied().collect();
    all.sort_unstable();
    all.dedup();
    for epoch in all {
        let state = known.get(&epoch).map_or("missing", String::as_str);
        let needed = needs.by_epoch.get(&epoch).unwrap_or(&none);
        if !needed.is_empty() && matches!(state, "missing" | "retired") {
            unopened.push(epoch);
        }
        let shown = if needed.is_empty() { "-".to_owned() } else { needed.join("; ") };
        rows.push(vec![epoch.to_string(), state.to_owned(), shown]);
        documents.push(json!({ "epoch": epoch.get(), "state": state, "needed_by": needed }));
    }
    if !needs.clear.is_empty() {
        rows.push(vec!["-".to_owned(), "clear".to_owned(), needs.clear.join("; ")]);
    }
    if !needs.unknown.is_empty() {
        rows.push(vec!["?".to_owned(), "unknown".to_owned(), needs.unknown.join("; ")]);
    }
    let document = json!({ "epochs": documents, "clear": needs.clear, "unknown": needs.unknown });
    let wrong = unopened.first().map(|epoch| {
        let what = format!("key epoch={epoch} is needed, and this ring does not open it");
        Failed::new("Sealed", what, "take a copy of the ring that has it")
    });
    Ok(Found::new(document, table(&["EPOCH", "STATE", "NEEDED BY"], &rows)).but(wrong))
}

fn retire(args: &RetireArgs) -> Result<Found, Failed> {
    let _held = hold(&args.ring)?;
    let mut ring = KeyRing::read(&args.ring)?;
    ring.retire(args.epoch)?;
    let epoch = args.epoch;
    let needs = args.places.needs()?;
    if !needs.unknown.is_empty() {
        let what = format!("key epoch={epoch} may be needed by {}", needs.unknown.join("; "));
        let help = "let a backup end or remove it; stop a node with a damaged log, or let it repair it first";
        return Err(Failed::new("InUse", what, help));
    }
    if let Some(needed) = needs.by_epoch.get(&epoch) {
        let what = format!("key epoch={epoch} is needed by {}", needed.join("; "));
        let help =
            "write to the node until the log has left it, or take newer backups and remove the old";
        return Err(Failed::new("InUse", what, help));
    }
    let looked: Vec<String> = args
        .places
        .data_dirs
        .iter()
        .chain(&args.places.backups)
        .map(|dir| dir.display().to_string())
        .collect();
    let looked = if looked.is_empty() { "nothing".to_owned() } else { looked.join(", ") };
    let steps = [
        format!("wipe the key of epoch {epoch} from {}", args.ring.display()),
        format!("lose for good whatever is sealed with it; looked for that in: {looked}"),
    ];
    if let Some(plan) = args.confirm.planned(&steps) {
        return Ok(plan);
    }
    ring.write(&args.ring)?;
    let text = format!("the key of epoch {epoch} is not in {} any more\n", args.ring.display());
    Ok(Found::new(json!({ "retired": epoch.get() }), text))
}
