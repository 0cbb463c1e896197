//! A write transaction and its methods to run a statement.

use std::sync::atomic::{AtomicI64, Ordering};

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, FromQueryResult, Statement, Value};

use super::{
    error::Error,
    statement::{Row, of_rows, of_values},
};
use crate::clock::{Clock, Micros};

/// Holds a write transaction, and the time for its decisions.
///
/// Methods with the suffix `_set` run a statement about a set of rows, which is `{r}` in its text. For an empty set, no
/// statement is run.
pub struct Write {
    txn: DatabaseTransaction,
    clock: Clock,
    now: AtomicI64,
}

impl Write {
    pub(super) fn new(txn: DatabaseTransaction, clock: Clock) -> Self {
        Self { txn, now: AtomicI64::new(clock.now()), clock }
    }

    /// Returns the time for the transaction's decisions.
    pub fn now(&self) -> Micros {
        self.now.load(Ordering::Relaxed)
    }

    /// Reads the clock again. A transaction that waited for locks must decide with the time after the wait. During the
    /// wait, an admission may have ended and another user may have been admitted.
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

    /// Reads rows that belong to a set of rows.
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

    /// Runs a write, and returns the number of changed rows.
    pub async fn execute(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Result<u64, Error> {
        Ok(self.txn.execute_raw(self.statement(sql, values)).await?.rows_affected())
    }

    /// Runs a write about a set of rows, and returns the number of changed rows.
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

    /// Runs a write in which each row of the set changes one row of the database. Fails with [`Error::Lost`] if fewer
    /// rows were changed: another transaction was faster.
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

    /// Returns the connection of the transaction, for statements that SeaORM builds.
    pub fn conn(&self) -> &DatabaseTransaction {
        &self.txn
    }

    /// Commits the transaction durably. Fails with [`Error::Unknown`] if the connection breaks: the outcome is then
    /// unknown.
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
