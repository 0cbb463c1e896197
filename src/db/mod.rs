//! The database: connections, write transactions, statements, entities and errors.
//!
//! SQLite has one connection that writes, and a pool of read-only connections. Each connection has a thread, and trips
//! between threads are slow. So SQLite returns all rows of a query as one value (`found.rs`), and runs several reads
//! (`together.rs`) or several writes (`pending.rs`) of a batch in one trip. PostgreSQL has one pool for reads and
//! writes. A call writes only through a lane, which runs the transaction in a separate task. So a cancelled call does
//! not interrupt a transaction.
//!
//! The pool of PostgreSQL follows the writable server: see `primary.rs`. A statement without an answer fails after a
//! time limit: see `connections.rs`. Behind PgBouncer, each transaction may have another session of PostgreSQL: see
//! `Sessions` in `connect.rs`.

mod backup;
mod connect;
mod connections;
pub mod entity;
mod error;
mod found;
mod hosts;
mod log;
mod pending;
mod primary;
mod reader;
mod snapshot;
mod statement;
mod together;
mod write;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use boxoffice_migration::{Migrator, MigratorTrait};
use futures::future::BoxFuture;
use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, DbErr, FromQueryResult, SqliteTransactionMode, Statement,
    TransactionOptions, Value,
};
use tokio::sync::Notify;

pub use connect::SynchronousCommit;
pub use error::Error;
pub use found::Found;
pub(crate) use found::found;
pub use reader::Reader;
pub use sea_orm::ActiveValue::Set;
pub use snapshot::Snapshot;
pub(crate) use statement::rows;
pub use statement::{Column, Row, Type};
pub use write::Write;

use self::{connections::Connections, primary::Primary};
use crate::clock::{Clock, Micros};

/// The key of PostgreSQL's advisory lock for migrations. Only one replica migrates the schema at a time.
const MIGRATION_LOCK: i64 = 0x0b0c_0ff1_ce00;
/// Maximum number of retries of a migration that fails with [`Error::Lost`]. `MIGRATION_PAUSE` is the pause before each
/// retry.
const MIGRATION_TURNS: u32 = 20;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// Minimum number of unused pages that [`Database::reclaim_pages`] leaves in SQLite's file for new rows.
const SPARE_PAGES: i64 = 256;

/// The numbers of busy, idle and allowed connections of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolUse {
    /// The name of the pool: `all` on PostgreSQL, `read` or `write` on SQLite.
    pub pool: &'static str,
    /// The number of connections in use.
    pub busy_count: u32,
    /// The number of open connections that are not in use.
    pub idle_count: u32,
    /// The maximum number of open connections.
    pub max_count: u32,
}

/// Holds the connections to the database, and the clock for decisions. Clones share the connections and the clock.
#[derive(Clone)]
pub struct Database {
    engine: DatabaseBackend,
    connections: Arc<ArcSwap<Connections>>,
    /// The servers of PostgreSQL; `None` on SQLite.
    primary: Option<Arc<Primary>>,
    clock: Clock,
    appended: Arc<Notify>,
}

impl Database {
    /// Creates the connection pools for `url` (`sqlite://...` or `postgres://...`). A pool opens a connection when the
    /// connection is first needed. If a PostgreSQL URL lists several hosts, the pool connects to the first host until
    /// [`Database::follow_primary`] has found the writable server.
    ///
    /// Fails only if the URL cannot be parsed.
    pub async fn new(url: &str, clock: Clock) -> Result<Self, Error> {
        Self::with_commits(url, SynchronousCommit::default(), clock).await
    }

