//! The connection settings for each engine.

use std::{str::FromStr, time::Duration};

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, sqlx};

use super::error::Error;

/// Maximum time that a call waits for a connection. After this time the call fails with [`Error::Away`].
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time that a write waits for SQLite's write lock while another process holds it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of rows that SQLite's thread sends before it waits for the reader.
const ROW_BUFFER: usize = 1_024;
/// The size of a page of a new SQLite file, in bytes. SQLite's default is 4,096. A payment changes a few rows of some
/// hundred bytes at random places, and each change writes a page.
const PAGE_BYTES: u32 = 2_048;
/// Number of pages in SQLite's write-ahead log before a checkpoint: 32 MiB. The default is 1,000 pages. A sale changes
/// the same pages repeatedly, so with the default each batch would write them twice.
const WAL_PAGES: &str = "16384";
/// Maximum number of PostgreSQL connections of one replica.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Number of read-only SQLite connections. Each connection is a thread.
const SQLITE_READERS: u32 = 4;
/// Maximum number of prepared statements that a connection keeps.
const STATEMENT_CACHE: usize = 200;

/// The settings of each PostgreSQL session.
const POSTGRES_SETTINGS: [(&str, &str); 9] = [
    ("statement_timeout", "10s"),
    // A replica that is paused in a transaction loses its locks before it delays two promotions.
    ("idle_in_transaction_session_timeout", "2s"),
    // An acknowledged booking survives a crash, even if PostgreSQL's default for this setting is off.
    ("synchronous_commit", "on"),
    // Every statement finds its rows by key. PostgreSQL keeps a plan while the statement stays prepared. A plan that
    // was made for an empty table would scan this table during the whole sale.
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// Creates a pool of connections to PostgreSQL. A connection is opened at its first use.
///
/// Fails with [`Error::Defect`] if the URL cannot be parsed.
pub async fn postgres(url: &str) -> Result<DatabaseConnection, Error> {
    // The URL may contain a password, and the libraries would print the URL in their errors.
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

/// Creates the only connection that writes to SQLite.
///
/// Fails with [`Error::Defect`] if the URL cannot be parsed.
pub async fn sqlite_writer(url: &str) -> Result<DatabaseConnection, Error> {
    sqlx::sqlite::SqliteConnectOptions::from_str(url).map_err(|error| Error::Defect(error.to_string()))?;
    let mut options = options(url);
    options
        .max_connections(1)
        .map_sqlx_sqlite_before_acquire(|conn, _| Box::pin(is_out_of_transactions(conn)))
        .map_sqlx_sqlite_opts(|options| {
            sqlite(options)
                .page_size(PAGE_BYTES)
                .auto_vacuum(sqlx::sqlite::SqliteAutoVacuum::Incremental)
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
                .pragma("wal_autocheckpoint", WAL_PAGES)
        });
    Ok(Database::connect(options).await?)
}

/// Creates the read-only connections to SQLite. The file may not exist yet, because the writer creates it.
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
        // Tests read the statements at this level. A log shows statements only if its filter includes this level.
        .sqlx_logging_level(tracing::log::LevelFilter::Trace);
    options
}

/// Tells whether a connection can start another transaction. If not, the pool closes the connection.
///
/// If a COMMIT fails because the disk is full, SQLite rolls back automatically. The later ROLLBACK of sqlx then fails,
/// and sqlx counts the transaction as open forever. Later transactions would become savepoints: they would be
/// acknowledged, but never committed.
async fn is_out_of_transactions(conn: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Connection;
    if conn.is_in_transaction() {
        // The ROLLBACK of a dropped transaction may still be in the queue of SQLite's thread. The thread works in
        // order, so the ping returns after the ROLLBACK.
        conn.ping().await?;
    }
    Ok(!conn.is_in_transaction())
}

fn sqlite(options: sqlx::sqlite::SqliteConnectOptions) -> sqlx::sqlite::SqliteConnectOptions {
    options
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // SQLite's thread sends up to this number of rows before it waits for the reader.
        .row_buffer_size(ROW_BUFFER)
        // 64 MiB of memory for the pages of a sale. SQLite reads a negative number as KiB.
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "MEMORY")
        .statement_cache_capacity(STATEMENT_CACHE)
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::of_statement(error)
    }
}
