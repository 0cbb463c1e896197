//! What was paid for a reservation.

use sea_orm::entity::prelude::*;

/// What became of a payment; see the proto `PaymentState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The seats are the user's.
    Paid,
    /// Money and seats were given back.
    Refunded,
}

/// A row of `payment`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "payment")]
pub struct Model {
    /// A UUID of version 7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub payment_id: Uuid,
    /// What was paid.
    pub reservation_id: Uuid,
    /// Who paid.
    pub user_id: Uuid,
    /// For which concert.
    pub concert_id: i64,
    /// How much.
    pub price: i64,
    /// What became of it.
    pub state: State,
    /// When.
    pub pay_time: i64,
    /// When the money went back.
    pub refund_time: Option<i64>,
    /// The request that made it.
    pub request_id: Option<Uuid>,
    /// The request that gave it back.
    pub refund_request_id: Option<Uuid>,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
