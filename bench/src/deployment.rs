//! The server under test: a separate process with a fresh database.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use boxoffice::clock::Clock;
use serde_json::Value;
use testkit::{Engine, Failure, FreshDatabase, Postgres, ServerProcess, history::History, net, server, usage};

/// Maximum number of warnings and errors that a report quotes.
const KEPT_COMPLAINTS: usize = 10;

/// A running server under test.
pub struct Deployment {
    /// The address of the HTTP listener, which serves the metrics.
    pub metrics: SocketAddr,
    flags: Vec<String>,
    process: ServerProcess,
    database: Arc<FreshDatabase>,
}

/// The warnings and errors in the log of the server, since its last start.
#[derive(Debug, Clone, Default)]
pub struct Complaints {
    /// The number of warnings and errors.
    pub count: u64,
    /// The first warnings and errors, at most 10.
    pub first: Vec<String>,
}

impl Deployment {
    /// Starts a server with the command-line `flags` on a fresh database of `engine`, and waits until it is ready.
    pub async fn start(engine: Engine, postgres: Option<&Postgres>, flags: &[&str]) -> Result<Self, Failure> {
        let (database, metrics) = (fresh_database(engine, postgres).await?, net::free_address()?);
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let process = launch(&database.url, metrics, &flags).await?;
        Ok(Self { metrics, flags, process, database: Arc::new(database) })
    }

    /// Starts another server with the same flags on the same database, and waits until it is ready.
    pub async fn replica(&self) -> Result<Self, Failure> {
        let (database, metrics, flags) = (self.database.clone(), net::free_address()?, self.flags.clone());
        let process = launch(&database.url, metrics, &flags).await?;
        Ok(Self { metrics, flags, process, database })
    }

    /// Kills the server and starts it again on the same database. Returns the time from the start of the process until
    /// the server is ready.
    pub async fn restart(&mut self) -> Result<Duration, Failure> {
        self.stop();
        self.start_again().await
    }

    /// Kills the server.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts the killed server again. Returns the time from the start of the process until the server is ready.
    pub async fn start_again(&mut self) -> Result<Duration, Failure> {
        let started = Instant::now();
        self.process = launch(&self.database.url, self.metrics, &self.flags).await?;
        Ok(started.elapsed())
    }

    /// Sets the flags for the next start of the server.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Opens the database directly, to write or count rows of past sales. Stop the server before you write.
    pub async fn history(&self) -> Result<History, Failure> {
        History::open(&self.database.url, Clock::system().now()).await
    }

    /// Returns the address of the public services.
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Returns the address of AdminService.
    pub fn admin_address(&self) -> SocketAddr {
        self.process.admin_address
    }

    /// Returns the process id of the server.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the CPU seconds that the server process has used since its start.
    pub fn cpu_seconds(&self) -> Result<f64, Failure> {
        usage::cpu_seconds(self.pid())
            .ok_or_else(|| "the CPU time of the server cannot be read; check in its log whether it ended".into())
    }

    /// Returns the resident memory of the server in bytes.
    pub fn resident_bytes(&self) -> Result<u64, Failure> {
        usage::resident_bytes(self.pid())
            .ok_or_else(|| "the memory of the server cannot be read; check in its log whether it ended".into())
    }

    /// Returns the times of the promotion transactions that admitted users. The times come from the log of the server,
    /// since its last start.
    pub fn admissions(&self) -> Vec<SystemTime> {
        let lines = self.process.log_lines();
        let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let admissions = parsed.filter(|line| line["fields"]["message"] == "admitted tokens");
        admissions.filter_map(|line| humantime::parse_rfc3339(line["timestamp"].as_str()?).ok()).collect()
    }

    /// Returns the warnings and errors in the log of the server, since its last start.
    pub fn complaints(&self) -> Complaints {
        let lines = self.process.log_lines();
        let all: Vec<String> = lines.iter().filter_map(|line| complaint(line)).collect();
        Complaints { count: all.len() as u64, first: all.into_iter().take(KEPT_COMPLAINTS).collect() }
    }
}

/// Creates a fresh database of `engine`. Fails if the engine is PostgreSQL and `postgres` is `None`.
pub async fn fresh_database(engine: Engine, postgres: Option<&Postgres>) -> Result<FreshDatabase, Failure> {
    match (engine, postgres) {
        (Engine::Sqlite, _) => FreshDatabase::in_file(),
        (Engine::Postgres, Some(postgres)) => FreshDatabase::on(postgres).await,
        (Engine::Postgres, None) => Err("PostgreSQL was not started".into()),
    }
}

async fn launch(url: &str, metrics: SocketAddr, flags: &[String]) -> Result<ServerProcess, Failure> {
    let mut command = server::command(program()?);
    command.args(["--database-url", url, "--http-listen", &metrics.to_string()]);
    let mut process = ServerProcess::start(command, flags).await?;
    process.ready().await?;
    Ok(process)
}

/// Returns the path of the server's program, which is in the same folder as this program.
fn program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?.with_file_name("boxoffice");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("there is no {}: build it with `cargo build --release -p boxoffice`", program.display()).into())
}

/// Returns the fields of a log line that is a warning or an error; `None` for other lines. A line that is not JSON
/// comes from a panic, so it counts as an error.
fn complaint(line: &str) -> Option<String> {
    let Ok(parsed) = serde_json::from_str::<Value>(line) else { return Some(line.to_owned()) };
    let is_warning = matches!(parsed["level"].as_str(), Some("WARN" | "ERROR"));
    is_warning.then(|| parsed["fields"].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_errors_warnings_and_lines_that_are_not_json() {
        let line = |level: &str| format!(r#"{{"level":"{level}","fields":{{"message":"m"}}}}"#);
        assert_eq!(complaint(&line("INFO")), None);
        assert_eq!(complaint(&line("WARN")).as_deref(), Some(r#"{"message":"m"}"#));
        assert_eq!(complaint(&line("ERROR")).as_deref(), Some(r#"{"message":"m"}"#));
        assert_eq!(complaint("thread 'main' panicked").as_deref(), Some("thread 'main' panicked"));
    }
}
