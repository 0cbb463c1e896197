//! A movement of money in a wallet. A row never changes.

use sea_orm::entity::prelude::*;
use serde::Deserialize;

/// The reason for a movement of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// ChargeWallet added money.
    Charge,
    /// Pay took the price of seats.
    Payment,
    /// RefundPayment returned the price of seats.
    Refund,
}

/// A row of `ledger_entry`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Deserialize)]
#[sea_orm(table_name = "ledger_entry")]
pub struct Model {
    /// The id of the owner of the wallet.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
    /// The number of the entry. The entries of a wallet are numbered from 1 without gaps.
    #[sea_orm(primary_key, auto_increment = false)]
    pub entry_number: i64,
    /// The reason for the movement.
    pub kind: Kind,
    /// The amount: above 0 for incoming money, below 0 for outgoing money.
    pub amount: i64,
    /// The balance of the wallet after this entry.
    pub balance_after: i64,
    /// The id of the payment. `None` for a charge.
    pub payment_id: Option<Uuid>,
    /// The `request_id` of the call that added the entry. `None` if the call had no `request_id`.
    pub request_id: Option<Uuid>,
    /// The time of the entry.
    pub create_time: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
