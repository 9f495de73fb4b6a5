//! What a process has used so far, as the kernel counts it: processor time and memory.

use std::fs;

/// Seconds of processor time of this process, in all its threads.
///
/// # Errors
/// When the kernel does not say.
pub fn cpu_seconds() -> Result<f64, String> {
    let stat = fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|raw| raw.parse::<f64>().ok());
    let (user, system) = (ticks(11), ticks(12));
    // The kernel counts in hundredths of a second.
    user.zip(system)
        .map(|(user, system)| (user + system) / 100.0)
        .ok_or_else(|| "the kernel does not say how much processor time was used".to_owned())
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
}
