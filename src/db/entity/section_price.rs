//! The price of the seats in a section at a performance.

use sea_orm::entity::prelude::*;

/// A row of `section_price`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "section_price")]
pub struct Model {
    /// The key of the performance.
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: i64,
    /// The number of the section in its venue.
    #[sea_orm(primary_key, auto_increment = false)]
    pub section_number: i32,
    /// The price of one seat in the section.
    pub price: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
