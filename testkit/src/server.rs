//! Starts boxoffice as a separate process, or inside this process.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    process::{ChildStderr, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use boxoffice::{
    app::{
        cli::Settings,
        server::{Listeners, Server},
    },
    clock::Clock,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    Failure,
    process::{Guarded, Signal},
    usage,
};

/// Maximum time to wait for a log line. A server that takes longer to start is broken, even on a slow machine.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// Maximum number of log lines that are printed with a failure. The last lines are chosen.
const SHOWN_LINES: usize = 30;

/// Starts a server inside this process, on free ports. The server may not be ready yet. With `runs_passes`, the
/// promotion, expiry and tidy passes run automatically.
pub async fn start_here(settings: &Settings, clock: &Clock, runs_passes: bool) -> Server {
    let bind = async |ip: IpAddr| TcpListener::bind((ip, 0)).await.expect("a free port");
    let local = IpAddr::from([127, 0, 0, 1]);
    let http = match settings.http_listen {
        Some(address) => Some(bind(address.ip()).await),
        None => None,
    };
    let listeners = Listeners { public: bind(local).await, admin: bind(local).await, http };
    Server::start(settings.clone(), clock.clone(), listeners, runs_passes).await.expect("a server")
}

/// Returns a command that runs `program` without the environment variables `BOXOFFICE_*` and `OTEL_*` of this process.
/// These variables could change the results of a test or a benchmark.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if ["BOXOFFICE_", "OTEL_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A running `boxoffice serve` on free ports. The process is killed when this value is dropped, or when this process
/// ends.
pub struct ServerProcess {
    /// The address of the public services.
    pub address: SocketAddr,
    /// The address of AdminService.
    pub admin_address: SocketAddr,
    /// The address of the probes, the metrics and the live page; `None` if the server does not serve them.
    pub http_address: Option<SocketAddr>,
    process: Guarded,
    log: Arc<Log>,
    /// The number of log lines that [`ServerProcess::wait_for`] has already searched.
    seen_count: usize,
}

impl ServerProcess {
    /// Runs `command` with the arguments `serve` and `flags`, and reads the addresses of the server from its log. The
    /// server may not be ready yet.
    pub async fn start(
        mut command: Command,
        flags: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Self, Failure> {
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Guarded::spawn(&mut command)?;
        let log = Log::follow(process.child().stderr.take().ok_or("the server has no log")?);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server =
            Self { address: nowhere, admin_address: nowhere, http_address: None, process, log, seen_count: 0 };
        let line: Value = serde_json::from_str(&server.wait_for("\"message\":\"listening\"").await?)?;
        let address = |name: &str| line["fields"][name].as_str().and_then(|text| text.parse().ok());
        server.address = address("address").ok_or("the log line has no address of the public services")?;
        server.admin_address = address("admin_address").ok_or("the log line has no address of AdminService")?;
        server.http_address = address("http_address");
        Ok(server)
    }

    /// Waits until the server logs that it is ready.
    pub async fn ready(&mut self) -> Result<(), Failure> {
        self.wait_for("\"message\":\"ready\"").await.map(drop)
    }

    /// Waits for a log line that contains `text`, and returns this line. Searches only lines after the last line that
    /// this function returned. Fails after 60 seconds, or if the log ends first.
    pub async fn wait_for(&mut self, text: &str) -> Result<String, Failure> {
        let found = tokio::time::timeout(LINE_LIMIT, self.log.find(self.seen_count, text)).await.ok().flatten();
        let Some((count, line)) = found else {
            return Err(format!("the server did not log {text}:\n{}", self.log_end()).into());
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

    /// Returns the resident memory of the process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        usage::resident_bytes(self.pid()).expect("the memory of a living process")
    }

    /// Returns all log lines that the server has written so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lines()
    }

    fn log_end(&self) -> String {
        let lines = self.log.lines();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The last log lines of {}:\n{}", self.address, self.log_end());
        }
    }
}

/// The log of a server.
#[derive(Default)]
struct Log(watch::Sender<LogState>);

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    is_over: bool,
}

impl Log {
    /// Reads the log to its end in a thread, so that the server never waits for a reader.
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
