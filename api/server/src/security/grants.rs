//! Who may do what: one pure decision, and the rows that it is made from.
//!
//! A row of the map `palisade.access` lists what one caller was granted, and is in the same log as the data.
//! Whoever has no row may do nothing. A token narrows what its caller may do, and never widens it.

use std::fmt;

use palisade::{DomainRule, FailureDomain, Placement};

use super::identity::{Fingerprint, Identity};
use super::token::Caveat;

/// The map with the rows.
pub const ACCESS_MAP: &str = "palisade.access";
/// What begins so is the cluster's own: it takes [`Right::Admin`], whatever is done with it.
pub const OWN_PREFIX: &str = "palisade.";
/// Most grants of one caller.
pub const GRANTS_MAX: usize = 256;
/// Longest name or prefix of a resource in a grant or caveat.
pub const PATTERN_BYTES_MAX: usize = 255;
/// The first byte of a row.
const ROW_VERSION: u8 = 1;

/// What is done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// It is looked at: get, scan, watch, tail, describe.
    Read,
    /// Something is added to it: put, append, reserve, batch.
    Append,
    /// It, or who may use it, is changed: create, alter, delete, grants, members, backups.
    Admin,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Append => "append",
            Self::Admin => "admin",
        })
    }
}

/// Several rights. None of them implies another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Each there is.
    pub const ALL: Self = Self(0b111);

    /// These.
    #[must_use]
    pub fn of(rights: impl IntoIterator<Item = Right>) -> Self {
        Self(rights.into_iter().fold(0, |bits, right| bits | 1 << right as u8))
    }

    /// Whether it is among them.
    #[must_use]
    pub fn have(self, right: Right) -> bool {
        self.0 & 1 << right as u8 != 0
    }

    /// These and those.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These without those.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Each of them.
    pub fn each(self) -> impl Iterator<Item = Right> {
        [Right::Read, Right::Append, Right::Admin]
            .into_iter()
            .filter(move |right| self.have(*right))
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.each().map(|right| right.to_string()).collect();
        f.write_str(&names.join(","))
    }
}

/// Which resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The one of this name.
    Name(String),
    /// All whose names begin so; with nothing, all.
    Prefix(String),
}

impl Pattern {
    /// Reads `name`, or `prefix*`.
    ///
    /// # Errors
    /// When it is too long, names nothing, or has a `*` elsewhere than at the end.
    pub fn parse(text: &str) -> Result<Self, RowError> {
        let (text, is_prefix) =
            text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        Self::checked(text.to_owned(), is_prefix)
    }

    fn checked(text: String, is_prefix: bool) -> Result<Self, RowError> {
        if PATTERN_BYTES_MAX < text.len() || text.contains('*') || text.is_empty() && !is_prefix {
            return Err(RowError::Pattern);
        }
        Ok(if is_prefix { Self::Prefix(text) } else { Self::Name(text) })
    }

    /// A name that it matches and that the caveats let through, if there is one: a name itself, and of prefixes
    /// the longest, since all of them must begin it.
    fn widest_within<'a>(&'a self, caveats: &'a [Caveat]) -> &'a str {
        match self {
            Self::Name(name) => name,
            Self::Prefix(prefix) => {
                let prefixes = caveats.iter().filter_map(|caveat| match caveat {
                    Caveat::ResourcePrefix(prefix) => Some(prefix),
                    _ => None,
                });
                prefixes
                    .fold(prefix, |one, other| if one.len() < other.len() { other } else { one })
            }
        }
    }

