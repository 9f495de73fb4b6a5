//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// No certificate, key or list of them is longer.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Its owner.
    Secret,
    /// Everybody.
    Public,
}

/// Writes a file that must not be there yet.
pub(super) fn write_new(path: &Path, secrecy: Secrecy, contents: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, secrecy, contents)?;
    // A link is refused where the name is taken; a rename would take it.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked?;
    sync_parent(path)
}

/// Writes a file, in the place of what is there.
pub(super) fn replace(path: &Path, secrecy: Secrecy, contents: &[u8]) -> io::Result<()> {
    let temporary = write_beside(path, secrecy, contents)?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

fn write_beside(path: &Path, secrecy: Secrecy, contents: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // What a crash left of an earlier one.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = match secrecy {
        Secrecy::Secret => 0o600,
        Secrecy::Public => 0o644,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    Ok(temporary)
}

/// Makes a name last through a loss of power.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads a file of at most [`FILE_BYTES_MAX`].
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(contents)
}

/// Reads a key, which nobody else on this machine may.
pub(crate) fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.permissions().mode() & 0o007 != 0 {
        return Err(io::Error::other("everybody on this machine can read it: chmod 600"));
    }
    read(path)
}
