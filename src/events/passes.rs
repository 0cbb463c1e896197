//! The background pass of the feed: deletion of old events.

use super::store;
use crate::{
    batch::turns::{self, Left, StepSize},
    clock::Micros,
    db::{self, Database},
};

/// Deletes the events from before `cutoff`, except for the events of the last transaction.
pub async fn delete_old(db: &Database, cutoff: Micros) -> Result<(), db::Error> {
    let size = StepSize::gentle();
    turns::repeat_gently(|| size.measured(|limit| delete_step(db, cutoff, limit))).await
}

async fn delete_step(db: &Database, cutoff: Micros, limit: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    let deleted = store::delete_old(&write, cutoff, limit).await?;
    write.commit().await?;
    Ok(Left::more_if(deleted == limit.unsigned_abs()))
}
