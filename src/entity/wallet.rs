//! Prepaid money of a user.

use sea_orm::entity::prelude::*;

/// A row of `wallet`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "wallet")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: Uuid,
    /// The sum of its entries.
    pub balance: i64,
    /// How many entries it has: the number of the last one.
    pub entry_count: i64,
    /// When it was opened.
    pub open_time: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
