//! Starts a temporary PostgreSQL server with the programs of this machine, or uses a given running server.
//!
//! The temporary server listens on a free port of this machine. If this process is root, the server runs as the user
//! `postgres`, because PostgreSQL refuses to run as root. When the [`Postgres`] value is dropped or this process ends,
//! the server is stopped and its files are removed.

use std::{
    env,
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rand::Rng;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use crate::{
    Failure,
    process::{self, Reaper, Signal},
};

/// Settings for tests: fast writes, little memory and up to 400 connections. With these settings, PostgreSQL may lose
/// data if the machine crashes.
pub const FAST: &str = "-c fsync=off -c full_page_writes=off -c shared_buffers=64MB -c max_connections=400";

const URL_VARIABLE: &str = "BOXOFFICE_TEST_POSTGRES_URL";
const LIMIT: Duration = Duration::from_secs(60);

static SHARED: OnceCell<Postgres> = OnceCell::const_new();

/// Returns the server that all tests of this process share. It is the server that `BOXOFFICE_TEST_POSTGRES_URL` names,
/// or a temporary server if the variable is not set.
pub async fn shared() -> &'static Postgres {
    let start = async || match env::var(URL_VARIABLE) {
        Ok(url) => Postgres::at(&url).map_err(|error| format!("{URL_VARIABLE}: {error}").into()),
        Err(_) => Postgres::start(FAST).await,
    };
    let server: Result<_, Failure> = SHARED.get_or_try_init(start).await;
    server.unwrap_or_else(|error| {
        panic!("{error}; or set {URL_VARIABLE}=postgres://USER:PASSWORD@HOST to use a running server")
    })
}

/// A PostgreSQL server.
pub struct Postgres {
    url: Url,
    binaries: Option<PathBuf>,
    /// The number of databases created so far. The name of a database contains its number.
    count: AtomicU32,
    /// The lock for the creation of a database. PostgreSQL copies each new database from the same template, and makes
    /// one copy at a time.
    turn: Mutex<()>,
    own: Option<Own>,
}

/// A temporary server that this process has started.
struct Own {
    place: Place,
    settings: String,
    /// The shell that stops the server and removes its files at the end.
    _reaper: Reaper,
}

impl Postgres {
    /// Returns the running server at `url`. Does not connect to the server yet.
    pub fn at(url: &str) -> Result<Self, Failure> {
        let mut url = Url::parse(url)
            .map_err(|error| format!("the URL of PostgreSQL is invalid: {error}; use postgres://USER:PASSWORD@HOST"))?;
        if url.path().trim_matches('/').is_empty() {
            url.set_path("postgres");
        }
        let (count, turn) = (AtomicU32::new(0), Mutex::default());
        Ok(Self { url, binaries: find_binaries(), count, turn, own: None })
    }

    /// Starts a temporary server with `settings`, for example `-c fsync=off`.
    pub async fn start(settings: &str) -> Result<Self, Failure> {
        let (place, reaper) = Place::new(free_port()?)?;
        let data = place.data.display().to_string();
        place.run("initdb", &["-D", &data, "-U", "postgres", "--auth", "trust", "-E", "UTF8", "--no-sync"]).await?;
        Self::start_in(place, reaper, settings).await
    }

    async fn start_in(place: Place, reaper: Reaper, settings: &str) -> Result<Self, Failure> {
        place.start(settings).await?;
        let server = Self::at(&format!("postgres://postgres@127.0.0.1:{}", place.port))?;
        let own = Own { place, settings: settings.to_owned(), _reaper: reaper };
        Ok(Self { own: Some(own), ..server })
    }

