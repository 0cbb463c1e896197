//! One movement of a wallet; never changed.

use sea_orm::entity::prelude::*;

/// Why money moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// Money came in from outside.
    Charge,
    /// Seats were paid.
    Payment,
    /// A payment was given back.
    Refund,
}

/// A row of `ledger_entry`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "ledger_entry")]
pub struct Model {
    /// Whose wallet.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
    /// Dense from 1 per wallet.
    #[sea_orm(primary_key, auto_increment = false)]
    pub entry_number: i64,
    /// Why.
    pub kind: Kind,
    /// Signed.
    pub amount: i64,
    /// The balance right after it.
    pub balance_after: i64,
    /// The payment behind it.
    pub payment_id: Option<Uuid>,
    /// The request that made it.
    pub request_id: Option<Uuid>,
    /// When it was booked.
    pub create_time: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
