//! The statements on the row of a sink: its cursor and its lease.

use sea_orm::FromQueryResult;
use uuid::Uuid;

use crate::{
    clock::Micros,
    db::{self, Database},
};

/// The row of a sink.
#[derive(FromQueryResult)]
pub struct Cursor {
    /// All events up to this number have reached the sink.
    pub last_number: i64,
    /// The time at which the lease ends. Another process may take the lease from this time on.
    pub lease_expire_time: Micros,
}

/// Returns the row of a sink. Returns `None` if no process has forwarded to the sink yet.
pub async fn cursor(db: &Database, sink: &str) -> Result<Option<Cursor>, db::Error> {
    let sql = "SELECT last_number, lease_expire_time FROM forward_cursor WHERE sink = $1";
    Ok(db.query(sql, [sink.into()]).await?.into_iter().next())
}

/// Adds the row of a sink that has received all events up to `last_number`. Does nothing if the row exists.
pub async fn add(db: &Database, sink: &str, last_number: i64) -> Result<(), db::Error> {
    let write = db.begin().await?;
    let sql = "INSERT INTO forward_cursor (sink, last_number, lease_expire_time) VALUES ($1, $2, 0)
               ON CONFLICT (sink) DO NOTHING";
    write.execute(sql, [sink.into(), last_number.into()]).await?;
    write.commit().await
}

/// Takes the lease of a sink until `expire_time` if the last lease has ended. Returns the row. Returns `None` if
/// another process has the lease.
pub async fn take(db: &Database, sink: &str, owner: Uuid, expire_time: Micros) -> Result<Option<Cursor>, db::Error> {
    let write = db.begin().await?;
    let sql = "UPDATE forward_cursor SET lease_owner = $2, lease_expire_time = $3
               WHERE sink = $1 AND lease_expire_time <= $4 RETURNING last_number, lease_expire_time";
    let values = [sink.into(), owner.into(), expire_time.into(), write.now().into()];
    let taken: Vec<Cursor> = write.query(sql, values).await?;
    write.commit().await?;
    Ok(taken.into_iter().next())
}

/// Stores the cursor of a sink, and extends the lease until `expire_time`. Returns `false` and changes nothing if
/// another process has taken the lease.
pub async fn keep(
    db: &Database,
    sink: &str,
    owner: Uuid,
    last_number: i64,
    expire_time: Micros,
) -> Result<bool, db::Error> {
    let write = db.begin().await?;
    let sql = "UPDATE forward_cursor SET last_number = $3, lease_expire_time = $4
               WHERE sink = $1 AND lease_owner = $2";
    let values = [sink.into(), owner.into(), last_number.into(), expire_time.into()];
    let kept = write.execute(sql, values).await?;
    write.commit().await?;
    Ok(kept > 0)
}

/// How far a sink is behind the feed.
#[derive(FromQueryResult)]
pub struct Behind {
    /// The number of events that have not reached the sink.
    pub event_count: i64,
    /// The time of the oldest of these events. `None` if all events have reached the sink.
    pub oldest_time: Option<Micros>,
}

/// Returns how far a sink is behind the feed. Returns `None` if no process has forwarded to the sink yet.
pub async fn behind(db: &Database, sink: &str) -> Result<Option<Behind>, db::Error> {
    let sql = "SELECT COALESCE((SELECT MAX(last_number) FROM event_batch), 0) - c.last_number AS event_count,
                      (SELECT b.event_time FROM event_batch b WHERE b.last_number > c.last_number
                       ORDER BY b.last_number LIMIT 1) AS oldest_time
               FROM forward_cursor c WHERE c.sink = $1";
    Ok(db.query(sql, [sink.into()]).await?.into_iter().next())
}
