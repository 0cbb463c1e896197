//! The database: connections, write transactions, statements, entities and errors.
//!
//! SQLite has one connection that writes, and a pool of read-only connections. PostgreSQL has one pool for reads and
//! writes. A call writes only through a lane, which runs the transaction in a separate task. So a cancelled call does
//! not interrupt a transaction.

mod connect;
pub mod entity;
mod error;
mod log;
mod statement;
mod write;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice_migration::{Migrator, MigratorTrait};
use futures::future::BoxFuture;
use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, FromQueryResult, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait, Value, sqlx,
};
use tokio::sync::Notify;

pub use error::Error;
pub use sea_orm::ActiveValue::Set;
pub(crate) use statement::rows;
pub use statement::{Column, Row, Type};
pub use write::Write;

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
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    clock: Clock,
    appended: Arc<Notify>,
}

impl Database {
    /// Creates the connection pools for `url` (`sqlite://...` or `postgres://...`). A pool opens a connection when the
    /// connection is first needed.
    ///
    /// Fails only if the URL cannot be parsed.
    pub async fn new(url: &str, clock: Clock) -> Result<Self, Error> {
        if url.starts_with("sqlite:") {
            let (writer, reader) = (connect::sqlite_writer(url).await?, connect::sqlite_readers(url).await?);
            return Ok(Self { writer, reader, clock, appended: Arc::default() });
        }
        let pool = connect::postgres(url).await?;
        Ok(Self { writer: pool.clone(), reader: pool, clock, appended: Arc::default() })
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
        if self.engine() == DatabaseBackend::Postgres {
            // The migration of a large table can take longer than `statement_timeout`.
            write.conn().execute_unprepared("SET LOCAL statement_timeout = 0").await?;
            let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
            write.conn().execute_unprepared(&lock).await?;
        }
        Migrator::up(write.conn(), None).await?;
        write.commit().await
    }

    /// Begins a write transaction. On SQLite, the transaction takes the write lock when it begins.
    pub async fn begin(&self) -> Result<Write, Error> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let txn = self.writer.begin_with_options(options).await?;
        Ok(Write::new(txn, self.clock.clone(), self.appended.clone()))
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
        Ok(T::find_by_statement(statement::of_values(self.engine(), sql, values)).all(&self.reader).await?)
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
        Ok(T::find_by_statement(statement::of_rows(self.engine(), sql, rows, values)).all(&self.reader).await?)
    }

    /// Returns the current counts of the connections of each pool.
    pub fn pools(&self) -> Vec<PoolUse> {
        if self.engine() == DatabaseBackend::Postgres {
            let pool = self.writer.get_postgres_connection_pool();
            return vec![pool_use("all", pool.size(), pool.num_idle(), pool.options().get_max_connections())];
        }
        let pools = [("write", &self.writer), ("read", &self.reader)];
        let pools = pools.map(|(name, connection)| (name, connection.get_sqlite_connection_pool()));
        let use_of = |(name, pool): (_, &sqlx::SqlitePool)| {
            pool_use(name, pool.size(), pool.num_idle(), pool.options().get_max_connections())
        };
        pools.map(use_of).to_vec()
    }

    /// Makes SQLite's file smaller by at most `limit` unused pages, and leaves 256 unused pages for new rows. Returns
    /// the number of removed pages. On PostgreSQL, does nothing and returns 0, because PostgreSQL reuses space
    /// automatically.
    ///
    /// If SQLite's file was created without incremental vacuum, the file keeps its size and the result is 0.
    pub async fn reclaim_pages(&self, limit: i64) -> Result<i64, Error> {
        if self.engine() != DatabaseBackend::Sqlite {
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

    /// Returns the pool for reads outside a transaction. Use it for queries that SeaORM builds, and [`Database::query`]
    /// for queries in SQL.
    pub fn reader(&self) -> &DatabaseConnection {
        &self.reader
    }

    fn engine(&self) -> DatabaseBackend {
        self.writer.get_database_backend()
    }

    /// Tells whether the engine allows only one write transaction at a time.
    pub fn has_one_writer(&self) -> bool {
        self.engine() != DatabaseBackend::Postgres
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
        if self.engine() != DatabaseBackend::Postgres {
            return Ok(());
        }
        let asked = Instant::now();
        let statement = Statement::from_string(
            DatabaseBackend::Postgres,
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT",
        );
        if let Some(row) = self.reader.query_one_raw(statement).await? {
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
