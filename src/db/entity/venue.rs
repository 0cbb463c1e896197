//! Where performances take place.

use sea_orm::entity::prelude::*;

/// A row of `venue`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "venue")]
pub struct Model {
    /// A slug.
    #[sea_orm(primary_key, auto_increment = false)]
    pub venue_id: String,
    /// For people.
    pub name: String,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
