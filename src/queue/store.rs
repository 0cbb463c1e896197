//! Queries of the queue counters and the queue tokens.

use sea_orm::{ActiveEnum, FromQueryResult};
use uuid::Uuid;

use crate::{
    clock::Micros,
    db::{
        self, Database, Write,
        entity::{
            queue_counter,
            queue_token::{self, State, TokenKey},
        },
        rows,
    },
};

/// Returns the counters of these concerts, locked in the order of their keys. A write that issues, admits or expires
/// tokens, or lets them leave, must take these locks first.
pub async fn lock_counters(write: &Write, concert_ids: &[i64]) -> Result<Vec<queue_counter::Model>, db::Error> {
    let sql = "SELECT c.* FROM queue_counter c JOIN {r} ON c.concert_id = r.id ORDER BY c.concert_id {lock of c}";
    write.query_set(sql, concert_ids, []).await
}

rows! {
    struct Counts {
        concert_id: i64,
        issued_number: i64,
        admitted_number: i64,
        admitted_count: i64,
        departed_count: i64,
        left_admitted_count: i64,
        expired_count: i64,
        paced_time: i64,
    }
}

/// Writes locked counters back to the database, except `draw_time`.
pub async fn save_counters(write: &Write, counters: &[&queue_counter::Model]) -> Result<(), db::Error> {
    let rows: Vec<Counts> = counters
        .iter()
        .map(|counter| Counts {
            concert_id: counter.concert_id,
            issued_number: counter.issued_number,
            admitted_number: counter.admitted_number,
            admitted_count: counter.admitted_count,
            departed_count: counter.departed_count,
            left_admitted_count: counter.left_admitted_count,
            expired_count: counter.expired_count,
            paced_time: counter.paced_time,
        })
        .collect();
    let sql = "UPDATE queue_counter SET issued_number = r.issued_number, admitted_number = r.admitted_number,
                      admitted_count = r.admitted_count, departed_count = r.departed_count,
                      left_admitted_count = r.left_admitted_count, expired_count = r.expired_count,
                      paced_time = r.paced_time
               FROM {r} WHERE queue_counter.concert_id = r.concert_id";
    write.change_set(sql, &rows, []).await
}

rows! {
    /// A draw that is being held.
    pub struct Participants {
        /// The key of the concert.
        pub concert_id: i64,
        /// The number of tokens that take part.
        pub participant_count: i64,
    }
}

/// Fixes the participants of draws, whose counters the caller must have locked, and returns the draws. Afterwards, no
/// transaction holds these draws again.
pub async fn hold_draws(write: &Write, draws: &[Participants]) -> Result<Vec<HeldDraw>, db::Error> {
    let sql = "UPDATE concert SET participant_count = r.participant_count FROM {r}
               WHERE concert.concert_id = r.concert_id AND concert.participant_count IS NULL
               RETURNING concert.concert_id AS concert_id, concert.draw_seed AS draw_seed,
                         concert.draw_salt AS draw_salt, concert.participant_count AS participant_count";
    let held: Vec<HeldDraw> = write.query_set(sql, draws, []).await?;
    if held.len() != draws.len() {
        return Err(db::Error::Lost);
    }
    let sql = "UPDATE queue_counter SET draw_time = NULL FROM {r} WHERE queue_counter.concert_id = r.concert_id";
    write.change_set(sql, draws, []).await?;
    Ok(held)
}

/// Moves the draw of a concert, whose counter the caller must have locked, to another time.
pub async fn move_draw(write: &Write, concert_id: i64, draw_time: Micros) -> Result<(), db::Error> {
    let sql = "UPDATE queue_counter SET draw_time = $2 WHERE concert_id = $1";
    write.execute(sql, [concert_id.into(), draw_time.into()]).await.map(drop)
}

/// A draw that was held.
#[derive(FromQueryResult)]
pub struct HeldDraw {
    /// The key of the concert.
    pub concert_id: i64,
    /// The seed, in hexadecimal.
    pub draw_seed: String,
    /// The salt.
    pub draw_salt: String,
    /// The number of tokens that took part.
    pub participant_count: i64,
}

