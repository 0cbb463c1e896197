//! A throwaway PostgreSQL for one run of the tests, or the one that `BOXOFFICE_TEST_POSTGRES_URL` names.
//!
//! It is started from local binaries on a free port, as the user `postgres` when run as root. A shell that waits for the end of this
//! process stops it and removes its files, however the process ends.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use sea_orm::{ConnectionTrait, Database};
use tokio::sync::Mutex;

const URL_VARIABLE: &str = "BOXOFFICE_TEST_POSTGRES_URL";
const HELP: &str = "PostgreSQL is needed for these tests: `make postgres` installs it (or `apt-get install postgresql`), \
                    or set BOXOFFICE_TEST_POSTGRES_URL=postgres://USER:PASSWORD@HOST to use a running one";

static SERVER: OnceLock<(String, Option<Child>)> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);
/// Databases are made one after the other, since they are copied from one template.
static TURN: Mutex<()> = Mutex::const_new(());

/// The URL of an empty database.
pub async fn fresh_database() -> String {
    let _turn = TURN.lock().await;
    let server = &SERVER.get_or_init(server).0;
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let name = format!("boxoffice_{}_{number}", std::process::id());
    let admin = Database::connect(format!("{server}/postgres")).await.expect(HELP);
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("a database");
    admin.close().await.expect("close");
    format!("{server}/{name}")
}

fn server() -> (String, Option<Child>) {
    match env::var(URL_VARIABLE) {
        Ok(url) => (url.trim_end_matches('/').to_owned(), None),
        Err(_) => start(),
    }
}

fn start() -> (String, Option<Child>) {
    let bin = find_binaries().expect(HELP);
    let dir = tempfile::Builder::new().prefix("boxoffice-pg-").tempdir().expect("a directory").keep();
    let as_root = is_root();
    if as_root {
        let uid = id_of("postgres");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("permissions");
        chown(&dir, Some(uid), None).expect("chown");
    }
    let data = dir.join("data");
    let run = |program: &str, args: &[&str]| {
        let path = bin.join(program);
        let mut command = if as_root { Command::new("runuser") } else { Command::new(&path) };
        if as_root {
            command.args(["-u", "postgres", "--"]).arg(&path);
        }
        let output = command.args(args).current_dir("/").stdin(Stdio::null()).output().expect("run");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} failed: {text}");
    };
    let data_text = data.to_str().expect("a path");
    let trust = ["-D", data_text, "-U", "postgres", "--auth", "trust", "-E", "UTF8", "--no-sync"];
    run("initdb", &trust);
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let options = format!(
        "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=400 \
         -c fsync=off -c full_page_writes=off -c shared_buffers=64MB"
    );
    let log = dir.join("log");
    let log_text = log.to_str().expect("a path");
    run("pg_ctl", &["-D", data_text, "-l", log_text, "-w", "-o", &options, "start"]);
    let guard = guard(&bin, &dir, &data, as_root);
    (format!("postgres://postgres@127.0.0.1:{port}"), Some(guard))
}

/// Reads until this process is gone, then stops the server.
fn guard(bin: &Path, dir: &Path, data: &Path, as_root: bool) -> Child {
    let prefix = if as_root { "runuser -u postgres -- " } else { "" };
    let script = format!(
        "trap '' INT TERM; cd /; cat >/dev/null; {prefix}{}/pg_ctl -D {} -m immediate stop >/dev/null 2>&1; rm -rf {}",
        bin.display(),
        data.display(),
        dir.display()
    );
    Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
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
