//! The database: connecting with each engine's quirks, transactions for writes, and what an error of it means.
//!
//! SQLite has one writer connection and a pool of read-only ones; PostgreSQL one pool for both. Writes run in lanes and
//! background passes only, never on a request's own future.

pub mod entity;
mod error;
mod statement;

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use boxoffice_migration::{Migrator, MigratorTrait};
pub use error::Error;
pub use sea_orm::ActiveValue::Set;
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait, sqlx,
};
pub use statement::{one, rows};

use crate::clock::{Clock, Micros};
use futures::future::BoxFuture;

/// How long a call waits for a connection before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a write waits for another process that has SQLite's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Rows that SQLite's thread hands over before it waits for them to be taken.
const ROW_BUFFER: usize = 1_024;
/// Pages of 4 KiB in the log before they are carried over to the database file. A sale changes the same pages over and over; with the
/// usual 1,000 each batch would write them twice.
const WAL_PAGES: &str = "8192";
/// Connections of one replica to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Read-only connections to SQLite, each a thread.
const SQLITE_READERS: u32 = 4;
/// Distinct statements that a connection keeps prepared.
const STATEMENT_CACHE: usize = 200;
/// Replicas that start at once take turns at the schema by this advisory lock.
const MIGRATION_LOCK: i64 = 0x0b0c_0ff1_ce00;
/// How often, and how soon, a migration that lost a race is tried again.
const MIGRATION_TURNS: u32 = 20;
const MIGRATION_PAUSE: Duration = Duration::from_millis(50);

/// The database and the time its decisions go by. Clones share the connections.
#[derive(Clone)]
pub struct Database {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    clock: Clock,
}

/// A write transaction and the instant its decisions go by.
pub struct Write {
    txn: DatabaseTransaction,
    /// When the transaction began.
    pub now: Micros,
}

impl Database {
    /// Sets up the connections to `url` (`sqlite://...` or `postgres://...`). Nothing is opened before it is used, so this
    /// fails only for a URL that cannot be read.
    pub async fn new(url: &str, clock: Clock) -> Result<Self, Error> {
        if url.starts_with("sqlite:") {
            return Self::sqlite(url, clock).await;
        }
        // Told here and without the URL, which the libraries would print: it may hold a password.
        let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        if !is_postgres || sqlx::postgres::PgConnectOptions::from_str(url).is_err() {
            let sentence =
                "the database URL cannot be read: write postgres://USER:PASSWORD@HOST/DATABASE, or sqlite://FILE";
            return Err(Error::Defect(sentence.to_owned()));
        }
        let mut options = options(url);
        options.max_connections(POSTGRES_CONNECTIONS).map_sqlx_postgres_opts(|options| {
            options.statement_cache_capacity(STATEMENT_CACHE).application_name("boxoffice").options([
                ("statement_timeout", "10s"),
                // A replica that stands still gives its locks back before two promotions are missed.
                ("idle_in_transaction_session_timeout", "2s"),
                // Every statement finds its rows by key. A plan that was made while a table was small would scan it for as
                // long as it stays prepared, which a sale that begins with empty tables would feel.
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                ("enable_material", "off"),
                ("enable_bitmapscan", "off"),
                ("jit", "off"),
            ])
        });
        let pool = sea_orm::Database::connect(options).await?;
        Ok(Self { writer: pool.clone(), reader: pool, clock })
    }

    async fn sqlite(url: &str, clock: Clock) -> Result<Self, Error> {
        // The reader must not fail on a file that the writer is about to make.
        sqlx::sqlite::SqliteConnectOptions::from_str(url).map_err(|error| Error::Defect(error.to_string()))?;
        let mut writer = options(url);
        writer
            .max_connections(1)
            .map_sqlx_sqlite_before_acquire(|conn, _| Box::pin(is_out_of_transactions(conn)))
            .map_sqlx_sqlite_opts(|options| {
                durable(options)
                    .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                    .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
                    .pragma("wal_autocheckpoint", WAL_PAGES)
            });
        let mut reader = options(url);
        reader
            .max_connections(SQLITE_READERS)
            .map_sqlx_sqlite_opts(|options| durable(options).read_only(true).create_if_missing(false));
        Ok(Self {
            writer: sea_orm::Database::connect(writer).await?,
            reader: sea_orm::Database::connect(reader).await?,
            clock,
        })
    }

