//! Child processes whose log is read.

use std::{
    io::{BufRead, BufReader},
    process::{ChildStderr, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    Failure,
    process::{Guarded, Signal},
};

/// Maximum time to wait for a log line. A process that takes longer to start is broken, even on a slow machine.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// Maximum number of log lines that are printed with a failure. The last lines are chosen.
const SHOWN_LINES: usize = 30;

/// A process that writes its log to standard error. The process is killed when this value is dropped, or when this
/// process ends.
pub struct LoggedProcess {
    process: Guarded,
    log: Arc<Log>,
    /// The number of log lines that [`LoggedProcess::wait_for`] has already searched.
    seen_count: usize,
}

impl LoggedProcess {
    /// Runs `command`, and reads its log.
    pub fn start(mut command: Command) -> Result<Self, Failure> {
        let mut process = Guarded::spawn(command.stdout(Stdio::null()).stderr(Stdio::piped()))?;
        let log = Log::follow(process.child().stderr.take().ok_or("the process has no log")?);
        Ok(Self { process, log, seen_count: 0 })
    }

    /// Waits for a log line that contains `text`, and returns this line. Searches only lines after the last line that
    /// this function returned. Fails after 60 seconds, or if the log ends first.
    pub async fn wait_for(&mut self, text: &str) -> Result<String, Failure> {
        let found = tokio::time::timeout(LINE_LIMIT, self.log.find(self.seen_count, text)).await.ok().flatten();
        let Some((count, line)) = found else {
            return Err(format!("the process did not log {text}:\n{}", self.log_end()).into());
        };
        self.seen_count = count;
        Ok(line)
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal).expect("a living process");
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        self.process.kill().expect("a process to kill");
    }

    /// Waits until the process has ended and its log is read, and returns its exit status. Returns `None` if the
    /// process still runs after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = self.process.ended(limit).await.expect("a child process")?;
        self.log.ended().await;
        Some(status)
    }

    /// Returns all log lines that the process has written so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lines()
    }

    fn log_end(&self) -> String {
        let lines = self.log.lines();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for LoggedProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The last log lines of process {}:\n{}", self.pid(), self.log_end());
        }
    }
}

/// The log of a process.
#[derive(Default)]
struct Log(watch::Sender<LogState>);

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    is_over: bool,
}

impl Log {
    /// Reads the log to its end in a thread, so that the process never waits for a reader.
    fn follow(stderr: ChildStderr) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.0.send_modify(|state| state.lines.push(line));
            }
            writer.0.send_modify(|state| state.is_over = true);
        });
        log
    }

    /// Waits for a line that contains `text`. Searches from the line with the index `first`. Returns the index of the
    /// line after the found line, and the found line. Returns `None` if the log ends first.
    async fn find(&self, first: usize, text: &str) -> Option<(usize, String)> {
        let (mut next, mut found) = (first, None);
        let is_done = |state: &LogState| {
            while found.is_none() && next < state.lines.len() {
                found = Some(&state.lines[next]).filter(|line| line.contains(text)).cloned();
                next += 1;
            }
            found.is_some() || state.is_over
        };
        // The wait fails only if the sender was dropped, and this log keeps the sender.
        let _ = self.0.subscribe().wait_for(is_done).await;
        found.map(|line| (next, line))
    }

    /// Waits for the end of the log.
    async fn ended(&self) {
        let _ = self.0.subscribe().wait_for(|state| state.is_over).await;
    }

    fn lines(&self) -> Vec<String> {
        self.0.borrow().lines.clone()
    }
}
