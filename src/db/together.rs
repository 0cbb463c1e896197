//! The reads of a batch that PostgreSQL answers with one statement.
//!
//! Each statement is a trip to the database and back. A batch reads several tables, and most of these reads do not need
//! each other's results. [`Write::together`](super::Write::together) polls their futures, and each future leaves its
//! statement here. Then all of them make one trip. The result has one row for each row of each read. Its first column
//! is the number of the read, and the columns of the other reads are NULL.

use std::{
    fmt::Write,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use parking_lot::Mutex;
use sea_orm::{
    DatabaseBackend, EntityTrait, FromQueryResult, IdenStatic, Iterable, ModelTrait, QueryResult, Statement, Values,
};
use tokio::sync::oneshot;

use super::{error::Error, pending::push_renumbered};

/// A row that a read returns, with the names of its columns.
pub trait Columns: FromQueryResult {
    /// Returns the names of all columns that the row is made of.
    fn columns() -> Vec<&'static str>;
}

impl<M: ModelTrait + FromQueryResult> Columns for M {
    fn columns() -> Vec<&'static str> {
        <M::Entity as EntityTrait>::Column::iter().map(|column| column.as_str()).collect()
    }
}

/// The rows of one read, and the prefix of the names of their columns.
pub type Found = (Vec<QueryResult>, String);

/// A read that waits for the others.
struct Read {
    statement: Statement,
    columns: Vec<&'static str>,
    answer: oneshot::Sender<Found>,
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

    /// Keeps a read if reads are collected now, and returns the receiver of its rows. Otherwise, returns the statement.
    pub fn keep<T: Columns>(&self, statement: Statement) -> Result<oneshot::Receiver<Found>, Statement> {
        let mut reads = self.0.lock();
        let Some(reads) = reads.as_mut() else { return Err(statement) };
        let (answer, answered) = oneshot::channel();
        reads.push(Read { statement, columns: T::columns(), answer });
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
        union(self.0.iter().map(|read| (&read.statement, &*read.columns)).collect())
    }

    /// Gives each read its rows of the result of [`Reads::statement`].
    pub fn answer(self, result: Vec<QueryResult>) -> Result<(), Error> {
        let mut rows_of: Vec<Vec<QueryResult>> = self.0.iter().map(|_| Vec::new()).collect();
        for row in result {
            let number: i32 = row.try_get_by_index(0)?;
            let rows = usize::try_from(number).ok().and_then(|number| rows_of.get_mut(number));
            rows.ok_or_else(|| Error::Defect(format!("there is no read with the number {number}")))?.push(row);
        }
        for (number, (read, rows)) in self.0.into_iter().zip(rows_of).enumerate() {
            // A future that was dropped needs no answer.
            let _ = read.answer.send((rows, prefix(number)));
        }
        Ok(())
    }
}

/// Returns the prefix of the names of the columns of a read.
fn prefix(number: usize) -> String {
    format!("r{number}_")
}

/// Returns one statement for reads and the names of their columns. Its first column is the number of the read.
///
/// The join of a read with the others has no matches, so it only adds the columns of the others, as NULL.
fn union(reads: Vec<(&Statement, &[&str])>) -> Statement {
    let numbers = 0..reads.len();
    let (mut sql, mut values) = ("WITH ".to_owned(), Vec::new());
    for (number, (read, columns)) in reads.into_iter().enumerate() {
        sql.push_str(if number > 0 { ", " } else { "" });
        let prefix = prefix(number);
        let columns: Vec<String> = columns.iter().map(|name| format!("q.{name} AS {prefix}{name}")).collect();
        // A write to a String never fails.
        let _ = write!(sql, "read_{number} AS (SELECT {} FROM (", columns.join(", "));
        push_renumbered(&mut sql, &read.sql, &mut values, read.values.clone());
        sql.push_str(") AS q)");
    }
    let all: Vec<String> = numbers.clone().map(|number| format!("read_{number}.*")).collect();
    for number in numbers.clone() {
        let before = if number > 0 { " UNION ALL" } else { "" };
        let _ = write!(sql, "{before} SELECT {number} AS number, {} FROM read_{number}", all.join(", "));
        for other in numbers.clone().filter(|other| *other != number) {
            let _ = write!(sql, " LEFT JOIN read_{other} ON false");
        }
    }
    Statement { sql, values: Some(Values(values)), db_backend: DatabaseBackend::Postgres }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_postgresql_are_one_statement_with_the_columns_of_all() {
        let read =
            |sql: &str, value: i32| Statement::from_sql_and_values(DatabaseBackend::Postgres, sql, [value.into()]);
        let (first, second) = (read("SELECT * FROM a WHERE id = $1", 1), read("SELECT id FROM b WHERE n = $1", 2));
        let statement = union(vec![(&first, &["id", "n"]), (&second, &["id"])]);
        assert_eq!(
            statement.sql,
            "WITH read_0 AS (SELECT q.id AS r0_id, q.n AS r0_n FROM (SELECT * FROM a WHERE id = $1) AS q), \
             read_1 AS (SELECT q.id AS r1_id FROM (SELECT id FROM b WHERE n = $2) AS q) \
             SELECT 0 AS number, read_0.*, read_1.* FROM read_0 LEFT JOIN read_1 ON false \
             UNION ALL SELECT 1 AS number, read_0.*, read_1.* FROM read_1 LEFT JOIN read_0 ON false"
        );
        assert_eq!(statement.values.unwrap().0, [1.into(), 2.into()]);
    }
}
