//! The wallet of a user. The last ledger entry of the user has the balance. Without an entry, the balance is 0.

use sea_orm::entity::prelude::*;

/// A row of `wallet`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "wallet")]
pub struct Model {
    /// The id of the owner.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
    /// The time at which the wallet was opened.
    pub open_time: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
