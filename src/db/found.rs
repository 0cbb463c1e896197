//! The rows of a query about a set. SQLite returns them as one value.
//!
//! SQLite runs in a thread of its own, and the driver wakes the waiting task for each row. For a large batch, these
//! wake-ups took longer than the query. So on SQLite, a query returns one JSON array with all of its rows.

use sea_orm::{
    ColumnTrait, ColumnType, ConnectionTrait, DatabaseBackend, DbErr, EntityTrait, FromQueryResult, IdenStatic,
    Iterable, ModelTrait, Statement,
};
use serde::de::DeserializeOwned;

use super::statement::Type;

/// A row that a query about a set returns. `DeserializeOwned` reads the row from an array of its values.
pub trait Found: FromQueryResult + DeserializeOwned {
    /// Returns the names and types of the columns, in the order of the fields.
    fn columns() -> impl Iterator<Item = (&'static str, Type)>;
}

impl<M: ModelTrait + FromQueryResult + DeserializeOwned> Found for M {
    fn columns() -> impl Iterator<Item = (&'static str, Type)> {
        <M::Entity as EntityTrait>::Column::iter().map(|column| {
            let kind = match column.def().get_column_type() {
                ColumnType::Uuid => Type::Uuid,
                ColumnType::Boolean => Type::Bool,
                ColumnType::Text | ColumnType::String(_) => Type::Text,
                _ => Type::Int,
            };
            (column.as_str(), kind)
        })
    }
}

/// Declares structs that a query about a set returns. Each field is a column with the same name.
macro_rules! found {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty,)+
    })+) => {
        $($(#[$meta])* #[derive(sea_orm::FromQueryResult, serde::Deserialize)]
        $vis struct $name { $($(#[$field_meta])* $field_vis $field: $type,)+ }

        impl $crate::db::Found for $name {
            fn columns() -> impl Iterator<Item = (&'static str, $crate::db::Type)> {
                [$((stringify!($field), <$type as $crate::db::Column>::TYPE)),+].into_iter()
            }
        })+
    };
}
pub(crate) use found;

/// Returns the text of a query for rows of type `T`. `sql` is the text of the query that returns one row per row.
pub fn query_of<T: Found>(engine: DatabaseBackend, sql: &str) -> String {
    if engine != DatabaseBackend::Sqlite {
        return sql.to_owned();
    }
    let values: Vec<String> = T::columns().map(|(name, kind)| value_of(name, kind)).collect();
    format!("SELECT json_group_array(json_array({})) AS value FROM ({sql}) AS found", values.join(", "))
}

/// Returns the SQL of a column as a JSON value, for SQLite.
fn value_of(name: &str, kind: Type) -> String {
    match kind {
        // NULL becomes an empty text, which stands for NULL here.
        Type::Uuid => format!("nullif(hex(found.{name}), '')"),
        Type::Bool => format!("json(iif(found.{name}, 'true', 'false'))"),
        Type::Int | Type::Text => format!("found.{name}"),
    }
}

/// Runs a query whose text is from [`query_of`], and returns its rows.
pub async fn rows<T: Found>(conn: &impl ConnectionTrait, statement: Statement) -> Result<Vec<T>, DbErr> {
    if statement.db_backend != DatabaseBackend::Sqlite {
        return T::find_by_statement(statement).all(conn).await;
    }
    let Some(row) = conn.query_one_raw(statement).await? else { return Ok(Vec::new()) };
    parse(&row.try_get_by_index::<String>(0)?)
}

/// Returns the rows in the value that a query from [`query_of`] returns on SQLite.
pub fn parse<T: Found>(value: &str) -> Result<Vec<T>, DbErr> {
    serde_json::from_str(value).map_err(|error| DbErr::Json(error.to_string()))
}

#[cfg(test)]
mod tests {
    use sea_orm::{Database, DatabaseBackend::Sqlite};
    use uuid::Uuid;

    use super::*;
    use crate::db::entity::{
        queue_token,
        reservation::{self, State},
        reserved_seat,
    };

    found! {
        #[derive(Debug, PartialEq)]
        struct Named {
            name: Option<String>,
            number: i64,
            id: Option<Uuid>,
        }
    }

    /// Returns the rows of a query on SQLite: as one value, and one by one.
    async fn both<T: Found>(sql: &str) -> (Vec<T>, Vec<T>) {
        let conn = Database::connect("sqlite::memory:").await.unwrap();
        let together = rows(&conn, Statement::from_string(Sqlite, query_of::<T>(Sqlite, sql))).await.unwrap();
        let one_by_one = T::find_by_statement(Statement::from_string(Sqlite, sql)).all(&conn).await.unwrap();
        (together, one_by_one)
    }

    #[tokio::test]
    async fn sqlite_returns_all_rows_of_a_model_as_one_value() {
        let id = "x'00112233445566778899aabbccddeeff'";
        let sql = format!(
            "SELECT {id} AS reservation_id, {id} AS user_id, 1 AS concert_id, 2 AS queue_number, 3 AS performance_id,
                    '1,2' AS seat_numbers, 2 AS seat_count, 9223372036854775807 AS total_price, 'HELD' AS state,
                    true AS live, 0 AS version, -5 AS hold_time, 6 AS first_expire_time, 7 AS expire_time,
                    {id} AS request_id, NULL AS pay_time, NULL AS refund_time, NULL AS payment_id,
                    'a \"b\" \\ ü' AS best_available
             UNION ALL
             SELECT {id}, {id}, 1, 2, 3, '', 0, 0, 'REFUNDED', false, 1, 5, 6, 7, NULL, 8, 9, {id}, NULL"
        );
        let (together, one_by_one) = both::<reservation::Model>(&sql).await;
        assert_eq!(together, one_by_one);
        assert_eq!(together.len(), 2);
        assert_eq!((together[0].live, together[0].total_price, together[0].payment_id), (true, i64::MAX, None));
        assert_eq!(together[0].best_available.as_deref(), Some(r#"a "b" \ ü"#));
        assert_eq!((together[1].live, together[1].state, together[1].request_id), (false, State::Refunded, None));
        assert_eq!(together[1].payment_id, Some(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)));
    }

    #[tokio::test]
    async fn a_query_keeps_its_order_and_may_find_nothing() {
        let sql = "SELECT v.column1 AS name, v.column2 AS number, v.column3 AS id
                   FROM (VALUES ('b', 1, NULL), (NULL, 3, x'00000000000000000000000000000001'), ('a', 2, NULL)) AS v
                   WHERE v.column2 > 0 ORDER BY v.column2 DESC";
        let (together, one_by_one) = both::<Named>(sql).await;
        assert_eq!(together, one_by_one);
        assert_eq!(together.iter().map(|row| row.number).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(both::<Named>(&sql.replace("> 0", "> 9")).await.0, []);
    }

    #[test]
    fn the_columns_of_a_model_are_in_the_order_of_its_fields() {
        let names = |columns: Vec<(&'static str, Type)>| columns.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(reserved_seat::Model::columns().collect()),
            ["performance_id", "seat_number", "reservation_id", "state", "expire_time"]
        );
        assert_eq!(queue_token::Model::columns().nth(2), Some(("user_id", Type::Uuid)));
        assert_eq!(reservation::Model::columns().nth(9), Some(("live", Type::Bool)));
    }

    #[test]
    fn postgresql_returns_one_row_per_row() {
        let sql = "SELECT 1 AS number";
        assert_eq!(query_of::<Named>(DatabaseBackend::Postgres, sql), sql);
        assert_eq!(
            query_of::<Named>(Sqlite, sql),
            "SELECT json_group_array(json_array(found.name, found.number, nullif(hex(found.id), ''))) AS value \
             FROM (SELECT 1 AS number) AS found"
        );
    }
}
