//! The statistics of sales. Concurrent requests for the statistics of a sale share one query.

use tokio_util::task::TaskTracker;

use super::{operations, store::Counts};
use crate::{
    batch::{Lane, read_lane},
    catalogue::Concert,
    clock::{self, Micros},
    db::Database,
    queue::Snapshots,
    rpc::{
        Error,
        proto::{self, SaleStats},
    },
};

/// Reads the statistics of sales. Concurrent calls for one concert share a query, even if the calls use different
/// clones.
#[derive(Clone)]
pub struct Statistics {
    db: Database,
    counts: Lane<i64, Counts>,
}

impl Statistics {
    /// Starts the lane that reads the counts of sales.
    pub fn new(db: Database, snapshots: Snapshots) -> Self {
        // A stopping server must not wait for this lane, because the lane ends only when the server is dropped.
        let tasks = TaskTracker::new();
        let counts = read_lane(&db, "admin.counts", &tasks, move |db, ids| {
            let snapshots = snapshots.clone();
            Box::pin(async move { operations::count(db, &snapshots, ids).await })
        });
        Self { db, counts }
    }

    /// Returns the statistics of the sale of a concert.
    pub async fn of(&self, concert: &Concert) -> Result<SaleStats, Error> {
        let counts = self.counts.submit((), concert.concert_id).await?;
        Ok(to_proto(concert, &counts, self.db.now()))
    }
}

fn to_proto(concert: &Concert, counts: &Counts, now: Micros) -> SaleStats {
    let seats = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
    let expired_count = counts.expired_count + counts.due_count;
    let ended_count = counts.left_admitted_count + expired_count + counts.completed_count;
    let left_waiting_count = counts.left_count - counts.left_admitted_count;
    SaleStats {
        concert_code: concert.concert_code.clone(),
        issued_count: counts.issued_count,
        waiting_count: counts.issued_count - counts.admitted_count - left_waiting_count,
        active_count: counts.admitted_count - ended_count,
        expired_count,
        completed_count: counts.completed_count,
        left_count: counts.left_count,
        unsold_seat_count: seats(counts.unsold_seat_count),
        held_seat_count: seats(counts.held_seat_count),
        sold_seat_count: seats(counts.sold_seat_count),
        admissions_last_minute: counts.admissions,
        payments_last_minute: counts.payments,
        revenue: counts.revenue,
        oldest_waiting_age: counts.oldest_issue_time.map(|at| proto::duration(clock::until(now, at))),
    }
}