/// Returns the draw of a concert. Returns `None` if no draw was held.
pub async fn held_draw(db: &Database, concert_id: i64) -> Result<Option<HeldDraw>, db::Error> {
    let sql = "SELECT concert_id, draw_seed, draw_salt, participant_count FROM concert
               WHERE concert_id = $1 AND participant_count IS NOT NULL";
    Ok(db.query(sql, [concert_id.into()]).await?.into_iter().next())
}

rows! {
    /// A concert and a user in its queue.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Visit {
        /// The key of the concert.
        pub concert_id: i64,
        /// The id of the user.
        pub user_id: Uuid,
    }
}

/// For each visit, returns the last token of the user at the concert. The tokens are locked in the order of their keys.
/// All earlier tokens of the user at the concert have ended.
pub async fn lock_last(write: &Write, visits: &[Visit]) -> Result<Vec<queue_token::Model>, db::Error> {
    let sql = "SELECT t.* FROM {r} JOIN queue_token t
               ON t.user_id = r.user_id AND t.concert_id = r.concert_id
              AND t.turn = (SELECT MAX(x.turn) FROM queue_token x
                            WHERE x.user_id = r.user_id AND x.concert_id = r.concert_id)
               {lock of t in order of t.concert_id, t.queue_number}";
    write.find_set(sql, visits, []).await
}

/// Returns the tokens with these keys, locked in the order of the keys.
pub async fn lock(write: &Write, keys: &[TokenKey]) -> Result<Vec<queue_token::Model>, db::Error> {
    let sql = "SELECT t.* FROM queue_token t JOIN {r}
               ON t.concert_id = r.concert_id AND t.queue_number = r.queue_number
               {lock of t in order of t.concert_id, t.queue_number}";
    write.find_set(sql, keys, []).await
}

/// Returns the tokens with these keys.
pub async fn find(db: &Database, keys: &[TokenKey]) -> Result<Vec<queue_token::Model>, db::Error> {
    let sql = "SELECT t.* FROM {r} JOIN queue_token t
               ON t.concert_id = r.concert_id AND t.queue_number = r.queue_number";
    db.find_set(sql, keys, []).await
}

/// Returns the tokens with these keys that have ended: expired, completed or left.
pub async fn find_ended(db: &Database, keys: &[TokenKey]) -> Result<Vec<queue_token::Model>, db::Error> {
    let sql = "SELECT t.* FROM {r} JOIN queue_token t
               ON t.concert_id = r.concert_id AND t.queue_number = r.queue_number
               WHERE t.state NOT IN ('WAITING', 'ACTIVE')";
    db.find_set(sql, keys, []).await
}

rows! {
    struct NewToken {
        concert_id: i64,
        queue_number: i64,
        user_id: Uuid,
        turn: i64,
    }
}

/// Inserts tokens in the state WAITING.
pub async fn insert(write: &Write, tokens: &[queue_token::Model]) -> Result<(), db::Error> {
    let rows: Vec<NewToken> = tokens
        .iter()
        .map(|token| NewToken {
            concert_id: token.concert_id,
            queue_number: token.queue_number,
            user_id: token.user_id,
            turn: token.turn,
        })
        .collect();
    let sql = "INSERT INTO queue_token (concert_id, queue_number, user_id, turn, state, issue_time)
               SELECT r.concert_id, r.queue_number, r.user_id, r.turn, 'WAITING', $2 FROM {r}";
    write.change_set(sql, &rows, [write.now().into()]).await
}

/// Sets the state of locked tokens to EXPIRED or COMPLETED.
pub async fn end(write: &Write, keys: &[TokenKey], state: State) -> Result<(), db::Error> {
    let sql = "UPDATE queue_token SET state = $2 FROM {r}
               WHERE queue_token.concert_id = r.concert_id AND queue_token.queue_number = r.queue_number";
    write.change_set(sql, keys, [state.to_value().into()]).await
}

