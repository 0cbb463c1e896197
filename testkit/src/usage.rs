//! Reads the CPU time, the memory and the written bytes of a process from `/proc`.

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
    Some(children(parent)?.into_iter().filter_map(cpu_seconds).sum())
}

/// Returns the ids of the running direct children of a process. Returns `None` if `/proc` cannot be read.
pub fn children(parent: u32) -> Option<Vec<u32>> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        stat.and_then(|stat| parent_of(&stat)) == Some(parent)
    };
    Some(ids_in("/proc")?.filter(is_child).collect())
}

/// Returns the CPU seconds that the running threads of a process have used so far. Only threads whose name starts with
/// `prefix` count. Linux cuts names of threads to 15 bytes. Returns `None` if the process does not exist.
pub fn threads_cpu_seconds(pid: u32, prefix: &str) -> Option<f64> {
    let tasks = format!("/proc/{pid}/task");
    let named = |thread: &u32| {
        let name = fs::read_to_string(format!("{tasks}/{thread}/comm")).unwrap_or_default();
        name.starts_with(prefix)
    };
    let stats = ids_in(&tasks)?.filter(named).filter_map(|thread| {
        let stat = fs::read_to_string(format!("{tasks}/{thread}/stat")).ok()?;
        ticks(&stat)
    });
    Some(stats.sum::<u64>() as f64 / ticks_per_second())
}

/// Returns the bytes that a process has caused to be written to storage so far. Linux counts a page of a file when the
/// page becomes dirty, so a page that is changed repeatedly before it is written counts once. Returns `None` if the
/// process does not exist, or if this process may not read the counters.
pub fn written_bytes(pid: u32) -> Option<u64> {
    written(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
}

/// Returns the seconds in which the processors of this machine had nothing to run, summed over all processors. The
/// seconds in which they waited for storage are included.
pub fn idle_seconds() -> Option<f64> {
    idle_ticks(&fs::read_to_string("/proc/stat").ok()?).map(|ticks| ticks as f64 / ticks_per_second())
}

fn ids_in(folder: &str) -> Option<impl Iterator<Item = u32>> {
    let entries = fs::read_dir(folder).ok()?;
    Some(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

fn written(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

fn idle_ticks(stat: &str) -> Option<u64> {
    // The values after the name are: user, nice, system, idle, iowait.
    let mut values = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().skip(3);
    let (idle, waiting): (u64, u64) = (values.next()?.parse().ok()?, values.next()?.parse().ok()?);
    Some(idle + waiting)
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
    fn written_bytes_and_idle_ticks_are_found_by_name_and_position() {
        assert_eq!(written("wchar: 9\nread_bytes: 8\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n"), Some(4_096));
        assert_eq!(idle_ticks("cpu  1 2 3 40 5 6 7 8 0 0\ncpu0 1 2 3 4 5\n"), Some(45));
    }

    #[test]
    fn the_usage_of_this_process_can_be_read() {
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 0));
        assert!(cpu_seconds(std::process::id()).is_some());
        assert_eq!(cpu_seconds(u32::MAX), None);
        assert!(threads_cpu_seconds(std::process::id(), "").is_some());
        assert!(written_bytes(std::process::id()).is_some());
        assert!(idle_seconds().is_some());
        assert!(children(std::process::id()).is_some());
    }
}
