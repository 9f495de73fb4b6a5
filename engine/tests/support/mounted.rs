//! Runs a test on a file system of its own: in a process with a mount namespace that nobody else sees, and that is
//! gone with the process. So as root alone.

use std::path::PathBuf;
use std::process::Command;

/// Where it is mounted, for the process that has it.
const MOUNTED: &str = "PALISADE_TEST_MOUNTED";

/// Where it is mounted. `None` in the process that has just run the test in another one, or cannot: the shell's
/// `prepare` mounts it at `$1`, and may use the file `$0`.
pub(crate) fn mounted(test: &str, prepare: &str) -> Option<PathBuf> {
    if let Some(at) = std::env::var_os(MOUNTED) {
        return Some(PathBuf::from(at));
    }
    let dir = tempfile::tempdir().unwrap();
    let (scratch, mount) = (dir.path().join("scratch"), dir.path().join("mounted"));
    std::fs::create_dir(&mount).unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).args([&scratch, &mount]);
        command
    };
    match unshare(prepare).output() {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => {
            let why = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
            println!("skipped: no file system can be mounted here: {why}");
            return None;
        }
        Err(error) => {
            println!("skipped: no unshare here: {error}");
            return None;
        }
    }
    let status = unshare(&format!("{prepare} && exec \"$2\" --exact \"$3\" --nocapture"))
        .args([&std::env::current_exe().unwrap(), &PathBuf::from(test)])
        .env(MOUNTED, &mount)
        .status()
        .unwrap();
    assert!(status.success(), "the test fails on its file system: {status}");
    None
}
