//! Queries of concerts, performances on sale, and seats.

use std::collections::HashMap;

use sea_orm::{ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Micros,
    db::{
        self, Database,
        entity::{concert, reserved_seat},
        found,
    },
};

/// Returns up to `limit` concerts in the order of their codes. `after` is the code of the last concert on the previous
/// page. `None` selects the first page.
pub async fn concerts(db: &Database, after: Option<&str>, limit: usize) -> Result<Vec<concert::Model>, db::Error> {
    let mut query = concert::Entity::find().order_by_asc(concert::Column::ConcertCode).limit(limit as u64);
    if let Some(after) = after {
        query = query.filter(concert::Column::ConcertCode.gt(after));
    }
    db.answer(query.all(&db.reader())).await
}

/// A performance that is not sold out, and whose sale has not ended.
#[derive(FromQueryResult)]
pub struct OnSale {
    /// The key of the concert.
    pub concert_id: i64,
    /// The key of the performance.
    pub performance_id: i64,
    /// The date of the performance, in ISO 8601.
    pub date: String,
    /// The number of seats that are not paid for.
    pub unsold_seat_count: i64,
}

/// For each concert, returns the performances that are on sale at `now` and not sold out. The performances are ordered
/// by concert and date.
pub async fn on_sale(db: &Database, concert_ids: &[i64], now: Micros) -> Result<Vec<OnSale>, db::Error> {
    let sql = "SELECT p.concert_id, p.performance_id, p.date,
                      CAST(p.seat_count - p.sold_seat_count AS BIGINT) AS unsold_seat_count
               FROM {r} JOIN performance p ON p.concert_id = r.id
               WHERE p.sold_seat_count < p.seat_count AND p.sale_end_time > $2
               ORDER BY p.concert_id, p.date";
    db.query_set(sql, concert_ids, [now.into()]).await
}

/// The number of held seats of a performance.
#[derive(FromQueryResult)]
struct Held {
    performance_id: i64,
    seat_count: i64,
}

/// Returns the number of held seats at `now`, by the key of the performance. Performances without held seats are
/// missing. The query reads only holds that end after `now`, so the number of rows does not grow with the history.
pub async fn held_seat_counts(db: &Database, now: Micros) -> Result<HashMap<i64, i64>, db::Error> {
    let sql = "SELECT performance_id, CAST(SUM(seat_count) AS BIGINT) AS seat_count FROM reservation
               WHERE expire_time > $1 AND state = 'HELD' GROUP BY performance_id";
    let held: Vec<Held> = db.query(sql, [now.into()]).await?;
    Ok(held.into_iter().map(|held| (held.performance_id, held.seat_count)).collect())
}

found! {
    /// A seat that is held or sold.
    #[derive(Debug, Clone, Copy)]
    pub struct TakenSeat {
        /// The key of the performance.
        pub performance_id: i64,
        /// The seat's number, from 1.
        pub seat_number: i32,
        /// The state of the seat: held or sold.
        pub state: reserved_seat::State,
    }
}

/// For each performance, returns the seats that are sold, or held at `now`. The seats are ordered by performance and
/// seat number.
pub async fn taken_seats(db: &Database, performance_ids: &[i64], now: Micros) -> Result<Vec<TakenSeat>, db::Error> {
    let sql = "SELECT s.performance_id, s.seat_number, s.state
               FROM {r} JOIN reserved_seat s ON s.performance_id = r.id
               WHERE s.state = 'SOLD' OR s.expire_time > $2
               ORDER BY s.performance_id, s.seat_number";
    db.find_set(sql, performance_ids, [now.into()]).await
}
