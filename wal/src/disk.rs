//! The files that a wal lives in: a flat directory, by name.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::Advice;

use crate::error::WalError;

/// A flat directory of files. What is written counts only once the file is synced; a created,
/// renamed or removed name only once the directory is. Every method fails as the disk below it does.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new file of `bytes` zeros, written and synced. Its name is not yet.
    fn create(&self, name: &str, bytes: u64) -> io::Result<()>;
    /// Length of a file.
    fn len(&self, name: &str) -> io::Result<u64>;
    /// Fills the buffer from a place in a file. Fewer bytes are an error.
    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// The same from the medium itself, as far as what is there was synced: memory may hold what the medium
    /// has lost.
    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all the bytes at a place in a file.
    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything written to the file is on stable storage.
    fn sync(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, replacing who had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns once every name that was made, changed or removed is on stable storage.
    fn sync_dir(&self) -> io::Result<()>;
}

pub(crate) const LOCK: &str = "lock";
/// Files that are kept open, at most: a snapshot alone may have thousands.
const FILES_OPEN_MAX: usize = 128;
/// New files are filled with zeros in pieces of this size.
const ZEROS: usize = 1 << 20;
/// What the page cache is made of.
const PAGE_BYTES: u64 = 4096;

/// A directory of the file system, held by one process at a time.
#[derive(Debug)]
pub struct FileDisk {
    dir: PathBuf,
    dir_file: File,
    open: Mutex<OpenFiles>,
    /// Holds the lock until it is dropped.
    _lock: File,
}

/// The files used last, by name, each with the number of that use.
#[derive(Debug, Default)]
struct OpenFiles {
    files: BTreeMap<String, (Arc<File>, u64)>,
    uses: u64,
}

impl OpenFiles {
    fn get(&mut self, name: &str) -> Option<Arc<File>> {
        let (file, used) = self.files.get_mut(name)?;
        self.uses += 1;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    /// Keeps a file open, and closes the one that was not used for longest if they are too many.
    fn insert(&mut self, name: &str, file: Arc<File>) {
        if self.files.len() >= FILES_OPEN_MAX && !self.files.contains_key(name) {
            let oldest = self.files.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.files.remove(&oldest);
            }
        }
        self.uses += 1;
        self.files.insert(name.to_owned(), (file, self.uses));
    }

    fn rename(&mut self, from: &str, to: &str) {
        if let Some(file) = self.files.remove(from) {
            self.files.insert(to.to_owned(), file);
        }
    }
}

impl FileDisk {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// [`WalError::AlreadyOpen`] if a process has it, or the file system's own error.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, WalError> {
        let dir = dir.as_ref().to_owned();
        let name = dir.display().to_string();
        fs::create_dir_all(&dir).map_err(WalError::io("create", &name))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(WalError::io("sync", &name))?;
        }
        let lock_path = dir.join(LOCK);
        let lock_name = lock_path.display().to_string();
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(WalError::io("open", &lock_name))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WalError::AlreadyOpen { file: lock_name }),
            Err(TryLockError::Error(error)) => return Err(WalError::io("lock", &lock_name)(error)),
        }
        let dir_file = File::open(&dir).map_err(WalError::io("open", &name))?;
        Ok(Self { dir, dir_file, open: Mutex::default(), _lock: lock })
    }

    fn file(&self, name: &str) -> io::Result<Arc<File>> {
        let mut open = self.open_files();
        if let Some(file) = open.get(name) {
            return Ok(file);
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?);
        open.insert(name, Arc::clone(&file));
        Ok(file)
    }

    fn open_files(&self) -> std::sync::MutexGuard<'_, OpenFiles> {
        self.open.lock().expect("no code panics while it holds the files")
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(self.dir.join(name))?;
        let zeros = vec![0; ZEROS];
        let mut pos = 0;
        while pos < bytes {
            let count = (bytes - pos).min(ZEROS as u64);
            file.write_all_at(&zeros[..count as usize], pos)?;
            pos += count;
        }
        if bytes > 0 {
            file.sync_all()?;
        }
        self.open_files().insert(name, Arc::new(file));
        Ok(())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.metadata()?.len())
    }

    fn read_at(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file(name)?.read_exact_at(buffer, pos)
    }

    fn read_medium(&self, name: &str, pos: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = self.file(name)?;
        let end = (pos + buffer.len() as u64).next_multiple_of(PAGE_BYTES);
        let start = pos / PAGE_BYTES * PAGE_BYTES;
        // Drops what is clean of these pages. Of what is not, the cache answers.
        let _ = rustix::fs::fadvise(&*file, start, NonZeroU64::new(end - start), Advice::DontNeed);
        file.read_exact_at(buffer, pos)
    }

    fn write_at(&self, name: &str, pos: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, pos)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut open = self.open_files();
        fs::rename(self.dir.join(from), self.dir.join(to))?;
        open.rename(from, to);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.open_files().files.remove(name);
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir_file.sync_all()
    }
}

