//! The writes of a transaction that SQLite runs together.
//!
//! Each statement of SQLite is a trip to its thread and back. The writes at the end of a batch need no answers, so they
//! wait here and make this trip together.

use sea_orm::{Statement, Values};

/// Separates the writes in the text for the database.
const SEPARATOR: &str = ";\n";

/// Writes that were not sent to the database yet, in their order.
#[derive(Default)]
pub struct Pending {
    statements: Vec<Statement>,
    row_count: u64,
}

impl Pending {
    /// Adds a write that must change `row_count` rows.
    pub fn add(&mut self, statement: Statement, row_count: u64) {
        self.statements.push(statement);
        self.row_count += row_count;
    }

    /// Tells whether there are writes.
    pub fn is_any(&self) -> bool {
        !self.statements.is_empty()
    }

    /// Removes the writes. Returns one text with all writes, and the number of rows that they must change together.
    /// Returns `None` if there are none.
    pub fn take(&mut self) -> Option<(Statement, u64)> {
        let Self { statements, row_count } = std::mem::take(self);
        Some((statements.into_iter().reduce(join)?, row_count))
    }
}

/// Returns a statement that runs `first`, then `second`. Its values are the values of both, so the parameters of
/// `second` get higher numbers.
fn join(first: Statement, second: Statement) -> Statement {
    let (mut sql, Values(mut values)) = (first.sql, first.values.unwrap_or(Values(Vec::new())));
    sql.push_str(SEPARATOR);
    push_renumbered(&mut sql, &second.sql, values.len());
    values.extend(second.values.into_iter().flat_map(|values| values.0));
    Statement { sql, values: Some(Values(values)), db_backend: first.db_backend }
}

/// Adds the text of a statement to `sql`. Adds `offset` to the number of each parameter, such as `$1`.
fn push_renumbered(sql: &mut String, statement: &str, offset: usize) {
    let mut parts = statement.split('$');
    sql.extend(parts.next());
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = part.split_at(digits);
        sql.push('$');
        match number.parse::<usize>() {
            Ok(number) => sql.push_str(&(number + offset).to_string()),
            Err(_) => sql.push_str(number),
        }
        sql.push_str(rest);
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::DatabaseBackend::Sqlite;

    use super::*;

    #[test]
    fn writes_are_joined_in_their_order_with_all_values() {
        let mut pending = Pending::default();
        let write = |sql, values: &[i32]| {
            let values = values.iter().map(|value| (*value).into());
            Statement::from_sql_and_values(Sqlite, sql, values)
        };
        assert!(!pending.is_any() && pending.take().is_none());
        pending.add(write("UPDATE a SET n = $2 WHERE id = $1", &[1, 2]), 1);
        pending.add(write("DELETE FROM b WHERE id = $1", &[3]), 4);
        pending.add(write("UPDATE c SET n = $1 + $1, t = '$'", &[5]), 1);
        assert!(pending.is_any());
        let (joined, row_count) = pending.take().unwrap();
        let parts: Vec<&str> = joined.sql.split(SEPARATOR).collect();
        assert_eq!(
            parts,
            ["UPDATE a SET n = $2 WHERE id = $1", "DELETE FROM b WHERE id = $3", "UPDATE c SET n = $4 + $4, t = '$'"]
        );
        assert_eq!(joined.values.unwrap().0, [1.into(), 2.into(), 3.into(), 5.into()]);
        assert_eq!(row_count, 6);
        assert!(!pending.is_any());
    }
}
