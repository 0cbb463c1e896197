//! The server under test: a release-built process of its own, on a database of its own.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant, SystemTime},
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
    url: String,
    flags: Vec<String>,
    log: Arc<Mutex<Log>>,
    process: Option<Guarded>,
    dir: TempDir,
}

/// What the server's log said that matters here.
#[derive(Default)]
struct Log {
    complaints: Complaints,
    admissions: Vec<SystemTime>,
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
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut deployment = Self {
            address: nowhere,
            admin: nowhere,
            metrics: TcpListener::bind(nowhere)?.local_addr()?,
            pid: 0,
            url,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            log: Arc::default(),
            process: None,
            dir,
        };
        deployment.launch().await?;
        Ok(deployment)
    }

    /// Kills the server and starts it again on the same database; returns how long it took until it served.
    pub async fn restart(&mut self) -> Result<Duration, Failure> {
        self.process = None;
        let started = Instant::now();
        self.launch().await?;
        Ok(started.elapsed())
    }

    async fn launch(&mut self) -> Result<(), Failure> {
        let mut command = Command::new(program()?);
        // Settings of whoever measures must not change what is measured.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BOXOFFICE_")) {
            command.env_remove(name);
        }
        command
            .args(["--database-url", &self.url, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--metrics-listen", &self.metrics.to_string(), "--log-format", "json"])
            .args(&self.flags)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = Guarded::spawn_in(self.dir.path(), &mut command)?;
        let stderr = process.child().stderr.take().ok_or("the server has no log")?;
        let events = follow(stderr, self.log.clone());
        let started = tokio::task::spawn_blocking(move || wait_until_ready(&events)).await?;
        (self.address, self.admin) =
            started.ok_or_else(|| format!("the server did not start: {}", self.complaints().first.join("; ")))?;
        self.pid = process.id();
        self.process = Some(process);
        Ok(())
    }

    /// When the server admitted somebody, by its log.
    pub fn admissions(&self) -> Vec<SystemTime> {
        self.log.lock().unwrap_or_else(|e| e.into_inner()).admissions.clone()
    }

    /// What the server warned of so far.
    pub fn complaints(&self) -> Complaints {
        self.log.lock().unwrap_or_else(|e| e.into_inner()).complaints.clone()
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
fn follow(stderr: ChildStderr, log: Arc<Mutex<Log>>) -> mpsc::Receiver<Event> {
    let (tell, events) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(event) = read_line(&line, &log) {
                // Nobody listens once the server is ready.
                let _ = tell.send(event);
            }
        }
    });
    events
}

fn read_line(line: &str, log: &Mutex<Log>) -> Option<Event> {
    let mut log = log.lock().unwrap_or_else(|e| e.into_inner());
    let parsed: Option<Value> = serde_json::from_str(line).ok();
    let level = parsed.as_ref().and_then(|value| value["level"].as_str()).unwrap_or("ERROR");
    if matches!(level, "WARN" | "ERROR") {
        let complaints = &mut log.complaints;
        complaints.count += 1;
        if complaints.first.len() < KEPT_COMPLAINTS {
            let words = parsed.as_ref().map_or_else(|| line.to_owned(), |value| value["fields"].to_string());
            complaints.first.push(words);
        }
    }
    let parsed = parsed?;
    let fields = &parsed["fields"];
    let address = |name: &str| fields[name].as_str()?.parse().ok();
    match fields["message"].as_str()? {
        "listening" => Some(Event::Listening(address("address")?, address("admin_address")?)),
        "ready" => Some(Event::Ready),
        "admitted" => {
            log.admissions.extend(parsed["timestamp"].as_str().and_then(|at| humantime::parse_rfc3339(at).ok()));
            None
        }
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
