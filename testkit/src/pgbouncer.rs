//! Starts a temporary PgBouncer in transaction mode, in front of a PostgreSQL server.

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Duration};

use tokio::sync::OnceCell;
use url::Url;

use crate::{
    Failure, Postgres,
    postgres::{self, free_port, unprivileged},
    process::{self, Guarded, ScratchDir},
    wait::until,
};

/// Environment variable that puts PgBouncer between the servers of the tests and PostgreSQL.
const VARIABLE: &str = "BOXOFFICE_TEST_PGBOUNCER";
const LIMIT: Duration = Duration::from_secs(60);

static SHARED: OnceCell<PgBouncer> = OnceCell::const_new();

/// Returns the PgBouncer in front of the PostgreSQL server that all tests of this process share. Returns `None` unless
/// `BOXOFFICE_TEST_PGBOUNCER` is `1`.
pub async fn shared() -> Result<Option<&'static PgBouncer>, Failure> {
    if env::var(VARIABLE).as_deref() != Ok("1") {
        return Ok(None);
    }
    let start = async || PgBouncer::start(postgres::shared().await).await;
    SHARED.get_or_try_init(start).await.map(Some)
}

/// A PgBouncer in transaction mode. It forwards each database to the database with the same name.
pub struct PgBouncer {
    port: u16,
    dir: ScratchDir,
    process: Guarded,
}

impl PgBouncer {
    /// Starts a PgBouncer on a free port, and waits until it accepts connections.
    pub async fn start(server: &Postgres) -> Result<Self, Failure> {
        let (port, dir) = (free_port()?, ScratchDir::new()?);
        // PgBouncer runs as another user, who must be able to read the file.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let (users, login) = (dir.path().join("users"), server.url());
        fs::write(&users, format!("\"{}\" \"{}\"\n", login.username(), login.password().unwrap_or_default()))?;
        fs::write(dir.path().join("pgbouncer.ini"), configuration(port, login, &users))?;
        let process = run(&dir)?;
        let bouncer = Self { port, dir, process };
        bouncer.accepts().await;
        Ok(bouncer)
    }

    /// Returns the URL of the database at `url` through this PgBouncer.
    pub fn url(&self, url: &str) -> Result<String, Failure> {
        let mut url = Url::parse(url)?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(self.port)).map_err(|()| "the URL of a database has no port")?;
        url.query_pairs_mut().append_pair("pgbouncer", "true");
        Ok(url.into())
    }

    /// Kills the process with SIGKILL. All connections break.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.process.kill()
    }

    /// Starts a new process on the same port after [`PgBouncer::kill`].
    pub async fn start_again(&mut self) -> Result<(), Failure> {
        self.process = run(&self.dir)?;
        self.accepts().await;
        Ok(())
    }

    async fn accepts(&self) {
        let connect = async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
        until("PgBouncer accepts connections", LIMIT, connect).await;
    }
}

/// Returns the content of the configuration file. All parameters of a client that PgBouncer does not know stay refused,
/// as by default.
fn configuration(port: u16, server: &Url, users: &Path) -> String {
    let (host, server_port) = (server.host_str().unwrap_or("127.0.0.1"), server.port().unwrap_or(5432));
    format!(
        "[databases]\n\
         * = host={host} port={server_port}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = trust\n\
         auth_file = {}\n\
         pool_mode = transaction\n\
         default_pool_size = 8\n\
         max_client_conn = 4000\n\
         server_idle_timeout = 5\n\
         server_login_retry = 1\n",
        users.display()
    )
}

fn run(dir: &ScratchDir) -> Result<Guarded, Failure> {
    let program = process::find_program("pgbouncer").ok_or("PgBouncer is missing: install it with `make pgbouncer`")?;
    let log = fs::File::create(dir.path().join("log"))?;
    let mut command = unprivileged(program)?;
    command.arg("-q").arg(dir.path().join("pgbouncer.ini")).stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
    Guarded::spawn(&mut command)
}
