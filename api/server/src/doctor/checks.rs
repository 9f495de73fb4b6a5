//! The checks, one function each.

use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::Finding;
use crate::node::Certificates;

/// Syncs that are measured.
const SYNCS: usize = 50;
/// And no longer than this.
const SYNCS_TIME_MAX: Duration = Duration::from_secs(5);
/// Written before each.
const SYNC_BYTES: usize = 4 << 10;
/// Slower than that, each write of a caller is felt.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// Faster than that no medium is: something on the way only says that it synced.
const SYNC_UNTRUE: Duration = Duration::from_micros(5);
/// What a node may want at once: RocksDB 512, snapshots 128, sockets.
const OPEN_FILES_WANTED: u64 = 4096;
const OPEN_FILES_LEAST: u64 = 1024;
/// 2020-09-13: an earlier clock was never set.
const CLOCK_SECONDS_LEAST: u64 = 1_600_000_000;
const SEGMENT_BYTES: u64 = 32 << 20;
/// Segments that must fit: the log in use, its spares, and the state beside it.
const SEGMENTS_LEAST: u64 = 8;
const SEGMENTS_WANTED: u64 = 64;

/// A clock that was never set gives log times that later ones never reach again.
pub(super) fn clock() -> Finding {
    #[expect(clippy::disallowed_methods, reason = "the clock itself is looked at")]
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if since < CLOCK_SECONDS_LEAST {
        let fix = "set the clock, and keep it set: install chrony or systemd-timesyncd";
        return Finding::failed("clock", format!("it was never set: {since} s since 1970"), fix);
    }
    if !is_kept() {
        let fix = "install chrony or systemd-timesyncd: leaders stamp the log with it";
        return Finding::warned("clock", "set, and nothing was found that keeps it so", fix);
    }
    Finding::good("clock", "set, and kept so")
}

fn is_kept() -> bool {
    ["/run/systemd/timesync/synchronized", "/run/chrony", "/run/ntpd.pid"]
        .iter()
        .any(|path| Path::new(path).exists())
}

/// How many files this process may open.
pub(super) fn open_files() -> Finding {
    const CHECK: &str = "open files";
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let fix = "raise it: `ulimit -n 65536`, or LimitNOFILE= of the systemd unit";
    match limits.current {
        None => Finding::good(CHECK, "no limit"),
        Some(limit) if limit < OPEN_FILES_LEAST => Finding::failed(CHECK, format!("{limit}"), fix),
        Some(limit) if limit < OPEN_FILES_WANTED => Finding::warned(CHECK, format!("{limit}"), fix),
        Some(limit) => Finding::good(CHECK, format!("{limit}")),
    }
}

/// Rights, space and syncs of the directory, or of the nearest one above it that is there.
pub(super) fn directory(dir: &Path, segment_bytes: Option<u64>) -> Vec<Finding> {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let there = absolute.ancestors().find(|dir| dir.exists()).map(Path::to_owned);
    let Some(there) = there.filter(|there| there.is_dir()) else {
        let fix = "name a directory, or one that can be made";
        let found = format!("{} is not one and cannot be made", dir.display());
        return vec![Finding::failed("directory", found, fix)];
    };
    let mut findings = vec![space(&there, segment_bytes.unwrap_or(SEGMENT_BYTES))];
    // Named like nothing that a node writes.
    let probe = there.join(format!(".palisade-doctor-{}", std::process::id()));
    match anonymous(&probe) {
        Ok(file) => {
            findings.push(rights(dir, &there));
            findings.push(syncs(file));
        }
        Err(error) => {
            let found = format!("{} cannot be written to: {error}", there.display());
            let fix = "give it to the user that the node runs as";
            findings.push(Finding::failed("directory", found, fix));
        }
    }
    findings
}

/// A file that was not there, and has no name any more: nothing is left of it, however this ends.
fn anonymous(probe: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create_new(true).open(probe)?;
    fs::remove_file(probe)?;
    Ok(file)
}

fn rights(dir: &Path, there: &Path) -> Finding {
    const CHECK: &str = "directory";
    let mode = fs::metadata(there).map_or(0, |found| found.mode());
    if there == dir && mode & 0o022 != 0 {
        let found =
            format!("{} can be written to by others, mode {:o}", dir.display(), mode & 0o777);
        return Finding::warned(CHECK, found, "let nobody else write there: `chmod go-w`");
    }
    let found = match there == dir {
        true => format!("{} can be written to", dir.display()),
        false => format!("{} can be made", dir.display()),
    };
    Finding::good(CHECK, found)
}

fn space(there: &Path, segment_bytes: u64) -> Finding {
    const CHECK: &str = "free space";
    let fix =
        "free some, or use a larger disk: a node without room refuses what it is asked to write";
    match rustix::fs::statvfs(there) {
        Err(error) => Finding::warned(CHECK, format!("unknown: {error}"), "look with `df`"),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} MiB", free >> 20);
            if free < SEGMENTS_LEAST * segment_bytes {
                Finding::failed(CHECK, text, fix)
            } else if free < SEGMENTS_WANTED * segment_bytes {
                Finding::warned(CHECK, text, fix)
            } else {
                Finding::good(CHECK, text)
            }
        }
    }
}

