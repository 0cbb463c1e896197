//! A write transaction, and the ways to run a statement in it.

use std::sync::atomic::{AtomicI64, Ordering};

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, FromQueryResult, Statement, Value};

use super::{
    error::Error,
    statement::{Row, of_rows, of_values},
};
use crate::clock::{Clock, Micros};

/// A write transaction and the instant that its decisions go by.
///
/// Methods that end in `_set` run a statement about a set of rows, which the text names `{r}`. Without rows they run
/// nothing.
pub struct Write {
    txn: DatabaseTransaction,
    clock: Clock,
    now: AtomicI64,
}

impl Write {
    pub(super) fn new(txn: DatabaseTransaction, clock: Clock) -> Self {
        Self { txn, now: AtomicI64::new(clock.now()), clock }
    }

    /// The instant that decisions go by.
    pub fn now(&self) -> Micros {
        self.now.load(Ordering::Relaxed)
    }

    /// Takes the time again. A transaction that waited for locks decides by the time at which it has them: meanwhile an
    /// admission may have ended, and its place may have gone to another user.
    pub fn renew_now(&self) {
        self.now.store(self.clock.now(), Ordering::Relaxed);
    }

    /// Reads rows.
    pub async fn query<T: FromQueryResult>(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        Ok(T::find_by_statement(self.statement(sql, values)).all(&self.txn).await?)
    }

    /// Reads rows about a set.
    pub async fn query_set<T: FromQueryResult, R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<T>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        Ok(T::find_by_statement(self.statement_of(sql, rows, values)).all(&self.txn).await?)
    }

    /// Writes, and returns how many rows were changed.
    pub async fn execute(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<u64, Error> {
        Ok(self.txn.execute_raw(self.statement(sql, values)).await?.rows_affected())
    }

    /// Writes about a set, and returns how many rows were changed.
    pub async fn execute_set<R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<u64, Error> {
        if rows.is_empty() {
            return Ok(0);
        }
        Ok(self.txn.execute_raw(self.statement_of(sql, rows, values)).await?.rows_affected())
    }

    /// Writes about a set of which each row changes one row of the database. Fails with [`Error::Lost`] if another
    /// transaction was faster at one of them.
    pub async fn change_set<R: Row>(
        &self,
        sql: &str,
        rows: &[R],
        values: impl IntoIterator<Item = Value>,
    ) -> Result<(), Error> {
        let changed = self.execute_set(sql, rows, values).await?;
        if changed == rows.len() as u64 { Ok(()) } else { Err(Error::Lost) }
    }

    /// Locks the rows that a statement with `{lock}` finds, before another statement reads them. SQLite has one writer
    /// and needs no lock.
    pub async fn lock_set<R: Row>(&self, sql: &str, rows: &[R]) -> Result<(), Error> {
        if self.txn.get_database_backend() == DatabaseBackend::Postgres {
            self.execute_set(sql, rows, []).await?;
        }
        Ok(())
    }

    /// The connection of the transaction, for statements that SeaORM builds.
    pub fn conn(&self) -> &DatabaseTransaction {
        &self.txn
    }

    /// Makes the transaction durable. If the connection breaks here, the outcome is unknown.
    pub async fn commit(self) -> Result<(), Error> {
        self.txn.commit().await.map_err(Error::of_commit)
    }

    fn statement(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
        of_values(self.txn.get_database_backend(), sql, values)
    }

    fn statement_of<R: Row>(&self, sql: &str, rows: &[R], values: impl IntoIterator<Item = Value>) -> Statement {
        of_rows(self.txn.get_database_backend(), sql, rows, values)
    }
}
