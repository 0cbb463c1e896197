//! The wallet of a user. Its balance is in the ledger.

use sea_orm::entity::prelude::*;

/// A row of `wallet`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "wallet")]
pub struct Model {
    /// The owner.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
    /// The time at which the wallet was opened.
    pub open_time: i64,
}

/// Empty: the queries write their joins out.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
