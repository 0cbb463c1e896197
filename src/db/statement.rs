//! Statements about sets of rows. Each statement is written once, for SQLite and PostgreSQL.
//!
//! A set of rows is bound as one JSON parameter. The text of a statement is therefore the same for one row and for 500
//! rows, and the statement stays prepared. In the text, `{r}` stands for a table `r` with the rows that are bound as
//! `$1`. The type of the rows defines the columns of the table: see [`Row::COLUMNS`].
//!
//! On PostgreSQL, `{lock}` locks the selected rows with FOR NO KEY UPDATE. `{lock of t}` locks only the selected rows
//! of the table `t`. `{lock of t in order of t.id}` also sorts the rows, so that transactions lock the same rows in the
//! same order. These locks do not block inserts of rows that refer to the locked rows. `{skip locked}` skips rows
//! that another transaction has locked. On SQLite these placeholders become empty text: SQLite has one writer and needs
//! no row locks.

use std::fmt::Write;

use sea_orm::{DatabaseBackend, Statement, Value};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// A row of a set that can be bound to a statement.
pub trait Row {
    /// The names and types of the columns, in the order of [`Row::values`].
    const COLUMNS: &'static [(&'static str, Type)];

    /// Returns the values of the columns as a tuple, in the order of [`Row::COLUMNS`].
    fn values(&self) -> impl Serialize;
}

/// The type of a column in a set of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// An integer of up to 64 bits.
    Int,
    /// A string.
    Text,
    /// A UUID.
    Uuid,
    /// A boolean.
    Bool,
}

/// A Rust type whose values can be in a column of a set of rows.
pub trait Column: Serialize {
    /// The type of the column.
    const TYPE: Type;
}

impl Column for i32 {
    const TYPE: Type = Type::Int;
}

impl Column for i64 {
    const TYPE: Type = Type::Int;
}

impl Column for String {
    const TYPE: Type = Type::Text;
}

impl Column for Uuid {
    const TYPE: Type = Type::Uuid;
}

impl<T: Column> Column for Option<T> {
    const TYPE: Type = T::TYPE;
}

impl Row for Uuid {
    const COLUMNS: &'static [(&'static str, Type)] = &[("id", Type::Uuid)];

    fn values(&self) -> impl Serialize {
        (self,)
    }
}

impl Row for i64 {
    const COLUMNS: &'static [(&'static str, Type)] = &[("id", Type::Int)];

    fn values(&self) -> impl Serialize {
        (self,)
    }
}

/// Declares structs that can be bound to statements as rows of a set. Each field is a column with the same name.
macro_rules! rows {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty,)+
    })+) => {
        $($(#[$meta])* $vis struct $name { $($(#[$field_meta])* $field_vis $field: $type,)+ }

        impl $crate::db::Row for $name {
            const COLUMNS: &'static [(&'static str, $crate::db::Type)] =
                &[$((stringify!($field), <$type as $crate::db::Column>::TYPE)),+];

            fn values(&self) -> impl serde::Serialize {
                ($(&self.$field,)+)
            }
        })+
    };
}
pub(crate) use rows;

/// Returns a statement about the set `rows`, which is bound as `$1`. The `values` are bound as `$2`, `$3` and so on.
pub fn of_rows<R: Row>(
    engine: DatabaseBackend,
    sql: &str,
    rows: &[R],
    values: impl IntoIterator<Item = Value>,
) -> Statement {
    // Rows are tuples of integers, strings and UUIDs, so their conversion to JSON never fails.
    let rows = serde_json::to_string(&Set(rows)).unwrap_or_default();
    let values = std::iter::once(Value::from(rows)).chain(values);
    let sql = expand(engine, sql, R::COLUMNS);
    let sql = if engine == DatabaseBackend::Sqlite { fail_without_undo(sql) } else { sql };
    Statement::from_sql_and_values(engine, sql, values)
}

/// Adds `OR FAIL` to an INSERT or an UPDATE for SQLite. Any other statement stays unchanged.
///
/// By default SQLite copies each page that a statement changes, so that it can undo the statement alone. Here a failed
/// statement rolls back its whole transaction, so the copies are useless. With `OR FAIL`, SQLite does not make the
/// copies.
fn fail_without_undo(sql: String) -> String {
    for (verb, failing) in [("INSERT INTO ", "INSERT OR FAIL INTO "), ("UPDATE ", "UPDATE OR FAIL ")] {
        if let Some(rest) = sql.strip_prefix(verb) {
            return [failing, rest].concat();
        }
    }
    sql
}

/// Returns a statement without a set of rows. The `values` are bound as `$1`, `$2` and so on.
pub fn of_values(engine: DatabaseBackend, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(engine, expand(engine, sql, &[]), values)
}

struct Set<'a, R>(&'a [R]);

impl<R: Row> Serialize for Set<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Row::values))
    }
}

