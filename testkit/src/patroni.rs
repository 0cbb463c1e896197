//! Starts a temporary PostgreSQL cluster: a primary and a synchronous standby. Patroni decides which server is the
//! primary, and etcd stores the decision.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sea_orm::{ConnectOptions, ConnectionTrait, Database};

use crate::{
    Failure, http,
    postgres::{find_binaries, free_port, place_for_postgres, postmaster, unprivileged},
    process::{Guarded, Reaper, Signal, kill},
    wait::until,
};

/// Maximum time until the cluster has a primary or a synchronous standby. Patroni needs up to 20 s to notice that a
/// primary was killed.
const LIMIT: Duration = Duration::from_secs(90);
/// Fails unless the server accepts writes, because of a division by 0.
const IS_PRIMARY: &str = "SELECT 1 / (NOT pg_is_in_recovery())::INT";

/// A PostgreSQL cluster of two servers. When this value is dropped or this process ends, all its processes are stopped
/// and its files are removed.
pub struct Cluster {
    members: [Member; 2],
    _etcd: Guarded,
    _reaper: Reaper,
}

/// A PostgreSQL server, and the Patroni process that manages the server.
struct Member {
    port: u16,
    /// The port of Patroni's own HTTP interface.
    api_port: u16,
    data: PathBuf,
    configuration: PathBuf,
    patroni: Guarded,
}

impl Cluster {
    /// Starts etcd and both servers. Returns when a primary has a synchronous standby.
    pub async fn start() -> Result<Self, Failure> {
        let dir = place_for_postgres()?;
        let quoted = dir.display();
        // Each shell of a `Guarded` kills its process first.
        let stop = format!("for pid in '{quoted}'/*/postmaster.pid; do kill -QUIT $(head -n 1 \"$pid\"); done");
        let reaper = Reaper::start(&format!("sleep 1; {stop} 2>/dev/null; sleep 1; rm -rf '{quoted}'"))?;
        let etcd_port = free_port()?;
        let etcd = start_etcd(&dir, etcd_port)?;
        let members = [Member::start(&dir, "a", etcd_port)?, Member::start(&dir, "b", etcd_port)?];
        let cluster = Self { members, _etcd: etcd, _reaper: reaper };
        cluster.is_complete().await;
        Ok(cluster)
    }

    /// Returns the URL of a server.
    pub fn url(&self, member: usize) -> String {
        format!("postgres://postgres@127.0.0.1:{}", self.members[member].port)
    }

    /// Waits until etcd knows a synchronous standby of the primary, and returns the index of the primary. Panics after
    /// 90 s.
    ///
    /// Patroni promotes only this standby. PostgreSQL has a synchronous standby a moment earlier.
    pub async fn is_complete(&self) -> usize {
        let mut primary = 0;
        until("the cluster has a synchronous standby", LIMIT, async || {
            for member in 0..2 {
                if self.members[member].is_standby().await {
                    primary = 1 - member;
                    return true;
                }
            }
            false
        })
        .await;
        primary
    }

    /// Waits until a server accepts writes. Panics after 90 s.
    pub async fn is_promoted(&self, member: usize) {
        until("the server accepts writes", LIMIT, async || self.is_primary(member).await).await;
    }

    /// Kills Patroni and its PostgreSQL server with SIGKILL.
    pub fn kill(&mut self, member: usize) -> Result<(), Failure> {
        let member = &mut self.members[member];
        let postmaster = postmaster(&member.data).ok_or("the server of a member does not run")?;
        // Patroni must not notice that its server has ended.
        member.patroni.kill()?;
        kill(postmaster, Signal::SIGKILL)
    }

    /// Asks Patroni to stop with its PostgreSQL server. Does not wait for the end.
    pub fn stop(&self, member: usize) -> Result<(), Failure> {
        self.members[member].patroni.signal(Signal::SIGTERM)
    }

