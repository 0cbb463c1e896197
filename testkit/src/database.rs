//! Creates empty databases on SQLite and PostgreSQL.

use serde::Serialize;

use crate::{Failure, Postgres, postgres::shared, process::ScratchDir};

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
    /// The value for the flag `--database-url` of a server.
    pub url: String,
    _dir: Option<ScratchDir>,
}

impl FreshDatabase {
    /// Creates a database for a test: a SQLite file, or a database on the PostgreSQL server that all tests of this
    /// process share. Panics if this fails.
    pub async fn new(engine: Engine) -> Self {
        let database = match engine {
            Engine::Sqlite => Self::in_file(),
            Engine::Postgres => Self::on(shared().await).await,
        };
        database.expect("a database")
    }

    /// Creates a directory for a SQLite file. The first connection creates the file.
    pub fn in_file() -> Result<Self, Failure> {
        let dir = ScratchDir::new()?;
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("boxoffice.db").display());
        Ok(Self { url, _dir: Some(dir) })
    }

    /// Creates a database on a PostgreSQL server.
    pub async fn on(server: &Postgres) -> Result<Self, Failure> {
        Ok(Self { url: server.fresh_database().await?, _dir: None })
    }
}