/// Records the first use of locked ACTIVE tokens: moves `claimed_expire_time` to `expire_time`. A token without
/// `claimed_expire_time` stays unchanged.
pub async fn claim(write: &Write, keys: &[TokenKey]) -> Result<(), db::Error> {
    let sql = "UPDATE queue_token SET expire_time = claimed_expire_time, claimed_expire_time = NULL FROM {r}
               WHERE queue_token.concert_id = r.concert_id AND queue_token.queue_number = r.queue_number
                 AND queue_token.claimed_expire_time IS NOT NULL";
    write.execute_set(sql, keys, []).await.map(drop)
}

rows! {
    /// A token that leaves its queue.
    pub struct Departure {
        /// The key of the concert.
        pub concert_id: i64,
        /// The queue number of the token.
        pub queue_number: i64,
        /// The number of the departure. The departures of a concert are numbered from 1 without gaps.
        pub departure_number: i64,
    }
}

/// Sets locked tokens to LEFT.
pub async fn depart(write: &Write, departures: &[Departure]) -> Result<(), db::Error> {
    let sql = "UPDATE queue_token SET state = 'LEFT', departure_number = r.departure_number FROM {r}
               WHERE queue_token.concert_id = r.concert_id AND queue_token.queue_number = r.queue_number";
    write.change_set(sql, departures, []).await
}

/// The values that decide how many tokens of a concert a promotion may admit.
#[derive(FromQueryResult)]
pub struct Demand {
    /// Whether admission is paused.
    pub paused: bool,
    /// The time at which admission starts.
    pub open_time: Micros,
    /// Maximum number of ACTIVE tokens. 0 means no maximum. The number of unsold seats on sale always limits the ACTIVE
    /// tokens too.
    pub max_active_count: i32,
    /// Maximum number of admissions per minute. 0 means no such maximum.
    pub max_admissions_per_minute: i32,
    /// Maximum time from an admission to its first use, in microseconds. 0 means no limit. `None` means the default of
    /// the server.
    pub claim_ttl: Option<Micros>,
    /// The number of unpaid seats on dates that are on sale.
    pub unsold_seat_count: i64,
    /// The number of tokens of the concert that payments completed.
    pub completed_count: i64,
}

/// Returns the [`Demand`] of one concert at the time of the transaction. Returns `None` if there is no such concert.
pub async fn demand(write: &Write, concert_id: i64) -> Result<Option<Demand>, db::Error> {
    let sql = "SELECT c.paused, c.open_time, c.max_active_count, c.max_admissions_per_minute, c.claim_ttl,
                      CAST(COALESCE(SUM(CASE WHEN p.sale_end_time > $2 THEN p.seat_count - p.sold_seat_count END), 0)
                           AS BIGINT) AS unsold_seat_count,
                      CAST(COALESCE(SUM(p.completed_token_count), 0) AS BIGINT) AS completed_count
               FROM concert c LEFT JOIN performance p ON p.concert_id = c.concert_id
               WHERE c.concert_id = $1 GROUP BY c.concert_id";
    let found = write.query(sql, [concert_id.into(), write.now().into()]).await?;
    Ok(found.into_iter().next())
}

/// Sets up to `limit` ACTIVE tokens of a concert that are past their expiry to EXPIRED. Returns these tokens, in any
/// order.
///
/// The statement waits for locked tokens, because the call that holds the lock may be the first use of the admission.
/// After a first use, `expire_time` is later, and the statement skips the token. `+ 0` makes SQLite use the index of
/// ACTIVE tokens by `expire_time`.
pub async fn expire(write: &Write, concert_id: i64, limit: i64) -> Result<Vec<Numbered>, db::Error> {
    let sql = "WITH due AS MATERIALIZED (
                   SELECT concert_id, queue_number FROM queue_token
                   WHERE state = 'ACTIVE' AND expire_time <= $1 AND concert_id + 0 = $2
                   ORDER BY expire_time LIMIT $3)
               UPDATE queue_token SET state = 'EXPIRED' FROM due
               WHERE queue_token.concert_id = due.concert_id AND queue_token.queue_number = due.queue_number
                 AND queue_token.state = 'ACTIVE' AND queue_token.expire_time <= $1
               RETURNING queue_token.queue_number AS queue_number, queue_token.user_id AS user_id";
    write.query(sql, [write.now().into(), concert_id.into(), limit.into()]).await
}

