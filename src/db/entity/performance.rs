//! A concert at a venue on a date.

use sea_orm::entity::prelude::*;

/// A row of `performance`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "performance")]
pub struct Model {
    /// The key in the database. No message of the API contains it.
    #[sea_orm(primary_key)]
    pub performance_id: i64,
    /// The key of the concert.
    pub concert_id: i64,
    /// The date in ISO 8601, such as `2026-12-24`. A concert has at most one performance on a date.
    pub date: String,
    /// The time at which the performance starts.
    pub start_time: i64,
    /// The time at which the sale ends.
    pub sale_end_time: i64,
    /// The id of the venue.
    pub venue_id: String,
    /// The number of seats of the venue.
    pub seat_count: i32,
    /// The number of seats that are paid for and not refunded.
    pub sold_seat_count: i32,
    /// The number of tokens that payments for this performance completed. A refund does not change this number.
    pub completed_token_count: i64,
    /// The sum of the prices of the payments that were not refunded.
    pub revenue: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
