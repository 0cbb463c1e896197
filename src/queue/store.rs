//! Queries of the queue's counters and tokens.

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use uuid::Uuid;

use crate::{
    clock::Micros,
    db::{
        self, Database, Write,
        entity::{queue_counter, queue_token},
    },
};

/// Key of a token: `(concert_id, queue_number)`.
pub type Key = (i64, i64);

/// The counters of the concerts, locked in the order of their ids. Whoever changes the queue's order takes these first.
pub async fn lock_counters(write: &Write, concert_ids: &[i64]) -> Result<Vec<queue_counter::Model>, db::Error> {
    let ids: Vec<(i64,)> = concert_ids.iter().map(|id| (*id,)).collect();
    let statement = write.rows(
        "SELECT c.* FROM queue_counter c JOIN {r: concert_id int} ON c.concert_id = r.concert_id
         ORDER BY c.concert_id {lock of c}",
        &ids,
        [],
    );
    Ok(queue_counter::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// The counter of one concert, locked.
pub async fn lock_counter(write: &Write, concert_id: i64) -> Result<Option<queue_counter::Model>, db::Error> {
    let statement = write.one("SELECT * FROM queue_counter WHERE concert_id = $1 {lock}", [concert_id.into()]);
    Ok(queue_counter::Model::find_by_statement(statement).one(write.conn()).await?)
}

/// Writes locked counters back.
pub async fn save_counters(write: &Write, counters: &[&queue_counter::Model]) -> Result<(), db::Error> {
    let rows: Vec<_> = counters
        .iter()
        .map(|c| (c.concert_id, c.issued_number, c.admitted_number, c.admitted_count, c.departed_count))
        .collect();
    let statement = write.rows(
        "UPDATE queue_counter SET issued_number = r.issued_number, admitted_number = r.admitted_number,
                admitted_count = r.admitted_count, departed_count = r.departed_count
         FROM {r: concert_id int, issued_number int, admitted_number int, admitted_count int, departed_count int}
         WHERE queue_counter.concert_id = r.concert_id",
        &rows,
        [],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// The tokens that say WAITING or ACTIVE of the users in the concerts, locked in the order of their keys. (`+ 0` keeps the planner from
/// looking for a user among all tokens of the concert.)
pub async fn lock_live(write: &Write, places: &[(i64, Uuid)]) -> Result<Vec<queue_token::Model>, db::Error> {
    let statement = write.rows(
        "SELECT t.* FROM queue_token t JOIN {r: concert_id int, user_id uuid}
         ON t.user_id = r.user_id AND t.concert_id + 0 = r.concert_id
         WHERE NOT t.ended
         ORDER BY t.concert_id, t.queue_number {lock of t}",
        places,
        [],
    );
    Ok(queue_token::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// The tokens with these keys, locked in the order of the keys.
pub async fn lock(write: &Write, keys: &[Key]) -> Result<Vec<queue_token::Model>, db::Error> {
    let statement = write.rows(
        "SELECT t.* FROM queue_token t JOIN {r: concert_id int, queue_number int}
         ON t.concert_id = r.concert_id AND t.queue_number = r.queue_number
         ORDER BY t.concert_id, t.queue_number {lock of t}",
        keys,
        [],
    );
    Ok(queue_token::Model::find_by_statement(statement).all(write.conn()).await?)
}

/// The tokens with these keys, as they are.
pub async fn find(db: &Database, keys: &[Key]) -> Result<Vec<queue_token::Model>, db::Error> {
    let statement = db::rows(
        db.engine(),
        "SELECT t.* FROM {r: concert_id int, queue_number int} JOIN queue_token t
         ON t.concert_id = r.concert_id AND t.queue_number = r.queue_number",
        keys,
        [],
    );
    Ok(queue_token::Model::find_by_statement(statement).all(db.reader()).await?)
}

/// Adds tokens, all WAITING.
pub async fn insert(write: &Write, tokens: &[queue_token::Model]) -> Result<(), db::Error> {
    let rows: Vec<_> = tokens.iter().map(|t| (t.concert_id, t.queue_number, t.user_id)).collect();
    let statement = write.rows(
        "INSERT INTO queue_token (concert_id, queue_number, user_id, state, issue_time)
         SELECT r.concert_id, r.queue_number, r.user_id, 'WAITING', $2
         FROM {r: concert_id int, queue_number int, user_id uuid}",
        &rows,
        [write.now.into()],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// Sets the state of locked tokens to EXPIRED or COMPLETED.
pub async fn end(write: &Write, keys: &[Key], state: &'static str) -> Result<(), db::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let statement = write.rows(
        "UPDATE queue_token SET state = $2, ended = true FROM {r: concert_id int, queue_number int}
         WHERE queue_token.concert_id = r.concert_id AND queue_token.queue_number = r.queue_number",
        keys,
        [state.into()],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// Writes the first sign of life of locked ACTIVE tokens down: they last as long as an admission lasts.
pub async fn claim(write: &Write, keys: &[Key]) -> Result<(), db::Error> {
    let statement = write.rows(
        "UPDATE queue_token SET expire_time = claimed_expire_time, claimed_expire_time = NULL
         FROM {r: concert_id int, queue_number int}
         WHERE queue_token.concert_id = r.concert_id AND queue_token.queue_number = r.queue_number
           AND queue_token.claimed_expire_time IS NOT NULL",
        keys,
        [],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// Sets locked tokens to LEFT; each row is a key and the number of the departure.
pub async fn depart(write: &Write, departures: &[(i64, i64, i64)]) -> Result<(), db::Error> {
    if departures.is_empty() {
        return Ok(());
    }
    let statement = write.rows(
        "UPDATE queue_token SET state = 'LEFT', ended = true, departure_number = r.departure_number
         FROM {r: concert_id int, queue_number int, departure_number int}
         WHERE queue_token.concert_id = r.concert_id AND queue_token.queue_number = r.queue_number",
        departures,
        [],
    );
    write.conn().execute_raw(statement).await?;
    Ok(())
}

/// Sets up to `limit` tokens whose admission is over to EXPIRED, and says how many. Locked ones are left for the next pass.
pub async fn expire(write: &Write, limit: i64) -> Result<u64, db::Error> {
    let statement = write.one(
        "WITH over AS MATERIALIZED (
            SELECT concert_id, queue_number FROM queue_token WHERE state = 'ACTIVE' AND expire_time <= $1
            ORDER BY concert_id, queue_number LIMIT $2 {lock} {skip locked})
         UPDATE queue_token SET state = 'EXPIRED', ended = true FROM over
         WHERE queue_token.concert_id = over.concert_id AND queue_token.queue_number = over.queue_number",
        [write.now.into(), limit.into()],
    );
    Ok(write.conn().execute_raw(statement).await?.rows_affected())
}

/// What the promotion of a concert goes by.
#[derive(FromQueryResult)]
pub struct Demand {
    /// Nobody is admitted while true.
    pub paused: bool,
    /// Nobody is admitted before.
    pub open_time: Micros,
    /// Bound of the ACTIVE tokens; 0: none.
    pub max_active_count: i32,
    /// Time for a first sign of life; 0: no limit, `None`: the server's default.
    pub claim_ttl: Option<Micros>,
    /// Seats of all dates that nobody has paid for.
    pub unsold_seat_count: i64,
    /// ACTIVE tokens whose admission is not over.
    pub active_count: i64,
}

/// Concerts where somebody may be waiting.
pub async fn concerts_with_waiting(db: &Database) -> Result<Vec<i64>, db::Error> {
    let statement = db::one(
        db.engine(),
        "SELECT concert_id FROM queue_counter WHERE issued_number > admitted_number ORDER BY concert_id",
        [],
    );
    let rows = db.reader().query_all_raw(statement).await?;
    rows.iter().map(|row| Ok(row.try_get("", "concert_id")?)).collect()
}

/// The demand of one concert, all of one moment.
pub async fn demand(write: &Write, concert_id: i64) -> Result<Option<Demand>, db::Error> {
    let statement = write.one(
        "SELECT c.paused, c.open_time, c.max_active_count, c.claim_ttl,
            (SELECT CAST(COALESCE(SUM(p.seat_count - p.sold_seat_count), 0) AS BIGINT)
             FROM performance p WHERE p.concert_id = c.concert_id) AS unsold_seat_count,
            (SELECT COUNT(*) FROM queue_token t
             WHERE t.concert_id = c.concert_id AND t.state = 'ACTIVE' AND t.expire_time > $2) AS active_count
         FROM concert c WHERE c.concert_id = $1",
        [concert_id.into(), write.now.into()],
    );
    Ok(Demand::find_by_statement(statement).one(write.conn()).await?)
}

/// Admits the first `count` that wait after the last admitted number, until the first instant of `end`, or the second once there was a
/// sign of life; returns the last number and how many. (`|| ''` keeps the planner from an index that is not in queue order.)
///
/// The rows are chosen once, in a materialized step: as a subquery PostgreSQL may choose them again for each row that it updates, pass over those
/// it has updated already, and so admit more than `count`.
pub async fn admit(
    write: &Write,
    counter: &queue_counter::Model,
    count: i64,
    end: (Micros, Option<Micros>),
) -> Result<Option<(i64, usize)>, db::Error> {
    let values: [Value; 6] = [
        counter.concert_id.into(),
        counter.admitted_number.into(),
        count.into(),
        write.now.into(),
        end.0.into(),
        end.1.into(),
    ];
    let statement = write.one(
        "WITH next AS MATERIALIZED (
            SELECT queue_number FROM queue_token
            WHERE concert_id = $1 AND queue_number > $2 AND state || '' = 'WAITING'
            ORDER BY queue_number LIMIT $3 {lock})
         UPDATE queue_token SET state = 'ACTIVE', admit_time = $4, expire_time = $5, claimed_expire_time = $6
         FROM next WHERE queue_token.concert_id = $1 AND queue_token.queue_number = next.queue_number
         RETURNING queue_token.queue_number AS queue_number",
        values,
    );
    let rows = write.conn().query_all_raw(statement).await?;
    let mut last = None;
    for row in &rows {
        last = last.max(Some(row.try_get::<i64>("", "queue_number")?));
    }
    Ok(last.map(|number| (number, rows.len())))
}

/// How far every queue has come, all of one moment.
#[derive(Debug, FromQueryResult)]
pub struct Progress {
    /// Which concert.
    pub concert_id: i64,
    /// The last number issued.
    pub issued_number: i64,
    /// The last number admitted.
    pub admitted_number: i64,
    /// How many were admitted.
    pub admitted_count: i64,
    /// How many have left.
    pub departed_count: i64,
    /// Seats of all dates that nobody has paid for.
    pub unsold_seat_count: i64,
}

/// The progress of all concerts.
pub async fn progress(db: &Database) -> Result<Vec<Progress>, db::Error> {
    let statement = db::one(
        db.engine(),
        "SELECT q.concert_id, q.issued_number, q.admitted_number, q.admitted_count, q.departed_count,
                CAST(COALESCE(SUM(p.seat_count - p.sold_seat_count), 0) AS BIGINT) AS unsold_seat_count
         FROM queue_counter q LEFT JOIN performance p ON p.concert_id = q.concert_id
         GROUP BY q.concert_id, q.issued_number, q.admitted_number, q.admitted_count, q.departed_count",
        [],
    );
    Ok(Progress::find_by_statement(statement).all(db.reader()).await?)
}

/// The numbers that left as departures after the one each concert is known up to, as `(concert, queue number)`.
/// `known` has rows of a concert and its last known departure.
pub async fn departures(db: &Database, known: &[(i64, i64)]) -> Result<Vec<Key>, db::Error> {
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let statement = db::rows(
        db.engine(),
        "SELECT t.concert_id, t.queue_number FROM {r: concert_id int, departure_number int} JOIN queue_token t
         ON t.concert_id = r.concert_id AND t.departure_number > r.departure_number
         WHERE t.departure_number IS NOT NULL",
        known,
        [],
    );
    let rows = db.reader().query_all_raw(statement).await?;
    rows.iter().map(|row| Ok((row.try_get("", "concert_id")?, row.try_get("", "queue_number")?))).collect()
}
