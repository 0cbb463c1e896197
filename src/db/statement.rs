//! One statement for many rows, written once for both engines.
//!
//! A set of rows is bound as one JSON parameter, so a statement has the same text for one row and for five hundred and
//! stays prepared. In the text, `{r: user_id uuid, balance int}` is a table `r` of the rows bound as `$1`, each a JSON
//! array in the order of the columns, of the types `int` (64 bits), `text` and `uuid`. `{lock}` and `{lock of t}` lock rows
//! on PostgreSQL (but not against rows that refer to them), `{skip locked}` passes over those that are locked; SQLite has one
//! writer and needs neither.

use std::fmt::Write;

use sea_orm::{DatabaseBackend, Statement, Value};
use serde::Serialize;

/// A statement about the set `rows`, bound as `$1`; `values` follow from `$2`.
pub fn rows<R: Serialize>(
    engine: DatabaseBackend,
    sql: &str,
    rows: &[R],
    values: impl IntoIterator<Item = Value>,
) -> Statement {
    // Rows are tuples of numbers, texts and ids, which have a JSON form always.
    let rows = serde_json::to_string(rows).unwrap_or_default();
    let values = std::iter::once(Value::from(rows)).chain(values);
    Statement::from_sql_and_values(engine, expand(engine, sql), values)
}

/// A statement without a set; `values` are bound from `$1`.
pub fn one(engine: DatabaseBackend, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(engine, expand(engine, sql), values)
}

fn expand(engine: DatabaseBackend, sql: &str) -> String {
    let mut expanded = String::with_capacity(sql.len() + 256);
    let mut rest = sql;
    while let Some((before, tail)) = rest.split_once('{') {
        let (placeholder, after) = tail.split_once('}').unwrap_or((tail, ""));
        expanded.push_str(before);
        match placeholder.split_once(':') {
            Some((table, columns)) => push_table(&mut expanded, engine, table, columns),
            None if engine != DatabaseBackend::Postgres => {}
            None => match placeholder.strip_prefix("lock") {
                Some(of_table) => expanded.extend(["FOR NO KEY UPDATE", of_table]),
                None => expanded.push_str(placeholder),
            },
        }
        rest = after;
    }
    expanded.push_str(rest);
    expanded
}

fn push_table(sql: &mut String, engine: DatabaseBackend, table: &str, columns: &str) {
    let postgres = engine == DatabaseBackend::Postgres;
    sql.push_str("(SELECT ");
    for (index, column) in columns.split(',').enumerate() {
        let (name, kind) = column.trim().split_once(' ').unwrap_or((column.trim(), "int"));
        let comma = if index > 0 { ", " } else { "" };
        // Writing to a String does not fail.
        let _ = match (postgres, kind) {
            (true, "uuid") => write!(sql, "{comma}(value->>{index})::UUID AS {name}"),
            (true, "text") => write!(sql, "{comma}value->>{index} AS {name}"),
            (true, _) => write!(sql, "{comma}(value->>{index})::BIGINT AS {name}"),
            (false, "uuid") => write!(sql, "{comma}unhex(value->>{index}, '-') AS {name}"),
            (false, _) => write!(sql, "{comma}value->>{index} AS {name}"),
        };
    }
    // The condition holds for every row. It makes PostgreSQL expect few of them, so that its plan begins with the set and finds
    // what it joins by key, also while the statistics say that those tables are empty.
    let source = match postgres {
        true => "jsonb_array_elements($1::JSONB) WHERE jsonb_typeof(value) = 'array'",
        false => "json_each($1)",
    };
    let _ = write!(sql, " FROM {source}) AS {table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "SELECT t.* FROM t JOIN {r: id uuid, n int} ON t.id = r.id ORDER BY t.id {lock of t}";

    #[test]
    fn a_set_of_rows_is_a_table_on_both_engines() {
        assert_eq!(
            expand(DatabaseBackend::Postgres, SQL),
            "SELECT t.* FROM t JOIN (SELECT (value->>0)::UUID AS id, (value->>1)::BIGINT AS n \
             FROM jsonb_array_elements($1::JSONB) WHERE jsonb_typeof(value) = 'array') AS r ON t.id = r.id ORDER BY t.id FOR NO KEY UPDATE of t"
        );
        assert_eq!(
            expand(DatabaseBackend::Sqlite, SQL),
            "SELECT t.* FROM t JOIN (SELECT unhex(value->>0, '-') AS id, value->>1 AS n \
             FROM json_each($1)) AS r ON t.id = r.id ORDER BY t.id "
        );
    }
}