    /// Brings the schema up to date; of those who start at once one does it and the others wait.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut turns = 0;
        loop {
            match self.migrate_once().await {
                // Nobody waits for the lock by which SQLite makes a new file one with a log.
                Err(Error::Lost) if turns < MIGRATION_TURNS => turns += 1,
                migrated => return migrated,
            }
            tokio::time::sleep(MIGRATION_PAUSE).await;
        }
    }

    async fn migrate_once(&self) -> Result<(), Error> {
        let write = self.begin().await?;
        if self.engine() == DatabaseBackend::Postgres {
            let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
            write.txn.execute_unprepared(&lock).await?;
        }
        Migrator::up(&write.txn, None).await?;
        write.commit().await
    }

    /// Begins a write transaction. On SQLite it holds the one write lock from here on.
    pub async fn begin(&self) -> Result<Write, Error> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let txn = self.writer.begin_with_options(options).await?;
        Ok(Write { txn, now: self.now() })
    }

    /// Runs one pass of the background in a write transaction.
    pub async fn write<T, F>(&self, pass: F) -> Result<T, Error>
    where
        F: for<'a> FnOnce(&'a Write) -> BoxFuture<'a, Result<T, Error>>,
    {
        let write = self.begin().await?;
        let done = pass(&write).await?;
        write.commit().await?;
        Ok(done)
    }

    /// For reads outside a transaction.
    pub fn reader(&self) -> &DatabaseConnection {
        &self.reader
    }

    /// Which engine it is.
    pub fn engine(&self) -> DatabaseBackend {
        self.writer.get_database_backend()
    }

    /// Whether there is one write transaction at a time.
    pub fn has_one_writer(&self) -> bool {
        self.engine() != DatabaseBackend::Postgres
    }

    /// Now, as decisions go by.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Waits until decisions go by `at` or later.
    pub async fn sleep_until(&self, at: Micros) {
        self.clock.sleep_until(at).await;
    }

    /// Takes over PostgreSQL's clock, which all replicas share; SQLite has only the machine's.
    pub async fn anchor_clock(&self) -> Result<(), Error> {
        if self.engine() != DatabaseBackend::Postgres {
            return Ok(());
        }
        let asked = Instant::now();
        let statement = sea_orm::Statement::from_string(
            DatabaseBackend::Postgres,
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT",
        );
        if let Some(row) = self.reader.query_one_raw(statement).await? {
            self.clock.anchor(asked, row.try_get_by_index(0)?);
        }
        Ok(())
    }
}

impl Write {
    /// A statement of this transaction's engine about a set of rows: see [`rows`].
    pub fn rows<R: serde::Serialize>(
        &self,
        sql: &str,
        set: &[R],
        values: impl IntoIterator<Item = sea_orm::Value>,
    ) -> sea_orm::Statement {
        rows(self.txn.get_database_backend(), sql, set, values)
    }

    /// Locks the rows that a statement with `{lock}` finds, before another reads them. SQLite has one writer and needs it not.
    pub async fn lock<R: serde::Serialize>(&self, sql: &str, set: &[R]) -> Result<(), Error> {
        if self.txn.get_database_backend() == DatabaseBackend::Postgres {
            self.txn.execute_raw(self.rows(sql, set, [])).await?;
        }
        Ok(())
    }

    /// A statement of this transaction's engine without a set: see [`one`].
    pub fn one(&self, sql: &str, values: impl IntoIterator<Item = sea_orm::Value>) -> sea_orm::Statement {
        one(self.txn.get_database_backend(), sql, values)
    }

    /// The connection that the transaction runs on.
    pub fn conn(&self) -> &DatabaseTransaction {
        &self.txn
    }

    /// Makes it durable. If the connection breaks here, the outcome is unknown.
    pub async fn commit(self) -> Result<(), Error> {
        self.txn.commit().await.map_err(Error::of_commit)
    }
}

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options.connect_lazy(true).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false).sqlx_logging(false);
    options
}

/// Whether a connection may be used for another transaction; if not, it is closed. A COMMIT that fails on a full disk has been rolled
/// back by SQLite itself, sqlx's ROLLBACK after it fails, and sqlx counts the transaction as open from then on: the next ones
/// would become savepoints, which can be acknowledged and are never committed.
async fn is_out_of_transactions(conn: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Connection;
    if conn.is_in_transaction() {
        // The ROLLBACK of a dropped transaction may be on its way to SQLite's thread, which answers in order.
        conn.ping().await?;
    }
    Ok(!conn.is_in_transaction())
}

fn durable(options: sqlx::sqlite::SqliteConnectOptions) -> sqlx::sqlite::SqliteConnectOptions {
    options
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // A batch's rows cross from SQLite's thread in one go.
        .row_buffer_size(ROW_BUFFER)
        // The pages of a sale in memory (KiB, negative by SQLite's convention).
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "MEMORY")
        .statement_cache_capacity(STATEMENT_CACHE)
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::of_statement(error)
    }
}
