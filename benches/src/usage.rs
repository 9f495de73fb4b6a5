//! What a process has used so far, as the kernel counts it: processor time and memory.

use std::collections::BTreeMap;
use std::fs;
use std::iter::successors;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Seconds of processor time of this process, in all its threads.
///
/// # Errors
/// When the kernel does not say.
pub fn cpu_seconds() -> Result<f64, String> {
    let stat = fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    Ok(Stat::parse(&stat)?.own_seconds)
}

/// Seconds of processor time of these processes, and of all that they have begun.
///
/// # Errors
/// When the kernel does not say, or one of these has ended.
pub fn cpu_seconds_of(processes: &[u32]) -> Result<f64, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // One may end meanwhile; whoever waited for it has what it took.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        found.push((process, Stat::parse(&stat)?));
    }
    let parent_of: BTreeMap<u32, u32> =
        found.iter().map(|(process, stat)| (*process, stat.parent)).collect();
    let belongs = |process: u32| {
        let line = successors(Some(process), |process| parent_of.get(process).copied());
        line.into_iter().any(|process| processes.contains(&process))
    };
    if let Some(ended) = processes.iter().find(|process| !parent_of.contains_key(process)) {
        return Err(format!("process={ended} has ended"));
    }
    let belonging = found.iter().filter(|(process, _)| belongs(*process));
    Ok(belonging.map(|(_, stat)| stat.own_seconds + stat.children_seconds).sum())
}

/// Bytes that the disk below a path was given so far, by whomever. What a process is said to have written
/// (`/proc/PID/io`) is no measure: it counts the whole stretch of the page cache that a write falls into, which
/// may be megabytes for a few bytes.
///
/// # Errors
/// When the kernel does not say.
pub fn disk_bytes_written(path: &Path) -> Result<u64, String> {
    let device = fs::metadata(path).map_err(|error| error.to_string())?.dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let file = format!("/sys/dev/block/{major}:{minor}/stat");
    let stat = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    // Sectors of 512 bytes, whatever the disk has.
    let sectors = stat.split_whitespace().nth(6).and_then(|sectors| sectors.parse::<u64>().ok());
    sectors.map(|sectors| 512 * sectors).ok_or_else(|| format!("{file} is not understood"))
}

/// What one line of the kernel says of a process.
#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    own_seconds: f64,
    /// Of those that it began and that have ended.
    children_seconds: f64,
}

impl Stat {
    fn parse(line: &str) -> Result<Self, String> {
        let unsaid = || "the kernel does not say how much processor time was used".to_owned();
        // The name before may have anything in it.
        let fields: Vec<&str> =
            line.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |at: usize| fields.get(at).and_then(|raw| raw.parse::<u32>().ok());
        // The kernel counts in hundredths of a second.
        let seconds =
            |at: usize| field(at).zip(field(at + 1)).map(|(a, b)| f64::from(a + b) / 100.0);
        let parts = (field(1), seconds(11), seconds(13));
        let (Some(parent), Some(own_seconds), Some(children_seconds)) = parts else {
            return Err(unsaid());
        };
        Ok(Self { parent, own_seconds, children_seconds })
    }
}

/// Memory of a process in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Now.
    pub now: f64,
    /// The most since the process began, or since [`forget_peak`].
    pub peak: f64,
}

/// What is resident of this process.
///
/// # Errors
/// When the kernel does not say.
pub fn memory() -> Result<Memory, String> {
    memory_of(std::process::id())
}

/// What is resident of another process.
///
/// # Errors
/// When the kernel does not say.
pub fn memory_of(process: u32) -> Result<Memory, String> {
    let status = fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.map_err(|error| error.to_string())?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib / 1024.0)
    };
    of("VmRSS")
        .zip(of("VmHWM"))
        .map(|(now, peak)| Memory { now, peak })
        .ok_or_else(|| "the kernel does not say how much memory is used".to_owned())
}

/// The peak is counted from here on.
///
/// # Errors
/// When the kernel does not allow it.
pub fn forget_peak() -> Result<(), String> {
    fs::write("/proc/self/clear_refs", "5").map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_used_is_seen_and_a_peak_forgotten() {
        let before = memory().unwrap();
        let block = vec![1_u8; 64 << 20];
        assert!(memory().unwrap().peak >= before.now + 60.0);
        assert_eq!(block.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 64 << 20);
        drop(block);
        forget_peak().unwrap();
        let after = memory().unwrap();
        assert!(after.peak <= after.now + 32.0, "{after:?}");
        assert!(cpu_seconds().unwrap() >= 0.0);
    }

    #[test]
    fn a_line_of_the_kernel_is_read_whatever_the_name() {
        let line = "7 (a b) c) S 3 7 7 0 -1 4194304 100 0 0 0 150 50 20 5 20 0 1 0 9 0 0";
        let stat = Stat { parent: 3, own_seconds: 2.0, children_seconds: 0.25 };
        assert_eq!(Stat::parse(line), Ok(stat));
        assert!(Stat::parse("7 (a) S 3").is_err());
    }

    #[test]
    fn what_a_process_has_begun_counts_with_it() {
        let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        let script = format!("sh -c '{busy}' & wait; echo ended; read -r line");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut told).unwrap();
        let (process, this) = (child.id(), std::process::id());
        let used = cpu_seconds_of(&[process]).unwrap();
        assert!(used >= 0.01, "{used:?}");
        assert!(cpu_seconds_of(&[this]).unwrap() >= used);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(cpu_seconds_of(&[process]).unwrap_err().contains("has ended"));
    }
}
