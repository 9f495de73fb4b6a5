//! `palisade ca`: makes the authorities of a cluster, issues leaves, and puts new authorities in the place of
//! old ones.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use palisade::{ClusterId, Error, NodeId};
use serde::Serialize;
use serde_json::json;

use super::confirm::ConfirmArgs;
use super::failed::Failed;
use super::output::Found;
use crate::config::cluster;
use crate::security::ca::{Authority, Ca, CaError, LEAF_HOURS, LeafOrder, write_bundle};

/// Make certificates for a cluster: its authorities, and leaves for nodes and callers.
#[derive(Subcommand)]
pub(super) enum CaCommand {
    /// Make the two authorities of a cluster, in a new directory that stays with who runs it.
    Init(InitArgs),
    /// Issue a leaf for a node or a caller, or renew it.
    Issue(IssueArgs),
    /// Put a new authority in the place of one; leaves of both are taken until the former is dropped.
    Rotate(RotateArgs),
}

/// Of `palisade ca init`.
#[derive(Args)]
pub(super) struct InitArgs {
    /// The directory to make.
    #[arg(long)]
    dir: PathBuf,
    /// The cluster's number, 32 hex digits, as in the configuration of its nodes.
    #[arg(long, value_parser = cluster)]
    cluster: ClusterId,
}

/// Of `palisade ca issue`.
#[derive(Args)]
pub(super) struct IssueArgs {
    /// The directory of the authorities.
    #[arg(long)]
    dir: PathBuf,
    /// Whom it is for.
    #[command(flatten)]
    whom: Whom,
    /// Where to write the leaf, its key, and whom it is to believe.
    #[arg(long)]
    out: PathBuf,
    /// A signing request (PEM) with the key to be used; without it a key is made.
    #[arg(long)]
    csr: Option<PathBuf>,
    /// A host by which callers reach the node; once for each.
    #[arg(long = "dns")]
    dns: Vec<String>,
    /// An address by which callers reach the node; once for each.
    #[arg(long = "ip")]
    ips: Vec<IpAddr>,
    /// How long it lives.
    #[arg(long, default_value_t = LEAF_HOURS)]
    hours: u32,
    /// Replace the leaf that is there, and its key.
    #[arg(long)]
    renew: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// A node, by its number.
    #[arg(long)]
    node: Option<u64>,
    /// A caller, by its name.
    #[arg(long)]
    client: Option<String>,
}

/// Of `palisade ca rotate`.
#[derive(Args)]
pub(super) struct RotateArgs {
    /// The directory of the authorities.
    #[arg(long)]
    dir: PathBuf,
    /// Which of the two.
    #[arg(value_enum)]
    authority: WhichAuthority,
    /// Drop the former ones from the bundle: once every leaf is of the new one.
    #[arg(long)]
    drop_former: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// Which of the two authorities.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum WhichAuthority {
    /// The one that issues nodes.
    Peer,
    /// The one that issues callers.
    Client,
}

/// What was done.
#[derive(Debug, Serialize)]
struct CaDone {
    done: String,
    /// Files that were written, but for the keys of authorities.
    files: Vec<PathBuf>,
    /// What to do now.
    next: String,
}

impl From<CaDone> for Found {
    fn from(done: CaDone) -> Self {
        let files: String =
            done.files.iter().map(|file| format!("  {}\n", file.display())).collect();
        let text = format!("{}\n{files}{}\n", done.done, done.next);
        Self::new(json!(done), text)
    }
}

impl From<CaError> for Failed {
    fn from(error: CaError) -> Self {
        let what = error.to_string();
        match error {
            CaError::Exists { .. } => Self::from(Error::AlreadyExists { what }),
            CaError::Invalid { .. } => Self::from(Error::InvalidArgument { what }),
            CaError::Io { .. } => {
                Self::new("InputOutput", what, "name a place that is there and may be written to")
            }
            CaError::Damaged { .. } => {
                Self::new("Damaged", what, "restore the directory, or make new authorities")
            }
        }
    }
}

impl CaCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        if let Self::Rotate(args) = &self
            && args.drop_former
        {
            let plan = format!(
                "take the former authorities out of the bundle in {}: every leaf that they issued is refused \
                 once nodes have it",
                args.dir.display()
            );
            if let Some(planned) = args.confirm.planned(&[plan]) {
                return Ok(planned);
            }
        }
        Ok(done(self)?.into())
    }
}

fn done(command: CaCommand) -> Result<CaDone, CaError> {
    match command {
        CaCommand::Init(args) => init(&args.dir, args.cluster),
        CaCommand::Issue(args) => issue(&args),
        CaCommand::Rotate(args) => rotate(&args),
    }
}

fn init(dir: &Path, cluster: ClusterId) -> Result<CaDone, CaError> {
    Ca::init(dir, cluster)?;
    Ok(CaDone {
        done: format!("made the authorities of cluster={:032x}", cluster.get()),
        files: vec![dir.to_owned()],
        next: "issue leaves with `palisade ca issue`; keep this directory off the nodes".to_owned(),
    })
}