fn expand(engine: DatabaseBackend, sql: &str, columns: &[(&str, Type)]) -> String {
    let mut expanded = String::with_capacity(sql.len() + 256);
    let mut rest = sql;
    while let Some((before, tail)) = rest.split_once('{') {
        let (placeholder, after) = tail.split_once('}').unwrap_or((tail, ""));
        expanded.push_str(before);
        match placeholder {
            "r" => push_table(&mut expanded, engine, columns),
            _ if engine != DatabaseBackend::Postgres => {}
            _ => match placeholder.strip_prefix("lock") {
                Some(lock) => push_lock(&mut expanded, lock),
                None => expanded.push_str(placeholder),
            },
        }
        rest = after;
    }
    expanded.push_str(rest);
    expanded
}

/// Adds the lock of a SELECT: `lock` is the rest of the placeholder, such as ` of t in order of t.id`.
fn push_lock(sql: &mut String, lock: &str) {
    match lock.split_once(" in order of ") {
        Some((of_table, keys)) => sql.extend(["ORDER BY ", keys, " FOR NO KEY UPDATE", of_table]),
        None => sql.extend(["FOR NO KEY UPDATE", lock]),
    }
}

fn push_table(sql: &mut String, engine: DatabaseBackend, columns: &[(&str, Type)]) {
    let postgres = engine == DatabaseBackend::Postgres;
    sql.push_str("(SELECT ");
    for (index, (name, kind)) in columns.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        // A write to a String never fails.
        let _ = match (postgres, kind) {
            (true, Type::Uuid) => write!(sql, "{comma}(value->>{index})::UUID AS {name}"),
            (true, Type::Text) => write!(sql, "{comma}value->>{index} AS {name}"),
            (true, Type::Int) => write!(sql, "{comma}(value->>{index})::BIGINT AS {name}"),
            (true, Type::Bool) => write!(sql, "{comma}(value->>{index})::BOOLEAN AS {name}"),
            (false, Type::Uuid) => write!(sql, "{comma}unhex(value->>{index}, '-') AS {name}"),
            (false, _) => write!(sql, "{comma}value->>{index} AS {name}"),
        };
    }
    // The WHERE condition is true for every row. Because of the condition, PostgreSQL expects few rows in the set. So
    // its plan starts with the set and finds the joined rows by key, even if the statistics show empty tables.
    let source = match postgres {
        true => "jsonb_array_elements($1::JSONB) WHERE jsonb_typeof(value) = 'array'",
        false => "jsonb_each($1)",
    };
    let _ = write!(sql, " FROM {source}) AS r");
}

#[cfg(test)]
mod tests {
    use super::*;

    rows! {
        struct Pair {
            id: Uuid,
            n: i64,
        }
    }

    const SQL: &str = "SELECT t.* FROM t JOIN {r} ON t.id = r.id {lock of t in order of t.id}";

    #[test]
    fn a_set_of_rows_is_a_table_on_both_engines() {
        assert_eq!(
            expand(DatabaseBackend::Postgres, SQL, Pair::COLUMNS),
            "SELECT t.* FROM t JOIN (SELECT (value->>0)::UUID AS id, (value->>1)::BIGINT AS n \
             FROM jsonb_array_elements($1::JSONB) WHERE jsonb_typeof(value) = 'array') AS r \
             ON t.id = r.id ORDER BY t.id FOR NO KEY UPDATE of t"
        );
        assert_eq!(
            expand(DatabaseBackend::Sqlite, SQL, Pair::COLUMNS),
            "SELECT t.* FROM t JOIN (SELECT unhex(value->>0, '-') AS id, value->>1 AS n \
             FROM jsonb_each($1)) AS r ON t.id = r.id "
        );
    }

    #[test]
    fn sqlite_does_not_prepare_to_undo_a_write() {
        let written = |engine, sql| of_rows(engine, sql, &[7_i64], []).sql;
        let insert = "INSERT INTO t (id) SELECT r.id FROM {r}";
        assert!(written(DatabaseBackend::Sqlite, insert).starts_with("INSERT OR FAIL INTO t (id) SELECT"));
        assert!(written(DatabaseBackend::Postgres, insert).starts_with("INSERT INTO t (id) SELECT"));
        let update = "UPDATE t SET n = 1 FROM {r} WHERE t.id = r.id";
        assert!(written(DatabaseBackend::Sqlite, update).starts_with("UPDATE OR FAIL t SET"));
        assert!(written(DatabaseBackend::Sqlite, SQL).starts_with("SELECT"));
    }

    #[test]
    fn a_row_is_an_array_of_its_values_in_the_order_of_its_columns() {
        let rows = [Pair { id: Uuid::nil(), n: 7 }];
        let json = serde_json::to_string(&Set(&rows)).unwrap();
        assert_eq!(json, r#"[["00000000-0000-0000-0000-000000000000",7]]"#);
        assert_eq!(serde_json::to_string(&Set(&[7_i64])).unwrap(), "[[7]]");
    }
}
