//! Runs the queries of the invariants.

use sea_orm::{DatabaseBackend, FromQueryResult};
use uuid::Uuid;

use super::invariants::Invariant;
use crate::{
    clock::Micros,
    db::{self, Snapshot},
};

/// A row that violates an invariant.
#[derive(Debug, FromQueryResult)]
pub struct Example {
    /// The id of a reservation or of a user, if the row has one.
    pub id: Option<Uuid>,
    /// The keys and values of the row.
    pub detail: String,
}

/// Returns a row that violates `invariant` at `now`. Returns `None` if the invariant holds.
pub async fn violation(snapshot: &Snapshot, invariant: &Invariant, now: Micros) -> Result<Option<Example>, db::Error> {
    Ok(snapshot.query(&expand(snapshot.engine(), invariant.sql, now)).await?.pop())
}

/// Replaces the placeholders in the text of a query.
fn expand(engine: DatabaseBackend, sql: &str, now: Micros) -> String {
    let (seats, payment_id, no_id) = match engine {
        DatabaseBackend::Postgres => (
            "json_array_elements_text(r.seat_numbers::json) AS n(value)",
            // The 15th character of the text of a UUID is its version.
            "COALESCE(r.payment_id, overlay(r.reservation_id::text PLACING '8' FROM 15 FOR 1)::uuid)",
            "NULL::uuid",
        ),
        _ => (
            "json_each(r.seat_numbers) AS n",
            "COALESCE(r.payment_id, \
             unhex(substr(hex(r.reservation_id), 1, 12) || '8' || substr(hex(r.reservation_id), 14)))",
            "NULL",
        ),
    };
    sql.replace("{seats}", seats)
        .replace("{payment_id}", payment_id)
        .replace("{no_id}", no_id)
        .replace("{now}", &now.to_string())
}
