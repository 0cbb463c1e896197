//! Creates the connection pools of PostgreSQL and SQLite, with their settings.

use std::{str::FromStr, time::Duration};

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, sqlx};
use sqlx::{
    Row,
    postgres::{PgConnectOptions, PgConnection},
};

use super::{
    connections::{ACQUIRE_TIMEOUT, Connections},
    error::Error,
};

/// Time without use after which a PostgreSQL connection is tested before its next use. A firewall may have dropped it.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Maximum time that a transaction waits for SQLite's write lock, if another process holds the lock. After this time
/// the transaction fails with [`Error::Lost`].
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of rows that the thread of a SQLite connection sends before it waits for the reader of the rows.
const ROW_BUFFER: usize = 1_024;
/// The size of a page of a new SQLite file, in bytes. SQLite's default is 4,096. A payment changes a few short rows in
/// different pages, and SQLite writes each changed page in full. So smaller pages mean fewer written bytes.
const PAGE_BYTES: u32 = 2_048;
/// Number of pages in SQLite's write-ahead log at which a checkpoint starts: 32 MiB for a new file. SQLite's default is
/// 1,000 pages. A checkpoint copies each changed page once. A sale changes the same pages repeatedly, so rare
/// checkpoints copy fewer pages.
const WAL_PAGES: &str = "16384";
/// Maximum memory for the pages that the writer keeps: 64 MiB, enough for the pages of a sale. SQLite reads a negative
/// number as KiB.
const WRITER_CACHE: &str = "-65536";
/// Maximum memory for the pages that each reader keeps: 8 MiB, enough for the seats of a stadium.
const READER_CACHE: &str = "-8192";
/// Maximum number of PostgreSQL connections of one replica.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Maximum number of read-only SQLite connections. sqlx runs each connection in a separate thread.
const SQLITE_READERS: u32 = 4;
/// Maximum number of prepared statements that one connection keeps.
const STATEMENT_CACHE: usize = 200;

/// What PostgreSQL does before it confirms a commit: the level of its `synchronous_commit`. At both levels, an
/// acknowledged write survives a crash of PostgreSQL, even if the configuration of PostgreSQL sets a lower level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SynchronousCommit {
    /// The server and its synchronous standby, if it has one, have written the commit to disk.
    #[default]
    On,
    /// In addition, queries on the synchronous standby see the commit.
    RemoteApply,
}

impl SynchronousCommit {
    /// Returns the name that PostgreSQL uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
        }
    }
}

/// How boxoffice uses its PostgreSQL sessions.
#[derive(Debug, Clone, Copy)]
pub struct Sessions {
    /// The level of `synchronous_commit`.
    pub commits: SynchronousCommit,
    /// Whether the server is PgBouncer, which may give each transaction another session.
    pub is_pooled: bool,
}

impl Sessions {
    /// Returns the options with the settings of each session. PgBouncer refuses such settings, so [`Sessions::setup`]
    /// replaces them there.
    pub fn options(self, options: PgConnectOptions) -> PgConnectOptions {
        let options = options.application_name("boxoffice");
        if self.is_pooled {
            return options.statement_cache_capacity(0).extra_float_digits(None);
        }
        options.statement_cache_capacity(STATEMENT_CACHE).options(self.settings())
    }

    /// Returns the statements that must begin each transaction behind PgBouncer: the settings, for this transaction.
    /// Returns `None` without PgBouncer.
    ///
    /// sqlx numbers the prepared statements of each connection. Another connection may have prepared statements with
    /// the same numbers in the session of the transaction, so they are removed first.
    fn setup(self) -> Option<String> {
        let set = |(name, value)| format!("; SET LOCAL {name} = '{value}'");
        self.is_pooled.then(|| format!("DEALLOCATE ALL{}", self.settings().map(set).collect::<String>()))
    }

    fn settings(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        POSTGRES_SETTINGS.into_iter().chain([("synchronous_commit", self.commits.as_str())])
    }

