//! `palisade token`: makes capability tokens, narrows them, and says what is in one. It speaks to no node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use palisade::{ClusterId, DomainRule, Error, Placement};
use serde_json::{Value, json};

use super::failed::Failed;
use super::grant::WhichRight;
use super::output::Found;
use super::when::utc;
use crate::config::{cluster, domain_rule};
use crate::security::files::{read, read_secret, write_secret};
use crate::security::grants::{Right, Rights};
use crate::security::identity::fingerprint_of_pem;
use crate::security::now_ms;
use crate::security::token::{Caveat, KeysError, Token, TokenKeys, TokenRefusal};

const HOUR: Duration = Duration::from_secs(3600);

/// Make capability tokens, narrow them, and look at them.
#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Add a key to the file that nodes know tokens by, which is made if there is none.
    Key(KeyArgs),
    /// Make a token that speaks for a caller, for a while.
    Mint(MintArgs),
    /// Make a token of one that may do less; whoever holds one can.
    Narrow(NarrowArgs),
    /// Say what is in a token, and with the keys whether it is genuine.
    Show(ShowArgs),
}

/// Of `palisade token key`.
#[derive(Args)]
pub(super) struct KeyArgs {
    /// The file of keys: security.token_keys_file of every node.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
}

/// Of `palisade token mint`.
#[derive(Args)]
pub(super) struct MintArgs {
    /// The file of keys; the newest makes the token.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// The cluster that it is for.
    #[arg(long, value_parser = cluster)]
    cluster: ClusterId,
    /// The caller whose grants it has.
    #[arg(long)]
    client: String,
    /// How long it is good for; 720 at most.
    #[arg(long, default_value_t = 24)]
    hours: u32,
    #[command(flatten)]
    narrow: Narrower,
    #[command(flatten)]
    out: Out,
}

/// Of `palisade token narrow`.
#[derive(Args)]
pub(super) struct NarrowArgs {
    /// The token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// It ends so many hours from now.
    #[arg(long)]
    hours: Option<u32>,
    #[command(flatten)]
    narrow: Narrower,
    #[command(flatten)]
    out: Out,
}

/// Of `palisade token show`.
#[derive(Args)]
pub(super) struct ShowArgs {
    /// The token.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The file of keys, to see whether one of them made it.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    keys: Option<PathBuf>,
    /// The cluster that it should be for.
    #[arg(long, value_parser = cluster, requires = "keys")]
    cluster: Option<ClusterId>,
}

/// What a token is not to do. All of it holds, and nothing takes it off again.
#[derive(Args)]
struct Narrower {
    /// Nothing but these rights, with commas between.
    #[arg(long, value_enum, value_delimiter = ',')]
    rights: Vec<WhichRight>,
    /// Only resources whose names begin so.
    #[arg(long, value_name = "PREFIX")]
    resource_prefix: Option<String>,
    /// Only at nodes there, as PROVIDER[/REGION[/ZONE]]; once for each.
    #[arg(long = "domain", value_parser = domain_rule)]
    domains: Vec<DomainRule>,
    /// Only with this certificate, PEM: whoever steals the token alone has nothing.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

#[derive(Args)]
struct Out {
    /// Write it to this new file, for its owner alone, and not to stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl TokenCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self {
            Self::Key(args) => args.run(),
            Self::Mint(args) => args.run(),
            Self::Narrow(args) => args.run(),
            Self::Show(args) => args.run(),
        }
    }
}

impl From<KeysError> for Failed {
    fn from(error: KeysError) -> Self {
        let what = error.to_string();
        match error {
            KeysError::Io { .. } => Self::new("UnreadableFile", what, "check its path and rights"),
            _ => Self::from(Error::InvalidArgument { what }),
        }
    }
}