    /// Creates the connection pools like [`Database::new`], with a level of PostgreSQL's `synchronous_commit`.
    pub async fn with_commits(url: &str, commits: SynchronousCommit, clock: Clock) -> Result<Self, Error> {
        let (engine, connections, primary) = if url.starts_with("sqlite:") {
            (DatabaseBackend::Sqlite, connect::sqlite(url).await?, None)
        } else {
            let primary = Primary::new(url, commits)?;
            (DatabaseBackend::Postgres, primary.first_pool().await?, Some(Arc::new(primary)))
        };
        let connections = Arc::new(ArcSwap::from_pointee(connections));
        Ok(Self { engine, connections, primary, clock, appended: Arc::default() })
    }

    /// Checks that the PostgreSQL server of the pool answers and accepts writes. If not, finds the server that accepts
    /// writes among the hosts of the URL, and replaces the pool. On SQLite, does nothing.
    ///
    /// The first call always replaces the pool. Fails with [`Error::Away`] if no server accepts writes, and with
    /// [`Error::Defect`] if the sessions do not have the level of `synchronous_commit` that they ask for.
    pub async fn follow_primary(&self) -> Result<(), Error> {
        match &self.primary {
            Some(primary) => primary.follow(&self.connections).await,
            None => Ok(()),
        }
    }

    /// Runs a statement that SeaORM builds for [`Database::reader`]. Fails with [`Error::Away`] if PostgreSQL does not
    /// answer within 12 s.
    pub async fn answer<T>(&self, statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, Error> {
        self.connections.load_full().answer(statement).await
    }

    /// Applies all pending migrations of the schema, in one transaction. If several replicas start at the same time,
    /// one replica migrates and the others wait.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut turns = 0;
        loop {
            match self.migrate_once().await {
                // SQLite does not wait for the lock that it needs to switch a new file to WAL. So the migration is
                // retried.
                Err(Error::Lost) if turns < MIGRATION_TURNS => turns += 1,
                migrated => return migrated,
            }
            tokio::time::sleep(MIGRATION_PAUSE).await;
        }
    }

    async fn migrate_once(&self) -> Result<(), Error> {
        let write = self.begin().await?;
        if self.engine == DatabaseBackend::Postgres {
            // The migration of a large table can take longer than `statement_timeout`.
            write.answer(write.conn().execute_unprepared("SET LOCAL statement_timeout = 0")).await?;
            let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
            write.answer_patiently(write.conn().execute_unprepared(&lock)).await?;
        }
        write.answer_patiently(Migrator::up(write.conn(), None)).await?;
        write.commit().await
    }

