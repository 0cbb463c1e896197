//! The queries of the checks.

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
    let sql = "SELECT k.concert_id, k.draw_seed, k.draw_salt, k.participant_count, c.admitted_number
         FROM concert k JOIN queue_counter c ON c.concert_id = k.concert_id
         WHERE k.participant_count IS NOT NULL ORDER BY k.concert_id";
    snapshot.query(sql).await
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
    let sql = format!(
        "SELECT queue_number, CAST(CASE WHEN admit_time IS NULL THEN 0 ELSE 1 END AS BIGINT) AS was_admitted,
                CAST(CASE WHEN state = 'WAITING' THEN 1 ELSE 0 END AS BIGINT) AS is_waiting
         FROM queue_token WHERE concert_id = {concert_id} AND queue_number > {after}
           AND (admit_time IS NOT NULL OR state = 'WAITING')
         ORDER BY queue_number LIMIT {limit}"
    );
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