    /// Returns the level of `synchronous_commit` of the transactions of a connection, and the synchronous standbys of
    /// its server.
    pub async fn commit_level(self, conn: &mut PgConnection) -> Result<(String, String), sqlx::Error> {
        let sql = "SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names')";
        let setup = self.setup().map_or(String::new(), |setup| format!("{setup}; "));
        let sql = sqlx::AssertSqlSafe(format!("BEGIN; {setup}{sql}; COMMIT"));
        let row = sqlx::raw_sql(sql).fetch_one(conn).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}

/// The settings of each PostgreSQL session, besides `synchronous_commit`.
const POSTGRES_SETTINGS: [(&str, &str); 8] = [
    ("statement_timeout", "10s"),
    // If a replica stops responding in the middle of a transaction, PostgreSQL ends the transaction after 2 s and
    // releases its locks. So the replica delays the promotions of other replicas by at most about 2 s.
    ("idle_in_transaction_session_timeout", "2s"),
    // Every statement should find its rows by key. PostgreSQL keeps the plan of a prepared statement. A plan that was
    // made for an empty table would scan this table during the whole sale. The next five settings prevent such plans.
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// Creates the pool of connections to the PostgreSQL server at `url`, which has one host. The pool opens a connection
/// when the connection is first needed. It never uses a connection to a read-only server.
///
/// Fails with [`Error::Defect`] if the URL cannot be parsed.
pub async fn postgres(url: &str, sessions: Sessions) -> Result<Connections, Error> {
    let mut options = options(url);
    options
        .max_connections(POSTGRES_CONNECTIONS)
        .test_before_acquire_if_idle_for(IDLE_LIMIT)
        .map_sqlx_postgres_pool_opts(|pool| {
            pool.after_connect(|conn, _| {
                Box::pin(async {
                    let is_writable = is_writable(conn).await?;
                    if is_writable { Ok(()) } else { Err(sqlx::Error::Protocol("the server is read-only".to_owned())) }
                })
            })
        })
        .map_sqlx_postgres_opts(move |options| sessions.options(options));
    let pool = Database::connect(options).await?;
    Ok(Connections::new(pool.clone(), pool.clone(), pool, sessions.setup()))
}

/// Tells whether the server of a connection accepts writes. A standby does not.
///
/// The query is not prepared, because PgBouncer may give another session to each message outside a transaction.
pub async fn is_writable(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let sql = "SELECT NOT current_setting('transaction_read_only')::BOOLEAN";
    sqlx::raw_sql(sql).fetch_one(conn).await?.try_get(0)
}

/// Creates the pools of connections to SQLite for writes, for reads and for snapshots. The queries of a snapshot may
/// sort large sets, so they sort on disk.
///
/// Fails with [`Error::Defect`] if the URL cannot be parsed.
pub async fn sqlite(url: &str) -> Result<Connections, Error> {
    let writer = sqlite_writer(url).await?;
    Ok(Connections::new(
        writer,
        sqlite_readers(url, SQLITE_READERS, "MEMORY").await?,
        sqlite_readers(url, 1, "FILE").await?,
        None,
    ))
}

/// Creates the pool with the only connection that writes to SQLite.
async fn sqlite_writer(url: &str) -> Result<DatabaseConnection, Error> {
    sqlx::sqlite::SqliteConnectOptions::from_str(url).map_err(|error| Error::Defect(error.to_string()))?;
    let mut options = options(url);
    options
        .max_connections(1)
        .map_sqlx_sqlite_before_acquire(|conn, _| Box::pin(is_out_of_transactions(conn)))
        .map_sqlx_sqlite_opts(|options| {
            sqlite_session(options)
                .pragma("cache_size", WRITER_CACHE)
                .pragma("temp_store", "MEMORY")
                .page_size(PAGE_BYTES)
                .auto_vacuum(sqlx::sqlite::SqliteAutoVacuum::Incremental)
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
                .pragma("wal_autocheckpoint", WAL_PAGES)
        });
    Ok(Database::connect(options).await?)
}

/// Creates the pool of read-only connections to SQLite. These connections never create the file. The connection of the
/// writer creates the file, if the URL contains `mode=rwc`.
///
/// `temp_store` is the place of large sets that a query sorts: `MEMORY` or `FILE`.
async fn sqlite_readers(url: &str, count: u32, temp_store: &'static str) -> Result<DatabaseConnection, Error> {
    let mut options = options(url);
    options.max_connections(count).map_sqlx_sqlite_opts(move |options| {
        sqlite_session(options)
            .pragma("cache_size", READER_CACHE)
            .pragma("temp_store", temp_store)
            .read_only(true)
            .create_if_missing(false)
    });
    Ok(Database::connect(options).await?)
}

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .connect_lazy(true)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        // Statements are logged at the level TRACE, which the default filter hides. Tests read the statements from the
        // log.
        .sqlx_logging_level(tracing::log::LevelFilter::Trace);
    options
}

/// Tells whether no transaction is open on a connection. If the result is `false`, the pool closes the connection.
///
/// If a COMMIT fails because the disk is full, SQLite rolls back automatically. The later ROLLBACK of sqlx then fails,
/// and sqlx counts the transaction as open forever. On such a connection, later transactions would be savepoints: they
/// would be acknowledged, but never committed.
async fn is_out_of_transactions(conn: &mut sqlx::SqliteConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Connection;
    if conn.is_in_transaction() {
        // The ROLLBACK of a dropped transaction may still be in the queue of the connection's thread. The thread runs
        // commands in the order of the queue, so the ping returns after the ROLLBACK.
        conn.ping().await?;
    }
    Ok(!conn.is_in_transaction())
}

fn sqlite_session(options: sqlx::sqlite::SqliteConnectOptions) -> sqlx::sqlite::SqliteConnectOptions {
    options
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(ROW_BUFFER)
        .statement_cache_capacity(STATEMENT_CACHE)
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::of_statement(error)
    }
}
