//! A throwaway PostgreSQL for one run of the tests, or the one that `BOXOFFICE_TEST_POSTGRES_URL` names.
//!
//! It is started from local binaries on a free port, as the user `postgres` when run as root. A shell that waits for the end of this
//! process stops it and removes its files, however the process ends.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rand::Rng;
use sea_orm::{ConnectionTrait, Database};
use tokio::sync::Mutex;

const URL_VARIABLE: &str = "BOXOFFICE_TEST_POSTGRES_URL";
const HELP: &str = "PostgreSQL is needed for these tests: `make postgres` installs it (or `apt-get install postgresql`), \
                    or set BOXOFFICE_TEST_POSTGRES_URL=postgres://USER:PASSWORD@HOST to use a running one";

static SHARED: OnceLock<Cluster> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);
/// Databases are made one after the other, since they are copied from one template.
static TURN: Mutex<()> = Mutex::const_new(());

/// The URL of an empty database in the PostgreSQL that all tests of this run share.
pub async fn fresh_database() -> String {
    shared().fresh_database().await
}

fn shared() -> &'static Cluster {
    SHARED.get_or_init(|| match env::var(URL_VARIABLE) {
        Ok(url) => Cluster { url: url.trim_end_matches('/').to_owned(), place: None, _guard: None },
        Err(_) => Cluster::start(),
    })
}

/// A PostgreSQL that databases can be made in.
pub struct Cluster {
    url: String,
    place: Option<Place>,
    _guard: Option<Child>,
}

impl Cluster {
    /// Starts one from local binaries, on a free port.
    pub fn start() -> Self {
        let bin = find_binaries().expect(HELP);
        let dir = tempfile::Builder::new().prefix("boxoffice-pg-").tempdir().expect("a directory").keep();
        let as_root = is_root();
        if as_root {
            let uid = id_of("postgres");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("permissions");
            chown(&dir, Some(uid), None).expect("chown");
        }
        let place = Place { bin, data: dir.join("data"), dir, as_root, port: free_port() };
        let guard = place.guard();
        let data = place.data.to_str().expect("a path");
        place.run("initdb", &["-D", data, "-U", "postgres", "--auth", "trust", "-E", "UTF8", "--no-sync"]);
        place.start();
        Self { url: format!("postgres://postgres@127.0.0.1:{}", place.port), place: Some(place), _guard: Some(guard) }
    }

    /// The URL of an empty database in it.
    pub async fn fresh_database(&self) -> String {
        let _turn = TURN.lock().await;
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("boxoffice_{}_{number}", std::process::id());
        let admin = Database::connect(format!("{}/postgres", self.url)).await.expect(HELP);
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("a database");
        admin.close().await.expect("close");
        format!("{}/{name}", self.url)
    }

    /// Crashes it, as far as its clients and its files can tell: what was committed is in the log and nowhere else.
    #[allow(dead_code, reason = "not every suite crashes it")]
    pub fn crash(&self) {
        let place = self.place.as_ref().expect("a server of the tests' own");
        place.run("pg_ctl", &["-D", place.data.to_str().expect("a path"), "-m", "immediate", "-w", "stop"]);
    }

    /// Starts it again on the same port.
    #[allow(dead_code, reason = "not every suite crashes it")]
    pub fn start_again(&self) {
        self.place.as_ref().expect("a server of the tests' own").start();
    }
}

/// Where a server of the tests' own is, and how its programs are run.
struct Place {
    bin: PathBuf,
    dir: PathBuf,
    data: PathBuf,
    as_root: bool,
    port: u16,
}

impl Place {
    fn start(&self) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=400 \
             -c fsync=off -c full_page_writes=off -c shared_buffers=64MB",
            self.port
        );
        let (data, log) = (self.data.to_str().expect("a path"), self.dir.join("log"));
        self.run("pg_ctl", &["-D", data, "-l", log.to_str().expect("a path"), "-w", "-o", &options, "start"]);
    }

    fn run(&self, program: &str, args: &[&str]) {
        let path = self.bin.join(program);
        let mut command = if self.as_root { Command::new("runuser") } else { Command::new(&path) };
        if self.as_root {
            command.args(["-u", "postgres", "--"]).arg(&path);
        }
        let output = command.args(args).current_dir("/").stdin(Stdio::null()).output().expect("run");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} failed: {text}");
    }

    /// A shell that reads until this process is gone, or lets go of the cluster, then stops the server.
    fn guard(&self) -> Child {
        let prefix = if self.as_root { "runuser -u postgres -- " } else { "" };
        let script = format!(
            "trap '' INT TERM; cd /; cat >/dev/null; {prefix}{}/pg_ctl -D {} -m immediate stop >/dev/null 2>&1; rm -rf {}",
            self.bin.display(),
            self.data.display(),
            self.dir.display()
        );
        Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell")
    }
}

/// A free port below those that machines give to whoever asks for any, so that nobody is given it before the server has started or
/// while it is down.
fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| rand::rng().random_range(20_000..32_000));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port")
}

/// The newest PostgreSQL of the machine: on the PATH or where Debian puts it.
fn find_binaries() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    places.into_iter().find(|place| place.join("initdb").exists() && place.join("pg_ctl").exists())
}

fn is_root() -> bool {
    id_text(&["-u"]) == "0"
}

fn id_of(user: &str) -> u32 {
    id_text(&["-u", user]).parse().expect("the user postgres, which PostgreSQL's package makes")
}

fn id_text(args: &[&str]) -> String {
    let output = Command::new("id").args(args).output().expect("id");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
