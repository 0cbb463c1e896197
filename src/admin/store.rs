//! The queries of AdminService: create and read venues, concerts and performances, change a concert, and read the
//! counts of a sale.

use sea_orm::{ActiveModelTrait, ActiveValue::Set, ColumnTrait, EntityTrait, FromQueryResult, QueryFilter};

use crate::{
    catalogue::rows,
    clock::Micros,
    db::{
        self, Database, Write,
        entity::{concert, performance, queue_counter, section, section_price, venue},
    },
    rpc::proto,
};

/// Inserts a venue with its sections, in the order of their seat numbers. Returns `false` if the id is taken.
pub async fn insert_venue(
    write: &Write,
    venue_id: &str,
    name: &str,
    sections: &[proto::Section],
) -> Result<bool, db::Error> {
    let conn = write.conn();
    if write.answer(venue::Entity::find_by_id(venue_id).one(conn)).await?.is_some() {
        return Ok(false);
    }
    let venue = venue::ActiveModel { venue_id: Set(venue_id.to_owned()), name: Set(name.to_owned()) };
    write.answer(venue::Entity::insert(venue).exec_without_returning(conn)).await?;
    let rows = sections.iter().zip(1..).map(|(section, section_number)| section::ActiveModel {
        venue_id: Set(venue_id.to_owned()),
        section_number: Set(section_number),
        name: Set(section.name.clone()),
        seat_count: Set(section.seat_count),
        seat_rows: Set(rows::write(&section.rows)),
    });
    write.answer(section::Entity::insert_many(rows).exec_without_returning(conn)).await?;
    Ok(true)
}

/// Returns the sections of a venue, in the order of their section numbers. Returns an empty list if there is no such
/// venue.
pub async fn sections(write: &Write, venue_id: &str) -> Result<Vec<section::Model>, db::Error> {
    use sea_orm::QueryOrder;
    let query = section::Entity::find()
        .filter(section::Column::VenueId.eq(venue_id))
        .order_by_asc(section::Column::SectionNumber);
    write.answer(query.all(write.conn())).await
}

/// A section of a venue.
#[derive(Debug, FromQueryResult)]
pub struct VenueSection {
    /// The name of the venue.
    pub venue_name: String,
    /// The number of the section, from 1.
    pub section_number: i32,
    /// The name of the section.
    pub name: String,
    /// The number of seats.
    pub seat_count: i32,
    /// The rows as a JSON array. `None` if the section has no rows.
    pub seat_rows: Option<String>,
}

/// Returns the sections of a venue, in any order. Returns an empty list if there is no such venue.
pub async fn venue(db: &Database, venue_id: &str) -> Result<Vec<VenueSection>, db::Error> {
    let sql =
        "SELECT venue.name AS venue_name, section.section_number, section.name, section.seat_count, section.seat_rows
         FROM venue JOIN section ON section.venue_id = venue.venue_id WHERE venue.venue_id = $1";
    db.query(sql, [venue_id.into()]).await
}

/// A performance, and one section of its venue with its price.
#[derive(Debug, FromQueryResult)]
pub struct PricedSection {
    /// The date of the performance, in ISO 8601.
    pub date: String,
    /// The start of the performance.
    pub start_time: Micros,
    /// The end of the sale.
    pub sale_end_time: Micros,
    /// The id of the venue.
    pub venue_id: String,
    /// The number of the section, from 1.
    pub section_number: i32,
    /// The name of the section.
    pub name: String,
    /// The price of a seat, in the smallest unit of the currency.
    pub price: i64,
}

/// Returns the performances of a concert with every section of their venues, in any order.
pub async fn priced_sections(db: &Database, concert_id: i64) -> Result<Vec<PricedSection>, db::Error> {
    let sql = "SELECT performance.date, performance.start_time, performance.sale_end_time, performance.venue_id,
            section.section_number, section.name, section_price.price
         FROM performance
         JOIN section_price ON section_price.performance_id = performance.performance_id
         JOIN section ON section.venue_id = performance.venue_id
            AND section.section_number = section_price.section_number
         WHERE performance.concert_id = $1";
    db.query(sql, [concert_id.into()]).await
}

/// Returns the issue time of a token. Returns `None` if the token has no row.
pub async fn issue_time(db: &Database, concert_id: i64, queue_number: i64) -> Result<Option<Micros>, db::Error> {
    let sql = "SELECT issue_time FROM queue_token WHERE concert_id = $1 AND queue_number = $2";
    let found: Vec<Issued> = db.query(sql, [concert_id.into(), queue_number.into()]).await?;
    Ok(found.first().map(|token| token.issue_time))
}

#[derive(FromQueryResult)]
struct Issued {
    issue_time: Micros,
}

/// Inserts a concert, its queue counter and the time of its draw. Returns `None` if the code is taken.
pub async fn insert_concert(
    write: &Write,
    concert_code: &str,
    row: concert::ActiveModel,
) -> Result<Option<concert::Model>, db::Error> {
    if find_concert(write, concert_code).await?.is_some() {
        return Ok(None);
    }
    let row = write.answer(row.insert(write.conn())).await?;
    let draw_time = row.draw_seed.as_ref().map(|_| row.open_time);
    let counter =
        queue_counter::ActiveModel { concert_id: Set(row.concert_id), draw_time: Set(draw_time), ..Default::default() };
    write.answer(queue_counter::Entity::insert(counter).exec_without_returning(write.conn())).await?;
    Ok(Some(row))
}

