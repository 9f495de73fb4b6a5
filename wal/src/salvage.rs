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
        if disk.read_at(name, piece_pos as u64, piece).is_ok() {
            continue;
        }
        // Whatever it was, it shows again at the block that it concerns.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    const FILE: &str = "f";
    /// Two pieces and a half, and a half block.
    const LENGTH: usize = PIECE_BYTES * 5 / 2 + BLOCK_BYTES / 2;

    /// A file without a zero in it.
    fn disk() -> (SimDisk, Vec<u8>) {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8 + 1).collect();
        let disk = SimDisk::from_seed(1);
        disk.create(FILE, LENGTH as u64).unwrap();
        disk.write_at(FILE, 0, &bytes).unwrap();
        (disk, bytes)
    }

    #[test]
    fn what_can_be_read_is_read_whole() {
        let (disk, bytes) = disk();
        let found = read(&disk, FILE, LENGTH).unwrap();
        assert!(found.bytes == bytes);
        assert_eq!(found.read_from, 0);
    }

    #[test]
    fn a_bad_sector_costs_its_block_alone() {
        for at in [PIECE_BYTES + 3 * BLOCK_BYTES + 7, LENGTH - 1] {
            let (disk, mut bytes) = disk();
            disk.fail_reads(FILE, at..at + 1);
            let block = at / BLOCK_BYTES * BLOCK_BYTES;
            let block = block..LENGTH.min(block + BLOCK_BYTES);
            bytes[block.clone()].fill(0);
            let found = read(&disk, FILE, LENGTH).unwrap();
            assert!(found.bytes == bytes, "at={at}");
            assert_eq!(found.read_from, block.end as u64);
        }
    }

    #[test]
    fn a_file_that_lost_its_end_is_read_up_to_there() {
        let (disk, mut bytes) = disk();
        let end = 2 * PIECE_BYTES + BLOCK_BYTES;
        disk.truncate(FILE, end);
        bytes[end..].fill(0);
        let found = read(&disk, FILE, LENGTH).unwrap();
        assert!(found.bytes == bytes);
        assert_eq!(found.read_from, LENGTH as u64);
    }

    #[test]
    fn only_the_medium_makes_bytes_unreadable() {
        for code in [5, 61, 74, 117] {
            assert!(is_unreadable(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(is_unreadable(&io::ErrorKind::UnexpectedEof.into()));
        for code in [2, 13, 24] {
            assert!(!is_unreadable(&io::Error::from_raw_os_error(code)), "{code}");
        }
        let (disk, _) = disk();
        assert!(read(&disk, "another", LENGTH).is_err(), "that is no bad sector");
    }
}
