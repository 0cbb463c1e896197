//! The background passes of the queue: promotion, expiry of admissions, and deletion of old tokens.
//!
//! Each step of promotion or expiry is one short transaction for one concert. The transaction locks the counter of the
//! concert. The steps of all concerts alternate, so a concert with few tokens does not wait for all steps of a concert
//! with many tokens.

use std::time::Duration;

use super::{
    draw::Places,
    facts, operations,
    rules::{self, Pace},
    snapshot::Snapshots,
    store::{self, Demand, Grant, Numbered, Promotable},
};
use crate::{
    batch::{
        Called,
        turns::{self, Left, StepSize},
    },
    clock::{self, Micros},
    db::{
        self, Database, Write,
        entity::{queue_counter, queue_token::TokenKey},
    },
    rpc::proto::stored::{Token, Tokens, TokensAdmitted, event::Kind},
};

/// Holds the durations of admissions and of their promotion.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The duration of an admission, from its promotion. If a `claim_ttl` applies, an unused admission ends earlier:
    /// `claim_ttl` after its promotion.
    pub admission_ttl: Duration,
    /// The maximum time from a promotion to the first use of the admission, for concerts without a `claim_ttl`. `None`
    /// means no limit.
    pub claim_ttl: Option<Duration>,
    /// The interval between two promotions. An unused slot of a paced admission is lost after two intervals.
    pub promote_interval: Duration,
}

/// The number of promotion intervals for which a slot of a paced admission may be used.
const SLOT_INTERVALS: u32 = 2;