fn invalid(error: TokenRefusal) -> Failed {
    Failed::from(Error::InvalidArgument { what: error.to_string() })
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Failed {
    let what = format!("{}: {why}", path.display());
    Failed::new("UnreadableFile", what, "check its path, and the rights to read it")
}

fn token(path: &Path) -> Result<Token, Failed> {
    let raw = read_secret(path).map_err(|error| unreadable(path, error))?;
    let text = str::from_utf8(&raw).map_err(|error| unreadable(path, error))?;
    Token::parse(text.trim()).map_err(invalid)
}

impl Narrower {
    fn narrow(&self, token: Token) -> Result<Token, Failed> {
        let mut caveats = Vec::new();
        if !self.rights.is_empty() {
            let right = |right: &WhichRight| match right {
                WhichRight::Read => Right::Read,
                WhichRight::Append => Right::Append,
                WhichRight::Admin => Right::Admin,
            };
            caveats.push(Caveat::Rights(Rights::of(self.rights.iter().map(right))));
        }
        if let Some(prefix) = &self.resource_prefix {
            caveats.push(Caveat::ResourcePrefix(prefix.clone()));
        }
        if !self.domains.is_empty() {
            caveats.push(Caveat::Domains(Placement::new(self.domains.iter().cloned())?));
        }
        if let Some(path) = &self.certificate {
            let pem = read(path).map_err(|error| unreadable(path, error))?;
            let fingerprint = fingerprint_of_pem(&pem);
            let fingerprint =
                fingerprint.ok_or_else(|| unreadable(path, "no certificate in it"))?;
            caveats.push(Caveat::Certificate(fingerprint));
        }
        caveats.iter().try_fold(token, |token, caveat| token.narrowed(caveat)).map_err(invalid)
    }
}

impl Out {
    fn write(self, token: &Token) -> Result<Found, Failed> {
        let text = token.to_text();
        let Some(path) = self.out else {
            return Ok(Found::new(json!({ "token": text }), format!("{text}\n")));
        };
        write_secret(&path, format!("{text}\n").as_bytes()).map_err(|error| {
            let what = format!("{}: {error}", path.display());
            Failed::new("InputOutput", what, "name a file that is not there yet")
        })?;
        let written = format!("wrote {}\n", path.display());
        Ok(Found::new(json!({ "file": path }), written))
    }
}

impl KeyArgs {
    fn run(self) -> Result<Found, Failed> {
        let id = TokenKeys::add_to(&self.keys)?;
        let text = format!(
            "added key {id} to {}: give the file to every node, then mint with it\n",
            self.keys.display()
        );
        Ok(Found::new(json!({ "key": id, "file": self.keys }), text))
    }
}

impl MintArgs {
    fn run(self) -> Result<Found, Failed> {
        let keys = TokenKeys::read(&self.keys)?;
        let lives = HOUR * self.hours;
        let token = Token::mint(&keys, self.cluster, &self.client, now_ms(), lives);
        self.out.write(&self.narrow.narrow(token.map_err(invalid)?)?)
    }
}

impl NarrowArgs {
    fn run(self) -> Result<Found, Failed> {
        let mut token = token(&self.token_file)?;
        if let Some(hours) = self.hours {
            let lives = u64::from(hours) * HOUR.as_millis() as u64;
            let ends = Caveat::NotAfter { ms: now_ms().saturating_add(lives) };
            token = token.narrowed(&ends).map_err(invalid)?;
        }
        self.out.write(&self.narrow.narrow(token)?)
    }
}

impl ShowArgs {
    fn run(self) -> Result<Found, Failed> {
        let token = token(&self.token_file)?;
        let caveats = token.caveats().map_err(invalid)?;
        let id = format!("{:032x}", u128::from_be_bytes(*token.identifier()));
        let genuine = match (&self.keys, self.cluster) {
            (Some(path), Some(cluster)) => {
                Some(TokenKeys::read(path)?.verify(cluster, &token, now_ms()))
            }
            _ => None,
        };
        let texts: Vec<String> = caveats.iter().map(shown).collect();
        let mut text = format!("for {}, key {}, token {id}\n", token.principal(), token.key_id());
        for caveat in &texts {
            text.push_str(&format!("  {caveat}\n"));
        }
        let mut document: Value = json!({
            "client": token.principal(),
            "key": token.key_id(),
            "token": id,
            "caveats": texts,
        });
        let ends = caveats.iter().filter_map(|caveat| match caveat {
            Caveat::NotAfter { ms } => Some(*ms),
            _ => None,
        });
        let over = ends.min().is_some_and(|ends| ends < now_ms());
        document["over"] = json!(over);
        let help = "get another from who keeps the keys";
        let mut wrong = over.then(|| Failed::new("NotAuthenticated", "the token is over", help));
        if let Some(genuine) = genuine {
            document["genuine"] = json!(genuine.is_ok());
            match genuine {
                Ok(_) => text.push_str("genuine\n"),
                Err(refusal) => {
                    wrong = Some(Failed::new("NotAuthenticated", refusal.to_string(), help));
                }
            }
        }
        Ok(Found::new(document, text).but(wrong))
    }
}

fn shown(caveat: &Caveat) -> String {
    match caveat {
        Caveat::NotAfter { ms } => format!("until {}", utc(*ms)),
        Caveat::Rights(rights) => format!("only rights {rights}"),
        Caveat::ResourcePrefix(prefix) => format!("only resources {}*", prefix.escape_debug()),
        Caveat::Domains(placement) => {
            let rule = |rule: &DomainRule| {
                let parts = [Some(&rule.provider), rule.region.as_ref(), rule.zone.as_ref()];
                let parts = parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
                parts.join("/").escape_debug().to_string()
            };
            let rules: Vec<String> = placement.rules().iter().map(rule).collect();
            format!("only at nodes in {}", rules.join(", "))
        }
        Caveat::Certificate(fingerprint) => {
            let hex: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("only with the certificate of SHA-256 {hex}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::failed::Exit;
    use super::*;

    /// A token that nobody would take is not shown as if it were good.
    #[test]
    fn a_token_that_is_over_is_shown_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, cluster) = (dir.path().join("keys"), ClusterId::new(7));
        TokenKeys::add_to(&keys).unwrap();
        let known = TokenKeys::read(&keys).unwrap();
        let minted = |made_ms| {
            Token::mint(&known, cluster, "reports", made_ms, Duration::from_secs(3600)).unwrap()
        };
        for (name, made_ms, exit) in
            [("good", now_ms(), None), ("over", now_ms() - 3_600_001, Some(Exit::NotAllowed))]
        {
            let token_file = dir.path().join(name);
            write_secret(&token_file, minted(made_ms).to_text().as_bytes()).unwrap();
            for (keys, cluster) in [(None, None), (Some(keys.clone()), Some(cluster))] {
                let show = ShowArgs { token_file: token_file.clone(), keys, cluster };
                let found = show.run().unwrap();
                assert_eq!(found.wrong().map(Failed::exit), exit, "{name}");
            }
        }
    }
}
