//! The counters of a concert's queue.

use sea_orm::entity::prelude::*;

/// A row of `queue_counter`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "queue_counter")]
pub struct Model {
    /// The key of the concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub concert_id: i64,
    /// The last number that was issued; 0 before the first token.
    pub issued_number: i64,
    /// The last place that was admitted; 0 before the first admission. No token with this place or a lower place waits.
    /// The place of a token is its number, unless the concert has a draw.
    pub admitted_number: i64,
    /// The number of tokens that were admitted, including tokens that have ended. Tokens that left while they were
    /// waiting are not counted.
    pub admitted_count: i64,
    /// The number of tokens that left, before or after their admission.
    pub departed_count: i64,
    /// The number of tokens that left after they were admitted.
    pub left_admitted_count: i64,
    /// The number of tokens that were set to EXPIRED, including tokens that were deleted later.
    pub expired_count: i64,
    /// The time at which the draw of the concert is to be held. `None` after the draw, or if the concert has no draw.
    pub draw_time: Option<i64>,
    /// The time of the last slot in which a token was admitted; see `Pace` in `queue/rules.rs`.
    pub paced_time: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
