//! Queries of the catalogue and of free seats.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Micros,
    db::{
        self, Database,
        entity::{concert, reserved_seat},
    },
};

/// Concerts by code, from the one after `after`.
pub async fn concerts(db: &Database, after: Option<&str>, limit: usize) -> Result<Vec<concert::Model>, db::Error> {
    let mut query = concert::Entity::find().order_by_asc(concert::Column::ConcertCode).limit(limit as u64);
    if let Some(after) = after {
        query = query.filter(concert::Column::ConcertCode.gt(after));
    }
    Ok(query.all(db.reader()).await?)
}

/// A performance with how many seats can be held.
#[derive(FromQueryResult)]
pub struct Availability {
    /// Which performance.
    pub performance_id: i64,
    /// Its date.
    pub date: String,
    /// Seats neither sold nor in a hold that has not run out.
    pub available_seat_count: i64,
}

/// The performances of each concert that still have a seat to hold at `now`, by date.
pub async fn open_performances(
    db: &Database,
    concert_ids: &[i64],
    now: Micros,
) -> Result<Vec<(i64, Availability)>, db::Error> {
    let ids: Vec<(i64,)> = concert_ids.iter().map(|id| (*id,)).collect();
    let statement = db::rows(
        db.engine(),
        "WITH counted AS MATERIALIZED (
            SELECT p.concert_id, p.performance_id, p.date, p.seat_count - (
                SELECT COUNT(*) FROM reserved_seat s
                WHERE s.performance_id = p.performance_id AND (s.state = 'SOLD' OR s.expire_time > $2)
            ) AS available
            FROM performance p JOIN {r: concert_id int} ON p.concert_id = r.concert_id
            WHERE p.sold_seat_count < p.seat_count
        )
        SELECT concert_id, performance_id, date, CAST(available AS BIGINT) AS available_seat_count
        FROM counted WHERE available > 0 ORDER BY date",
        &ids,
        [now.into()],
    );
    let rows = db.reader().query_all_raw(statement).await?;
    rows.iter().map(|row| Ok((row.try_get("", "concert_id")?, Availability::from_query_result(row, "")?))).collect()
}

/// A seat that cannot be held.
#[derive(Debug, Clone, Copy, FromQueryResult)]
pub struct TakenSeat {
    /// Which performance.
    pub performance_id: i64,
    /// Which seat.
    pub seat_number: i32,
    /// Held or sold.
    pub state: reserved_seat::State,
}

/// The seats of the performances that are sold or in a hold at `now`, by number.
pub async fn taken_seats(db: &Database, performance_ids: &[i64], now: Micros) -> Result<Vec<TakenSeat>, db::Error> {
    let ids: Vec<(i64,)> = performance_ids.iter().map(|id| (*id,)).collect();
    let statement = db::rows(
        db.engine(),
        "SELECT s.performance_id, s.seat_number, s.state
         FROM {r: performance_id int} JOIN reserved_seat s ON s.performance_id = r.performance_id
         WHERE s.state = 'SOLD' OR s.expire_time > $2
         ORDER BY s.performance_id, s.seat_number",
        &ids,
        [now.into()],
    );
    Ok(TakenSeat::find_by_statement(statement).all(db.reader()).await?)
}
