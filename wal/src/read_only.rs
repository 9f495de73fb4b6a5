//! A directory that is looked at while nobody writes to it, and never changed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, LOCK};
use crate::error::WalError;

/// A directory of the file system as [`FileDisk`](crate::FileDisk) has it, to be read. Every write is refused.
///
/// While it lives no process can open the directory to write, and it is refused where one has: what is
/// being written cannot be judged.
#[derive(Debug)]
pub struct ReadOnlyDisk {
    dir: PathBuf,
    /// Shared with other readers; none if nobody ever opened the directory.
    _lock: Option<File>,
}

impl ReadOnlyDisk {
    /// Opens a directory that is there.
    ///
    /// # Errors
    /// [`WalError::AlreadyOpen`] if a process has it, or the file system's own error.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, WalError> {
        let dir = dir.as_ref().to_owned();
        let name = dir.display().to_string();
        fs::read_dir(&dir).map_err(WalError::failed("open", &name))?;
        let lock_name = dir.join(LOCK).display().to_string();
        let lock = match File::open(dir.join(LOCK)) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { dir, _lock: None });
            }
            Err(error) => return Err(WalError::failed("open", &lock_name)(error)),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(Self { dir, _lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => Err(WalError::AlreadyOpen { file: lock_name }),
            Err(TryLockError::Error(error)) => Err(WalError::failed("lock", &lock_name)(error)),
        }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnlyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.dir.join(name))?.len())
    }

    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        File::open(self.dir.join(name))?.read_exact_at(buffer, pos)
    }

    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(name, pos, buffer)
    }

    fn create(&self, _name: &str, _bytes: u64) -> io::Result<()> {
        refused()
    }

    fn write_at(&self, _name: &str, _pos: u64, _bytes: &[u8]) -> io::Result<()> {
        refused()
    }

    fn sync(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self) -> io::Result<()> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;

    #[test]
    fn a_directory_is_read_by_many_or_written_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = ReadOnlyDisk::open(dir.path()).unwrap();
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "not even a lock is made");
        drop(first);
        let writer = FileDisk::open(dir.path()).unwrap();
        writer.create("a", 3).unwrap();
        writer.write_at("a", 0, b"abc").unwrap();
        let open = ReadOnlyDisk::open(dir.path()).unwrap_err();
        assert!(matches!(open, WalError::AlreadyOpen { .. }), "{open}");
        drop(writer);
        let readers = [(); 2].map(|()| ReadOnlyDisk::open(dir.path()).unwrap());
        let open = FileDisk::open(dir.path()).unwrap_err();
        assert!(matches!(open, WalError::AlreadyOpen { .. }), "{open}");
        for reader in &readers {
            let mut found = [0; 2];
            reader.read_at("a", 1, &mut found).unwrap();
            assert_eq!(&found, b"bc");
            assert_eq!(
                (reader.list().unwrap(), reader.len("a").unwrap()),
                (vec!["a".to_owned()], 3)
            );
            assert!(reader.write_at("a", 0, b"x").is_err());
            assert!(reader.create("b", 0).is_err());
            assert!(reader.remove("a").is_err());
            assert!(reader.rename("a", "b").is_err());
        }
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"abc");
    }
}
