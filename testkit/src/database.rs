//! Creates empty databases on SQLite and PostgreSQL.

use serde::Serialize;

use crate::{Failure, Postgres, pgbouncer, postgres::shared, process::ScratchDir};

/// The database engine of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A SQLite file, which only one server may use at a time.
    Sqlite,
    /// A PostgreSQL database, which several servers may use at the same time.
    Postgres,
}

impl Engine {
    /// Returns the usual name of the engine.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// A database that was empty when it was created. A SQLite file is removed when this value is dropped. A PostgreSQL
/// database is dropped by [`Postgres::tidy`], or removed together with its temporary server.
pub struct FreshDatabase {
    /// The URL of the database itself.
    pub url: String,
    /// The value for the flag `--database-url` of a server. If the environment variable `BOXOFFICE_TEST_PGBOUNCER` is
    /// `1`, a server uses a database on the shared PostgreSQL server through PgBouncer. Otherwise the same as `url`.
    pub server_url: String,
    _dir: Option<ScratchDir>,
}

impl FreshDatabase {
    /// Creates a database for a test: a SQLite file, or a database on the PostgreSQL server that all tests of this
    /// process share. Panics if this fails.
    pub async fn new(engine: Engine) -> Self {
        let database = match engine {
            Engine::Sqlite => Self::in_file(),
            Engine::Postgres => Self::shared().await,
        };
        database.expect("a database")
    }

    async fn shared() -> Result<Self, Failure> {
        let database = Self::on(shared().await).await?;
        let server_url = match pgbouncer::shared().await? {
            Some(bouncer) => bouncer.url(&database.url)?,
            None => database.url.clone(),
        };
        Ok(Self { server_url, ..database })
    }

    /// Creates a directory for a SQLite file. The first connection creates the file.
    pub fn in_file() -> Result<Self, Failure> {
        let dir = ScratchDir::new()?;
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("boxoffice.db").display());
        Ok(Self { server_url: url.clone(), url, _dir: Some(dir) })
    }

    /// Creates a database on a PostgreSQL server.
    pub async fn on(server: &Postgres) -> Result<Self, Failure> {
        let url = server.fresh_database().await?;
        Ok(Self { server_url: url.clone(), url, _dir: None })
    }
}
