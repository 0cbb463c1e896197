//! What the seats of a section cost at a performance.

use sea_orm::entity::prelude::*;

/// A row of `section_price`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "section_price")]
pub struct Model {
    /// Which performance.
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: i64,
    /// Which section of its venue.
    #[sea_orm(primary_key, auto_increment = false)]
    pub section_number: i32,
    /// In the smallest unit of the currency.
    pub price: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
