//! A throwaway PostgreSQL with the durability it has in production, or a given one.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use url::Url;

use crate::{Failure, process};

const HELP: &str = "PostgreSQL is needed: install it (`make postgres`), name a running one with --postgres-url, or measure \
                    on SQLite alone with --engine sqlite";
const LIMIT: Duration = Duration::from_secs(60);

/// A PostgreSQL that databases can be made in.
pub struct Postgres {
    url: Url,
    binaries: Option<PathBuf>,
    /// The process whose children the connections are, if it is on this machine and ours.
    pub postmaster: Option<u32>,
    made: AtomicU32,
    /// Stops the server and removes its files.
    guard: Option<Child>,
}

impl Postgres {
    /// Takes the PostgreSQL at `url`, or starts one.
    pub async fn start(url: Option<&str>) -> Result<Self, Failure> {
        let binaries = find_binaries();
        if let Some(url) = url {
            let url = Url::parse(url).map_err(|error| format!("--postgres-url cannot be read: {error}"))?;
            return Ok(Self { url, binaries, postmaster: None, made: AtomicU32::new(0), guard: None });
        }
        let binaries = binaries.ok_or(HELP)?;
        let dir = tempfile::Builder::new().prefix("boxoffice-bench-pg-").tempdir()?.keep();
        let place = Place { as_root: id(&["-u"])? == "0", data: dir.join("data"), binaries };
        if place.as_root {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
            let uid = id(&["-u", "postgres"])?.parse().map_err(|_| "run as root, PostgreSQL needs a user postgres")?;
            chown(&dir, Some(uid), None)?;
        }
        let guard = place.guard(&dir)?;
        let port = place.start(&dir.join("log")).await?;
        let pid = fs::read_to_string(place.data.join("postmaster.pid")).ok();
        Ok(Self {
            url: Url::parse(&format!("postgres://postgres@127.0.0.1:{port}/postgres"))?,
            binaries: Some(place.binaries),
            postmaster: pid.and_then(|text| text.lines().next()?.trim().parse().ok()),
            made: AtomicU32::new(0),
            guard: Some(guard),
        })
    }

    /// Makes an empty database and returns its URL.
    pub async fn fresh_database(&self) -> Result<String, Failure> {
        let name = format!("boxoffice_bench_{}_{}", std::process::id(), self.made.fetch_add(1, Ordering::Relaxed));
        let conn = self.connect().await?;
        conn.execute_unprepared(&format!("CREATE DATABASE {name}")).await?;
        conn.close().await?;
        let mut url = self.url.clone();
        url.set_path(&name);
        Ok(url.into())
    }

    /// Drops the databases that were made in a server that stays.
    pub async fn tidy(&self) -> Result<(), Failure> {
        if self.guard.is_some() {
            return Ok(());
        }
        let conn = self.connect().await?;
        for number in 0..self.made.load(Ordering::Relaxed) {
            let name = format!("boxoffice_bench_{}_{number}", std::process::id());
            conn.execute_unprepared(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        }
        conn.close().await?;
        Ok(())
    }

    /// Where a program of PostgreSQL is, if it is installed.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let program = self.binaries.as_ref()?.join(name);
        program.exists().then_some(program)
    }

    async fn connect(&self) -> Result<DatabaseConnection, Failure> {
        let mut options = ConnectOptions::new(self.url.as_str());
        options.max_connections(1).sqlx_logging(false).connect_timeout(Duration::from_secs(10));
        Database::connect(options).await.map_err(|error| format!("PostgreSQL cannot be reached: {error}").into())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(guard) = &mut self.guard {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// Where a throwaway server is and how its programs are run.
struct Place {
    as_root: bool,
    data: PathBuf,
    binaries: PathBuf,
}

impl Place {
    async fn start(&self, log: &Path) -> Result<u16, Failure> {
        let data = self.data.display().to_string();
        self.run("initdb", &["-D", &data, "-U", "postgres", "--auth", "trust", "-E", "UTF8", "--no-sync"]).await?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Nothing here weakens durability: commits are flushed as they are in production.
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 \
             -c shared_buffers=256MB -c max_wal_size=4GB"
        );
        let log = log.display().to_string();
        self.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "-o", &options, "start"]).await?;
        Ok(port)
    }

    async fn run(&self, program: &str, args: &[&str]) -> Result<(), Failure> {
        let path = self.binaries.join(program);
        let mut command = if self.as_root { Command::new("runuser") } else { Command::new(&path) };
        if self.as_root {
            // PostgreSQL refuses to run as root.
            command.args(["-u", "postgres", "--"]).arg(&path);
        }
        // The server keeps what it inherits open, so its output must not be a pipe that is read to its end.
        let status = process::status(command.args(args).current_dir("/"), LIMIT).await?;
        if status.success() { Ok(()) } else { Err(format!("{program} failed: {status}").into()) }
    }

    fn guard(&self, dir: &Path) -> Result<Child, Failure> {
        let prefix = if self.as_root { "runuser -u postgres -- " } else { "" };
        process::reaper(&format!(
            "{prefix}'{}' -D '{}' -m immediate stop >/dev/null 2>&1; rm -rf '{}'",
            self.binaries.join("pg_ctl").display(),
            self.data.display(),
            dir.display()
        ))
    }
}

/// The newest PostgreSQL of the machine: on the PATH or where Debian puts it.
fn find_binaries() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    let place = places.into_iter().find(|place| place.join("initdb").exists() && place.join("pg_ctl").exists())?;
    // Where links lead to there are the other programs too.
    let behind = fs::canonicalize(place.join("initdb")).ok().and_then(|initdb| Some(initdb.parent()?.to_owned()));
    Some(behind.filter(|behind| behind.join("pg_ctl").exists()).unwrap_or(place))
}

fn id(args: &[&str]) -> Result<String, Failure> {
    let output = Command::new("id").args(args).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
