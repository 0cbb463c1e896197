//! A reservation: seats of a performance that were held for a token.

use sea_orm::entity::prelude::*;
use serde::Deserialize;

use super::queue_token::TokenKey;

/// The state of a reservation; see `ReservationState` in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The seats are held. The hold ends at `expire_time`.
    Held,
    /// The seats are paid for, and the payment is not refunded.
    Paid,
    /// The hold was ended before a payment: by ReleaseReservation, by LeaveQueue, or by the payment of another hold of
    /// the token.
    Released,
    /// The hold expired before a payment.
    Expired,
    /// The payment was refunded.
    Refunded,
}

/// A row of `reservation`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Deserialize)]
#[sea_orm(table_name = "reservation")]
pub struct Model {
    /// The key, a UUID of version 7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub reservation_id: Uuid,
    /// The id of the user.
    pub user_id: Uuid,
    /// The key of the concert. The key of the token is `concert_id` and `queue_number`.
    pub concert_id: i64,
    /// The queue number of the token that the seats were held for.
    pub queue_number: i64,
    /// The key of the performance.
    pub performance_id: i64,
    /// The seat numbers as a JSON array, ascending.
    pub seat_numbers: String,
    /// The number of seats.
    pub seat_count: i32,
    /// The sum of the prices of the seats.
    pub total_price: i64,
    /// The stored state. A HELD reservation past its `expire_time` counts as EXPIRED, even before a pass changes the
    /// stored state.
    pub state: State,
    /// Whether the stored state is HELD or PAID. A payment does not change this value, so a payment updates no index of
    /// this table.
    pub live: bool,
    /// The version of the row, for optimistic locking. Each change of the row adds 1.
    pub version: i64,
    /// The time at which the hold began.
    pub hold_time: i64,
    /// The first value of `expire_time`, before any extension.
    pub first_expire_time: i64,
    /// The end of the hold.
    pub expire_time: i64,
    /// The `request_id` of the HoldSeats call that made the reservation. `None` if the call had no `request_id`.
    pub request_id: Option<Uuid>,
    /// The time of the payment. `None` if the reservation was never paid.
    pub pay_time: Option<i64>,
    /// The time of the refund. `None` if the payment was not refunded.
    pub refund_time: Option<i64>,
    /// The id of the payment, if an earlier version of boxoffice made the payment. Otherwise `None`: the id of the
    /// payment then follows from `reservation_id`.
    pub payment_id: Option<Uuid>,
    /// The request for the best available seats, as JSON. `None` if the request named its seats or had no `request_id`.
    pub best_available: Option<String>,
}

impl Model {
    /// Returns the key of the token.
    pub fn token(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
