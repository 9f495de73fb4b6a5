//! Capability tokens: what a caller may do, less what was taken away on the way.
//!
//! A token is a name, and caveats under a chain of HMACs, so that whoever holds one can add caveats and
//! nobody can take one off (macaroons: Birgisson et al., NDSS 2014). It does not stand in for a certificate:
//! calls are made under mutual TLS anyhow, and a caveat can bind a token to one certificate.
//!
//! ```text
//! version 1, key id 4, identifier 16, principal, caveats 1, then each: kind 1, length 2, body; tag 32
//!
//! tag 0 = HMAC-SHA256(key, "palisade token 1" and cluster 16 and all before the caveats but their count)
//! tag n = HMAC-SHA256(tag n-1, caveat n)
//! ```
//! Big-endian; the principal has its length in 1 byte. As text: `pal1.` and base64url without padding.

mod caveat;
mod keys;
mod live;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use palisade::ClusterId;
use ring::hmac;
use ring::rand::SecureRandom;

pub use self::caveat::{CAVEAT_BYTES_MAX, Caveat};
pub use self::keys::{KeysError, TokenKeys};
pub use self::live::LiveKeys;
use super::grants::{Rest, put_text};

/// Most caveats of a token.
pub const CAVEATS_MAX: usize = 32;
/// No token is good for longer than this: 30 days. Who needs one for longer gets another meanwhile.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// What clocks may differ by when that is judged.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5 * 60);
/// Longest token, as text.
pub const TOKEN_TEXT_BYTES_MAX: usize = 8 << 10;
const TEXT_PREFIX: &str = "pal1.";
const VERSION: u8 = 1;
const TAG_BYTES: usize = 32;
const PURPOSE: &[u8] = b"palisade token 1";

/// A token, as it was read or minted: not yet one of ours.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    key_id: u32,
    identifier: [u8; 16],
    principal: String,
    /// As they are written: what is signed is what was read.
    caveats: Vec<Vec<u8>>,
    tag: [u8; TAG_BYTES],
}

/// Never the tag: whoever reads a log would have the token.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("key_id", &self.key_id)
            .field("identifier", &self.identifier)
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}

/// Whom a token speaks for, and what was taken away. Only [`TokenKeys::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    principal: String,
    identifier: [u8; 16],
    caveats: Vec<Caveat>,
}

impl Bearer {
    /// The caller whose grants it has.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// Which token it was, for the audit.
    #[must_use]
    pub fn identifier(&self) -> &[u8; 16] {
        &self.identifier
    }

    /// How long it is still good for, by its end; a moment, once it is over.
    #[must_use]
    pub fn left(&self, now_ms: u64) -> Duration {
        let ends = self.caveats.iter().filter_map(|caveat| match caveat {
            Caveat::NotAfter { ms } => Some(*ms),
            _ => None,
        });
        // It is good up to that millisecond.
        Duration::from_millis(ends.min().unwrap_or(0).saturating_sub(now_ms).saturating_add(1))
    }

    /// What every ask must satisfy.
    #[must_use]
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }
}

/// Why a token is refused. Which byte was wrong is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// It is no token.
    #[error("the token cannot be read")]
    Malformed,
    /// It is of a version, or has a kind of caveat, that this release does not know.
    #[error("the token was made by a newer release: upgrade this node")]
    UnknownVersion,
    /// The key that it names is not here, or not any more.
    #[error("the key of the token is not here: get another token")]
    UnknownKey,
    /// It was changed, or made with another key or for another cluster.
    #[error("the token is not one of this cluster, or was changed: get another")]
    Forged,
    /// Nothing in it says when it ends.
    #[error("the token has no end: get one that expires")]
    Endless,
    /// It ends too late.
    #[error("the token would be good for more than 30 days: get one that ends sooner")]
    TooLong,
    /// It cannot hold another caveat.
    #[error("a token has at most 32 caveats")]
    TooManyCaveats,
}

