//! A venue where performances take place.

use sea_orm::entity::prelude::*;

/// A row of `venue`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "venue")]
pub struct Model {
    /// The id, a slug.
    #[sea_orm(primary_key, auto_increment = false)]
    pub venue_id: String,
    /// The name for display.
    pub name: String,
}

/// The relations of the table. There are none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
