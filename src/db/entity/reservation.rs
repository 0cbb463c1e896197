//! Seats of one performance, kept for one token.

use sea_orm::entity::prelude::*;

use super::queue_token::TokenKey;

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
    /// Its time ran out.
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
    /// The user.
    pub user_id: Uuid,
    /// The token that holds it, with `queue_number`.
    pub concert_id: i64,
    /// The token that holds it, with `concert_id`.
    pub queue_number: i64,
    /// The performance.
    pub performance_id: i64,
    /// A JSON array, ascending.
    pub seat_numbers: String,
    /// The number of seats.
    pub seat_count: i32,
    /// The sum of the prices of the seats, in the smallest unit of the currency.
    pub total_price: i64,
    /// HELD after `expire_time` means EXPIRED, also before a sweep says so.
    pub state: State,
    /// Whether the state is HELD or PAID. Payments leave it, and so the index of it, as it is.
    pub live: bool,
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

impl Model {
    /// The key of the token that holds it.
    pub fn token(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
