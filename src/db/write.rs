//! A write transaction, and its methods that run statements.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::Poll,
};

use futures::future::{Either, select};
use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, FromQueryResult, Statement, Value};
use tokio::sync::Notify;

use super::{
    connections::{Connections, Place},
    error::Error,
    found::{self, Found},
    log::Recorded,
    pending::{Joined, Pending},
    statement::{Row, of_rows, of_values},
    together::{Gathered, Reads},
};
use crate::{
    clock::{Clock, Micros},
    rpc::proto::stored::Event,
};

/// Number of statements that begin and end each transaction. Behind PgBouncer, the settings of the transaction count as
/// a part of BEGIN.
const BEGIN_AND_COMMIT: u64 = 2;

/// Holds a write transaction, and the time for its decisions.
///
/// A method with the suffix `_set` runs a statement about a set of rows. In the text of the statement, `{r}` stands for
/// the set. If the set is empty, the method runs no statement.
pub struct Write {
    txn: DatabaseTransaction,
    place: Option<Place>,
    connections: Arc<Connections>,
    clock: Clock,
    now: AtomicI64,
    statement_count: AtomicU64,
    /// The reads that make their trip together.
    gathered: Gathered,
    pending: Mutex<Pending>,
    events: Mutex<Recorded>,
    appended: Arc<Notify>,
}

impl Write {
    /// Returns a write transaction. It wakes `appended` after a commit that appends events.
    pub(super) fn new(
        (txn, place): (DatabaseTransaction, Option<Place>),
        connections: Arc<Connections>,
        clock: Clock,
        appended: Arc<Notify>,
    ) -> Self {
        Self {
            txn,
            place,
            connections,
            now: AtomicI64::new(clock.now()),
            clock,
            statement_count: AtomicU64::new(BEGIN_AND_COMMIT),
            gathered: Gathered::default(),
            pending: Mutex::default(),
            events: Mutex::default(),
            appended,
        }
    }

    /// Returns the time for the transaction's decisions: the time at which the transaction began, or the time of the
    /// last [`Write::renew_now`].
    pub fn now(&self) -> Micros {
        self.now.load(Ordering::Relaxed)
    }

    /// Sets the time for decisions to the current time. A transaction that waited for locks must decide with the time
    /// after the wait. During the wait, an admission may have ended and another user may have been admitted.
    pub fn renew_now(&self) {
        self.now.store(self.clock.now(), Ordering::Relaxed);
    }

    /// Returns the number of statements that the methods of this type have sent to the database. Includes BEGIN, and
    /// the later statements of [`Write::commit`]. Does not count statements on [`Write::conn`]. Statements that the
    /// database runs together count as one.
    pub fn statement_count(&self) -> u64 {
        let is_unsent = self.events.lock().is_any() || self.pending.lock().is_any();
        self.statement_count.load(Ordering::Relaxed) + u64::from(is_unsent)
    }

    /// Runs a statement, and returns its rows.
    pub async fn query<T: FromQueryResult>(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        self.answer(T::find_by_statement(self.statement(sql, values)).all(&self.txn)).await
    }