/// The admission that a promotion grants.
pub struct Grant {
    /// Maximum number of tokens to admit.
    pub count: i64,
    /// The end of the admission.
    pub expire_time: Micros,
    /// The value that the first use of the admission gives to `expire_time`. `None` means that no early use is
    /// required.
    pub claimed_expire_time: Option<Micros>,
}

/// The number and the user of a token.
#[derive(FromQueryResult)]
pub struct Numbered {
    /// The queue number of the token.
    pub queue_number: i64,
    /// The id of the user.
    pub user_id: Uuid,
}

/// Admits the first waiting tokens after the last admitted number, at most `grant.count`. Returns these tokens, in any
/// order.
///
/// The rows are selected once, in a materialized step. Without this step, PostgreSQL may run the subquery again for
/// each row that it updates. The subquery would then skip the updated rows and admit more than `count` tokens. `|| ''`
/// stops the planner from using an index that is not in the order of the queue.
///
/// The UPDATE compares both columns of the key with the selected rows. Do not write `concert_id = $1` instead. As long
/// as PostgreSQL has no statistics about the concert, it may then compare each token of the queue with each selected
/// row. This took 7 s for 1,000 of 26,100 tokens, instead of 30 ms.
pub async fn admit(write: &Write, counter: &queue_counter::Model, grant: &Grant) -> Result<Vec<Numbered>, db::Error> {
    let sql = "WITH next AS MATERIALIZED (
                   SELECT concert_id, queue_number FROM queue_token
                   WHERE concert_id = $1 AND queue_number > $2 AND state || '' = 'WAITING'
                   ORDER BY queue_number LIMIT $3 {lock})
               UPDATE queue_token SET state = 'ACTIVE', admit_time = $4, expire_time = $5, claimed_expire_time = $6
               FROM next
               WHERE queue_token.concert_id = next.concert_id AND queue_token.queue_number = next.queue_number
               RETURNING queue_token.queue_number AS queue_number, queue_token.user_id AS user_id";
    let values = [
        counter.concert_id.into(),
        counter.admitted_number.into(),
        grant.count.into(),
        write.now().into(),
        grant.expire_time.into(),
        grant.claimed_expire_time.into(),
    ];
    write.query(sql, values).await
}

/// Returns the waiting tokens among the tokens with these keys, in any order. The caller must have locked the counters
/// of their concerts, so that no token stops waiting.
pub async fn waiting_among(write: &Write, keys: &[TokenKey]) -> Result<Vec<Numbered>, db::Error> {
    let sql = "SELECT t.queue_number, t.user_id FROM {r} JOIN queue_token t
               ON t.concert_id = r.concert_id AND t.queue_number = r.queue_number
               WHERE t.state = 'WAITING'";
    write.query_set(sql, keys, []).await
}

/// Admits the waiting tokens with these keys. `grant.count` has no effect.
pub async fn admit_keys(write: &Write, keys: &[TokenKey], grant: &Grant) -> Result<(), db::Error> {
    let sql = "UPDATE queue_token SET state = 'ACTIVE', admit_time = $2, expire_time = $3, claimed_expire_time = $4
               FROM {r} WHERE queue_token.concert_id = r.concert_id AND queue_token.queue_number = r.queue_number
                 AND queue_token.state = 'WAITING'";
    let values = [write.now().into(), grant.expire_time.into(), grant.claimed_expire_time.into()];
    write.change_set(sql, keys, values).await
}

/// Adds admissions to the count of the current second. The caller must have locked the counter of the concert.
pub async fn count_admissions(write: &Write, concert_id: i64, admission_count: i64) -> Result<(), db::Error> {
    let sql = "INSERT INTO admission_second (concert_id, slot, second, admission_count) VALUES ($1, $2 % 64, $2, $3)
               ON CONFLICT (concert_id, slot) DO UPDATE
               SET second = excluded.second,
                   admission_count = excluded.admission_count
                                   + CASE WHEN admission_second.second = excluded.second
                                          THEN admission_second.admission_count ELSE 0 END";
    let second = write.now().div_euclid(1_000_000);
    write.execute(sql, [concert_id.into(), second.into(), admission_count.into()]).await.map(drop)
}

