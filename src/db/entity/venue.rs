//! A venue where performances take place.

use sea_orm::entity::prelude::*;

/// A row of `venue`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "venue")]
pub struct Model {
    /// The id that the operator chose, a slug.
    #[sea_orm(primary_key, auto_increment = false)]
    pub venue_id: String,
    /// The name that clients show to users.
    pub name: String,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