fn issue(args: &IssueArgs) -> Result<CaDone, CaError> {
    let ca = Ca::open(&args.dir)?;
    let (subject, name) = match (&args.whom.node, &args.whom.client) {
        (Some(0), _) | (None, None) => {
            return Err(CaError::Invalid { why: "nodes are numbered from 1".to_owned() });
        }
        (Some(node), _) => (ca.node(NodeId::new(*node)), format!("node-{node}")),
        (None, Some(client)) => (ca.client(client)?, format!("client-{client}")),
    };
    let order =
        LeafOrder { subject, dns: args.dns.clone(), ips: args.ips.clone(), hours: args.hours };
    let leaf = match &args.csr {
        None => ca.issue(&order)?,
        Some(path) => {
            let io = |source| CaError::Io { path: path.clone(), source };
            ca.sign(&order, &std::fs::read_to_string(path).map_err(io)?)?
        }
    };
    leaf.write(&args.out, &name, args.renew)?;
    let mut files = vec![args.out.join(format!("{name}.pem"))];
    if leaf.key_pem.is_some() {
        files.push(args.out.join(format!("{name}.key")));
    }
    // A node believes both: peers, and callers. A caller believes nodes.
    let both = [Authority::Peer, Authority::Client];
    let believed = if args.whom.node.is_some() { &both[..] } else { &both[..1] };
    for authority in believed {
        files.push(write_bundle(&args.out, *authority, &ca.bundle(*authority)?)?);
    }
    let hours = args.hours;
    Ok(CaDone {
        done: format!("issued {}, for {hours} h", order.subject),
        files,
        next: "renew it with --renew before it expires; a running node takes it by itself"
            .to_owned(),
    })
}

fn rotate(args: &RotateArgs) -> Result<CaDone, CaError> {
    let ca = Ca::open(&args.dir)?;
    let authority = match args.authority {
        WhichAuthority::Peer => Authority::Peer,
        WhichAuthority::Client => Authority::Client,
    };
    let files = vec![args.dir.join(authority.to_string()).join("bundle.pem")];
    let (done, next) = if args.drop_former {
        ca.drop_former(authority)?;
        (
            "dropped the former authorities",
            "give every node the bundle: what they issued is refused then",
        )
    } else {
        ca.rotate(authority)?;
        (
            "made a new authority, which issues from now on; leaves of both are taken",
            "give every node the bundle, then renew every leaf, then rotate with --drop-former",
        )
    };
    Ok(CaDone { done: done.to_owned(), files, next: next.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use palisade::tls::CertificateRole;

    use super::*;
    use crate::security::tls::TlsFiles;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: CaCommand,
    }

    fn palisade_ca(words: &[&str]) -> Result<CaDone, String> {
        let words = std::iter::once(&"palisade-ca").chain(words);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        done(cli.command).map_err(|error| error.to_string())
    }

    const SEVEN: &str = "00000000000000000000000000000007";

    /// What the page says to type makes files that a node and a caller open with.
    #[test]
    fn the_files_are_what_a_node_and_a_caller_need() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (ca, node, caller) = (&*path("ca"), &*path("node-1"), &*path("reports"));
        palisade_ca(&["init", "--dir", ca, "--cluster", SEVEN]).unwrap();
        assert!(palisade_ca(&["init", "--dir", ca, "--cluster", SEVEN]).is_err());
        let issue =
            ["issue", "--dir", ca, "--node", "1", "--dns", "localhost", "--ip", "127.0.0.1"];
        let issue = [&issue[..], &["--out", node]].concat();
        let done = palisade_ca(&issue).unwrap();
        assert!(done.files.iter().all(|file| file.exists()), "{done:?}");
        assert!(palisade_ca(&issue).unwrap_err().contains("is there already"));
        palisade_ca(&[&issue[..], &["--renew"]].concat()).unwrap();
        palisade_ca(&["issue", "--dir", ca, "--client", "reports", "--out", caller]).unwrap();

        let files = |dir: &str, leaf: &str, believed: &str| {
            let dir = Path::new(dir);
            TlsFiles {
                certificates: dir.join(format!("{leaf}.pem")),
                key: dir.join(format!("{leaf}.key")),
                authorities: dir.join(format!("{believed}-authorities.pem")),
            }
        };
        let (cluster, one) = (ClusterId::new(7), NodeId::new(1));
        let opens = || files(node, "node-1", "peer").peers(cluster, one).map(|_| ());
        opens().unwrap();
        files(node, "node-1", "client").callers(cluster, CertificateRole::Node).unwrap();
        files(caller, "client-reports", "peer").callers(cluster, CertificateRole::Client).unwrap();

        palisade_ca(&["rotate", "--dir", ca, "peer"]).unwrap();
        palisade_ca(&[&issue[..], &["--renew"]].concat()).unwrap();
        opens().unwrap();
        palisade_ca(&["rotate", "--dir", ca, "peer", "--drop-former"]).unwrap();
        palisade_ca(&[&issue[..], &["--renew"]].concat()).unwrap();
        opens().unwrap();
        for wrong in [
            &["issue", "--dir", ca, "--out", node][..],
            &["issue", "--dir", ca, "--out", node, "--node", "0"],
            &["issue", "--dir", ca, "--out", node, "--node", "2", "--client", "a"],
            &["issue", "--dir", ca, "--out", node, "--client", "../a"],
            &["issue", "--dir", node, "--out", node, "--node", "2"],
            &["rotate", "--dir", ca, "both"],
            // As it is written everywhere else, or not at all.
            &["init", "--dir", "other", "--cluster", "7"],
        ] {
            assert!(palisade_ca(wrong).is_err(), "{wrong:?}");
        }
    }
}
