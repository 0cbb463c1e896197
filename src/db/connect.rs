//! The settings of the connections to each engine.

use std::{str::FromStr, time::Duration};

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, sqlx};

use super::error::Error;

/// Maximum time that a call waits for a connection. After it the call fails: the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time that a write waits while another process holds SQLite's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of rows that SQLite's thread sends before it waits for the reader.
const ROW_BUFFER: usize = 1_024;
/// Number of pages of 4 KiB in SQLite's log before a checkpoint. A sale changes the same pages again and again. With
/// the usual 1,000 pages, each batch would write them twice.
const WAL_PAGES: &str = "8192";
/// Maximum number of connections of one replica to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Number of read-only connections to SQLite. Each one is a thread.
const SQLITE_READERS: u32 = 4;
/// Maximum number of statements that a connection keeps prepared.
const STATEMENT_CACHE: usize = 200;

/// The settings of each session on PostgreSQL.
const POSTGRES_SETTINGS: [(&str, &str); 9] = [
    ("statement_timeout", "10s"),
    // A paused replica loses its locks before it delays two promotions.
    ("idle_in_transaction_session_timeout", "2s"),
    // An acknowledged booking survives a crash, even if the server's default is off.
    ("synchronous_commit", "on"),
    // Every statement finds its rows by key. PostgreSQL keeps a plan as long as the statement stays prepared. A plan
    // from the time when a table was empty would scan that table during the whole sale.
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// Creates a pool of connections to PostgreSQL. A connection is opened at its first use. Fails with [`Error::Defect`]
/// if the URL cannot be parsed.
pub async fn postgres(url: &str) -> Result<DatabaseConnection, Error> {
    // The libraries would print the URL in their error, and it may hold a password.
    let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    if !is_postgres || sqlx::postgres::PgConnectOptions::from_str(url).is_err() {
        let sentence =
            "the database URL cannot be read: write postgres://USER:PASSWORD@HOST/DATABASE, or sqlite://FILE";
        return Err(Error::Defect(sentence.to_owned()));
    }
    let mut options = options(url);
    options.max_connections(POSTGRES_CONNECTIONS).map_sqlx_postgres_opts(|options| {
        options.statement_cache_capacity(STATEMENT_CACHE).application_name("boxoffice").options(POSTGRES_SETTINGS)
    });
    Ok(Database::connect(options).await?)
}

/// Creates the only connection that writes to SQLite. Fails with [`Error::Defect`] if the URL cannot be parsed.
pub async fn sqlite_writer(url: &str) -> Result<DatabaseConnection, Error> {
    sqlx::sqlite::SqliteConnectOptions::from_str(url).map_err(|error| Error::Defect(error.to_string()))?;
    let mut options = options(url);
    options
        .max_connections(1)
        .map_sqlx_sqlite_before_acquire(|conn, _| Box::pin(is_out_of_transactions(conn)))
        .map_sqlx_sqlite_opts(|options| {
            sqlite(options)
                .auto_vacuum(sqlx::sqlite::SqliteAutoVacuum::Incremental)
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
                .pragma("wal_autocheckpoint", WAL_PAGES)
        });
    Ok(Database::connect(options).await?)
}

/// Creates the read-only connections to SQLite. The file may not exist yet: the writer creates it.
pub async fn sqlite_readers(url: &str) -> Result<DatabaseConnection, Error> {
    let mut options = options(url);
    options
        .max_connections(SQLITE_READERS)
        .map_sqlx_sqlite_opts(|options| sqlite(options).read_only(true).create_if_missing(false));
    Ok(Database::connect(options).await?)
}

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .connect_lazy(true)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        // Tests read the statements at this level. A log shows them only if its filter asks for them.
        .sqlx_logging_level(tracing::log::LevelFilter::Trace);
    options
}

/// Tells whether a connection may be used for another transaction. If not, the pool closes it.
///
/// If a COMMIT fails on a full disk, SQLite rolls back by itself. The ROLLBACK of sqlx after it fails, and sqlx then
/// counts the transaction as open for ever. Later transactions would become savepoints: acknowledged, but never
/// committed.
async fn is_out_of_transactions(conn: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Connection;
    if conn.is_in_transaction() {
        // The ROLLBACK of a dropped transaction may still be in the queue of SQLite's thread. The thread answers in
        // order, so a ping waits for it.
        conn.ping().await?;
    }
    Ok(!conn.is_in_transaction())
}

fn sqlite(options: sqlx::sqlite::SqliteConnectOptions) -> sqlx::sqlite::SqliteConnectOptions {
    options
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // SQLite's thread sends the rows of a batch together.
        .row_buffer_size(ROW_BUFFER)
        // Memory for the pages of a sale: 64 MiB. SQLite reads a negative number as KiB.
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "MEMORY")
        .statement_cache_capacity(STATEMENT_CACHE)
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::of_statement(error)
    }
}
