//! The queries of the checks.

use sea_orm::{DatabaseBackend, FromQueryResult};
use uuid::Uuid;

use super::invariants::{DRAWS, Invariant, TOKENS};
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

/// A draw that was held.
#[derive(FromQueryResult)]
pub struct Draw {
    /// The key of the concert.
    pub concert_id: i64,
    /// The seed, in hexadecimal.
    pub draw_seed: String,
    /// The salt.
    pub draw_salt: String,
    /// The number of tokens that took part.
    pub participant_count: i64,
    /// The last place that was admitted.
    pub admitted_number: i64,
}

/// Returns all draws that were held.
pub async fn draws(snapshot: &Snapshot) -> Result<Vec<Draw>, db::Error> {
    snapshot.query(DRAWS).await
}

/// A token that waits or was admitted. The flags are 0 or 1.
#[derive(FromQueryResult)]
pub struct Token {
    /// The queue number.
    pub queue_number: i64,
    /// Whether the token was admitted.
    pub was_admitted: i64,
    /// Whether the token waits.
    pub is_waiting: i64,
}

/// Returns up to `limit` tokens of a concert that wait or were admitted, after the queue number `after`.
pub async fn tokens(snapshot: &Snapshot, concert_id: i64, after: i64, limit: i64) -> Result<Vec<Token>, db::Error> {
    let sql = TOKENS
        .replace("{concert_id}", &concert_id.to_string())
        .replace("{after}", &after.to_string())
        .replace("{limit}", &limit.to_string());
    snapshot.query(&sql).await
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
