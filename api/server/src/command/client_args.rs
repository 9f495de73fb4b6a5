//! How a subcommand reaches a cluster: its nodes, who calls, and what a refusal of theirs comes to.
//!
//! ```text
//! --endpoint URL      PALISADE_ENDPOINTS   the nodes; the next is asked if one does not serve
//! --dir DIR                                the nodes of `palisade up`, by the directory that it was given
//! --cert-file FILE    PALISADE_CERT_FILE   who calls, with --key-file FILE
//! --ca-file FILE      PALISADE_CA_FILE     who vouches for the nodes
//! --token-file FILE   PALISADE_TOKEN_FILE  a capability token
//! ```
//! Nothing named: the nodes of `palisade-local`, if that is a directory of `palisade up`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use palisade::Error;
use palisade_client::{Client, Failure};

use super::failed::{Failed, OUTCOME_UNKNOWN};
use super::runtime;
use super::up::LOCAL_DIR;
use crate::local::LocalCluster;
use crate::security::files::{read, read_secret};

const HEADING: &str = "How to reach the cluster";
const ENDPOINTS: &str = "PALISADE_ENDPOINTS";

/// Which cluster, and as whom.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = HEADING)]
pub(super) struct ClientArgs {
    /// A node, as https://HOST:PORT, or http:// for one that does without certificates; once for each
    /// [env: PALISADE_ENDPOINTS, with commas between].
    #[arg(long = "endpoint", value_name = "URL", conflicts_with = "dir")]
    endpoints: Vec<String>,
    /// The nodes that `palisade up` keeps in this directory; palisade-local if no node is named.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The caller's certificate, PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "PALISADE_CERT_FILE",
        hide_env_values = true,
        requires = "key_file"
    )]
    cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "PALISADE_KEY_FILE",
        hide_env_values = true,
        requires = "cert_file"
    )]
    key_file: Option<PathBuf>,
    /// Who signs the certificates of nodes, PEM.
    #[arg(long, value_name = "FILE", env = "PALISADE_CA_FILE", hide_env_values = true)]
    ca_file: Option<PathBuf>,
    /// A capability token.
    #[arg(long, value_name = "FILE", env = "PALISADE_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// How long a call is tried, with all its repetitions.
    #[arg(
        long,
        value_name = "MILLISECONDS",
        env = "PALISADE_TIMEOUT_MS",
        hide_env_values = true,
        default_value_t = 10_000
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: u64,
}

impl ClientArgs {
    /// Does something with a client of the cluster.
    pub(super) fn run<T, F>(&self, work: impl FnOnce(Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        // It connects from within the runtime.
        runtime()?.block_on(async { work(self.connect()?).await })
    }

    /// The same of the nodes that `palisade up` keeps in a directory.
    pub(super) fn of_dir(mut self, dir: &Path) -> Self {
        self.endpoints.clear();
        self.dir = Some(dir.to_owned());
        self
    }

    /// A client; from within a runtime.
    pub(super) fn connect(&self) -> Result<Client, Failed> {
        self.connect_to(self.endpoints()?)
    }

    /// A client for each node that is named, which calls that one alone; from within a runtime.
    pub(super) fn connect_each(&self) -> Result<Vec<(String, Client)>, Failed> {
        let alone = |endpoint: String| Ok((endpoint.clone(), self.connect_to(vec![endpoint])?));
        self.endpoints()?.into_iter().map(alone).collect()
    }

    /// How long a call is tried.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn connect_to(&self, endpoints: Vec<String>) -> Result<Client, Failed> {
        let mut builder = Client::builder().call_timeout(self.patience());
        for endpoint in endpoints {
            builder = builder.endpoint(endpoint);
        }
        if let Some(path) = &self.ca_file {
            builder = builder.authority(file(path, read)?);
        }
        if let (Some(certificate), Some(key)) = (&self.cert_file, &self.key_file) {
            builder = builder.identity(file(certificate, read)?, file(key, read_secret)?);
        }
        if let Some(path) = &self.token_file {
            let token = String::from_utf8(file(path, read_secret)?);
            let token = token.map_err(|_| unreadable(path, "a token is text"))?;
            builder = builder.token(token.trim());
        }
        Ok(builder.connect()?)
    }

