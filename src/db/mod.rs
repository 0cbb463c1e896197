//! The database: connections, transactions for writes, and what an error means.
//!
//! SQLite has one writer connection and a pool of read-only ones. PostgreSQL has one pool for both. Writes run only in
//! lanes and background passes, never on the future of a request.

mod connect;
pub mod entity;
mod error;
mod statement;
mod write;

use std::time::{Duration, Instant};

use boxoffice_migration::{Migrator, MigratorTrait};
use futures::future::BoxFuture;
use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, FromQueryResult, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait, Value, sqlx,
};

pub use error::Error;
pub use sea_orm::ActiveValue::Set;
pub(crate) use statement::rows;
pub use statement::{Column, Row, Type};
pub use write::Write;

use crate::clock::{Clock, Micros};

/// Replicas that start together take turns at the schema by this advisory lock.
const MIGRATION_LOCK: i64 = 0x0b0c_0ff1_ce00;
/// How many times a migration that lost a race is tried again, and after what pause.
const MIGRATION_TURNS: u32 = 20;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// Number of unused pages that SQLite's file keeps.
const SPARE_PAGES: i64 = 256;

/// How many connections a pool has.
#[derive(Debug, Clone, Copy)]
pub struct PoolUse {
    /// What the pool is for.
    pub pool: &'static str,
    /// Connections that are in use.
    pub busy_count: u32,
    /// Open connections that are not in use.
    pub idle_count: u32,
    /// Maximum number of connections.
    pub max_count: u32,
}

/// The database and the time that its decisions go by. Clones share the connections.
#[derive(Clone)]
pub struct Database {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    clock: Clock,
}

impl Database {
    /// Sets up the connections to `url` (`sqlite://...` or `postgres://...`). No connection is opened before it is used,
    /// so this fails only for a URL that cannot be read.
    pub async fn new(url: &str, clock: Clock) -> Result<Self, Error> {
        if url.starts_with("sqlite:") {
            let (writer, reader) = (connect::sqlite_writer(url).await?, connect::sqlite_readers(url).await?);
            return Ok(Self { writer, reader, clock });
        }
        let pool = connect::postgres(url).await?;
        Ok(Self { writer: pool.clone(), reader: pool, clock })
    }

    /// Brings the schema up to date. Of replicas that start together, one does it and the others wait.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut turns = 0;
        loop {
            match self.migrate_once().await {
                // SQLite does not wait for the lock that it takes to switch a new file to WAL.
                Err(Error::Lost) if turns < MIGRATION_TURNS => turns += 1,
                migrated => return migrated,
            }
            tokio::time::sleep(MIGRATION_PAUSE).await;
        }
    }

    async fn migrate_once(&self) -> Result<(), Error> {
        let write = self.begin().await?;
        if self.engine() == DatabaseBackend::Postgres {
            // A migration of a large table takes longer than a call may.
            write.conn().execute_unprepared("SET LOCAL statement_timeout = 0").await?;
            let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
            write.conn().execute_unprepared(&lock).await?;
        }
        Migrator::up(write.conn(), None).await?;
        write.commit().await
    }

    /// Begins a write transaction. On SQLite it holds the one write lock from here on.
    pub async fn begin(&self) -> Result<Write, Error> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let txn = self.writer.begin_with_options(options).await?;
        Ok(Write::new(txn, self.clock.clone()))
    }

    /// Runs one step of a background pass in a write transaction.
    pub async fn write<T, F>(&self, step: F) -> Result<T, Error>
    where
        F: for<'a> FnOnce(&'a Write) -> BoxFuture<'a, Result<T, Error>>,
    {
        let write = self.begin().await?;
        let done = step(&write).await?;
        write.commit().await?;
        Ok(done)
    }

    /// Reads rows outside a transaction.
    pub async fn query<T: FromQueryResult>(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        Ok(T::find_by_statement(statement::of_values(self.engine(), sql, values)).all(&self.reader).await?)
    }

    /// Reads rows about a set outside a transaction. Without rows it reads nothing.
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

    /// Returns how many connections each pool has now.
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

    /// Gives up to `limit` unused pages of SQLite's file back to the file system, and returns how many. PostgreSQL reuses
    /// space by itself.
    ///
    /// A file that was created before incremental vacuum was set stays as large as it is.
    pub async fn reclaim_pages(&self, limit: i64) -> Result<i64, Error> {
        if self.engine() != DatabaseBackend::Sqlite {
            return Ok(0);
        }
        let write = self.begin().await?;
        let before = unused_pages(&write).await?;
        // Some unused pages stay for the rows to come.
        let count = (before - SPARE_PAGES).clamp(0, limit);
        if count > 0 {
            write.conn().execute_unprepared(&format!("PRAGMA incremental_vacuum({count})")).await?;
        }
        let after = unused_pages(&write).await?;
        write.commit().await?;
        Ok(before - after)
    }

    /// The connections for reads outside a transaction, for statements that SeaORM builds.
    pub fn reader(&self) -> &DatabaseConnection {
        &self.reader
    }

    fn engine(&self) -> DatabaseBackend {
        self.writer.get_database_backend()
    }

    /// Tells whether the engine runs one write transaction at a time.
    pub fn has_one_writer(&self) -> bool {
        self.engine() != DatabaseBackend::Postgres
    }

    /// Now, as decisions go by.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Waits until the clock tells `at` or later.
    pub async fn sleep_until(&self, at: Micros) {
        self.clock.sleep_until(at).await;
    }

    /// Takes over PostgreSQL's clock, which all replicas share. SQLite has only the machine's clock.
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
