//! Values: from text to what a key holds, and back to how they are written.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use palisade::tls::Subject;
use palisade::{ClusterId, DomainRule, FailureDomain, Placement};

use super::keys::Kind;

/// A value that was checked against its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(u64),
    /// `true` or `false`.
    Switch(bool),
    /// A word, or a log filter.
    Word(String),
    /// A path.
    Path(PathBuf),
    /// Where something is.
    Domain(FailureDomain),
    /// A cluster.
    Cluster(ClusterId),
    /// Where something listens.
    Address(SocketAddr),
    /// Names of callers.
    Names(BTreeSet<String>),
    /// First voters.
    Voters(Vec<VoterText>),
}

/// A first voter, as it is named in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterText {
    /// Its number.
    pub id: u64,
    /// Where the others reach it.
    pub address: SocketAddr,
    /// Where it is, if that was said.
    pub domain: Option<FailureDomain>,
}

impl Value {
    /// Reads the text of a value.
    ///
    /// # Errors
    /// With what it can be, for people.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        match kind {
            Kind::Number(least, most) => {
                let number = text.parse().ok().filter(|number| (least..=most).contains(number));
                number.map(Self::Number).ok_or_else(|| match most {
                    u64::MAX => format!("a whole number from {least}"),
                    _ => format!("a whole number from {least} to {most}"),
                })
            }
            Kind::Switch => text.parse().map(Self::Switch).map_err(|_| "true or false".to_owned()),
            Kind::Path if text.is_empty() => Err("a path".to_owned()),
            Kind::Path => Ok(Self::Path(PathBuf::from(text))),
            Kind::Domain => domain(text).map(Self::Domain),
            Kind::Cluster => cluster(text).map(Self::Cluster),
            Kind::Address => address(text).map(Self::Address),
            Kind::Names => {
                let names = text.split(',').map(|name| client(name.trim()));
                names.collect::<Result<_, _>>().map(Self::Names)
            }
            Kind::Choice(words) if words.contains(&text) => Ok(Self::Word(text.to_owned())),
            Kind::Choice(words) => Err(not_among(text, words)),
            Kind::LogFilter => match tracing_subscriber::EnvFilter::try_new(text) {
                Ok(_) if !text.is_empty() => Ok(Self::Word(text.to_owned())),
                _ => Err("error, warn, info, debug, trace, or levels by target as in \
                          warn,palisade_server=debug"
                    .to_owned()),
            },
            Kind::Voters => {
                let voters = text.split(',').map(|voter| self::voter(voter.trim()));
                voters.collect::<Result<_, _>>().map(Self::Voters)
            }
        }
    }
}

/// Modes that a reader of other manuals may look for, and what serves instead.
fn not_among(text: &str, words: &[&str]) -> String {
    let words = words.join(" or ");
    match text {
        "static" => format!(
            "{words}: members without a log cannot agree on one order, so there is no mode {text}"
        ),
        "worker-tier" => {
            format!("{words}: workers are clients of a raft cluster and no nodes of it")
        }
        _ => words,
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address and port, as in 127.0.0.1:7401".to_owned())
}

/// A cluster's number as it is written everywhere.
pub(crate) fn cluster(text: &str) -> Result<ClusterId, String> {
    let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|number| hex && *number != 0);
    number.map(ClusterId::new).ok_or_else(|| "32 hex digits that are not all zero".to_owned())
}

/// A failure domain as it is written everywhere.
pub(crate) fn domain(text: &str) -> Result<FailureDomain, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [provider, region, zone] if parts.iter().all(|part| (1..=64).contains(&part.len())) => {
            Ok(FailureDomain::new(provider, region, zone))
        }
        _ => Err("provider/region/zone, each of 1 to 64 bytes".to_owned()),
    }
}

/// A caller's name, as a certificate can have it.
pub(crate) fn client(text: &str) -> Result<String, String> {
    let rule = |error| format!("names of callers, with commas between: {error}");
    Subject::of_client(ClusterId::new(1), text).map(|_| text.to_owned()).map_err(rule)
}

/// A provider, one of its regions, or one zone.
pub(crate) fn domain_rule(text: &str) -> Result<DomainRule, String> {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let provider = parts.next().unwrap_or_default();
    let rule = DomainRule { provider, region: parts.next(), zone: parts.next() };
    let checked = Placement::new([rule.clone()]);
    checked
        .map(|_| rule)
        .map_err(|_| "PROVIDER, PROVIDER/REGION or PROVIDER/REGION/ZONE".to_owned())
}

/// A first voter, as flags and the environment name it.
pub(crate) fn voter(text: &str) -> Result<VoterText, String> {
    let rule = || "voters as in 1=10.0.0.1:7401,2=10.0.0.2:7401@aws/eu-west-1/b".to_owned();
    let (id, rest) = text.split_once('=').ok_or_else(rule)?;
    let (place, at) = match rest.split_once('@') {
        Some((place, at)) => (place, Some(at)),
        None => (rest, None),
    };
    let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(rule)?;
    let domain = at.map(domain).transpose()?;
    Ok(VoterText { id, address: address(place).map_err(|_| rule())?, domain })
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Switch(switch) => write!(f, "{switch}"),
            Self::Word(word) => f.write_str(word),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Domain(domain) => write!(f, "{domain}"),
            Self::Cluster(cluster) => write!(f, "{:032x}", cluster.get()),
            Self::Address(address) => write!(f, "{address}"),
            Self::Names(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                f.write_str(&names.join(","))
            }
            Self::Voters(voters) => {
                for (at, voter) in voters.iter().enumerate() {
                    let comma = if at == 0 { "" } else { "," };
                    write!(f, "{comma}{}={}", voter.id, voter.address)?;
                    if let Some(domain) = &voter.domain {
                        write!(f, "@{domain}")?;
                    }
                }
                Ok(())
            }
        }
    }
}
