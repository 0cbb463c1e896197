//! The connection pools in use. A pool is ended if its server cannot be used any more. Its statements then fail.

use std::{future::Future, sync::Arc, time::Duration};

use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, TransactionOptions,
    TransactionTrait,
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::error::Error;

/// Maximum time that a query or a transaction waits for a connection. After this time the query or the transaction
/// fails with [`Error::Away`].
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time that a statement waits for the answer of PostgreSQL. PostgreSQL itself ends a statement after 10 s. So
/// if there is no answer after 12 s, the server cannot be reached any more.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(12);

/// The place of SQLite's writing connection between two transactions. It is empty before the first transaction, and
/// after a transaction that failed.
pub type Place = OwnedMutexGuard<Option<DatabaseTransaction>>;

/// The connections to the database. PostgreSQL has one pool for reads and writes.
pub struct Connections {
    pub(super) writer: DatabaseConnection,
    /// SQLite's writing connection while no transaction uses it.
    ready: Arc<Mutex<Option<DatabaseTransaction>>>,
    pub(super) reader: DatabaseConnection,
    /// The pool for snapshots, whose queries may be long.
    pub(super) snapshots: DatabaseConnection,
    /// The statements that begin each transaction; `None` unless the server is PgBouncer.
    setup: Option<Arc<str>>,
    /// Is cancelled when the server of a PostgreSQL pool cannot be used any more.
    ended: CancellationToken,
}

impl Connections {
    /// Returns the connections of the pools for writes, for reads and for snapshots, which may be the same pool. If the
    /// server is PgBouncer, `setup` has the statements that must begin each transaction.
    pub fn new(
        writer: DatabaseConnection,
        reader: DatabaseConnection,
        snapshots: DatabaseConnection,
        setup: Option<String>,
    ) -> Self {
        let (setup, ended) = (setup.map(Into::into), CancellationToken::new());
        Self { writer, ready: Arc::default(), reader, snapshots, setup, ended }
    }

    /// Returns the statements that must begin each transaction; `None` unless the server is PgBouncer.
    pub fn setup(&self) -> Option<Arc<str>> {
        self.setup.clone()
    }

    /// Begins a write transaction. On SQLite, also returns the place for the connection after the commit.
    ///
    /// Between two transactions, the driver tests a connection. This test and the acknowledgements of the driver are
    /// several trips between threads. So on SQLite, plain statements begin and end the transactions of one connection,
    /// which stays here. For the driver, all of them are one transaction. If a transaction fails, the driver rolls it
    /// back and gets the connection back.
    pub async fn begin(&self, options: TransactionOptions) -> Result<(DatabaseTransaction, Option<Place>), Error> {
        if self.is_postgres() {
            return Ok((self.answer(begin(&self.writer, options, self.setup.as_deref())).await?, None));
        }
        let turn = timeout(ACQUIRE_TIMEOUT, self.ready.clone().lock_owned()).await;
        let mut place = turn.map_err(|_| Error::Away(format!("no transaction began within {ACQUIRE_TIMEOUT:?}")))?;
        let txn = match place.take() {
            None => begin(&self.writer, options, None).await?,
            Some(txn) => {
                txn.execute_unprepared("BEGIN IMMEDIATE").await?;
                txn
            }
        };
        Ok((txn, Some(place)))
    }

    /// Commits a transaction, and puts the connection of SQLite back to its `place`.
    pub async fn commit(&self, txn: DatabaseTransaction, place: Option<Place>) -> Result<(), Error> {
        let Some(mut place) = place else { return self.answer(txn.commit()).await };
        txn.execute_unprepared("COMMIT").await?;
        *place = Some(txn);
        Ok(())
    }

    /// Tells whether SQLite's writing connection waits for its next transaction.
    pub fn is_ready(&self) -> bool {
        self.ready.try_lock().is_ok_and(|place| place.is_some())
    }

    /// Runs a statement. Fails with [`Error::Away`] if PostgreSQL does not answer within 12 s, or if the pool ends.
    ///
    /// A server that vanished without a packet never closes its connections. Without this limit, a statement would wait
    /// for its answer forever.
    pub async fn answer<T>(&self, statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, Error> {
        if !self.is_postgres() {
            return Ok(statement.await?);
        }
        match tokio::time::timeout(ANSWER_LIMIT, self.answer_patiently(statement)).await {
            Ok(answered) => answered,
            Err(_) => {
                tracing::warn!("PostgreSQL has not answered a statement for {ANSWER_LIMIT:?}; its connections end");
                self.end();
                Err(Error::Away(format!("no answer within {ANSWER_LIMIT:?}")))
            }
        }
    }

    /// Runs a statement that may take longer than the limit of [`Connections::answer`], such as a migration.
    pub async fn answer_patiently<T>(&self, statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            answered = statement => Ok(answered?),
            () = self.ended.cancelled() => {
                Err(Error::Away("the connections to a silent or read-only server were ended".to_owned()))
            }
        }
    }

    /// Ends a PostgreSQL pool whose server cannot be used any more. All its statements fail immediately.
    pub fn end(&self) {
        // The pool is closed first. A closed pool drops a connection that a statement returns. An open pool would wait
        // for an answer on this connection. If the server is silent, the pool would wait forever.
        self.close();
        self.ended.cancel();
    }

    /// Tells whether [`Connections::end`] was called.
    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Closes a PostgreSQL pool after its transactions have ended. The pool begins no new transactions.
    pub fn close(&self) {
        let pool = self.writer.get_postgres_connection_pool().clone();
        // The call of `close` refuses new transactions. Its future waits for the end of the open transactions.
        drop(pool.close());
        tokio::spawn(tokio::time::timeout(ANSWER_LIMIT, async move { pool.close().await }));
    }

    fn is_postgres(&self) -> bool {
        self.writer.get_database_backend() == DatabaseBackend::Postgres
    }
}

/// Begins a transaction on `pool`, and runs the statements of `setup` in it.
pub(super) async fn begin(
    pool: &DatabaseConnection,
    options: TransactionOptions,
    setup: Option<&str>,
) -> Result<DatabaseTransaction, DbErr> {
    let txn = pool.begin_with_options(options).await?;
    if let Some(setup) = setup {
        txn.execute_unprepared(setup).await?;
    }
    Ok(txn)
}
