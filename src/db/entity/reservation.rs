//! Seats of one performance, kept for one token.

use sea_orm::entity::prelude::*;

/// What became of a reservation; see the proto `ReservationState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Kept until `expire_time`.
    Held,
    /// Paid.
    Paid,
    /// Given back.
    Released,
    /// Ran out.
    Expired,
    /// Was paid and given back.
    Refunded,
}

/// A row of `reservation`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reservation")]
pub struct Model {
    /// A UUID of version 7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub reservation_id: Uuid,
    /// Whose.
    pub user_id: Uuid,
    /// The token that holds it, with `queue_number`.
    pub concert_id: i64,
    /// The token that holds it, with `concert_id`.
    pub queue_number: i64,
    /// Which date.
    pub performance_id: i64,
    /// A JSON array, ascending.
    pub seat_numbers: String,
    /// Sum of the seats prices.
    pub total_price: i64,
    /// HELD past `expire_time` means EXPIRED, before a sweep says so.
    pub state: State,
    /// Counts the changes: the optimistic lock.
    pub version: i64,
    /// When the seats were taken.
    pub hold_time: i64,
    /// What `expire_time` was at first.
    pub first_expire_time: i64,
    /// When the hold ends.
    pub expire_time: i64,
    /// The request that made it.
    pub request_id: Option<Uuid>,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
