//! Starts boxoffice as a separate process, or inside this process.

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    process::{Command, ExitStatus, Stdio},
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
use tokio::net::TcpListener;

use crate::{Failure, logged::LoggedProcess, process::Signal, usage};

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
    process: LoggedProcess,
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
            .args(flags);
        let mut process = LoggedProcess::start(command)?;
        let line: Value = serde_json::from_str(&process.wait_for("\"message\":\"listening\"").await?)?;
        let address = |name: &str| line["fields"][name].as_str().and_then(|text| text.parse().ok());
        Ok(Self {
            address: address("address").ok_or("the log line has no address of the public services")?,
            admin_address: address("admin_address").ok_or("the log line has no address of AdminService")?,
            http_address: address("http_address"),
            process,
        })
    }

    /// Waits until the server logs that it is ready.
    pub async fn ready(&mut self) -> Result<(), Failure> {
        self.wait_for("\"message\":\"ready\"").await.map(drop)
    }

    /// Waits for a log line that contains `text`, and returns this line. Searches only lines after the last line that
    /// this function returned. Fails after 60 seconds, or if the log ends first.
    pub async fn wait_for(&mut self, text: &str) -> Result<String, Failure> {
        self.process.wait_for(text).await
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits until the process has ended and its log is read, and returns its exit status. Returns `None` if the
    /// process still runs after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.ended(limit).await
    }

    /// Returns the resident memory of the process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        usage::resident_bytes(self.pid()).expect("the memory of a living process")
    }

    /// Returns all log lines that the server has written so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.process.log_lines()
    }
}