impl Token {
    /// Makes a token with a key of ours, which is good for so long from now on.
    ///
    /// # Errors
    /// [`TokenRefusal::Malformed`] for a principal that is no caller's name, [`TokenRefusal::TooLong`] above
    /// [`TOKEN_LIFE_MAX`], and [`TokenRefusal::UnknownKey`] without a key, or without randomness.
    pub fn mint(
        keys: &TokenKeys,
        cluster: ClusterId,
        principal: &str,
        now_ms: u64,
        lives: Duration,
    ) -> Result<Self, TokenRefusal> {
        let mut identifier = [0; 16];
        let random = ring::rand::SystemRandom::new();
        random.fill(&mut identifier).map_err(|_| TokenRefusal::UnknownKey)?;
        Self::named(keys, cluster, principal, (now_ms, lives), identifier)
    }

    /// As [`mint`](Self::mint), under this name.
    pub(super) fn named(
        keys: &TokenKeys,
        cluster: ClusterId,
        principal: &str,
        (now_ms, lives): (u64, Duration),
        identifier: [u8; 16],
    ) -> Result<Self, TokenRefusal> {
        check_principal(cluster, principal)?;
        if TOKEN_LIFE_MAX < lives {
            return Err(TokenRefusal::TooLong);
        }
        let not_after_ms = now_ms.saturating_add(milliseconds(lives));
        let (key_id, key) = keys.newest().ok_or(TokenRefusal::UnknownKey)?;
        let mut token = Self {
            key_id,
            identifier,
            principal: principal.to_owned(),
            caveats: Vec::new(),
            tag: [0; TAG_BYTES],
        };
        token.tag = token.first_tag(key, cluster);
        token.narrowed(&Caveat::NotAfter { ms: not_after_ms })
    }

    /// The same with one caveat more: whoever holds a token can do this.
    ///
    /// # Errors
    /// [`TokenRefusal::TooManyCaveats`], or [`TokenRefusal::Malformed`] for a caveat that is too long.
    pub fn narrowed(&self, caveat: &Caveat) -> Result<Self, TokenRefusal> {
        if self.caveats.len() >= CAVEATS_MAX {
            return Err(TokenRefusal::TooManyCaveats);
        }
        let raw = caveat.encode().ok_or(TokenRefusal::Malformed)?;
        let mut token = self.clone();
        token.tag = next_tag(&token.tag, &raw);
        token.caveats.push(raw);
        Ok(token)
    }

    /// What is signed before the caveats.
    fn head(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.key_id.to_be_bytes());
        out.extend(self.identifier);
        put_text(&mut out, &self.principal);
        out
    }

    fn first_tag(&self, key: &hmac::Key, cluster: ClusterId) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(key);
        context.update(PURPOSE);
        context.update(&cluster.get().to_be_bytes());
        context.update(&self.head());
        bytes_of(&context.sign())
    }

    /// Whom it says that it speaks for. Whether it does, [`TokenKeys::verify`] finds out.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// Which key made it.
    #[must_use]
    pub fn key_id(&self) -> u32 {
        self.key_id
    }

    /// Its number, by which the audit names it.
    #[must_use]
    pub fn identifier(&self) -> &[u8; 16] {
        &self.identifier
    }

    /// What it was narrowed by.
    ///
    /// # Errors
    /// [`TokenRefusal`] for one that this release does not know.
    pub fn caveats(&self) -> Result<Vec<Caveat>, TokenRefusal> {
        self.caveats.iter().map(|raw| Caveat::decode(raw)).collect()
    }

    /// As it travels.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut raw = self.head();
        raw.push(u8::try_from(self.caveats.len()).expect("checked to be at most 32"));
        for caveat in &self.caveats {
            raw.extend(caveat);
        }
        raw.extend(self.tag);
        format!("{TEXT_PREFIX}{}", URL_SAFE_NO_PAD.encode(raw))
    }

    /// Reads what [`Token::to_text`] writes, and nothing else. It is not judged yet.
    ///
    /// # Errors
    /// [`TokenRefusal::Malformed`] or [`TokenRefusal::UnknownVersion`].
    pub fn parse(text: &str) -> Result<Self, TokenRefusal> {
        if TOKEN_TEXT_BYTES_MAX < text.len() {
            return Err(TokenRefusal::Malformed);
        }
        let text = text.strip_prefix(TEXT_PREFIX).ok_or(TokenRefusal::Malformed)?;
        let raw = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenRefusal::Malformed)?;
        let (version, rest) = raw.split_first().ok_or(TokenRefusal::Malformed)?;
        if *version != VERSION {
            return Err(TokenRefusal::UnknownVersion);
        }
        Self::read(rest).ok_or(TokenRefusal::Malformed)
    }

    fn read(raw: &[u8]) -> Option<Self> {
        let mut rest = Rest(raw);
        let key_id = rest.array().map(u32::from_be_bytes)?;
        let identifier = rest.array()?;
        let principal = rest.text()?;
        let count = rest.byte().filter(|count| usize::from(*count) <= CAVEATS_MAX)?;
        let caveats: Option<_> = (0..count).map(|_| caveat::take(&mut rest)).collect();
        let (caveats, tag) = (caveats?, rest.array()?);
        rest.0.is_empty().then_some(Self { key_id, identifier, principal, caveats, tag })
    }
}

