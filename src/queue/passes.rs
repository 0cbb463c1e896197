//! The background passes of the queue: promotion, expiry of admissions, and deletion of old tokens.
//!
//! Each step of promotion or expiry is one short transaction for one concert. The transaction locks the counter of the
//! concert. The steps of all concerts alternate, so a concert with few tokens does not wait for all steps of a concert
//! with many tokens.

use std::time::Duration;

use super::{
    rules,
    snapshot::Snapshots,
    store::{self, Grant},
};
use crate::{
    batch::turns::{self, Left, StepSize},
    clock::{self, Micros},
    db::{self, Database, Write, entity::queue_counter},
};

/// Holds the durations of an admission.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The duration of an admission, from its promotion. If a `claim_ttl` applies, an unused admission ends earlier:
    /// `claim_ttl` after its promotion.
    pub admission_ttl: Duration,
    /// The maximum time from a promotion to the first use of the admission, for concerts without a `claim_ttl`. `None`
    /// means no limit.
    pub claim_ttl: Option<Duration>,
}

/// Admits waiting tokens in the order of each queue, up to the capacity of each concert. Before that, sets the expired
/// ACTIVE tokens of these concerts to EXPIRED. At the end, refreshes the queues in memory. Several replicas may run
/// this function at the same time: each step locks the counter of its concert and counts again.
pub async fn promote(db: &Database, snapshots: &Snapshots, terms: Terms) -> Result<(), db::Error> {
    let size = StepSize::default();
    let done = turns::take(
        || Box::pin(async { Ok(due(store::concerts_to_promote(db).await?)) }),
        |concert_id| Box::pin(size.measured(move |limit| promote_step(db, concert_id, terms, limit))),
    )
    .await;
    snapshots.refresh().await?;
    done
}

/// Sets ACTIVE tokens past their expiry to EXPIRED.
pub async fn expire(db: &Database) -> Result<(), db::Error> {
    let size = StepSize::default();
    turns::take(
        || Box::pin(async { Ok(due(store::concerts_to_expire(db).await?)) }),
        |concert_id| Box::pin(size.measured(move |limit| expire_step(db, concert_id, limit))),
    )
    .await
}

/// Deletes EXPIRED, COMPLETED and LEFT tokens that were issued before `cutoff`.
pub async fn delete_ended(db: &Database, cutoff: Micros) -> Result<(), db::Error> {
    let size = StepSize::gentle();
    turns::repeat_gently(|| size.measured(|limit| delete_step(db, cutoff, limit))).await
}

async fn delete_step(db: &Database, cutoff: Micros, limit: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    let deleted = store::delete_ended(&write, cutoff, limit).await?;
    write.commit().await?;
    Ok(Left::more_if(deleted == limit.unsigned_abs()))
}

fn due(concerts: Vec<store::Due>) -> Vec<i64> {
    concerts.into_iter().map(|due| due.concert_id).collect()
}

async fn promote_step(db: &Database, concert_id: i64, terms: Terms, limit: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    let Some(mut counter) = lock_counter(&write, concert_id).await? else {
        return Ok(Left::Nothing);
    };
    let mut left = expire_some(&write, &mut counter, limit).await?;
    let mut admitted = 0;
    if left == Left::Nothing {
        admitted = admit(&write, &mut counter, terms, limit).await?;
        left = Left::more_if(admitted == limit);
    }
    store::save_counters(&write, &[&counter]).await?;
    write.commit().await?;
    if admitted > 0 {
        let admitted_number = counter.admitted_number;
        tracing::info!(concert_id, count = admitted, admitted_number, "admitted tokens");
    }
    Ok(left)
}

async fn expire_step(db: &Database, concert_id: i64, limit: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    let Some(mut counter) = lock_counter(&write, concert_id).await? else {
        return Ok(Left::Nothing);
    };
    let left = expire_some(&write, &mut counter, limit).await?;
    store::save_counters(&write, &[&counter]).await?;
    write.commit().await?;
    Ok(left)
}

async fn lock_counter(write: &Write, concert_id: i64) -> Result<Option<queue_counter::Model>, db::Error> {
    let counter = store::lock_counters(write, &[concert_id]).await?.into_iter().next();
    // The transaction may have waited for the lock, so its time is set to the current time.
    write.renew_now();
    Ok(counter)
}

async fn expire_some(write: &Write, counter: &mut queue_counter::Model, limit: i64) -> Result<Left, db::Error> {
    let expired = store::expire(write, counter.concert_id, limit).await?.cast_signed();
    counter.expired_count += expired;
    Ok(Left::more_if(expired == limit))
}

/// Admits up to `limit` tokens, and returns the number of admitted tokens. Before this call, the caller must set all
/// ACTIVE tokens past their expiry to EXPIRED.
async fn admit(write: &Write, counter: &mut queue_counter::Model, terms: Terms, limit: i64) -> Result<i64, db::Error> {
    let Some(demand) = store::demand(write, counter.concert_id).await? else {
        return Ok(0);
    };
    if !rules::admits(demand.paused, demand.open_time, write.now()) {
        return Ok(0);
    }
    let active = rules::active_count(counter, demand.completed_count);
    let free = rules::free_places(demand.unsold_seat_count, active, demand.max_active_count);
    if free == 0 {
        return Ok(0);
    }
    let claim_ttl = demand.claim_ttl.or(terms.claim_ttl.map(clock::micros));
    let end = rules::admission_end(write.now(), clock::micros(terms.admission_ttl), claim_ttl);
    let grant = Grant { count: free.min(limit), expire_time: end.0, claimed_expire_time: end.1 };
    let admitted = store::admit(write, counter, &grant).await?;
    let last = admitted.iter().map(|token| token.queue_number).max();
    counter.admitted_number = last.unwrap_or(counter.admitted_number);
    counter.admitted_count += admitted.len() as i64;
    Ok(admitted.len() as i64)
}
