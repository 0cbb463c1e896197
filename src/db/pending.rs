//! The writes of a transaction that the database runs together.
//!
//! Each statement is a trip to the database and back. The writes at the end of a batch need no answers, so they wait
//! here and make this trip together.

use sea_orm::{DatabaseBackend, Statement, Values};

/// Separates the writes in the text for SQLite.
const SEPARATOR: &str = ";\n";

/// Writes that were not sent to the database yet, in their order.
#[derive(Default)]
pub struct Pending {
    /// The part that the last write reads, with its name. Only PostgreSQL has such a part.
    part: Option<(&'static str, Statement)>,
    statements: Vec<Statement>,
    row_count: u64,
}

/// Writes that the database runs together.
pub struct Joined {
    /// The text of all writes, with their values.
    pub statement: Statement,
    /// The number of rows that the writes must change together.
    pub row_count: u64,
    /// Whether the statement returns the number of changed rows as its only value. Otherwise, the driver counts the
    /// changed rows.
    pub returns_count: bool,
}

impl Pending {
    /// Adds a write that must change `row_count` rows.
    pub fn add(&mut self, statement: Statement, row_count: u64) {
        self.statements.push(statement);
        self.row_count += row_count;
    }

    /// Adds a statement for PostgreSQL whose rows the last write reads as the table `name`. Its changed rows do not
    /// count.
    pub fn add_part(&mut self, name: &'static str, statement: Statement) {
        self.part = Some((name, statement));
    }

    /// Tells whether there are writes.
    pub fn is_any(&self) -> bool {
        !self.statements.is_empty()
    }

    /// Tells whether `statement` can run together with the writes.
    ///
    /// SQLite runs the writes one after the other. The parts of a statement of PostgreSQL do not see the changes of
    /// each other, so only writes to different tables can be one statement.
    pub fn can_take(&self, statement: &Statement) -> bool {
        statement.db_backend == DatabaseBackend::Sqlite
            || self.statements.iter().all(|write| changed_table(&write.sql) != changed_table(&statement.sql))
    }

    /// Removes the writes and returns them as one statement. Returns `None` if there are none.
    pub fn take(&mut self) -> Option<Joined> {
        let Self { part, statements, row_count } = std::mem::take(self);
        let is_postgres = statements.first().is_some_and(|first| first.db_backend == DatabaseBackend::Postgres);
        let returns_count = is_postgres && (statements.len() > 1 || part.is_some());
        let statement =
            if returns_count { Some(with(part, statements)) } else { statements.into_iter().reduce(follow) };
        statement.map(|statement| Joined { statement, row_count, returns_count })
    }
}

/// Returns the table that a write changes: the first word after `INSERT INTO`, `UPDATE` or `DELETE FROM`.
fn changed_table(sql: &str) -> Option<&str> {
    sql.split_whitespace().find(|word| !["INSERT", "INTO", "UPDATE", "DELETE", "FROM"].contains(word))
}

/// Returns a statement that runs `first`, then `second`, for SQLite. Its values are the values of both, so the
/// parameters of `second` get higher numbers.
fn follow(first: Statement, second: Statement) -> Statement {
    let (mut sql, Values(mut values)) = (first.sql, first.values.unwrap_or(Values(Vec::new())));
    sql.push_str(SEPARATOR);
    push_renumbered(&mut sql, &second.sql, &mut values, second.values);
    Statement { sql, values: Some(Values(values)), db_backend: first.db_backend }
}

/// Returns a statement that runs all writes and returns the number of changed rows, for PostgreSQL.
///
/// PostgreSQL runs a write when it first needs the count of its rows, so it runs the writes in their order. It runs the
/// `part` when the last write reads it. It locks the changed rows in this order. At the end it checks the foreign
/// keys.
fn with(part: Option<(&str, Statement)>, statements: Vec<Statement>) -> Statement {
    let (mut sql, mut counts, mut values) = ("WITH ".to_owned(), "SELECT ".to_owned(), Vec::new());
    if let Some((name, part)) = part {
        sql.push_str(&format!("{name} AS ("));
        push_renumbered(&mut sql, &part.sql, &mut values, part.values);
        sql.push_str("), ");
    }
    for (index, write) in statements.into_iter().enumerate() {
        let (comma, plus) = if index > 0 { (", ", " + ") } else { ("", "") };
        sql.push_str(&format!("{comma}write_{index} AS ("));
        push_renumbered(&mut sql, &write.sql, &mut values, write.values);
        sql.push_str(" RETURNING 1)");
        counts.push_str(&format!("{plus}(SELECT COUNT(*) FROM write_{index})"));
    }
    let sql = format!("{sql} {counts} AS row_count");
    Statement { sql, values: Some(Values(values)), db_backend: DatabaseBackend::Postgres }
}

/// Adds the text of a statement to `sql`, and its values to `values`. The number of each parameter, such as `$1`,
/// becomes higher by the number of the earlier values.
pub fn push_renumbered(sql: &mut String, statement: &str, values: &mut Vec<sea_orm::Value>, more: Option<Values>) {
    let mut parts = statement.split('$');
    sql.extend(parts.next());
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = part.split_at(digits);
        sql.push('$');
        match number.parse::<usize>() {
            Ok(number) => sql.push_str(&(number + values.len()).to_string()),
            Err(_) => sql.push_str(number),
        }
        sql.push_str(rest);
    }
    values.extend(more.into_iter().flat_map(|Values(more)| more));
}

