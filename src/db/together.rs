//! The reads of a batch that SQLite answers with one statement.
//!
//! A batch reads several tables, and most of these reads do not need each other's results. On SQLite, each read is a
//! trip to the thread of SQLite and back. [`Write::together`](super::Write::together) polls the futures of the reads,
//! and each future leaves its statement here. Then all of them make one trip. The result is one row, with the value of
//! each read in a column.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use parking_lot::Mutex;
use sea_orm::{DatabaseBackend, QueryResult, Statement, Values};
use tokio::sync::oneshot;

use super::{error::Error, pending::push_renumbered};

/// A read that waits for the others. Its statement returns one value.
struct Read {
    statement: Statement,
    answer: oneshot::Sender<String>,
}

/// Collects reads while their futures are polled.
#[derive(Default)]
pub struct Gathered(Mutex<Option<Vec<Read>>>);

impl Gathered {
    /// Polls the future of several reads once. Returns its result if it is ready, and the reads that it began.
    pub async fn poll<F: Future>(&self, mut reads: Pin<&mut F>) -> (Poll<F::Output>, Reads) {
        poll_fn(|context| {
            *self.0.lock() = Some(Vec::new());
            let polled = reads.as_mut().poll(context);
            Poll::Ready((polled, Reads(self.0.lock().take().unwrap_or_default())))
        })
        .await
    }

    /// Keeps a read if reads are collected now, and returns the receiver of its value. Otherwise, returns the
    /// statement.
    pub fn keep(&self, statement: Statement) -> Result<oneshot::Receiver<String>, Statement> {
        let mut reads = self.0.lock();
        let Some(reads) = reads.as_mut() else { return Err(statement) };
        let (answer, answered) = oneshot::channel();
        reads.push(Read { statement, answer });
        Ok(answered)
    }
}

/// Reads that make one trip.
pub struct Reads(Vec<Read>);

impl Reads {
    /// Tells whether there are no reads.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns one statement for all reads.
    pub fn statement(&self) -> Statement {
        joined(self.0.iter().map(|read| &read.statement))
    }

    /// Gives each read its value in the row that [`Reads::statement`] returns.
    pub fn answer(self, row: &QueryResult) -> Result<(), Error> {
        for (index, read) in self.0.into_iter().enumerate() {
            // A future that was dropped needs no answer.
            let _ = read.answer.send(row.try_get_by_index(index)?);
        }
        Ok(())
    }
}

/// Returns a statement whose only row has the value of each read.
fn joined<'a>(reads: impl Iterator<Item = &'a Statement>) -> Statement {
    let (mut sql, mut values) = ("SELECT".to_owned(), Vec::new());
    for (index, read) in reads.enumerate() {
        sql.push_str(if index > 0 { ", (" } else { " (" });
        push_renumbered(&mut sql, &read.sql, &mut values, read.values.clone());
        sql.push_str(&format!(") AS read_{index}"));
    }
    Statement { sql, values: Some(Values(values)), db_backend: DatabaseBackend::Sqlite }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_reads_are_one_statement_with_one_row() {
        let read = |sql: &str, value: i32| Statement::from_sql_and_values(DatabaseBackend::Sqlite, sql, [value.into()]);
        let reads = [read("SELECT a FROM b WHERE id = $1", 1), read("SELECT c FROM d WHERE n = $1", 2)];
        let statement = joined(reads.iter());
        assert_eq!(
            statement.sql,
            "SELECT (SELECT a FROM b WHERE id = $1) AS read_0, (SELECT c FROM d WHERE n = $2) AS read_1"
        );
        assert_eq!(statement.values.unwrap().0, [1.into(), 2.into()]);
    }
}