    pub(super) fn matches(&self, resource: &str) -> bool {
        match self {
            Self::Name(name) => resource == name,
            // The cluster's own are never among what a shorter prefix has: who may do everything with the
            // resources of an application could else grant himself the rest.
            Self::Prefix(prefix) => {
                resource.starts_with(prefix)
                    && (prefix.starts_with(OWN_PREFIX) || !resource.starts_with(OWN_PREFIX))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// One thing that a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// With what.
    pub pattern: Pattern,
    /// What.
    pub rights: Rights,
    /// At which nodes, by where they are; none stands for all of them.
    pub domains: Option<Placement>,
}

impl Grant {
    /// Everything, everywhere, the cluster's own with it: what the founders of a cluster begin with.
    #[must_use]
    pub fn everything() -> [Self; 2] {
        ["", OWN_PREFIX].map(|prefix| Self {
            pattern: Pattern::Prefix(prefix.to_owned()),
            rights: Rights::ALL,
            domains: None,
        })
    }
}

/// What is asked for, by whom, and with what in hand.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// With which resource.
    pub resource: &'a str,
    /// What is to be done with it.
    pub right: Right,
    /// Where the node is that would do it.
    pub domain: &'a FailureDomain,
    /// The time there.
    pub now_ms: u64,
    /// The certificate of the connection.
    pub certificate: &'a Fingerprint,
}

impl Ask<'_> {
    /// The right that it takes.
    #[must_use]
    pub fn needs(&self) -> Right {
        if self.resource.starts_with(OWN_PREFIX) { Right::Admin } else { self.right }
    }
}

/// Why something is not done. Later ones came further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Only callers are granted anything.
    #[error("a node's certificate is not a caller's: call with one of the client authority")]
    NotAClient,
    /// No grant names the resource.
    #[error("nothing with this resource was granted: ask for a grant")]
    NotGranted,
    /// A grant names the resource, and not this right.
    #[error("this right was not granted for the resource: ask for it")]
    RightNotGranted,
    /// A grant has both, and not at nodes of this failure domain.
    #[error("it was granted, and not in this failure domain: call a node elsewhere")]
    DomainNotGranted,
    /// No grant says that the caller is in the failure domain that a message names.
    #[error(
        "no grant places the caller in the domain that it names: name none, or ask for a grant there"
    )]
    PlaceNotGranted,
    /// The token has expired.
    #[error("the token has expired: get another")]
    TokenExpired,
    /// The token is not for this right.
    #[error("the token is not for this right")]
    TokenRight,
    /// The token is not for this resource.
    #[error("the token is not for this resource")]
    TokenResource,
    /// The token is not for nodes of this failure domain.
    #[error("the token is not for this failure domain")]
    TokenDomain,
    /// The token is bound to another certificate.
    #[error("the token is bound to another certificate: call with that one")]
    TokenCertificate,
}

/// Decides: for who calls, or whom a token of theirs speaks for, with what that one was granted.
///
/// # Errors
/// [`Refusal`], and then nothing is done. Without a grant that has all of it there is always one.
pub fn decide(grants: &[Grant], caveats: &[Caveat], ask: &Ask<'_>) -> Result<(), Refusal> {
    let needs = ask.needs();
    let named = |grant: &&Grant| grant.pattern.matches(ask.resource);
    let mut refusal = Refusal::NotGranted;
    let mut granted = false;
    for grant in grants.iter().filter(named) {
        if !grant.rights.have(needs) {
            // The furthest that any came.
            if refusal == Refusal::NotGranted {
                refusal = Refusal::RightNotGranted;
            }
        } else if grant.domains.as_ref().is_some_and(|domains| !domains.allows(ask.domain)) {
            refusal = Refusal::DomainNotGranted;
        } else {
            granted = true;
        }
    }
    if !granted {
        return Err(refusal);
    }
    caveats.iter().try_for_each(|caveat| caveat.allow(ask))
}

/// Whether a caller can be taken to be where it says: a grant that it uses says so by its domains, and its token
/// does not say otherwise. One that holds in all domains says nothing of where a caller is.
///
/// # Errors
/// [`Refusal::PlaceNotGranted`] or [`Refusal::TokenDomain`].
pub fn decide_place(
    grants: &[Grant],
    caveats: &[Caveat],
    ask: &Ask<'_>,
    said: &FailureDomain,
) -> Result<(), Refusal> {
    let needs = ask.needs();
    let mut used = grants
        .iter()
        .filter(|grant| grant.pattern.matches(ask.resource) && grant.rights.have(needs));
    if !used.any(|grant| grant.domains.as_ref().is_some_and(|domains| domains.allows(said))) {
        return Err(Refusal::PlaceNotGranted);
    }
    let elsewhere = caveats
        .iter()
        .any(|caveat| matches!(caveat, Caveat::Domains(domains) if !domains.allows(said)));
    if elsewhere { Err(Refusal::TokenDomain) } else { Ok(()) }
}

/// Whether there is any resource with which one of these rights could be used: for calls that are about none.
/// Every caveat is judged, of the time, the certificate and the node as of the resource and the right.
///
/// # Errors
/// [`Refusal`], the one that came furthest. Then [`decide`] refuses whatever is asked for with these rights.
pub fn decide_somewhere(
    grants: &[Grant],
    caveats: &[Caveat],
    rights: Rights,
    asked: &Ask<'_>,
) -> Result<(), Refusal> {
    let mut refused = Refusal::NotGranted;
    for grant in grants {
        let resource = grant.pattern.widest_within(caveats);
        for right in rights.each() {
            match decide(grants, caveats, &Ask { resource, right, ..asked.clone() }) {
                Ok(()) => return Ok(()),
                Err(refusal) => refused = refused.max(refusal),
            }
        }
    }
    Err(refused)
}

