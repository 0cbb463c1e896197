//! Queries of concerts, performances and venues.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use crate::db::{
    self, Database,
    entity::{concert, performance, section, section_price, venue},
};

/// Returns the concert with this code. Returns `None` if there is no such concert.
pub async fn concert(db: &Database, concert_code: &str) -> Result<Option<concert::Model>, db::Error> {
    let query = concert::Entity::find().filter(concert::Column::ConcertCode.eq(concert_code));
    db.answer(query.one(&db.reader())).await
}

/// Returns the concert with this key. Returns `None` if there is no such concert.
pub async fn concert_by_id(db: &Database, concert_id: i64) -> Result<Option<concert::Model>, db::Error> {
    db.answer(concert::Entity::find_by_id(concert_id).one(&db.reader())).await
}

/// Returns the key of the performance of a concert on a date. Returns `None` if there is no such performance.
pub async fn performance_id(db: &Database, concert_id: i64, date: &str) -> Result<Option<i64>, db::Error> {
    let query = performance::Entity::find()
        .filter(performance::Column::ConcertId.eq(concert_id))
        .filter(performance::Column::Date.eq(date));
    let row = db.answer(query.one(&db.reader())).await?;
    Ok(row.map(|row| row.performance_id))
}

/// Returns a performance with its concert, its venue, and the sections of the venue in the order of their numbers. Each
/// section has its price. Returns `None` if there is no such performance.
#[allow(clippy::type_complexity, reason = "a row of a join, which is converted immediately")]
pub async fn performance(
    db: &Database,
    performance_id: i64,
) -> Result<Option<(performance::Model, concert::Model, venue::Model, Vec<(section::Model, i64)>)>, db::Error> {
    let conn = &db.reader();
    let Some(row) = db.answer(performance::Entity::find_by_id(performance_id).one(conn)).await? else {
        return Ok(None);
    };
    let concert = db.answer(concert::Entity::find_by_id(row.concert_id).one(conn)).await?;
    let venue = db.answer(venue::Entity::find_by_id(&row.venue_id).one(conn)).await?;
    let sections = section::Entity::find()
        .filter(section::Column::VenueId.eq(&row.venue_id))
        .order_by_asc(section::Column::SectionNumber);
    let sections = db.answer(sections.all(conn)).await?;
    let prices = section_price::Entity::find()
        .filter(section_price::Column::PerformanceId.eq(performance_id))
        .order_by_asc(section_price::Column::SectionNumber);
    let prices = db.answer(prices.all(conn)).await?;
    // AddPerformance inserts a price for every section. So `sections` and `prices` have the same sections in the same
    // order.
    let priced = sections.into_iter().zip(prices.into_iter().map(|row| row.price)).collect();
    Ok(concert.zip(venue).map(|(concert, venue)| (row, concert, venue, priced)))
}