    /// Runs a statement about a set of rows, and returns the rows of its result.
    pub async fn query_set<T: FromQueryResult, R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.answer(T::find_by_statement(self.statement_of(sql, rows, values)).all(&self.txn)).await
    }

    /// Runs reads that do not need each other's results, such as a `try_join` of several [`Write::find_set`]. Returns
    /// their results. On SQLite, the reads are one statement. On PostgreSQL, they run one after the other: there, one
    /// statement for all of them was not faster.
    pub async fn together<T>(&self, reads: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut reads = pin!(reads);
        if self.txn.get_database_backend() != DatabaseBackend::Sqlite {
            return reads.await;
        }
        loop {
            let (polled, begun) = self.gathered.poll(reads.as_mut()).await;
            match polled {
                Poll::Ready(done) => return done,
                Poll::Pending if begun.is_empty() => return reads.await,
                Poll::Pending => {}
            }
            // The reads are polled as well, because one of them may use the connection for another statement.
            match select(reads.as_mut(), pin!(self.send(begun))).await {
                Either::Left((done, _)) => return done,
                Either::Right((sent, _)) => sent?,
            }
        }
    }

    async fn send(&self, reads: Reads) -> Result<(), Error> {
        self.statement_count.fetch_add(1, Ordering::Relaxed);
        let row = self.answer(self.txn.query_one_raw(reads.statement())).await?;
        reads.answer(&row.ok_or_else(|| Error::Defect("a statement without a row".to_owned()))?)
    }

    /// Runs a query about a set of rows, and returns the rows of its result. For a query that returns many rows, it is
    /// faster than [`Write::query_set`]. In [`Write::together`], the query shares its trip with others. The statement
    /// must be a query that returns the columns of `T`.
    pub async fn find_set<T: Found, R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let engine = self.txn.get_database_backend();
        let statement = of_rows(engine, &found::query_of::<T>(engine, sql), rows, values);
        match self.gathered.keep(statement) {
            Ok(answered) => {
                let value = answered.await.map_err(|_| Error::Defect("a read got no answer".to_owned()))?;
                Ok(found::parse(&value)?)
            }
            Err(statement) => {
                self.statement_count.fetch_add(1, Ordering::Relaxed);
                self.answer(found::rows(&self.txn, statement)).await
            }
        }
    }

    /// Runs a statement that writes, and returns the number of changed rows.
    pub async fn execute(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<u64, Error> {
        Ok(self.answer(self.txn.execute_raw(self.statement(sql, values))).await?.rows_affected())
    }

    /// Runs a writing statement about a set of rows, and returns the number of changed rows.
    pub async fn execute_set<R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<u64, Error> {
        if rows.is_empty() {
            return Ok(0);
        }
        Ok(self.answer(self.txn.execute_raw(self.statement_of(sql, rows, values))).await?.rows_affected())
    }

    /// Runs a statement in which each row of the set must change one row of the database. Fails with [`Error::Lost`] if
    /// the number of changed rows is different: another transaction has already changed a row.
    ///
    /// The statement waits, and is sent together with others before the next statement that returns a result, or before
    /// the commit. The call that sends it returns its error.
    pub async fn change_set<R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let statement = of_rows(self.txn.get_database_backend(), sql, rows, values);
        let can_wait = self.pending.lock().can_take(&statement);
        if !can_wait {
            self.send_pending().await?;
        }
        self.pending.lock().add(statement, rows.len() as u64);
        Ok(())
    }

    /// Runs the writes that wait, so that the caller learns of their errors. PostgreSQL also checks their foreign keys
    /// now, and not while the commit holds the lock of the head of the feed. On SQLite, does nothing: SQLite has one
    /// writer, so no other transaction can have changed the rows.
    pub async fn confirm(&self) -> Result<(), Error> {
        if self.txn.get_database_backend() == DatabaseBackend::Postgres {
            self.send_pending().await?;
        }
        Ok(())
    }

    /// Runs the writes that wait. Fails with [`Error::Lost`] if they change another number of rows than they must.
    async fn send_pending(&self) -> Result<(), Error> {
        let Some(Joined { statement, row_count, returns_count }) = self.pending.lock().take() else { return Ok(()) };
        self.statement_count.fetch_add(1, Ordering::Relaxed);
        let changed = if returns_count {
            let counted = self.connections.answer(self.txn.query_one_raw(statement)).await?;
            let count: Option<i64> = counted.map(|row| row.try_get_by_index(0)).transpose()?;
            count.unwrap_or_default().unsigned_abs()
        } else {
            self.connections.answer(self.txn.execute_raw(statement)).await?.rows_affected()
        };
        if changed == row_count { Ok(()) } else { Err(Error::Lost) }
    }

    /// Locks the rows that a SELECT with `{lock}` finds. On SQLite, does nothing: SQLite has one writer and needs no
    /// row locks.
    pub async fn lock_set<R: Row>(&self, sql: &str, rows: &[R]) -> Result<(), Error> {
        if self.txn.get_database_backend() == DatabaseBackend::Postgres {
            self.execute_set(sql, rows, []).await?;
        }
        Ok(())
    }

    /// Returns the connection of the transaction. Use it with [`Write::answer`] for statements that SeaORM builds.
    pub fn conn(&self) -> &DatabaseTransaction {
        &self.txn
    }

    /// Runs a statement that SeaORM builds for [`Write::conn`]. Fails with [`Error::Away`] if PostgreSQL does not
    /// answer within 12 s.
    pub async fn answer<T>(&self, statement: impl Future<Output = Result<T, DbErr>>) -> Result<T, Error> {
        self.send_pending().await?;
        self.connections.answer(statement).await
    }

    /// Runs a statement like [`Write::answer`], but without the limit of 12 s.
    pub(super) async fn answer_patiently<T>(
        &self,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, Error> {
        self.send_pending().await?;
        self.connections.answer_patiently(statement).await
    }

    /// Records an event, which [`Write::commit`] appends to the feed. If the transaction is not committed, the event is
    /// dropped.
    pub fn record(&self, event: &Event) {
        self.events.lock().add(event);
    }

    /// Appends the recorded events to the feed, and commits the transaction durably. Fails with [`Error::Unknown`] if
    /// the connection breaks or the database refuses to work during the commit: the transaction may then be committed
    /// or not.
    pub async fn commit(self) -> Result<(), Error> {
        let recorded = self.events.lock().take();
        let has_events = recorded.is_some();
        if let Some(recorded) = recorded {
            recorded.append(self.txn.get_database_backend(), self.now(), &mut self.pending.lock());
        }
        self.send_pending().await?;
        self.connections.commit(self.txn, self.place).await.map_err(Error::into_commit_error)?;
        if has_events {
            self.appended.notify_one();
        }
        Ok(())
    }

    fn statement(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
        self.statement_count.fetch_add(1, Ordering::Relaxed);
        of_values(self.txn.get_database_backend(), sql, values)
    }

    fn statement_of<R: Row>(&self, sql: &str, rows: &[R], values: impl IntoIterator<Item = Value>) -> Statement {
        self.statement_count.fetch_add(1, Ordering::Relaxed);
        of_rows(self.txn.get_database_backend(), sql, rows, values)
    }
}
