//! Reads the CPU time and the memory of a process from `/proc`.

use std::{fs, process::Command, sync::OnceLock};

/// Returns the CPU seconds that a process has used so far, in user mode and in system mode. Returns `None` if the
/// process does not exist.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    ticks(&stat).map(|ticks| ticks as f64 / ticks_per_second())
}

/// Returns the CPU seconds that the running direct children of a process have used so far. Children that have ended do
/// not count. PostgreSQL starts a child process for each connection. Returns `None` if `/proc` cannot be read.
pub fn children_cpu_seconds(parent: u32) -> Option<f64> {
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stats = pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let ticks: u64 = stats.filter(|stat| parent_of(stat) == Some(parent)).filter_map(|stat| ticks(&stat)).sum();
    Some(ticks as f64 / ticks_per_second())
}

/// Returns the resident memory of a process, in bytes. Returns `None` if the process does not exist.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1_024)
}

/// Returns the fields of a `/proc/PID/stat` line that follow the name of the process. The name is in parentheses, and
/// may itself contain spaces and parentheses.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace())
}

fn parent_of(stat: &str) -> Option<u32> {
    fields(stat)?.nth(1)?.parse().ok()
}

fn ticks(stat: &str) -> Option<u64> {
    let mut times = fields(stat)?.skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some(user + system)
}

fn ticks_per_second() -> f64 {
    static TICKS: OnceLock<f64> = OnceLock::new();
    *TICKS.get_or_init(|| {
        let output = Command::new("getconf").arg("CLK_TCK").output().ok();
        let ticks = output.and_then(|output| String::from_utf8_lossy(&output.stdout).trim().parse().ok());
        // If `getconf` fails, the value is 100, as on all common architectures of Linux.
        ticks.unwrap_or(100.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let stat = "42 (a (b) c) S 7 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0";
        assert_eq!((parent_of(stat), ticks(stat)), (Some(7), Some(200)));
    }

    #[test]
    fn the_usage_of_this_process_can_be_read() {
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 0));
        assert!(cpu_seconds(std::process::id()).is_some());
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}