    /// Starts a member again after it was killed or stopped. Returns when the cluster has a synchronous standby.
    pub async fn start_again(&mut self, member: usize) -> Result<(), Failure> {
        let stopped = &mut self.members[member];
        if stopped.patroni.ended(LIMIT).await?.is_none() {
            return Err(format!("Patroni did not stop within {LIMIT:?}").into());
        }
        stopped.patroni = start_patroni(&stopped.configuration)?;
        self.is_complete().await;
        Ok(())
    }

    async fn is_primary(&self, member: usize) -> bool {
        let mut options = ConnectOptions::new(self.url(member));
        options.max_connections(1).sqlx_logging(false).connect_timeout(Duration::from_secs(2));
        let Ok(conn) = Database::connect(options).await else { return false };
        let is_primary = conn.execute_unprepared(IS_PRIMARY).await.is_ok();
        conn.close().await.is_ok() && is_primary
    }
}

impl Member {
    fn start(dir: &Path, name: &str, etcd_port: u16) -> Result<Self, Failure> {
        let (port, api_port) = (free_port()?, free_port()?);
        let (data, configuration) = (dir.join(name), dir.join(format!("{name}.yaml")));
        let binaries = find_binaries().ok_or("PostgreSQL is missing: install it with `make postgres`")?;
        fs::write(&configuration, configure(name, [port, api_port, etcd_port], &data, &binaries))?;
        let patroni = start_patroni(&configuration)?;
        Ok(Self { port, api_port, data, configuration, patroni })
    }

    async fn is_standby(&self) -> bool {
        let address = ([127, 0, 0, 1], self.api_port).into();
        http::get(address, "/synchronous", &[]).await.is_ok_and(|answer| answer.status == 200)
    }
}

fn start_etcd(dir: &Path, port: u16) -> Result<Guarded, Failure> {
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()?));
    let mut etcd = unprivileged("etcd")?;
    etcd.arg("--data-dir").arg(dir.join("etcd"));
    etcd.args(["--name", "etcd", "--unsafe-no-fsync", "--initial-cluster", &format!("etcd={peers}")]);
    etcd.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    let log = fs::File::create(dir.join("etcd.log"))?;
    etcd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Guarded::spawn(&mut etcd).map_err(|error| format!("{error}; install etcd with `make patroni`").into())
}

fn start_patroni(configuration: &Path) -> Result<Guarded, Failure> {
    let log = fs::File::options().create(true).append(true).open(configuration.with_extension("log"))?;
    let mut patroni = unprivileged("patroni")?;
    // Patroni looks for files in the directory of its user.
    patroni.arg(configuration).env("HOME", configuration.with_file_name(""));
    patroni.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Guarded::spawn(&mut patroni).map_err(|error| format!("{error}; install Patroni with `make patroni`").into())
}

/// Returns the configuration of Patroni. `ttl` has the smallest value that Patroni accepts: a standby is promoted 20 s
/// after the primary was killed.
fn configure(name: &str, [port, api_port, etcd_port]: [u16; 3], data: &Path, binaries: &Path) -> String {
    let (data, binaries) = (data.display(), binaries.display());
    format!(
        "scope: boxoffice
name: {name}
restapi: {{listen: '127.0.0.1:{api_port}', connect_address: '127.0.0.1:{api_port}'}}
etcd3: {{host: '127.0.0.1:{etcd_port}'}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    synchronous_mode: true
    postgresql:
      parameters: {{fsync: 'off', full_page_writes: 'off', shared_buffers: 64MB, max_connections: 200}}
  initdb: [encoding: UTF8, auth: trust, no-sync]
  pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']
postgresql:
  listen: '127.0.0.1:{port}'
  connect_address: '127.0.0.1:{port}'
  data_dir: '{data}'
  bin_dir: '{binaries}'
  remove_data_directory_on_diverged_timelines: true
  parameters: {{unix_socket_directories: ''}}
  authentication: {{superuser: {{username: postgres}}, replication: {{username: postgres}}}}
"
    )
}
