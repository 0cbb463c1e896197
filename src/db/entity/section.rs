//! A part of a venue; seats are numbered on over the sections.

use sea_orm::entity::prelude::*;

/// A row of `section`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "section")]
pub struct Model {
    /// Where.
    #[sea_orm(primary_key, auto_increment = false)]
    pub venue_id: String,
    /// From 1, in the order in which the seats are numbered.
    #[sea_orm(primary_key, auto_increment = false)]
    pub section_number: i32,
    /// Unique in the venue.
    pub name: String,
    /// How many seats it has.
    pub seat_count: i32,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