/// A concert for which a pass has work.
#[derive(FromQueryResult)]
pub struct Due {
    /// The key of the concert.
    pub concert_id: i64,
}

/// Returns the concerts whose draws are due.
pub async fn concerts_to_draw(db: &Database) -> Result<Vec<Due>, db::Error> {
    let sql = "SELECT concert_id FROM queue_counter WHERE draw_time <= $1";
    db.query(sql, [db.now().into()]).await
}

/// A concert that may admit a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromQueryResult)]
pub struct Promotable {
    /// The key of the concert.
    pub concert_id: i64,
    /// The number of tokens that took part in the draw. `None` if the concert has no draw.
    pub participant_count: Option<i64>,
}

/// Returns the concerts that may admit a token now, in the order of their keys. Their admission has started and is not
/// paused, and their draws were held. They have unsold seats on sale, and have issued numbers above the last admitted
/// place.
pub async fn concerts_to_promote(db: &Database) -> Result<Vec<Promotable>, db::Error> {
    let sql = "SELECT s.concert_id, c.participant_count FROM (
                   SELECT DISTINCT p.concert_id + 0 AS concert_id FROM performance p
                   WHERE p.sale_end_time > $1 AND p.sold_seat_count < p.seat_count) AS s
               JOIN queue_counter q ON q.concert_id = s.concert_id AND q.issued_number > q.admitted_number
                                   AND q.draw_time IS NULL
               JOIN concert c ON c.concert_id = s.concert_id AND NOT c.paused AND c.open_time <= $1
               ORDER BY s.concert_id";
    db.query(sql, [db.now().into()]).await
}

/// Returns the concerts with ACTIVE tokens past their expiry.
///
/// `+ 0` makes SQLite find the distinct concerts with the index of ACTIVE tokens. Otherwise SQLite may read all tokens
/// in the order of their concerts.
pub async fn concerts_to_expire(db: &Database) -> Result<Vec<Due>, db::Error> {
    let sql =
        "SELECT DISTINCT concert_id + 0 AS concert_id FROM queue_token WHERE state = 'ACTIVE' AND expire_time <= $1";
    db.query(sql, [db.now().into()]).await
}

/// The counts of one queue at one moment.
#[derive(Debug, FromQueryResult)]
pub struct Progress {
    /// The key of the concert.
    pub concert_id: i64,
    /// The last number that was issued.
    pub issued_number: i64,
    /// The last place that was admitted.
    pub admitted_number: i64,
    /// The number of tokens that were admitted, including tokens that have ended.
    pub admitted_count: i64,
    /// The number of tokens that left, before or after their admission.
    pub departed_count: i64,
    /// The number of admitted tokens that have left, expired or completed. Tokens that were completed for a date that
    /// is off sale are not counted.
    pub ended_count: i64,
    /// The number of unpaid seats on dates that are on sale.
    pub unsold_seat_count: i64,
    /// The time at which a draw is to be held. `None` after the draw, or if the concert has no draw.
    pub draw_time: Option<Micros>,
    /// The number of tokens that took part in the draw. `None` before the draw, or if the concert has no draw.
    pub participant_count: Option<i64>,
    /// The time at which admission starts.
    pub open_time: Micros,
    /// Whether admission is paused.
    pub paused: bool,
    /// Maximum number of admissions per minute. 0 means no such maximum.
    pub max_admissions_per_minute: i32,
}