/// A principal is whatever a client certificate can name.
fn check_principal(cluster: ClusterId, principal: &str) -> Result<(), TokenRefusal> {
    let subject = palisade::tls::Subject::of_client(cluster, principal);
    subject.map(|_| ()).map_err(|_| TokenRefusal::Malformed)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn next_tag(tag: &[u8; TAG_BYTES], caveat: &[u8]) -> [u8; TAG_BYTES] {
    bytes_of(&hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, tag), caveat))
}

fn bytes_of(tag: &hmac::Tag) -> [u8; TAG_BYTES] {
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

impl TokenKeys {
    /// Whom the token speaks for, if one of our keys made it for this cluster. What its caveats demand is
    /// judged with each ask, in [`super::grants::decide`]; here, only that it ends in time.
    ///
    /// # Errors
    /// [`TokenRefusal`], and then the call is refused: it does not go on without the token.
    pub fn verify(
        &self,
        cluster: ClusterId,
        token: &Token,
        now_ms: u64,
    ) -> Result<Bearer, TokenRefusal> {
        let key = self.key(token.key_id).ok_or(TokenRefusal::UnknownKey)?;
        // The last step is ring's own comparison, which takes the same time wherever two tags differ.
        let first = token.first_tag(key, cluster);
        let genuine = match token.caveats.split_last() {
            None => return Err(TokenRefusal::Endless),
            Some((last, before)) => {
                let tag = before.iter().fold(first, |tag, caveat| next_tag(&tag, caveat));
                let key = hmac::Key::new(hmac::HMAC_SHA256, &tag);
                hmac::verify(&key, last, &token.tag).is_ok()
            }
        };
        if !genuine {
            return Err(TokenRefusal::Forged);
        }
        check_principal(cluster, &token.principal)?;
        let caveats = token.caveats()?;
        let ends = caveats.iter().filter_map(|caveat| match caveat {
            Caveat::NotAfter { ms } => Some(*ms),
            _ => None,
        });
        let ends = ends.min().ok_or(TokenRefusal::Endless)?;
        // Whoever had a key for a day cannot make a token for ever.
        if now_ms.saturating_add(milliseconds(TOKEN_LIFE_MAX + CLOCKS_DIFFER)) < ends {
            return Err(TokenRefusal::TooLong);
        }
        let (principal, identifier) = (token.principal.clone(), token.identifier);
        Ok(Bearer { principal, identifier, caveats })
    }
}

#[cfg(test)]
mod tests;
