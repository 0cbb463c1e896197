//! The server under test: a release-built process of its own, on a database of its own.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Failure, cli::Engine, postgres::Postgres, process::Guarded};

const START_LIMIT: Duration = Duration::from_secs(30);
/// So many complaints of the server's log are kept in words.
const KEPT_COMPLAINTS: usize = 10;

/// A server that runs.
pub struct Deployment {
    /// Where the public services are.
    pub address: SocketAddr,
    /// Where AdminService is.
    pub admin: SocketAddr,
    /// Where its metrics are.
    pub metrics: SocketAddr,
    /// The id of its process.
    pub pid: u32,
    complaints: Arc<Mutex<Complaints>>,
    _process: Guarded,
    _dir: TempDir,
}

/// What the server warned of.
#[derive(Debug, Clone, Default)]
pub struct Complaints {
    /// How many warnings and errors there were.
    pub count: u64,
    /// The first ones.
    pub first: Vec<String>,
}

/// What the log says at the start.
enum Event {
    Listening(SocketAddr, SocketAddr),
    Ready,
}

impl Deployment {
    /// Starts a server on a fresh database of `engine`, with further `flags`.
    pub async fn start(engine: Engine, postgres: Option<&Postgres>, flags: &[&str]) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("boxoffice-bench-").tempdir()?;
        let url = fresh_url(engine, postgres, &dir).await?;
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program()?);
        // Settings of whoever measures must not change what is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BOXOFFICE_")) {
            command.env_remove(name);
        }
        command
            .args(["--database-url", &url, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--metrics-listen", &metrics.to_string(), "--log-format", "json"])
            .args(flags)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Guarded::spawn_in(dir.path(), &mut command)?;
        let stderr = process.child().stderr.take().ok_or("the server has no log")?;
        let complaints = Arc::new(Mutex::new(Complaints::default()));
        let events = follow(stderr, complaints.clone());
        let started = tokio::task::spawn_blocking(move || wait_until_ready(&events)).await?;
        let (address, admin) = started.ok_or_else(|| {
            let said = complaints.lock().unwrap_or_else(|e| e.into_inner()).first.join("; ");
            format!("the server did not start: {said}")
        })?;
        Ok(Self { address, admin, metrics, pid: process.id(), complaints, _process: process, _dir: dir })
    }

    /// What the server warned of so far.
    pub fn complaints(&self) -> Complaints {
        self.complaints.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// The URL of a fresh database.
pub async fn fresh_url(engine: Engine, postgres: Option<&Postgres>, dir: &TempDir) -> Result<String, Failure> {
    match (engine, postgres) {
        (Engine::Sqlite, _) => Ok(format!("sqlite://{}?mode=rwc", dir.path().join("bench.db").display())),
        (Engine::Postgres, Some(postgres)) => postgres.fresh_database().await,
        (Engine::Postgres, None) => Err("there is no PostgreSQL".into()),
    }
}

/// The server's program, built beside this one.
fn program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?.with_file_name("boxoffice");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("there is no {}: build it with `cargo build --release -p boxoffice`", program.display()).into())
}

/// Reads the log to its end, so that the server never waits for a reader.
fn follow(stderr: ChildStderr, complaints: Arc<Mutex<Complaints>>) -> mpsc::Receiver<Event> {
    let (tell, events) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(event) = read_line(&line, &complaints) {
                // Nobody listens once the server is ready.
                let _ = tell.send(event);
            }
        }
    });
    events
}

fn read_line(line: &str, complaints: &Mutex<Complaints>) -> Option<Event> {
    let parsed: Option<Value> = serde_json::from_str(line).ok();
    let level = parsed.as_ref().and_then(|value| value["level"].as_str()).unwrap_or("ERROR");
    if matches!(level, "WARN" | "ERROR") {
        let mut complaints = complaints.lock().unwrap_or_else(|e| e.into_inner());
        complaints.count += 1;
        if complaints.first.len() < KEPT_COMPLAINTS {
            let words = parsed.as_ref().map_or_else(|| line.to_owned(), |value| value["fields"].to_string());
            complaints.first.push(words);
        }
    }
    let fields = &parsed?["fields"];
    let address = |name: &str| fields[name].as_str()?.parse().ok();
    match fields["message"].as_str()? {
        "listening" => Some(Event::Listening(address("address")?, address("admin_address")?)),
        "ready" => Some(Event::Ready),
        _ => None,
    }
}

fn wait_until_ready(events: &mpsc::Receiver<Event>) -> Option<(SocketAddr, SocketAddr)> {
    let mut addresses = None;
    loop {
        match events.recv_timeout(START_LIMIT).ok()? {
            Event::Listening(address, admin) => addresses = Some((address, admin)),
            Event::Ready => return addresses,
        }
    }
}
