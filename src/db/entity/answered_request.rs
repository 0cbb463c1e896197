//! A request that succeeded without any change: its seats were already held, or its payment was already made or
//! refunded. Neither `reservation` nor `ledger_entry` stores the `request_id` of such a request.

use sea_orm::entity::prelude::*;
use serde::Deserialize;

/// A row of `answered_request`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Deserialize)]
#[sea_orm(table_name = "answered_request")]
pub struct Model {
    /// A UUID chosen by the client.
    #[sea_orm(primary_key, auto_increment = false)]
    pub request_id: Uuid,
    /// The name of the RPC: `HoldSeats`, `Pay` or `RefundPayment`. Two RPCs may use the same `request_id`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub rpc: String,
    /// The requested seat numbers as a JSON array for `HoldSeats`, empty for the other RPCs. A retry must have the same
    /// content.
    pub request: String,
    /// The id of the reservation (`HoldSeats`) or of the payment (the other RPCs) in the answer.
    pub answer_id: Uuid,
    /// The end of the hold in the answer of `HoldSeats`. `None` for the other RPCs.
    pub expire_time: Option<i64>,
    /// The time of the answer.
    pub create_time: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
