//! One concert at one venue on one date.

use sea_orm::entity::prelude::*;

/// A row of `performance`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "performance")]
pub struct Model {
    /// Made by the database; never shown.
    #[sea_orm(primary_key)]
    pub performance_id: i64,
    /// The concert.
    pub concert_id: i64,
    /// ISO-8601; unique in the concert.
    pub date: String,
    /// When it starts.
    pub start_time: i64,
    /// Until when it is sold.
    pub sale_end_time: i64,
    /// The venue.
    pub venue_id: String,
    /// Seats of the venue.
    pub seat_count: i32,
    /// Seats that are paid for.
    pub sold_seat_count: i32,
    /// The number of tokens that a payment completed, refunded ones included.
    pub completed_token_count: i64,
    /// The sum of the payments that were not refunded, in the smallest unit of the currency.
    pub revenue: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
