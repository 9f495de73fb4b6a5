//! What a token can be narrowed by. Each is a condition that every ask must meet, so that more of them never
//! allow more.

use palisade::Placement;

use super::TokenRefusal;
use crate::security::grants::{Ask, PATTERN_BYTES_MAX, Refusal, Rest, Rights, put_domains};
use crate::security::identity::Fingerprint;

/// Longest body of a caveat.
pub const CAVEAT_BYTES_MAX: usize = 2 << 10;
const HEADER_BYTES: usize = 3;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caveat {
    /// Not later than this.
    NotAfter {
        /// Milliseconds since the Unix epoch.
        ms: u64,
    },
    /// Nothing but these rights.
    Rights(Rights),
    /// Only resources whose names begin so.
    ResourcePrefix(String),
    /// Only at nodes in these failure domains.
    Domains(Placement),
    /// Only with this certificate: whoever steals the token alone has nothing.
    Certificate(Fingerprint),
}

impl Caveat {
    fn kind(&self) -> u8 {
        match self {
            Self::NotAfter { .. } => 1,
            Self::Rights(_) => 2,
            Self::ResourcePrefix(_) => 3,
            Self::Domains(_) => 4,
            Self::Certificate(_) => 5,
        }
    }

    /// Whether the ask meets it.
    pub(in crate::security) fn allow(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        let (allowed, refusal) = match self {
            Self::NotAfter { ms } => (ask.now_ms <= *ms, Refusal::TokenExpired),
            Self::Rights(rights) => (rights.have(ask.needs()), Refusal::TokenRight),
            Self::ResourcePrefix(prefix) => {
                (ask.resource.starts_with(prefix), Refusal::TokenResource)
            }
            Self::Domains(domains) => (domains.allows(ask.domain), Refusal::TokenDomain),
            Self::Certificate(wanted) => (wanted == ask.certificate, Refusal::TokenCertificate),
        };
        if allowed { Ok(()) } else { Err(refusal) }
    }

    /// None if it is too long.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let body = match self {
            Self::NotAfter { ms } => ms.to_be_bytes().to_vec(),
            Self::Rights(rights) => vec![rights.bits()],
            Self::ResourcePrefix(prefix) if prefix.len() <= PATTERN_BYTES_MAX => {
                prefix.clone().into_bytes()
            }
            Self::ResourcePrefix(_) => return None,
            Self::Domains(domains) => {
                let mut out = Vec::new();
                put_domains(&mut out, Some(domains));
                out
            }
            Self::Certificate(fingerprint) => fingerprint.to_vec(),
        };
        let length = u16::try_from(body.len()).ok().filter(|_| body.len() <= CAVEAT_BYTES_MAX)?;
        let mut out = vec![self.kind()];
        out.extend(length.to_be_bytes());
        out.extend(body);
        Some(out)
    }

    /// Reads one caveat. One that this release does not know refuses the token: it cannot be met.
    pub(super) fn decode(raw: &[u8]) -> Result<Self, TokenRefusal> {
        let (kind, body) = match raw {
            [kind, _, _, body @ ..] => (*kind, body),
            _ => return Err(TokenRefusal::Malformed),
        };
        let mut rest = Rest(body);
        let caveat = match kind {
            1 => rest.array().map(|raw| Self::NotAfter { ms: u64::from_be_bytes(raw) }),
            2 => rest.byte().and_then(Rights::from_bits).map(Self::Rights),
            3 => {
                let prefix = rest.bytes(body.len().min(PATTERN_BYTES_MAX)).unwrap_or_default();
                std::str::from_utf8(prefix).ok().map(|text| Self::ResourcePrefix(text.to_owned()))
            }
            4 => rest.domains().flatten().map(Self::Domains),
            5 => rest.array().map(Self::Certificate),
            _ => return Err(TokenRefusal::UnknownVersion),
        };
        caveat.filter(|_| rest.0.is_empty()).ok_or(TokenRefusal::Malformed)
    }
}

/// Takes one caveat off the front, unread.
pub(super) fn take(rest: &mut Rest<'_>) -> Option<Vec<u8>> {
    let all = rest.0;
    let [_, high, low] = rest.array()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if CAVEAT_BYTES_MAX < length {
        return None;
    }
    rest.bytes(length)?;
    Some(all[..HEADER_BYTES + length].to_vec())
}
