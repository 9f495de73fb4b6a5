//! A term below which all promises of this node lie, for all its groups: what a replica that lost
//! its register goes by. See `docs/repair.md`.
//!
//! ```text
//! magic 8 "PLSDTERM", version 4, term 8, crc32 4: twice, in files of their own
//! ```
//! Little-endian. Raised seldom; each copy is written anew and synced before the next.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

use crate::error::NodeError;
use crate::identity::Term;
use crate::small_file::{self, Unfit, write_new};

const MAGIC: &[u8; 8] = b"PLSDTERM";
const VERSION: u32 = 1;
const FILES: [&str; 2] = ["terms", "terms.copy"];

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
            let Some(raw) = small_file::read(data_dir, file)? else { continue };
            match decode(&raw) {
                Ok(term) => found.push(term),
                Err(Unfit::Damaged) => damaged += 1,
                Err(newer) => return Err(newer.of(data_dir, file, "")),
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
    let mut raw = small_file::begin(MAGIC, VERSION);
    raw.put_u64_le(term.get());
    small_file::end(raw)
}

pub(crate) fn decode(raw: &[u8]) -> Result<Term, Unfit> {
    let (_, mut fields) = small_file::fields(raw, MAGIC, VERSION)?;
    if fields.len() != 8 {
        return Err(Unfit::Damaged);
    }
    Ok(Term::new(fields.get_u64_le()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_copy_is_enough_and_none_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (ceiling, term) = Ceiling::open(dir.path()).unwrap();
        assert_eq!(term, Term::ZERO);
        ceiling.raise(Term::new(7)).unwrap();
        for at in 0..encode(Term::ZERO).len() {
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
