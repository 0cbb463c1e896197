//! The lease of a sink. Only the process with the lease sends events and moves the cursor.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    store::{self, Cursor},
    trouble::Trouble,
};
use crate::{
    clock,
    db::{self, Database},
};

/// Duration of a lease. After the death of a process, another process takes over after at most this time.
const TTL: Duration = Duration::from_secs(10);
/// A process that cannot renew its lease stops sending so long before the end of the lease. The margin covers the
/// errors of the clocks.
const MARGIN: Duration = Duration::from_secs(1);
/// Time after which a lease is renewed even if the cursor has not moved.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Interval between two writes of a moving cursor.
const STORE_INTERVAL: Duration = Duration::from_millis(500);
/// Interval between two attempts to take the lease.
const TAKE_INTERVAL: Duration = Duration::from_millis(500);

/// A lease that this process has taken.
pub struct Lease<'a> {
    db: &'a Database,
    sink: &'a str,
    /// Each lease has its own id. So a process cannot use a lease that it has lost.
    owner: Uuid,
    taken_at: Instant,
    /// The stored cursor when the lease was taken.
    pub cursor: i64,
}

impl<'a> Lease<'a> {
    /// Waits until the lease of a sink is free, and takes it. The row of the sink must exist.
    pub async fn take(db: &'a Database, sink: &'a str) -> Result<Self, db::Error> {
        loop {
            // A standby process only reads, so it does not disturb the writers.
            let is_free = |cursor: &Cursor| cursor.lease_expire_time <= db.now();
            if store::cursor(db, sink).await?.is_some_and(|cursor| is_free(&cursor)) {
                let (owner, taken_at) = (Uuid::now_v7(), Instant::now());
                if let Some(cursor) = store::take(db, sink, owner, expire_time(db)).await? {
                    return Ok(Self { db, sink, owner, taken_at, cursor: cursor.last_number });
                }
            }
            tokio::time::sleep(TAKE_INTERVAL).await;
        }
    }

    /// Renews the lease, and stores `reached` as the cursor whenever it has moved. Ends when the lease is lost.
    pub async fn keep(&self, reached: &AtomicI64) -> Result<Infallible, Trouble> {
        let (mut stored, mut renewed_at) = (self.cursor, self.taken_at);
        loop {
            tokio::time::sleep(STORE_INTERVAL).await;
            let (number, asked_at) = (reached.load(Ordering::Acquire), Instant::now());
            if number == stored && renewed_at.elapsed() < RENEW_INTERVAL {
                continue;
            }
            let keep = store::keep(self.db, self.sink, self.owner, number, expire_time(self.db));
            match tokio::time::timeout_at(renewed_at + TTL - MARGIN, keep).await {
                Ok(Ok(true)) => (stored, renewed_at) = (number, asked_at),
                Ok(Ok(false)) => return Err(Trouble::Passing("another process has taken the lease".to_owned())),
                Ok(Err(error)) => tracing::warn!(%error, "the cursor could not be stored; retrying"),
                Err(_) => return Err(Trouble::Passing("the lease could not be renewed in time".to_owned())),
            }
        }
    }

    /// Stores `reached` as the cursor, and ends the lease, so that another process can take over immediately. Does
    /// nothing if the lease is lost.
    pub async fn release(self, reached: &AtomicI64) {
        let number = reached.load(Ordering::Acquire);
        if let Err(error) = store::keep(self.db, self.sink, self.owner, number, 0).await {
            tracing::warn!(%error, "the cursor could not be stored; the last events will be sent again");
        }
    }
}

fn expire_time(db: &Database) -> clock::Micros {
    db.now() + clock::micros(TTL)
}
