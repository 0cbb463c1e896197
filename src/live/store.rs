//! The query of what is on sale.

use sea_orm::FromQueryResult;

use crate::{
    clock::Micros,
    db::{self, Database},
};

/// A date that is on sale, with its concert as it is steered now.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct OnSale {
    /// The concert.
    pub concert_id: i64,
    /// The callers' key of the concert.
    pub concert_code: String,
    /// No token is admitted before.
    pub open_time: Micros,
    /// No token is admitted while this is true.
    pub paused: bool,
    /// The performance.
    pub performance_id: i64,
    /// Its date.
    pub date: String,
    /// All its seats.
    pub seat_count: i32,
    /// Those that are paid for.
    pub sold_seat_count: i32,
}

/// Returns the dates that are on sale, in no order. A date that is sold out is one of them until its sale ends.
pub async fn on_sale(db: &Database) -> Result<Vec<OnSale>, db::Error> {
    let sql = "SELECT c.concert_id, c.concert_code, c.open_time, c.paused, p.performance_id, p.date, p.seat_count,
                      p.sold_seat_count
               FROM performance p JOIN concert c ON c.concert_id = p.concert_id
               WHERE p.sale_end_time > $1";
    db.query(sql, [db.now().into()]).await
}
