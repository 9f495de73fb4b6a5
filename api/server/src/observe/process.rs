//! What the kernel says of this process: `/proc/self`.

use std::fs;

/// A tick of `/proc/self/stat`: what Linux shows to programs on every machine that Palisade is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) resident_bytes: u64,
    pub(super) cpu_seconds: f64,
    pub(super) threads: u64,
    pub(super) open_files: u64,
}

impl Process {
    /// This one; zeros where the kernel says nothing.
    pub(super) fn this() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let open_files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        Self::parse(&stat, &status, open_files)
    }

    fn parse(stat: &str, status: &str, open_files: u64) -> Self {
        // The name before can hold anything, brackets too. Behind it is the third of all fields.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let field = |number: usize| -> f64 {
            let text = rest.split(' ').nth(number - 3);
            text.and_then(|text| text.parse().ok()).unwrap_or(0.0)
        };
        let line = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Self {
            resident_bytes: line("VmRSS:") * 1024,
            cpu_seconds: (field(14) + field(15)) / TICKS_PER_SECOND,
            threads: line("Threads:"),
            open_files,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read_as_it_writes() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 99 1 1";
        let status = "Name:\ta\nVmRSS:\t    2048 kB\nThreads:\t4\n";
        let expected =
            Process { resident_bytes: 2 << 20, cpu_seconds: 3.0, threads: 4, open_files: 5 };
        assert_eq!(Process::parse(stat, status, 5), expected);
        assert_eq!(Process::parse("", "", 0), Process::default());
        let this = Process::this();
        assert!(this.resident_bytes > 1 << 20, "{this:?}");
        assert!(this.open_files >= 3, "{this:?}");
    }
}