/// The name to look grants up by, of a caller without a token.
///
/// # Errors
/// [`Refusal::NotAClient`] for a node.
pub fn granted_to(identity: &Identity) -> Result<&str, Refusal> {
    identity.client().ok_or(Refusal::NotAClient)
}

/// Why a row is not read, or not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// It was written by a newer release.
    #[error("the grants were written by a newer release: upgrade this node")]
    UnknownVersion,
    /// It is no row.
    #[error("the grants cannot be read")]
    Malformed,
    /// There are too many.
    #[error("at most 256 grants for one caller")]
    TooMany,
    /// A pattern of a grant.
    #[error("a pattern is a name, or a prefix and `*`, of at most 255 bytes")]
    Pattern,
}

/// A caller's grants, as the row has them.
///
/// ```text
/// version 1, grants 2, then each: kind 1 (0 name, 1 prefix), text, rights 1, domains 1 (0: all), then each:
/// parts 1 (1 to 3), each a text; a text has its length in 1 byte
/// ```
///
/// # Errors
/// [`RowError`] for grants that no row can hold.
pub fn encode_row(grants: &[Grant]) -> Result<Vec<u8>, RowError> {
    if GRANTS_MAX < grants.len() {
        return Err(RowError::TooMany);
    }
    let mut out = vec![ROW_VERSION];
    out.extend((grants.len() as u16).to_be_bytes());
    for grant in grants {
        let (kind, text) = match &grant.pattern {
            Pattern::Name(name) => (0, name),
            Pattern::Prefix(prefix) => (1, prefix),
        };
        Pattern::checked(text.clone(), kind == 1)?;
        out.push(kind);
        put_text(&mut out, text);
        out.push(grant.rights.0);
        put_domains(&mut out, grant.domains.as_ref());
    }
    Ok(out)
}

/// Reads what [`encode_row`] writes, and nothing else.
///
/// # Errors
/// [`RowError`] for anything else; who cannot be read has no grants.
pub fn decode_row(row: &[u8]) -> Result<Vec<Grant>, RowError> {
    let mut rest = Rest(row);
    match rest.byte() {
        Some(ROW_VERSION) => {}
        Some(version) if version > ROW_VERSION => return Err(RowError::UnknownVersion),
        _ => return Err(RowError::Malformed),
    }
    let count = rest.array().map(u16::from_be_bytes).ok_or(RowError::Malformed)?;
    if GRANTS_MAX < usize::from(count) {
        return Err(RowError::TooMany);
    }
    let grants = (0..count).map(|_| rest.grant().ok_or(RowError::Malformed)).collect();
    if rest.0.is_empty() { grants } else { Err(RowError::Malformed) }
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("checked to be at most 255 bytes"));
    out.extend(text.as_bytes());
}

pub(super) fn put_domains(out: &mut Vec<u8>, domains: Option<&Placement>) {
    let rules = domains.map_or(&[][..], Placement::rules);
    out.push(u8::try_from(rules.len()).expect("a placement has at most 32 rules"));
    for rule in rules {
        let parts = [Some(&rule.provider), rule.region.as_ref(), rule.zone.as_ref()];
        let parts: Vec<&String> = parts.into_iter().flatten().collect();
        out.push(parts.len() as u8);
        for part in parts {
            put_text(out, part);
        }
    }
}

/// What is still to be read of a row or a token.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let length = self.byte()?;
        let text = std::str::from_utf8(self.bytes(length.into())?).ok()?;
        Some(text.to_owned())
    }

    /// None inside: all of them.
    pub(super) fn domains(&mut self) -> Option<Option<Placement>> {
        let count = self.byte()?;
        if count == 0 {
            return Some(None);
        }
        let rules: Option<Vec<DomainRule>> = (0..count)
            .map(|_| {
                let parts = self.byte().filter(|parts| (1..=3).contains(parts))?;
                let provider = self.text()?;
                let region = if parts > 1 { Some(self.text()?) } else { None };
                let zone = if parts > 2 { Some(self.text()?) } else { None };
                Some(DomainRule { provider, region, zone })
            })
            .collect();
        let rules = rules?;
        let placement = Placement::new(rules.iter().cloned()).ok()?;
        // One way to write it: in order, each once.
        (placement.rules() == rules).then_some(Some(placement))
    }

    fn grant(&mut self) -> Option<Grant> {
        let kind = self.byte().filter(|kind| *kind <= 1)?;
        let pattern = Pattern::checked(self.text()?, kind == 1).ok()?;
        let rights = Rights::from_bits(self.byte()?)?;
        let domains = self.domains()?;
        Some(Grant { pattern, rights, domains })
    }
}

mod change;

pub use self::change::{granting, revoking};

#[cfg(test)]
mod tests;
