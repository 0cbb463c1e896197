//! The query for the dates on sale.

use sea_orm::FromQueryResult;

use crate::{
    clock::Micros,
    db::{self, Database},
};

/// A date on sale, with the current settings of its concert.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct OnSale {
    /// The key of the concert.
    pub concert_id: i64,
    /// The code of the concert.
    pub concert_code: String,
    /// The instant at which the sale opens. No token is admitted before it.
    pub open_time: Micros,
    /// Whether the sale is paused. A paused sale admits no tokens.
    pub paused: bool,
    /// The key of the performance.
    pub performance_id: i64,
    /// The date of the performance, in ISO 8601.
    pub date: String,
    /// The number of seats of the performance.
    pub seat_count: i32,
    /// The number of sold seats of the performance.
    pub sold_seat_count: i32,
}

/// Returns the dates whose sale has not ended, in any order. A date is in the result even before its sale opens and
/// after it is sold out.
pub async fn on_sale(db: &Database) -> Result<Vec<OnSale>, db::Error> {
    let sql = "SELECT c.concert_id, c.concert_code, c.open_time, c.paused, p.performance_id, p.date, p.seat_count,
                      p.sold_seat_count
               FROM performance p JOIN concert c ON c.concert_id = p.concert_id
               WHERE p.sale_end_time > $1";
    db.query(sql, [db.now().into()]).await
}
