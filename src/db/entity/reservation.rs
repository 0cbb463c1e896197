//! Seats of a performance that are held for a token, and their later state.

use sea_orm::entity::prelude::*;

use super::queue_token::TokenKey;

/// The state of a reservation; see `ReservationState` in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The seats are held until `expire_time`.
    Held,
    /// The seats are paid for.
    Paid,
    /// The user released the seats before a payment.
    Released,
    /// The hold expired.
    Expired,
    /// The payment was refunded.
    Refunded,
}

/// A row of `reservation`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reservation")]
pub struct Model {
    /// The key, a UUID of version 7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub reservation_id: Uuid,
    /// The id of the user.
    pub user_id: Uuid,
    /// The concert. The key of the token is `concert_id` and `queue_number`.
    pub concert_id: i64,
    /// The number of the token. The key of the token is `concert_id` and `queue_number`.
    pub queue_number: i64,
    /// The key of the performance.
    pub performance_id: i64,
    /// The seat numbers as a JSON array, ascending.
    pub seat_numbers: String,
    /// The number of seats.
    pub seat_count: i32,
    /// The sum of the prices of the seats.
    pub total_price: i64,
    /// The state. A HELD reservation past its `expire_time` is EXPIRED, even before a pass sets the state.
    pub state: State,
    /// Whether the state is HELD or PAID. A payment leaves this value unchanged, so no index is updated.
    pub live: bool,
    /// The number of changes of the row, for optimistic locking.
    pub version: i64,
    /// The time at which the seats were taken.
    pub hold_time: i64,
    /// The first value of `expire_time`, before any extension.
    pub first_expire_time: i64,
    /// The end of the hold.
    pub expire_time: i64,
    /// The request that made the reservation.
    pub request_id: Option<Uuid>,
    /// The time of the payment.
    pub pay_time: Option<i64>,
    /// The time of the refund.
    pub refund_time: Option<i64>,
    /// The id of a payment that an earlier version made. The ids of all other payments follow from `reservation_id`.
    pub payment_id: Option<Uuid>,
}

impl Model {
    /// Returns the key of the token.
    pub fn token(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }
}

/// The relations of the table. There are none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