#[cfg(test)]
mod tests {
    use sea_orm::DatabaseBackend::{Postgres, Sqlite};

    use super::*;

    fn write(engine: DatabaseBackend, sql: &str, values: &[i32]) -> Statement {
        Statement::from_sql_and_values(engine, sql, values.iter().map(|value| (*value).into()))
    }

    #[test]
    fn writes_are_joined_in_their_order_with_all_values() {
        let mut pending = Pending::default();
        assert!(!pending.is_any() && pending.take().is_none());
        pending.add(write(Sqlite, "UPDATE a SET n = $2 WHERE id = $1", &[1, 2]), 1);
        pending.add(write(Sqlite, "DELETE FROM b WHERE id = $1", &[3]), 4);
        pending.add(write(Sqlite, "UPDATE c SET n = $1 + $1, t = '$'", &[5]), 1);
        assert!(pending.is_any());
        let Joined { statement, row_count, returns_count } = pending.take().unwrap();
        let parts: Vec<&str> = statement.sql.split(SEPARATOR).collect();
        assert_eq!(
            parts,
            ["UPDATE a SET n = $2 WHERE id = $1", "DELETE FROM b WHERE id = $3", "UPDATE c SET n = $4 + $4, t = '$'"]
        );
        assert_eq!(statement.values.unwrap().0, [1.into(), 2.into(), 3.into(), 5.into()]);
        assert_eq!((row_count, returns_count), (6, false));
        assert!(!pending.is_any());
    }

    #[test]
    fn the_writes_of_postgresql_are_one_statement_that_counts_their_rows() {
        let mut pending = Pending::default();
        pending.add(write(Postgres, "UPDATE a SET n = $2 WHERE id = $1", &[1, 2]), 1);
        let alone = pending.take().unwrap();
        assert_eq!((&*alone.statement.sql, alone.returns_count), ("UPDATE a SET n = $2 WHERE id = $1", false));
        pending.add(write(Postgres, "UPDATE a SET n = $2 WHERE id = $1", &[1, 2]), 1);
        pending.add(write(Postgres, "INSERT INTO b (id) VALUES ($1)", &[3]), 1);
        let joined = pending.take().unwrap();
        assert_eq!(
            joined.statement.sql,
            "WITH write_0 AS (UPDATE a SET n = $2 WHERE id = $1 RETURNING 1), \
             write_1 AS (INSERT INTO b (id) VALUES ($3) RETURNING 1) \
             SELECT (SELECT COUNT(*) FROM write_0) + (SELECT COUNT(*) FROM write_1) AS row_count"
        );
        assert_eq!(joined.statement.values.unwrap().0, [1.into(), 2.into(), 3.into()]);
        assert_eq!((joined.row_count, joined.returns_count), (2, true));
    }

    #[test]
    fn the_last_write_of_postgresql_reads_the_rows_of_a_part() {
        let mut pending = Pending::default();
        pending.add_part("head", write(Postgres, "UPDATE h SET n = n + $1 RETURNING n", &[1]));
        pending.add(write(Postgres, "INSERT INTO b (n, x) SELECT n, $1 FROM head", &[2]), 1);
        let joined = pending.take().unwrap();
        assert_eq!(
            joined.statement.sql,
            "WITH head AS (UPDATE h SET n = n + $1 RETURNING n), \
             write_0 AS (INSERT INTO b (n, x) SELECT n, $2 FROM head RETURNING 1) \
             SELECT (SELECT COUNT(*) FROM write_0) AS row_count"
        );
        assert_eq!(joined.statement.values.unwrap().0, [1.into(), 2.into()]);
        assert_eq!((joined.row_count, joined.returns_count), (1, true));
        assert!(pending.take().is_none());
    }

    #[test]
    fn postgresql_runs_writes_to_one_table_one_after_the_other() {
        for (engine, can_take) in [(Sqlite, true), (Postgres, false)] {
            let mut pending = Pending::default();
            pending.add(write(engine, "UPDATE a SET n = 1", &[]), 1);
            pending.add(write(engine, "DELETE FROM b WHERE id = 1", &[]), 1);
            assert!(pending.can_take(&write(engine, "INSERT INTO c (id) VALUES (1)", &[])));
            assert_eq!(pending.can_take(&write(engine, "INSERT INTO b (id) VALUES (1)", &[])), can_take);
            assert_eq!(pending.can_take(&write(engine, "UPDATE a SET n = 2", &[])), can_take);
        }
    }
}