/// Writes and syncs a bounded number of times, as the log of a node does with each batch.
fn syncs(probe: File) -> Finding {
    const CHECK: &str = "disk sync";
    match measure(probe) {
        Err(error) => {
            let found = format!("a sync failed: {error}");
            Finding::failed(CHECK, found, "replace the disk, or mount it so that it can be synced")
        }
        Ok(mut times) => {
            times.sort_unstable();
            let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
            let text = format!(
                "median {:.2} ms, longest {:.2} ms, of {}",
                ms(median),
                ms(longest),
                times.len()
            );
            if median < SYNC_UNTRUE {
                let fix = "data in memory does not survive: keep it on a disk, not on tmpfs";
                Finding::warned(CHECK, format!("{text}: no disk is so fast"), fix)
            } else if median > SYNC_SLOW {
                let fix = "use a disk with power-loss protection; every write waits for a sync";
                Finding::warned(CHECK, text, fix)
            } else {
                Finding::good(CHECK, text)
            }
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn measure(mut file: File) -> std::io::Result<Vec<Duration>> {
    let block = [0xa5; SYNC_BYTES];
    let (mut times, mut all) = (Vec::with_capacity(SYNCS), Duration::ZERO);
    while times.len() < SYNCS && (times.is_empty() || all < SYNCS_TIME_MAX) {
        #[expect(clippy::disallowed_methods, reason = "how long a sync takes is what is asked")]
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        let took = begun.elapsed();
        all += took;
        times.push(took);
    }
    Ok(times)
}

/// Whether a node could listen there now.
pub(super) fn port(key: &str, address: SocketAddr) -> Finding {
    const CHECK: &str = "port";
    match TcpListener::bind(address) {
        Ok(_) => Finding::good(CHECK, format!("{address} is free, for {key}")),
        Err(error) => {
            let found = format!("{address} is not free, for {key}: {error}");
            Finding::failed(CHECK, found, "stop who listens there, or choose another port")
        }
    }
}

/// Whether the files are there, and the key is the node's own.
pub(super) fn certificate_files(certificates: &Certificates) -> Vec<Finding> {
    const CHECK: &str = "certificates";
    let Certificates { node_cert_file, node_key_file, peer_ca_file, client_ca_file, .. } =
        certificates;
    let mut findings = Vec::new();
    if let Some(file) = &certificates.token_keys_file
        && (is_open_to_others(file) || !file.exists())
    {
        let found = format!("{} cannot be read, or others can too", file.display());
        findings.push(Finding::failed(CHECK, found, "correct the path, or `chmod 600`"));
    }
    for file in [node_cert_file, node_key_file, peer_ca_file, client_ca_file] {
        let text = fs::read_to_string(file);
        let finding = match text {
            Err(error) => {
                let found = format!("{} cannot be read: {error}", file.display());
                Finding::failed(CHECK, found, "issue one, or correct the path")
            }
            Ok(text) if !text.contains("-----BEGIN ") => {
                let found = format!("{} is no PEM file", file.display());
                Finding::failed(CHECK, found, "issue one, or correct the path")
            }
            Ok(_) if file == node_key_file && is_open_to_others(file) => {
                let found = format!("{} can be read by others", file.display());
                Finding::failed(CHECK, found, "take their rights away: `chmod 600`")
            }
            Ok(_) => Finding::good(CHECK, format!("{} is there", file.display())),
        };
        findings.push(finding);
    }
    findings
}

fn is_open_to_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Mark;
    use super::*;

    fn marks(findings: &[Finding]) -> Vec<(&'static str, Mark)> {
        findings.iter().map(|finding| (finding.check, finding.mark)).collect()
    }

    #[test]
    fn a_directory_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let findings = directory(dir.path(), None);
        assert!(findings.iter().any(|finding| finding.check == "disk sync"), "{findings:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let to_be_made = dir.path().join("a/b");
        let findings = directory(&to_be_made, None);
        assert!(marks(&findings).contains(&("directory", Mark::Good)), "{findings:?}");
        assert!(!dir.path().join("a").exists());
        fs::write(dir.path().join("file"), "").unwrap();
        let findings = directory(&dir.path().join("file"), None);
        assert_eq!(marks(&findings), [("directory", Mark::Failed)]);
    }

    #[test]
    fn a_log_that_does_not_fit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let finding = space(dir.path(), 1 << 58);
        assert_eq!((finding.check, finding.mark), ("free space", Mark::Failed));
        assert!(finding.fix.is_some());
    }

    #[test]
    fn a_taken_port_is_noticed() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(port("listen.grpc", address).mark, Mark::Failed);
        drop(taken);
        assert_eq!(port("listen.grpc", address).mark, Mark::Good);
    }

    #[test]
    fn a_key_that_others_can_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for name in ["cert", "key", "peer", "client"] {
            fs::write(file(name), "-----BEGIN CERTIFICATE-----\n").unwrap();
            fs::set_permissions(file(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let certificates = Certificates {
            node_cert_file: file("cert"),
            node_key_file: file("key"),
            peer_ca_file: file("peer"),
            client_ca_file: file("client"),
            token_keys_file: None,
            admins: BTreeSet::new(),
            grants_age_ms_max: 30_000,
        };
        let all_good = certificate_files(&certificates);
        assert!(all_good.iter().all(|finding| finding.mark == Mark::Good), "{all_good:?}");
        fs::set_permissions(file("key"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(file("peer"), "peer").unwrap();
        fs::remove_file(file("client")).unwrap();
        let found: Vec<Mark> =
            certificate_files(&certificates).into_iter().map(|finding| finding.mark).collect();
        assert_eq!(found, [Mark::Good, Mark::Failed, Mark::Failed, Mark::Failed]);
    }
}
