//! Files that are there whole or not at all, and one hand at a time that changes them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::SecureRandom;
use rustix::fs::{FlockOperation, flock};

/// No certificate, key or list of them is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What the name of a file ends with that is not whole yet; before it, what no other writer comes upon.
const UNFINISHED: &str = ".new";

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Its owner.
    Secret,
    /// Everybody.
    Public,
}

/// Held by who changes the files of a directory: nobody else does meanwhile, in this process or another.
/// What is read under it is still so when it is written.
pub(super) struct Hold {
    dir: File,
}

impl Hold {
    /// On the directory that a file is in. Waits for who has it; taken twice by one thread, for ever.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let dir = File::open(parent(path))?;
        flock(&dir, FlockOperation::LockExclusive)?;
        Ok(Self { dir })
    }

    /// Writes a file that must not be there yet.
    pub(super) fn write_new(
        &self,
        path: &Path,
        secrecy: Secrecy,
        contents: &[u8],
    ) -> io::Result<()> {
        let temporary = write_beside(path, secrecy, contents)?;
        // A link is refused where the name is taken; a rename would take it.
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary)?;
        linked?;
        self.dir.sync_all()
    }

    /// Writes a file, in the place of what is there.
    pub(super) fn replace(&self, path: &Path, secrecy: Secrecy, contents: &[u8]) -> io::Result<()> {
        let temporary = write_beside(path, secrecy, contents)?;
        let renamed = fs::rename(&temporary, path);
        if renamed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        renamed?;
        self.dir.sync_all()
    }
}

/// Writes a key or token, where nothing is yet.
pub(crate) fn write_secret(path: &Path, contents: &[u8]) -> io::Result<()> {
    Hold::of(path)?.write_new(path, Secrecy::Secret, contents)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The whole of it, under a name that nobody else has.
fn write_beside(path: &Path, secrecy: Secrecy, contents: &[u8]) -> io::Result<PathBuf> {
    let mut unique = [0; 8];
    let random = ring::rand::SystemRandom::new();
    random.fill(&mut unique).map_err(|_| io::Error::other("no randomness"))?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{:016x}{UNFINISHED}", u64::from_be_bytes(unique)));
    let temporary = path.with_file_name(name);
    let mode = match secrecy {
        Secrecy::Secret => 0o600,
        Secrecy::Public => 0o644,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

/// Makes a directory, and those on the way to it, for its owner alone. One that is there stays as it is.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a name last through a loss of power.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// Reads a file of at most 1 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_all(File::open(path)?)
}

/// Reads a key or token, which nobody but its owner may.
pub(crate) fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // Of what was opened, and not of what the name may stand for by then.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others on this machine may use it: chmod 600"));
    }
    read_all(file)
}

fn read_all(file: File) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    /// A secret is for its owner alone: not for his group, not for everybody, and not even to be written.
    #[test]
    fn a_key_that_others_may_use_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let hold = Hold::of(&path).unwrap();
        hold.write_new(&path, Secrecy::Secret, b"key").unwrap();
        drop(hold);
        let with_mode = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path)
        };
        for mode in [0o600, 0o400, 0o700] {
            assert_eq!(with_mode(mode).unwrap(), b"key", "{mode:o}");
        }
        for bit in (0..6).map(|bit| 1 << bit) {
            assert!(with_mode(0o600 | bit).is_err(), "{bit:o}");
        }
    }

    /// Whatever the umask is; and what somebody has opened to others by himself stays so.
    #[test]
    fn a_directory_that_is_made_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let deep = dir.path().join("a/b");
        make_dir(&deep).unwrap();
        assert_eq!((mode(&deep), mode(deep.parent().unwrap())), (0o700, 0o700));
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o750)).unwrap();
        make_dir(&deep).unwrap();
        assert_eq!(mode(&deep), 0o750);

        crate::backups::open_or_make(&dir.path().join("backups")).unwrap();
        assert_eq!(mode(&dir.path().join("backups")), 0o700);
        let ca = dir.path().join("ca");
        crate::security::ca::Ca::init(&ca, palisade::ClusterId::new(1)).unwrap();
        assert_eq!(mode(&ca), 0o700);
        for within in fs::read_dir(&ca).unwrap().map(|found| found.unwrap().path()) {
            assert!(!within.is_dir() || mode(&within) == 0o700, "{}", within.display());
        }
    }

    /// What two write at once is what one of them wrote, and nothing is left beside it.
    #[test]
    fn writers_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let contents = [b'a' + writer; 4096];
                        let hold = Hold::of(path).unwrap();
                        hold.replace(path, Secrecy::Public, &contents).unwrap();
                        let read = read(path).unwrap();
                        assert!(read == contents, "nobody else writes under the hold");
                    }
                });
            }
        });
        assert_eq!(names(dir.path()), ["file"]);
        let hold = Hold::of(&path).unwrap();
        assert!(hold.write_new(&path, Secrecy::Public, b"other").is_err(), "it is there");
        assert_eq!(names(dir.path()), ["file"]);
    }
}