/// Returns the progress of all concerts with a date on sale, at one moment.
///
/// `+ 0` makes SQLite read only the dates on sale. Otherwise SQLite may read all dates, in the order of their concerts.
pub async fn progress_on_sale(db: &Database) -> Result<Vec<Progress>, db::Error> {
    let sql = "SELECT q.concert_id, q.issued_number, q.admitted_number, q.admitted_count, q.departed_count,
                      q.left_admitted_count + q.expired_count + s.completed_count AS ended_count,
                      s.unsold_seat_count, q.draw_time,
                      c.participant_count, c.open_time, c.paused, c.max_admissions_per_minute
               FROM (SELECT p.concert_id + 0 AS concert_id,
                            CAST(SUM(p.seat_count - p.sold_seat_count) AS BIGINT) AS unsold_seat_count,
                            CAST(SUM(p.completed_token_count) AS BIGINT) AS completed_count
                     FROM performance p WHERE p.sale_end_time > $1 GROUP BY p.concert_id + 0) AS s
               JOIN queue_counter q ON q.concert_id = s.concert_id
               JOIN concert c ON c.concert_id = s.concert_id";
    db.query(sql, [db.now().into()]).await
}

/// Returns the progress of these concerts. The caller must know that these concerts have no date on sale.
pub async fn progress_off_sale(db: &Database, concert_ids: &[i64]) -> Result<Vec<Progress>, db::Error> {
    let sql = "SELECT q.concert_id, q.issued_number, q.admitted_number, q.admitted_count, q.departed_count,
                      q.left_admitted_count + q.expired_count AS ended_count, CAST(0 AS BIGINT) AS unsold_seat_count,
                      q.draw_time, c.participant_count, c.open_time, c.paused, c.max_admissions_per_minute
               FROM {r} JOIN queue_counter q ON q.concert_id = r.id JOIN concert c ON c.concert_id = r.id";
    db.query_set(sql, concert_ids, []).await
}

rows! {
    /// The departures of a concert that this replica has read so far.
    pub struct Known {
        /// The key of the concert.
        pub concert_id: i64,
        /// The number of the last departure that this replica has read; 0 if this replica has read no departure.
        pub departure_number: i64,
        /// A number up to which no token waits. Departures up to this number no longer change a position.
        pub passed_number: i64,
    }
}

/// A departure that may change the positions of waiting users.
#[derive(FromQueryResult)]
pub struct Departed {
    /// The key of the concert.
    pub concert_id: i64,
    /// The queue number of the token that left.
    pub queue_number: i64,
}

/// For each concert, returns the departures after `departure_number` of tokens whose queue number is above
/// `passed_number`.
pub async fn departures_since(db: &Database, known: &[Known]) -> Result<Vec<Departed>, db::Error> {
    let sql = "SELECT t.concert_id, t.queue_number FROM {r} JOIN queue_token t
               ON t.concert_id = r.concert_id AND t.departure_number > r.departure_number
               WHERE t.departure_number IS NOT NULL AND t.queue_number + 0 > r.passed_number";
    db.query_set(sql, known, []).await
}

/// Returns the departed tokens of a concert whose queue number is above `queue_number`. Returns at most `limit` tokens,
/// in the order of their queue numbers.
pub async fn departures_behind(
    db: &Database,
    concert_id: i64,
    queue_number: i64,
    limit: i64,
) -> Result<Vec<Departed>, db::Error> {
    let sql = "SELECT concert_id, queue_number FROM queue_token
               WHERE concert_id = $1 AND queue_number > $2 AND departure_number IS NOT NULL
               ORDER BY queue_number LIMIT $3";
    db.query(sql, [concert_id.into(), queue_number.into(), limit.into()]).await
}

/// Deletes up to `limit` EXPIRED, COMPLETED and LEFT tokens that were issued before `cutoff`. Locked tokens are
/// skipped. Returns the number of deleted tokens.
pub async fn delete_ended(write: &Write, cutoff: Micros, limit: i64) -> Result<u64, db::Error> {
    let sql = "WITH old AS MATERIALIZED (
                   SELECT concert_id, queue_number FROM queue_token
                   WHERE issue_time < $1 AND state NOT IN ('WAITING', 'ACTIVE')
                   ORDER BY issue_time LIMIT $2 {lock} {skip locked})
               DELETE FROM queue_token WHERE (concert_id, queue_number) IN (SELECT concert_id, queue_number FROM old)";
    write.execute(sql, [cutoff.into(), limit.into()]).await
}
