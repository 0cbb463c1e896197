//! The background passes of reservations: expiry of holds, and deletion of old unpaid reservations.
//!
//! The two passes read the reservations in the order of `expire_time`, and store the time that they have reached. With
//! an index of only the held reservations, the expiry pass would not need its stored time. But every payment would have
//! to update such an index.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use super::{operations::free, store};
use crate::{
    batch::{
        Called,
        turns::{self, Left, StepSize},
    },
    clock::{self, Micros},
    db::{self, Database, Write},
    rpc::proto::ReleaseReason,
};

const HOLDS: &str = "holds";
const UNPAID_RESERVATIONS: &str = "unpaid reservations";
/// Period before now that the next run of the expiry pass reads again. A hold that ended in this period may have been
/// committed late, or may have been locked.
const LATENESS: Duration = Duration::from_secs(60);
/// Interval after which the expiry pass stores its progress, even if it has found no ended hold. If the last step of a
/// run has found an ended hold, the run stores its progress in any case.
const NOTE_INTERVAL: Duration = Duration::from_secs(600);

/// Holds the progress of the expiry pass on this replica, in microseconds since the Unix epoch. 0 means that the
/// progress is not known yet.
#[derive(Default)]
pub struct Sweep {
    /// All holds that ended up to this time are handled.
    reached: AtomicI64,
    /// The progress that this replica last stored in the database.
    noted: AtomicI64,
}

/// Sets HELD reservations past their expiry to EXPIRED, and frees their seats.
pub async fn expire(db: &Database, sweep: &Sweep) -> Result<(), db::Error> {
    let size = StepSize::default();
    turns::repeat(|| size.measured(|limit| expire_step(db, sweep, limit))).await
}

async fn expire_step(db: &Database, sweep: &Sweep, limit: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    let left = expire_some(&write, sweep, limit).await?;
    write.commit().await?;
    Ok(left)
}

async fn expire_some(write: &Write, sweep: &Sweep, limit: i64) -> Result<Left, db::Error> {
    if sweep.reached.load(Ordering::Relaxed) == 0 {
        let reached = store::reached(write, HOLDS).await?;
        sweep.reached.store(reached, Ordering::Relaxed);
    }
    let due = store::lock_due(write, sweep.reached.load(Ordering::Relaxed), limit).await?;
    let due: Vec<_> = due.into_iter().map(Called::by_server).collect();
    free(write, &due, ReleaseReason::Expired).await?;
    let left = Left::more_if(due.len() as i64 == limit);
    if left == Left::Nothing {
        let reached = write.now() - clock::micros(LATENESS);
        let is_old = reached - sweep.noted.load(Ordering::Relaxed) > clock::micros(NOTE_INTERVAL);
        if is_old || !due.is_empty() {
            store::set_reached(write, HOLDS, reached).await?;
            sweep.noted.store(reached, Ordering::Relaxed);
        }
        sweep.reached.fetch_max(reached, Ordering::Relaxed);
    }
    Ok(left)
}

/// Deletes RELEASED and EXPIRED reservations with an `expire_time` before `cutoff`. Stops at the progress of the expiry
/// pass, because a later reservation may still be HELD in its row.
pub async fn delete_unpaid(db: &Database, cutoff: Micros) -> Result<(), db::Error> {
    let size = StepSize::gentle();
    turns::repeat_gently(|| size.measured(|limit| delete_step(db, cutoff, limit))).await
}

async fn delete_step(db: &Database, cutoff: Micros, limit: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    let cutoff = cutoff.min(store::reached(&write, HOLDS).await?);
    let since = store::reached(&write, UNPAID_RESERVATIONS).await?;
    let end = store::end_of_step(&write, since, cutoff, limit).await?;
    let until = end.unwrap_or(cutoff - 1);
    if until > since {
        store::delete_unpaid(&write, since, until).await?;
        store::set_reached(&write, UNPAID_RESERVATIONS, until).await?;
    }
    write.commit().await?;
    Ok(Left::more_if(end.is_some()))
}