/// Returns the concert with this code. Returns `None` if there is no such concert.
pub async fn find_concert(write: &Write, concert_code: &str) -> Result<Option<concert::Model>, db::Error> {
    let query = concert::Entity::find().filter(concert::Column::ConcertCode.eq(concert_code));
    write.answer(query.one(write.conn())).await
}

/// Updates the row of a concert, and returns the new row.
pub async fn update_concert(write: &Write, row: concert::ActiveModel) -> Result<concert::Model, db::Error> {
    write.answer(row.update(write.conn())).await
}

/// Inserts the performance of a concert on a date. `prices` has the price of each section, in the order of the section
/// numbers.
///
/// Returns `false` if the concert already has a performance on this date.
pub async fn insert_performance(
    write: &Write,
    concert_id: i64,
    date: &str,
    row: performance::ActiveModel,
    prices: &[i64],
) -> Result<bool, db::Error> {
    let query = performance::Entity::find()
        .filter(performance::Column::ConcertId.eq(concert_id))
        .filter(performance::Column::Date.eq(date));
    if write.answer(query.one(write.conn())).await?.is_some() {
        return Ok(false);
    }
    let row = write.answer(row.insert(write.conn())).await?;
    let prices = prices.iter().zip(1..).map(|(price, section_number)| section_price::ActiveModel {
        performance_id: Set(row.performance_id),
        section_number: Set(section_number),
        price: Set(*price),
    });
    write.answer(section_price::Entity::insert_many(prices).exec_without_returning(write.conn())).await?;
    Ok(true)
}

/// Tells whether the database has at least one concert.
pub async fn has_concerts(write: &Write) -> Result<bool, db::Error> {
    Ok(write.answer(concert::Entity::find().one(write.conn())).await?.is_some())
}

/// The counts of one sale.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Counts {
    /// The number of tokens issued.
    pub issued_count: i64,
    /// The number of tokens that were admitted, including tokens that have ended.
    pub admitted_count: i64,
    /// The number of tokens that left the queue with LeaveQueue, before or after their admission.
    pub left_count: i64,
    /// The number of tokens that left after they were admitted.
    pub left_admitted_count: i64,
    /// The number of tokens in the state EXPIRED, including deleted tokens.
    pub expired_count: i64,
    /// The number of ACTIVE tokens past their expiry. The next expiry or promotion pass sets them to EXPIRED.
    pub due_count: i64,
    /// The number of tokens that a payment completed.
    pub completed_count: i64,
    /// The number of unpaid seats of all performances, including held seats.
    pub unsold_seat_count: i64,
    /// The number of paid seats of all performances.
    pub sold_seat_count: i64,
    /// The number of seats in holds that have not ended.
    pub held_seat_count: i64,
    /// The number of tokens admitted from the first full second after `since`.
    pub admissions: i64,
    /// The number of payments from the first full second after `since`.
    pub payments: i64,
    /// The sum of the payments that were not refunded, in the smallest unit of the currency.
    pub revenue: i64,
    /// The issue time of the waiting token with the lowest number above the last admitted place. `None` means that no
    /// such token exists.
    pub oldest_issue_time: Option<Micros>,
}

/// Returns the counts of a concert's sale at `now`. Admissions and payments are counted after `since`. Returns `None`
/// if the concert has no queue.
///
/// The query reads stored counts and recent rows, so its cost does not grow with the history of the sale.
pub async fn counts(db: &Database, concert_id: i64, now: Micros, since: Micros) -> Result<Option<Counts>, db::Error> {
    let sql = "SELECT q.issued_number AS issued_count, q.admitted_count, q.departed_count AS left_count,
            q.left_admitted_count, q.expired_count,
            (SELECT COUNT(*) FROM queue_token d
             WHERE d.state = 'ACTIVE' AND d.expire_time <= $2 AND d.concert_id + 0 = q.concert_id) AS due_count,
            f.completed_count, f.unsold_seat_count, f.sold_seat_count, f.revenue,
            (SELECT CAST(COALESCE(SUM(v.seat_count), 0) AS BIGINT) FROM reservation v
             WHERE v.expire_time > $2 AND v.state = 'HELD' AND v.concert_id = q.concert_id) AS held_seat_count,
            (SELECT CAST(COALESCE(SUM(a.admission_count), 0) AS BIGINT) FROM admission_second a
             WHERE a.concert_id = q.concert_id AND a.second > $3 / 1000000) AS admissions,
            (SELECT CAST(COALESCE(SUM(n.payment_count), 0) AS BIGINT)
             FROM performance s JOIN payment_second n ON n.performance_id = s.performance_id
             WHERE s.concert_id = q.concert_id AND n.second > $3 / 1000000) AS payments,
            (SELECT t.issue_time FROM queue_token t
             WHERE t.concert_id = q.concert_id AND t.queue_number > q.admitted_number AND t.state || '' = 'WAITING'
             ORDER BY t.queue_number LIMIT 1) AS oldest_issue_time
         FROM queue_counter q CROSS JOIN (
            SELECT CAST(COALESCE(SUM(s.completed_token_count), 0) AS BIGINT) AS completed_count,
                   CAST(COALESCE(SUM(s.seat_count - s.sold_seat_count), 0) AS BIGINT) AS unsold_seat_count,
                   CAST(COALESCE(SUM(s.sold_seat_count), 0) AS BIGINT) AS sold_seat_count,
                   CAST(COALESCE(SUM(s.revenue), 0) AS BIGINT) AS revenue
            FROM performance s WHERE s.concert_id = $1) AS f
         WHERE q.concert_id = $1";
    Ok(db.query(sql, [concert_id.into(), now.into(), since.into()]).await?.into_iter().next())
}
