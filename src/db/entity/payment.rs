//! A payment for a reservation.

use sea_orm::entity::prelude::*;

/// The state of a payment; see `PaymentState` in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The user owns the seats.
    Paid,
    /// The money was returned and the seats are free.
    Refunded,
}

/// A row of `payment`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "payment")]
pub struct Model {
    /// The key, a UUID of version 7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub payment_id: Uuid,
    /// The id of the paid reservation.
    pub reservation_id: Uuid,
    /// The id of the user that paid.
    pub user_id: Uuid,
    /// The key of the concert.
    pub concert_id: i64,
    /// The price that was paid.
    pub price: i64,
    /// The state.
    pub state: State,
    /// The time of the payment.
    pub pay_time: i64,
    /// The time of the refund.
    pub refund_time: Option<i64>,
    /// The request that made the payment.
    pub request_id: Option<Uuid>,
    /// The request that made the refund.
    pub refund_request_id: Option<Uuid>,
}

/// The relations of the table. There are none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
