//! A term below which all promises of this node lie, for all its groups: what a replica that lost
//! its register goes by. See `docs/repair.md`.
//!
//! ```text
//! magic 8 "PLSDTERM", version 4, term 8, crc32 4: twice, in files of their own
//! ```
//! Little-endian. Raised seldom; each copy is written anew and synced before the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut};

use crate::directory::write_new;
use crate::error::NodeError;
use crate::identity::Term;

const MAGIC: &[u8; 8] = b"PLSDTERM";
const VERSION: u32 = 1;
const FILES: [&str; 2] = ["terms", "terms.copy"];
const BYTES: usize = 24;

/// The two copies.
#[derive(Debug)]
pub(crate) struct Ceiling {
    data_dir: PathBuf,
}

impl Ceiling {
    /// The highest term that either copy names, and the keeper of both. Without any, nothing was ever
    /// promised; damaged ones are written anew with the next raise.
    pub(crate) fn open(data_dir: &Path) -> Result<(Self, Term), NodeError> {
        let mut found = Vec::new();
        let mut damaged = 0;
        for file in FILES {
            match fs::read(data_dir.join(file)) {
                Ok(raw) => match decode(&raw) {
                    Some(term) => found.push(term),
                    None => damaged += 1,
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let what = format!("could not read {}/{file}", data_dir.display());
                    return Err(NodeError::Io { what, source: Arc::new(error) });
                }
            }
        }
        if found.is_empty() && damaged > 0 {
            return Err(NodeError::Damaged {
                what: format!(
                    "{}/{} and its copy are damaged: replace this node",
                    data_dir.display(),
                    FILES[0]
                ),
            });
        }
        let term = found.into_iter().max().unwrap_or(Term::ZERO);
        Ok((Self { data_dir: data_dir.to_owned() }, term))
    }

    /// Durable in both copies when it returns.
    pub(crate) fn raise(&self, term: Term) -> io::Result<()> {
        let raw = encode(term);
        FILES.iter().try_for_each(|file| write_new(&self.data_dir, file, &raw))
    }
}

pub(crate) fn encode(term: Term) -> Vec<u8> {
    let mut raw = MAGIC.to_vec();
    raw.put_u32_le(VERSION);
    raw.put_u64_le(term.get());
    let crc = crc32fast::hash(&raw);
    raw.put_u32_le(crc);
    raw
}

pub(crate) fn decode(raw: &[u8]) -> Option<Term> {
    let (body, crc) = raw.split_last_chunk::<4>()?;
    if raw.len() != BYTES || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut fields = body.strip_prefix(MAGIC)?;
    (fields.get_u32_le() == VERSION).then(|| Term::new(fields.get_u64_le()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_is_enough_and_none_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (ceiling, term) = Ceiling::open(dir.path()).unwrap();
        assert_eq!(term, Term::ZERO);
        ceiling.raise(Term::new(7)).unwrap();
        for at in 0..BYTES {
            let path = dir.path().join(FILES[at % 2]);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(Ceiling::open(dir.path()).unwrap().1, Term::new(7), "at={at}");
            fs::write(&path, &good).unwrap();
        }
        for file in FILES {
            fs::write(dir.path().join(file), b"?").unwrap();
        }
        assert!(matches!(Ceiling::open(dir.path()), Err(NodeError::Damaged { .. })));
    }
}
