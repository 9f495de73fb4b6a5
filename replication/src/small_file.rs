//! Small files of a node: each is whole or not at all, and says what it is.
//!
//! ```text
//! magic 8, version 4, fields, crc32 4 over all before it
//! ```
//! Little-endian. All versions have this form, so one of a newer release is told apart from a damaged one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut};

use crate::error::NodeError;

/// Why the fields of a file cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Damaged,
    /// Its checksum holds, and no release up to this one writes such a version.
    Newer {
        version: u32,
    },
}

impl Unfit {
    /// The same, said of a file; `remedy` is for a damaged one.
    pub(crate) fn of(self, data_dir: &Path, file: &str, remedy: &str) -> NodeError {
        let file = format!("{}/{file}", data_dir.display());
        match self {
            Self::Damaged => NodeError::Damaged { what: format!("{file} is damaged: {remedy}") },
            Self::Newer { version } => {
                NodeError::Newer { what: format!("{file} version={version}") }
            }
        }
    }
}

/// A file that is being written.
pub(crate) fn begin(magic: &[u8; 8], version: u32) -> Vec<u8> {
    let mut raw = magic.to_vec();
    raw.put_u32_le(version);
    raw
}

/// All its fields are there.
pub(crate) fn end(mut raw: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&raw);
    raw.put_u32_le(crc);
    raw
}

/// The version of a file and its fields.
pub(crate) fn fields<'a>(
    raw: &'a [u8],
    magic: &[u8; 8],
    newest: u32,
) -> Result<(u32, &'a [u8]), Unfit> {
    let (body, crc) = raw.split_last_chunk::<4>().ok_or(Unfit::Damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(Unfit::Damaged);
    }
    let mut fields = body.strip_prefix(magic).ok_or(Unfit::Damaged)?;
    match fields.try_get_u32_le() {
        Ok(version) if newest < version => Err(Unfit::Newer { version }),
        Ok(version) if 0 < version => Ok((version, fields)),
        _ => Err(Unfit::Damaged),
    }
}

/// What is in a file; `None` if it is not there.
pub(crate) fn read(data_dir: &Path, file: &str) -> Result<Option<Vec<u8>>, NodeError> {
    match fs::read(data_dir.join(file)) {
        Ok(raw) => Ok(Some(raw)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let what = format!("could not read {}/{file}", data_dir.display());
            Err(NodeError::Io { what, source: Arc::new(error) })
        }
    }
}

/// Written aside, synced, renamed, and the directory synced.
pub(crate) fn write_new(data_dir: &Path, name: &str, raw: &[u8]) -> io::Result<()> {
    let aside = data_dir.join(format!("{name}.new"));
    let mut file = File::create(&aside)?;
    file.write_all(raw)?;
    file.sync_all()?;
    fs::rename(&aside, data_dir.join(name))?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_file_is_told_apart_from_a_damaged_one() {
        let magic = b"PLSDTEST";
        let file = |version| {
            let mut raw = begin(magic, version);
            raw.put_slice(b"fields");
            end(raw)
        };
        assert_eq!(fields(&file(2), magic, 3), Ok((2, &b"fields"[..])));
        assert_eq!(fields(&file(4), magic, 3), Err(Unfit::Newer { version: 4 }));
        assert_eq!(fields(&file(0), magic, 3), Err(Unfit::Damaged));
        assert_eq!(fields(&file(2), b"PLSDELSE", 3), Err(Unfit::Damaged));
        for bit in 0..8 * file(2).len() {
            let mut raw = file(2);
            raw[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(fields(&raw, magic, 3), Err(Unfit::Damaged), "bit={bit}");
        }
        for cut in 0..file(2).len() {
            assert_eq!(fields(&file(2)[..cut], magic, 3), Err(Unfit::Damaged), "cut={cut}");
        }
    }
}