/// What every disk must do, to be run over each of them.
#[cfg(any(test, feature = "sim"))]
pub mod conformance {
    use super::Disk;

    /// Runs the suite over an empty disk.
    ///
    /// # Panics
    /// When the disk does not conform.
    pub fn run(disk: &dyn Disk) {
        let read = |name: &str, pos, length| {
            let mut buffer = vec![0xff; length];
            disk.read_at(name, pos, &mut buffer).map(|()| buffer)
        };
        assert!(disk.list().expect("a list").is_empty());
        assert!(disk.len("absent").is_err());
        assert!(read("absent", 0, 1).is_err());
        disk.create("a", 100).expect("a new file");
        assert_eq!(disk.len("a").expect("a length"), 100);
        assert_eq!(read("a", 0, 100).expect("zeros"), vec![0; 100]);
        assert!(read("a", 99, 2).is_err(), "fewer bytes than asked for are an error");
        disk.write_at("a", 40, b"hello").expect("a write");
        assert_eq!(read("a", 39, 7).expect("a read"), b"\0hello\0");
        disk.sync("a").expect("a sync");
        let mut buffer = [0xff; 7];
        disk.read_medium("a", 39, &mut buffer).expect("a read of the medium");
        assert_eq!(&buffer, b"\0hello\0");
        disk.create("b", 8).expect("a new file");
        disk.rename("a", "c").expect("a rename");
        disk.sync_dir().expect("a sync of the directory");
        assert_eq!(disk.list().expect("a list"), ["b", "c"]);
        assert_eq!(read("c", 40, 5).expect("a read"), b"hello");
        assert!(read("a", 0, 1).is_err(), "the old name is gone");
        disk.rename("b", "c").expect("a rename over another");
        assert_eq!(disk.list().expect("a list"), ["c"]);
        assert_eq!(disk.len("c").expect("a length"), 8);
        disk.remove("c").expect("a removal");
        assert!(disk.list().expect("a list").is_empty());
        assert!(disk.remove("c").is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_conforms() {
        let dir = tempfile::tempdir().unwrap();
        conformance::run(&FileDisk::open(dir.path()).unwrap());
    }

    /// A process may have a thousand files open, and a snapshot is many more.
    #[test]
    fn many_files_are_not_all_open_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path()).unwrap();
        let names: Vec<String> = (0..300).map(|at| format!("file {at}")).collect();
        for name in &names {
            disk.create(name, 0).unwrap();
            disk.write_at(name, 0, name.as_bytes()).unwrap();
        }
        for name in names.iter().rev() {
            disk.sync(name).unwrap();
            let mut found = vec![0; name.len()];
            disk.read_at(name, 0, &mut found).unwrap();
            assert_eq!(found, name.as_bytes());
            assert!(disk.open_files().files.len() <= FILES_OPEN_MAX);
        }
        assert!(disk.open_files().files.contains_key(&names[0]), "it was used last");
    }

    #[cfg(feature = "sim")]
    #[test]
    fn a_simulated_disk_conforms() {
        conformance::run(&crate::sim::SimDisk::from_seed(1));
    }
}
