//! Queries of the stored events. `db/log.rs` has the statement that appends events.

use sea_orm::FromQueryResult;

use crate::{
    clock::Micros,
    db::{self, Database, Write},
};

/// The events of one transaction.
#[derive(FromQueryResult)]
pub struct Stored {
    /// The number of the first event.
    pub first_number: i64,
    /// The number of the last event.
    pub last_number: i64,
    /// The time of the events.
    pub event_time: Micros,
    /// The events, as a message `boxoffice.stored.v1.EventBatch`.
    pub events: Vec<u8>,
}

/// Returns up to `limit` transactions with events after the number `after`, in the order of their numbers.
pub async fn after(db: &Database, after: i64, limit: usize) -> Result<Vec<Stored>, db::Error> {
    let sql = "SELECT first_number, last_number, event_time, events FROM event_batch
               WHERE last_number > $1 ORDER BY last_number LIMIT $2";
    db.query(sql, [after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()]).await
}

/// The range of the stored events.
#[derive(Debug, Clone, Copy, Default, FromQueryResult)]
pub struct Bounds {
    /// The number of the oldest event that is kept; 1 if there are no events yet.
    pub oldest_number: i64,
    /// The number of the last event; 0 if there are no events yet.
    pub last_number: i64,
}

/// Returns the range of the stored events.
pub async fn bounds(db: &Database) -> Result<Bounds, db::Error> {
    let sql = "SELECT COALESCE((SELECT first_number FROM event_batch WHERE last_number > 0
                                ORDER BY last_number LIMIT 1), 1) AS oldest_number,
                      COALESCE((SELECT MAX(last_number) FROM event_batch), 0) AS last_number";
    Ok(db.query(sql, []).await?.into_iter().next().unwrap_or_default())
}

/// Deletes up to `limit` transactions with events before `cutoff`, oldest first. The last transaction is always kept,
/// because it has the last number. A transaction is also kept if an older one is kept, so the kept numbers have no gap.
/// Returns the number of deleted transactions.
pub async fn delete_old(write: &Write, cutoff: Micros, limit: i64) -> Result<u64, db::Error> {
    let sql = "WITH old AS MATERIALIZED (
                   SELECT last_number, event_time FROM event_batch WHERE last_number > 0
                   ORDER BY last_number LIMIT $2 + 1)
               DELETE FROM event_batch WHERE last_number < COALESCE(
                   (SELECT MIN(last_number) FROM old WHERE event_time >= $1),
                   (SELECT MAX(last_number) FROM old))";
    write.execute(sql, [cutoff.into(), limit.into()]).await
}