    /// Begins a write transaction. On SQLite, the transaction takes the write lock when it begins.
    pub async fn begin(&self) -> Result<Write, Error> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let connections = self.connections.load_full();
        let begun = connections.begin(options).await?;
        Ok(Write::new(begun, connections, self.clock.clone(), self.appended.clone()))
    }

    /// Runs `step` in a write transaction, and commits the transaction. If `step` fails, the transaction is rolled
    /// back.
    pub async fn write<T, F>(&self, step: F) -> Result<T, Error>
    where
        F: for<'a> FnOnce(&'a Write) -> BoxFuture<'a, Result<T, Error>>,
    {
        let write = self.begin().await?;
        let done = step(&write).await?;
        write.commit().await?;
        Ok(done)
    }

    /// Runs a query outside a transaction, and returns its rows.
    pub async fn query<T: FromQueryResult>(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        let statement = statement::of_values(self.engine, sql, values);
        self.answer(T::find_by_statement(statement).all(&self.reader())).await
    }

    /// Runs a query about the set `rows` outside a transaction, and returns its rows. If the set is empty, returns no
    /// rows and runs no query.
    pub async fn query_set<T: FromQueryResult, R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let statement = statement::of_rows(self.engine, sql, rows, values);
        self.answer(T::find_by_statement(statement).all(&self.reader())).await
    }

    /// Runs a query about the set `rows` outside a transaction, and returns its rows, like [`Write::find_set`].
    pub async fn find_set<T: Found, R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let statement = statement::of_rows(self.engine, &found::query_of::<T>(self.engine, sql), rows, values);
        self.answer(found::rows(&self.reader(), statement)).await
    }

    /// Returns the current counts of the connections of each pool.
    pub fn pools(&self) -> Vec<PoolUse> {
        let connections = self.connections.load();
        if self.engine == DatabaseBackend::Postgres {
            let pool = connections.writer.get_postgres_connection_pool();
            return vec![pool_use("all", pool.size(), pool.num_idle(), pool.options().get_max_connections())];
        }
        let ready_count = usize::from(connections.is_ready());
        let pools = [("write", &connections.writer, ready_count), ("read", &connections.reader, 0)];
        let use_of = |(name, connection, ready_count): (_, &DatabaseConnection, _)| {
            let pool = connection.get_sqlite_connection_pool();
            pool_use(name, pool.size(), pool.num_idle() + ready_count, pool.options().get_max_connections())
        };
        pools.map(use_of).to_vec()
    }

    /// Makes SQLite's file smaller by at most `limit` unused pages, and leaves 256 unused pages for new rows. Returns
    /// the number of removed pages. On PostgreSQL, does nothing and returns 0, because PostgreSQL reuses space
    /// automatically.
    ///
    /// If SQLite's file was created without incremental vacuum, the file keeps its size and the result is 0.
    pub async fn reclaim_pages(&self, limit: i64) -> Result<i64, Error> {
        if self.engine != DatabaseBackend::Sqlite {
            return Ok(0);
        }
        let write = self.begin().await?;
        let before = unused_pages(&write).await?;
        let count = (before - SPARE_PAGES).clamp(0, limit);
        if count > 0 {
            write.conn().execute_unprepared(&format!("PRAGMA incremental_vacuum({count})")).await?;
        }
        let after = unused_pages(&write).await?;
        write.commit().await?;
        Ok(before - after)
    }

    /// Returns the pool for reads outside a transaction. Use it with [`Database::answer`] for queries that SeaORM
    /// builds, and [`Database::query`] for queries in SQL.
    pub fn reader(&self) -> Reader {
        let connections = self.connections.load();
        Reader::new(connections.reader.clone(), connections.setup())
    }

    /// Tells whether the engine allows only one write transaction at a time.
    pub fn has_one_writer(&self) -> bool {
        self.engine != DatabaseBackend::Postgres
    }

    /// Returns a signal that a commit of this process has appended events. Only one task may wait for the signal.
    pub fn appended(&self) -> &Notify {
        &self.appended
    }

    /// Returns the current time of the clock for decisions.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Waits until the clock for decisions shows `at` or later.
    pub async fn sleep_until(&self, at: Micros) {
        self.clock.sleep_until(at).await;
    }

    /// Sets the clock for decisions to PostgreSQL's clock, which all replicas share. On SQLite, does nothing: the clock
    /// keeps the time of the machine.
    pub async fn anchor_clock(&self) -> Result<(), Error> {
        if self.engine != DatabaseBackend::Postgres {
            return Ok(());
        }
        let asked = Instant::now();
        let statement = Statement::from_string(
            DatabaseBackend::Postgres,
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT",
        );
        if let Some(row) = self.answer(self.reader().query_one_raw(statement)).await? {
            self.clock.anchor(asked, row.try_get_by_index(0)?);
        }
        Ok(())
    }
}

fn pool_use(pool: &'static str, open_count: u32, idle_count: usize, max_count: u32) -> PoolUse {
    let idle_count = u32::try_from(idle_count).unwrap_or(open_count).min(open_count);
    PoolUse { pool, busy_count: open_count - idle_count, idle_count, max_count }
}

async fn unused_pages(write: &Write) -> Result<i64, Error> {
    let statement = Statement::from_string(DatabaseBackend::Sqlite, "PRAGMA freelist_count");
    let row = write.conn().query_one_raw(statement).await?;
    row.map_or(Ok(0), |row| Ok(row.try_get_by_index(0)?))
}
