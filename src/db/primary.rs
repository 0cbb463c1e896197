//! Follows the PostgreSQL server that accepts writes.
//!
//! The scout is a connection outside the pool. About once per second, the scout asks the server whether the server
//! accepts writes. So the scout notices a server that stopped, became read-only, or vanished without closing its
//! connections. All hosts of the URL are then asked, and a pool for the host that accepts writes replaces the old pool.
//! The name of a host is resolved again for each connection, so the pool can follow a name whose address changes.

use std::{str::FromStr, time::Duration};

use arc_swap::ArcSwap;
use futures::{FutureExt, future};
use sea_orm::sqlx::{
    self, ConnectOptions,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::{sync::Mutex, time::timeout};

use super::{
    connect::{self, Sessions, SynchronousCommit},
    connections::{ACQUIRE_TIMEOUT, Connections},
    error::Error,
    hosts,
};

/// Time without an answer after which a server is silent: its pool ends.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// The PostgreSQL servers of a URL, and the scout.
pub struct Primary {
    /// Is not empty.
    hosts: Vec<Host>,
    sessions: Sessions,
    scout: Mutex<Option<PgConnection>>,
}

struct Host {
    url: String,
    options: PgConnectOptions,
}

/// The reason why a server cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it does not answer")]
    Silent,
    #[error("it accepts no writes")]
    ReadOnly,
    #[error(transparent)]
    Broken(#[from] sqlx::Error),
}

impl Primary {
    /// Reads a URL. Fails with [`Error::Defect`] if the URL cannot be read.
    pub fn new(url: &str, commits: SynchronousCommit) -> Result<Self, Error> {
        let servers = hosts::servers(url).map_err(|reason| Error::Defect(reason.to_owned()))?;
        let sessions = Sessions { commits, is_pooled: servers.is_pooled };
        let hosts = servers.urls.into_iter().map(|url| Host::new(url, sessions)).collect::<Result<_, _>>()?;
        Ok(Self { hosts, sessions, scout: Mutex::default() })
    }

    /// Creates the pool of the first host.
    pub async fn first_pool(&self) -> Result<Connections, Error> {
        connect::postgres(&self.hosts[0].url, self.sessions).await
    }

    /// Asks the server of `connections` whether it accepts writes. If it does not, or if this is the first call, finds
    /// the host that accepts writes, and replaces `connections`.
    pub async fn follow(&self, connections: &ArcSwap<Connections>) -> Result<(), Error> {
        let mut scout = self.scout.lock().await;
        let current = connections.load_full();
        if let Some(mut conn) = scout.take() {
            match ask(&mut conn, SILENCE_LIMIT).await {
                Ok(()) if !current.is_ended() => {
                    *scout = Some(conn);
                    return Ok(());
                }
                Ok(()) => {}
                Err(reason) => {
                    tracing::warn!(%reason, "the PostgreSQL server cannot be used; looking for the writable server");
                    // If only the connection of the scout broke, the transactions of the pool may still succeed.
                    if !matches!(reason, Unusable::Broken(_)) {
                        current.end();
                    }
                }
            }
        }
        let searches = self.hosts.iter().map(|host| host.reach().boxed());
        let ((host, mut conn), _) = future::select_ok(searches).await?;
        self.check_commits(host, &mut conn).await?;
        connections.store(connect::postgres(&host.url, self.sessions).await?.into());
        current.close();
        *scout = Some(conn);
        Ok(())
    }

    /// Checks that the sessions of a host have the level of `synchronous_commit` that they ask for, and logs the level.
    async fn check_commits(&self, host: &Host, conn: &mut PgConnection) -> Result<(), Error> {
        let asked = timeout(ACQUIRE_TIMEOUT, self.sessions.commit_level(conn)).await;
        let asked = asked.map_err(|_| Unusable::Silent).and_then(|asked| asked.map_err(Unusable::from));
        let (level, standbys) = asked.map_err(|reason| host.away(&reason))?;
        let wanted = self.sessions.commits.as_str();
        if level != wanted {
            return Err(Error::Defect(format!(
                "synchronous_commit is {level} in the sessions of boxoffice, and must be {wanted}; if the hosts of the \
                 database URL are PgBouncer, add pgbouncer=true to the URL"
            )));
        }
        let address = host.address();
        tracing::info!(
            address,
            synchronous_commit = level,
            synchronous_standby_names = standbys,
            "found the writable PostgreSQL server"
        );
        Ok(())
    }
}

impl Host {
    fn new(url: String, sessions: Sessions) -> Result<Self, Error> {
        // The errors of sqlx may contain the URL, and the URL may contain a password.
        let sentence = "the database URL cannot be read: write postgres://USER:PASSWORD@HOST/DATABASE";
        let options = PgConnectOptions::from_str(&url).map_err(|_| Error::Defect(sentence.to_owned()))?;
        Ok(Self { url, options: sessions.options(options).disable_statement_logging() })
    }

    /// Connects to the host. Fails with [`Error::Away`] if its server does not accept writes.
    async fn reach(&self) -> Result<(&Self, PgConnection), Error> {
        let reached = async {
            let mut conn = self.options.connect().await?;
            ask(&mut conn, ACQUIRE_TIMEOUT).await.map(|()| conn)
        };
        let reached = timeout(ACQUIRE_TIMEOUT, reached).await.unwrap_or(Err(Unusable::Silent));
        reached.map(|conn| (self, conn)).map_err(|reason| self.away(&reason))
    }

    fn away(&self, reason: &Unusable) -> Error {
        Error::Away(format!("PostgreSQL at {}: {reason}", self.address()))
    }

    fn address(&self) -> String {
        format!("{}:{}", self.options.get_host(), self.options.get_port())
    }
}

/// Asks a server whether it accepts writes.
async fn ask(conn: &mut PgConnection, limit: Duration) -> Result<(), Unusable> {
    match timeout(limit, connect::is_writable(conn)).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(Unusable::ReadOnly),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Unusable::Silent),
    }
}