    /// What is nearest counts: a flag, the environment, what `palisade up` has made here.
    fn endpoints(&self) -> Result<Vec<String>, Failed> {
        if !self.endpoints.is_empty() {
            return Ok(self.endpoints.clone());
        }
        if let Some(dir) = &self.dir {
            return of_local(&LocalCluster::open(dir)?);
        }
        match std::env::var(ENDPOINTS) {
            Ok(text) if !text.is_empty() => {
                return Ok(text.split(',').map(|each| each.trim().to_owned()).collect());
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                let what = format!("{ENDPOINTS} is not UTF-8");
                return Err(Failed::new("Usage", what, "name nodes as https://HOST:PORT"));
            }
            _ => {}
        }
        match LocalCluster::open(Path::new(LOCAL_DIR)) {
            Ok(cluster) => of_local(&cluster),
            Err(_) => {
                let help = "say --endpoint URL, set PALISADE_ENDPOINTS, or name with --dir the \
                            directory of `palisade up`";
                Err(Failed::new("Usage", "no node is named", help))
            }
        }
    }
}

fn of_local(cluster: &LocalCluster) -> Result<Vec<String>, Failed> {
    let nodes = cluster.nodes()?;
    let endpoints: Vec<String> = nodes
        .into_iter()
        .filter_map(|node| node.grpc.map(|address| format!("http://{address}")))
        .collect();
    if endpoints.is_empty() {
        let what = "no node of that directory serves callers";
        let help = "give each listen.grpc in its configuration, and start it again";
        return Err(Failed::new("Usage", what, help));
    }
    Ok(endpoints)
}

fn file(path: &Path, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Vec<u8>, Failed> {
    read(path).map_err(|error| unreadable(path, &error.to_string()))
}

fn unreadable(path: &Path, why: &str) -> Failed {
    let what = format!("{}: {why}", path.display());
    Failed::new("UnreadableFile", what, "check its path, and the rights to read it")
}

impl From<palisade_client::Error> for Failed {
    fn from(error: palisade_client::Error) -> Self {
        refused(error.failure())
    }
}

/// The code is the finer kind where this release knows it, else the one of the closed set.
fn refused(failure: &Failure) -> Failed {
    let (what, help) = (failure.message.clone(), failure.help.clone());
    // On the wire they are in capitals, with lines between: VERSION_MISMATCH.
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let is = |known: &str, told: &str| plain(known) == plain(told);
    if let Some(own) = OF_CALLS.iter().find(|known| is(known, &failure.kind)) {
        return Failed::new(own, what, help);
    }
    let code = failure.code.as_str();
    let of_set = palisade::Failure::ALL.into_iter().find(|known| is(known.as_str(), code));
    let of_set = of_set.expect("both sets of codes are one");
    let finer = Error::KINDS.iter().copied().find(|known| is(known, &failure.kind));
    Failed::of_set(finer.unwrap_or(of_set.as_str()), of_set, what, help)
}

/// Kinds that only a call can have.
const OF_CALLS: [&str; 3] = [OUTCOME_UNKNOWN, "NotAuthenticated", "NotAllowed"];

#[cfg(test)]
mod tests {
    use palisade_client::{Code, Disposition};
    use palisade_proto::failure::kind;

    use super::super::failed::Exit;
    use super::*;

    fn told(code: Code, kind: &str) -> (String, Exit) {
        let failure = Failure::new(code, kind, Disposition::Reject, "what", "help");
        let failed = refused(&failure);
        (failed.json()["code"].as_str().unwrap().to_owned(), failed.exit())
    }

    #[test]
    fn a_refusal_keeps_its_kind_and_its_class() {
        let is = |code, kind, text: &str, exit| {
            assert_eq!(told(code, kind), (text.to_owned(), exit));
        };
        is(Code::Fenced, "FENCED", "Fenced", Exit::Conflict);
        is(Code::PreconditionFailed, "VERSION_MISMATCH", "VersionMismatch", Exit::Conflict);
        is(Code::NotFound, kind::TRIMMED, "Trimmed", Exit::NotFound);
        is(Code::Revoked, kind::NOT_ALLOWED, "NotAllowed", Exit::NotAllowed);
        is(Code::Revoked, kind::NOT_AUTHENTICATED, "NotAuthenticated", Exit::NotAllowed);
        is(Code::Disconnected, kind::OUTCOME_UNKNOWN, "OutcomeUnknown", Exit::OutcomeUnknown);
        is(Code::RateLimited, "OF_A_LATER_RELEASE", "RateLimited", Exit::Unavailable);
        for code in Code::ALL {
            told(code, code.as_str());
        }
    }
}