/// Holds the draws that are due. Then admits waiting tokens in the order of each queue, up to the capacity and the pace
/// of each concert. Before it admits tokens of a concert, sets the ACTIVE tokens of the concert that are past their
/// expiry to EXPIRED. At the end, refreshes the queues in memory.
///
/// Several replicas may run this function at the same time: each step locks the counter of its concert and counts
/// again.
pub async fn promote(db: &Database, snapshots: &Snapshots, terms: Terms) -> Result<(), db::Error> {
    let size = StepSize::default();
    let held = turns::take(
        || Box::pin(async { Ok(due(store::concerts_to_draw(db).await?)) }),
        |concert_id| Box::pin(hold_draw(db, concert_id)),
    )
    .await;
    let promoted = turns::take(
        || Box::pin(store::concerts_to_promote(db)),
        |concert| Box::pin(size.measured(move |limit| promote_step(db, snapshots, concert, terms, limit))),
    )
    .await;
    snapshots.refresh().await?;
    held.and(promoted)
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

async fn hold_draw(db: &Database, concert_id: i64) -> Result<Left, db::Error> {
    let write = db.begin().await?;
    operations::lock_counters(&write, std::iter::once(concert_id)).await?;
    write.commit().await?;
    Ok(Left::Nothing)
}

async fn promote_step(
    db: &Database,
    snapshots: &Snapshots,
    concert: Promotable,
    terms: Terms,
    limit: i64,
) -> Result<Left, db::Error> {
    // The places are computed before the transaction, because IssueToken waits for the lock of the counter.
    let places = match concert.participant_count {
        Some(_) => Some(snapshots.places(concert.concert_id).await?),
        None => None,
    };
    let write = db.begin().await?;
    let Some(mut counter) = lock_counter(&write, concert.concert_id).await? else {
        return Ok(Left::Nothing);
    };
    let admitted_count = counter.admitted_count;
    let mut left = expire_some(&write, &mut counter, limit).await?;
    if left == Left::Nothing {
        left = admit(&write, &mut counter, places.as_deref(), terms, limit).await?;
    }
    store::save_counters(&write, &[&counter]).await?;
    write.commit().await?;
    let count = counter.admitted_count - admitted_count;
    if count > 0 {
        let queue_counter::Model { concert_id, admitted_number, .. } = counter;
        tracing::info!(concert_id, count, admitted_number, "admitted tokens");
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
    Ok(operations::lock_counters(write, std::iter::once(concert_id)).await?.remove(&concert_id))
}

async fn expire_some(write: &Write, counter: &mut queue_counter::Model, limit: i64) -> Result<Left, db::Error> {
    let expired = store::expire(write, counter.concert_id, limit).await?;
    let count = expired.len() as i64;
    if count > 0 {
        record(write, counter.concert_id, Kind::TokensExpired(Tokens { tokens: in_order(expired) }));
    }
    counter.expired_count += count;
    Ok(Left::more_if(count == limit))
}

fn record(write: &Write, concert_id: i64, kind: Kind) {
    write.record(&Called::by_server(()).event(concert_id, kind));
}

/// Records an event of the kind TokensAdmitted, unless `tokens` is empty. `tokens` must be in the order of admission.
fn record_admitted(write: &Write, concert_id: i64, tokens: Vec<Token>, grant: &Grant) {
    let Grant { expire_time, claimed_expire_time, .. } = *grant;
    if !tokens.is_empty() {
        record(write, concert_id, Kind::TokensAdmitted(TokensAdmitted { tokens, expire_time, claimed_expire_time }));
    }
}

/// Returns the stored form of tokens, in the order of their numbers.
fn in_order(mut rows: Vec<Numbered>) -> Vec<Token> {
    rows.sort_unstable_by_key(|row| row.queue_number);
    rows.iter().map(fact).collect()
}

fn fact(row: &Numbered) -> Token {
    facts::token(row.queue_number, row.user_id)
}

/// Admits up to `limit` tokens. `places` are the places of the draw, if the concert has one. Before this call, the
/// caller must set all ACTIVE tokens past their expiry to EXPIRED.
async fn admit(
    write: &Write,
    counter: &mut queue_counter::Model,
    places: Option<&Places>,
    terms: Terms,
    limit: i64,
) -> Result<Left, db::Error> {
    let Some(demand) = store::demand(write, counter.concert_id).await? else {
        return Ok(Left::Nothing);
    };
    if !rules::admits(demand.paused, demand.open_time, write.now()) {
        return Ok(Left::Nothing);
    }
    let active = rules::active_count(counter, demand.completed_count);
    let free = rules::free_places(demand.unsold_seat_count, active, demand.max_active_count);
    let slot_memory = clock::micros(terms.promote_interval * SLOT_INTERVALS);
    let pace = Pace::at(write.now(), counter.paced_time, demand.max_admissions_per_minute, slot_memory);
    let wanted = free.min(pace.due);
    if wanted == 0 {
        return Ok(Left::Nothing);
    }
    let grant = grant(write.now(), &demand, terms, wanted.min(limit));
    let admitted = match places {
        None => admit_first(write, counter, &grant).await?,
        Some(places) => admit_drawn(write, counter, places, &grant, limit).await?,
    };
    if admitted > 0 {
        counter.admitted_count += admitted;
        counter.paced_time = pace.last_slot(admitted);
        store::count_admissions(write, counter.concert_id, admitted).await?;
    }
    Ok(match places {
        None => Left::more_if(admitted == limit),
        Some(_) => Left::more_if(admitted < wanted && counter.admitted_number < counter.issued_number),
    })
}

fn grant(now: Micros, demand: &Demand, terms: Terms, count: i64) -> Grant {
    let claim_ttl = demand.claim_ttl.or(terms.claim_ttl.map(clock::micros));
    let (expire_time, claimed_expire_time) = rules::admission_end(now, clock::micros(terms.admission_ttl), claim_ttl);
    Grant { count, expire_time, claimed_expire_time }
}

/// Admits the first waiting tokens in the order of their numbers. Returns the number of admitted tokens.
async fn admit_first(write: &Write, counter: &mut queue_counter::Model, grant: &Grant) -> Result<i64, db::Error> {
    let admitted = store::admit(write, counter, grant).await?;
    let last = admitted.iter().map(|token| token.queue_number).max();
    counter.admitted_number = last.unwrap_or(counter.admitted_number);
    let count = admitted.len() as i64;
    record_admitted(write, counter.concert_id, in_order(admitted), grant);
    Ok(count)
}

/// Admits the first waiting tokens in the order of a draw. Looks only at the next `limit` places, so that the
/// transaction is short even if many tokens have left. Returns the number of admitted tokens.
async fn admit_drawn(
    write: &Write,
    counter: &mut queue_counter::Model,
    places: &Places,
    grant: &Grant,
    limit: i64,
) -> Result<i64, db::Error> {
    let last = counter.issued_number.min(counter.admitted_number + limit);
    let concert_id = counter.concert_id;
    let key = |queue_number| TokenKey { concert_id, queue_number };
    let keys: Vec<TokenKey> = (counter.admitted_number + 1..=last).map(|place| key(places.number(place))).collect();
    let mut waiting = store::waiting_among(write, &keys).await?;
    waiting.sort_unstable_by_key(|token| places.place(token.queue_number));
    let admitted = &waiting[..waiting.len().min(grant.count.unsigned_abs() as usize)];
    // If all tokens that wait at these places are admitted, the places up to `last` are passed.
    counter.admitted_number = match waiting.get(admitted.len()) {
        Some(next) => places.place(next.queue_number) - 1,
        None => last,
    };
    let mut keys: Vec<TokenKey> = admitted.iter().map(|token| key(token.queue_number)).collect();
    // Neighbouring rows are written together, and all transactions lock rows in the order of their keys.
    keys.sort_unstable();
    store::admit_keys(write, &keys, grant).await?;
    record_admitted(write, concert_id, admitted.iter().map(fact).collect(), grant);
    Ok(keys.len() as i64)
}