    /// Starts a synchronous standby of this temporary server, with the same settings. When this function returns, each
    /// commit waits for the standby. `port` is the port of the standby; `None` selects a free port.
    pub async fn standby(&self, port: Option<u16>) -> Result<Self, Failure> {
        let own = self.own()?;
        let (place, reaper) = Place::new(port.map_or_else(free_port, Ok)?)?;
        let (data, primary) = (place.data.display().to_string(), own.place.port.to_string());
        let from = ["-D", &data, "-h", "127.0.0.1", "-p", &primary, "-U", "postgres", "-c", "fast", "-R", "--no-sync"];
        place.run("pg_basebackup", &from).await?;
        let standby = Self::start_in(place, reaper, &own.settings).await?;
        // The copy of the settings may ask for a standby of the standby. A promoted server would then wait for it.
        standby.execute("ALTER SYSTEM RESET synchronous_standby_names").await?;
        standby.execute("SELECT pg_reload_conf()").await?;
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        self.execute("SELECT pg_reload_conf()").await?;
        // The division fails as long as there is no synchronous standby.
        let is_synchronous = "SELECT 1 / count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        let started = Instant::now();
        while self.execute(is_synchronous).await.is_err() {
            if started.elapsed() > LIMIT {
                return Err(format!("the standby is not synchronous after {LIMIT:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(standby)
    }

    /// Makes this standby the primary. Returns after the promotion.
    pub async fn promote(&self) -> Result<(), Failure> {
        self.execute("SELECT pg_promote()").await
    }

    /// Kills the main process of a temporary server with SIGKILL.
    pub fn kill(&self) -> Result<(), Failure> {
        let postmaster = self.postmaster().ok_or("only a running temporary PostgreSQL server can be killed")?;
        process::kill(postmaster, Signal::SIGKILL)
    }

    /// Stops a temporary server cleanly. Open transactions are rolled back, and a standby receives all commits.
    pub async fn stop(&self) -> Result<(), Failure> {
        self.own()?.place.stop("fast").await
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the port of the server.
    pub fn port(&self) -> u16 {
        self.url.port().unwrap_or(5432)
    }

    async fn execute(&self, sql: &str) -> Result<(), Failure> {
        let conn = self.connect().await?;
        let executed = conn.execute_unprepared(sql).await;
        conn.close().await?;
        executed?;
        Ok(())
    }

    /// Creates an empty database and returns its URL.
    pub async fn fresh_database(&self) -> Result<String, Failure> {
        let _turn = self.turn.lock().await;
        let name = database_name(self.count.fetch_add(1, Ordering::Relaxed));
        let conn = self.connect().await?;
        conn.execute_unprepared(&format!("CREATE DATABASE {name}")).await?;
        conn.close().await?;
        let mut url = self.url.clone();
        url.set_path(&name);
        Ok(url.into())
    }

    /// Drops the databases that [`Postgres::fresh_database`] created. Does nothing on a temporary server, whose files
    /// are removed at its end.
    pub async fn tidy(&self) -> Result<(), Failure> {
        if self.own.is_some() {
            return Ok(());
        }
        let conn = self.connect().await?;
        for number in 0..self.count.load(Ordering::Relaxed) {
            let name = database_name(number);
            conn.execute_unprepared(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        }
        conn.close().await?;
        Ok(())
    }

    /// Returns the path of a PostgreSQL program, if it is installed.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let program = self.binaries.as_ref()?.join(name);
        program.exists().then_some(program)
    }

    /// Returns the id of the main process of a temporary server. Each connection is a child of this process. Returns
    /// `None` for a given server, and while a temporary server is stopped.
    pub fn postmaster(&self) -> Option<u32> {
        postmaster(&self.own.as_ref()?.place.data)
    }

    /// Stops the server without a checkpoint, like a crash. Connections break, and the next start recovers recent
    /// commits from the write-ahead log.
    pub async fn crash(&self) -> Result<(), Failure> {
        self.own()?.place.stop("immediate").await
    }

    /// Starts the server again, on the same port and with the same settings.
    pub async fn start_again(&self) -> Result<(), Failure> {
        let own = self.own()?;
        own.place.start(&own.settings).await
    }

    fn own(&self) -> Result<&Own, Failure> {
        self.own.as_ref().ok_or_else(|| "only a temporary PostgreSQL server can be stopped and started again".into())
    }

    async fn connect(&self) -> Result<DatabaseConnection, Failure> {
        let mut options = ConnectOptions::new(self.url.as_str());
        options.max_connections(1).sqlx_logging(false).connect_timeout(Duration::from_secs(10));
        Database::connect(options).await.map_err(|error| format!("PostgreSQL cannot be reached: {error}").into())
    }
}

fn database_name(number: u32) -> String {
    format!("boxoffice_{}_{number}", std::process::id())
}

/// The directories and the port of a temporary server, and whether this process is root.
struct Place {
    as_root: bool,
    binaries: PathBuf,
    dir: PathBuf,
    data: PathBuf,
    port: u16,
}

impl Place {
    /// Creates an empty directory that the server can write to. Also returns the shell that removes it at the end.
    fn new(port: u16) -> Result<(Self, Reaper), Failure> {
        let binaries = find_binaries().ok_or("PostgreSQL is missing: install it with `make postgres`")?;
        let dir = place_for_postgres()?;
        let place = Self { as_root: is_root()?, data: dir.join("data"), dir, port, binaries };
        let reaper = place.reaper()?;
        Ok((place, reaper))
    }

    async fn stop(&self, mode: &str) -> Result<(), Failure> {
        self.run("pg_ctl", &["-D", &self.data.display().to_string(), "-m", mode, "-w", "stop"]).await
    }

    async fn start(&self, settings: &str) -> Result<(), Failure> {
        let options = format!("-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= {settings}", self.port);
        let (data, log) = (self.data.display().to_string(), self.dir.join("log").display().to_string());
        self.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "-o", &options, "start"]).await
    }

    async fn run(&self, program: &str, args: &[&str]) -> Result<(), Failure> {
        let path = self.binaries.join(program);
        let mut command = if self.as_root { Command::new("runuser") } else { Command::new(&path) };
        if self.as_root {
            command.args(["-u", "postgres", "--"]).arg(&path);
        }
        let output = process::output(command.args(args).current_dir("/"), LIMIT).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }

    fn reaper(&self) -> Result<Reaper, Failure> {
        let prefix = if self.as_root { "runuser -u postgres -- " } else { "" };
        Reaper::start(&format!(
            "{prefix}'{}' -D '{}' -m immediate stop >/dev/null 2>&1; rm -rf '{}'",
            self.binaries.join("pg_ctl").display(),
            self.data.display(),
            self.dir.display()
        ))
    }
}

/// Returns a free port from 20000 to 31999, which is below Linux's default range of ephemeral ports. So Linux does not
/// give the port to another process before the server starts or while the server is stopped.
pub(crate) fn free_port() -> Result<u16, Failure> {
    let mut ports = std::iter::repeat_with(|| rand::rng().random_range(20_000..32_000)).take(1_000);
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.ok_or_else(|| "1,000 random ports from 20000 to 31999 are in use; a server needs a free port there".into())
}

/// Returns the directory of PostgreSQL's programs: the first directory on the PATH that has the programs, or else the
/// directory of the newest version in Debian's `/usr/lib/postgresql`. Returns `None` if PostgreSQL is not installed.
pub(crate) fn find_binaries() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    places.extend(versions.into_iter().rev().map(|path| path.join("bin")));
    let place = places.into_iter().find(|place| place.join("initdb").exists() && place.join("pg_ctl").exists())?;
    // The PATH may contain links to some of the programs. The other programs are in the directory of the linked files.
    let target = fs::canonicalize(place.join("initdb")).ok().and_then(|initdb| Some(initdb.parent()?.to_owned()));
    Some(target.filter(|target| target.join("pg_ctl").exists()).unwrap_or(place))
}

/// Returns the id of the main process of the server with this data directory. Returns `None` if the server does not
/// run.
pub(crate) fn postmaster(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// Creates an empty directory that only PostgreSQL can read. It stays until the caller removes it.
pub(crate) fn place_for_postgres() -> Result<PathBuf, Failure> {
    let dir = tempfile::Builder::new().prefix("boxoffice-pg-").tempdir()?.keep();
    if is_root()? {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        chown(&dir, Some(id_of_postgres("-u")?), None)?;
    }
    Ok(dir)
}

/// Returns a command that runs `program` as the user `postgres` if this process is root. PostgreSQL and PgBouncer
/// refuse to run as root.
pub(crate) fn unprivileged(program: impl AsRef<OsStr>) -> Result<Command, Failure> {
    let mut command = Command::new(program);
    if is_root()? {
        command.uid(id_of_postgres("-u")?).gid(id_of_postgres("-g")?);
    }
    command.current_dir("/");
    Ok(command)
}

fn id_of_postgres(kind: &str) -> Result<u32, Failure> {
    let number = id(&[kind, "postgres"])?.parse();
    number.map_err(|_| "the user postgres is missing, and root cannot run PostgreSQL; create this user".into())
}

fn is_root() -> Result<bool, Failure> {
    Ok(id(&["-u"])? == "0")
}

fn id(args: &[&str]) -> Result<String, Failure> {
    let output = Command::new("id").args(args).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
