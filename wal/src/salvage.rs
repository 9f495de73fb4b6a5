//! What can be read of a file on a disk that has begun to fail.
//!
//! A drive refuses single sectors, and a file may have lost its end. Neither is a reason to give up
//! the rest: what cannot be read is taken as zeros, which no frame consists of, and recovery is told
//! how far such places reach.

use std::io;

use crate::disk::Disk;

/// Read at once as long as it works.
const PIECE_BYTES: usize = 64 << 10;
/// What is given up when it does not.
const BLOCK_BYTES: usize = 4 << 10;

/// A file's bytes, as far as they can be read.
pub(crate) struct Salvaged {
    pub(crate) bytes: Vec<u8>,
    /// Everything from here on could be read.
    pub(crate) read_from: u64,
}

/// True if the medium gave the bytes up, and not if the request was wrong or refused.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const ENODATA: i32 = 61;
    const EBADMSG: i32 = 74;
    const EUCLEAN: i32 = 117;
    matches!(error.raw_os_error(), Some(EIO | ENODATA | EBADMSG | EUCLEAN))
        || error.kind() == io::ErrorKind::UnexpectedEof
}

/// Reads the first `length` bytes of a file; those that cannot be read are zeros.
pub(crate) fn read(disk: &dyn Disk, name: &str, length: usize) -> io::Result<Salvaged> {
    let mut bytes = vec![0; length];
    let mut read_from = 0;
    for (number, piece) in bytes.chunks_mut(PIECE_BYTES).enumerate() {
        let piece_pos = number * PIECE_BYTES;
        match disk.read_at(name, piece_pos as u64, piece) {
            Ok(()) => continue,
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Err(error),
        }
        for (number, block) in piece.chunks_mut(BLOCK_BYTES).enumerate() {
            let pos = (piece_pos + number * BLOCK_BYTES) as u64;
            match disk.read_at(name, pos, block) {
                Ok(()) => {}
                Err(error) if is_unreadable(&error) => {
                    // A failed read may have filled a part of it.
                    block.fill(0);
                    read_from = pos + block.len() as u64;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Salvaged { bytes, read_from })
}
