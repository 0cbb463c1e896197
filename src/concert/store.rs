//! Queries of the catalogue and of free seats.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Micros,
    db::{self, Database},
    entity::{concert, performance, reserved_seat, section, section_price, venue},
};

/// The concert with this code.
pub async fn concert_row(db: &Database, concert_code: &str) -> Result<Option<concert::Model>, db::Error> {
    let row = concert::Entity::find().filter(concert::Column::ConcertCode.eq(concert_code)).one(db.reader()).await?;
    Ok(row)
}

/// Concerts by code, from the one after `after`.
pub async fn concerts(db: &Database, after: Option<&str>, limit: usize) -> Result<Vec<concert::Model>, db::Error> {
    let mut query = concert::Entity::find().order_by_asc(concert::Column::ConcertCode).limit(limit as u64);
    if let Some(after) = after {
        query = query.filter(concert::Column::ConcertCode.gt(after));
    }
    Ok(query.all(db.reader()).await?)
}

/// The key of the performance of a concert on a date.
pub async fn performance_id(db: &Database, concert_id: i64, date: &str) -> Result<Option<i64>, db::Error> {
    let row = performance::Entity::find()
        .filter(performance::Column::ConcertId.eq(concert_id))
        .filter(performance::Column::Date.eq(date))
        .one(db.reader())
        .await?;
    Ok(row.map(|row| row.performance_id))
}

/// A performance with its concert, its venue and the venue's sections as `(name, seat count, price)` in order.
#[allow(clippy::type_complexity, reason = "a row of a join, taken apart at once")]
pub async fn performance(
    db: &Database,
    performance_id: i64,
) -> Result<Option<(performance::Model, concert::Model, venue::Model, Vec<(String, i32, i64)>)>, db::Error> {
    let conn = db.reader();
    let Some(row) = performance::Entity::find_by_id(performance_id).one(conn).await? else {
        return Ok(None);
    };
    let concert = concert::Entity::find_by_id(row.concert_id).one(conn).await?;
    let venue = venue::Entity::find_by_id(&row.venue_id).one(conn).await?;
    let sections = section::Entity::find()
        .filter(section::Column::VenueId.eq(&row.venue_id))
        .order_by_asc(section::Column::SectionNumber)
        .all(conn)
        .await?;
    let prices = section_price::Entity::find()
        .filter(section_price::Column::PerformanceId.eq(performance_id))
        .order_by_asc(section_price::Column::SectionNumber)
        .all(conn)
        .await?;
    // Every section has a price: they were written together.
    let priced = sections
        .into_iter()
        .zip(prices)
        .map(|(section, price)| (section.name, section.seat_count, price.price))
        .collect();
    Ok(concert.zip(venue).map(|(concert, venue)| (row, concert, venue, priced)))
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
