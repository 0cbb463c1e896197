//! A section of a venue. Seat numbers continue from one section to the next.

use sea_orm::entity::prelude::*;

/// A row of `section`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "section")]
pub struct Model {
    /// The id of the venue.
    #[sea_orm(primary_key, auto_increment = false)]
    pub venue_id: String,
    /// The number of the section in its venue, from 1. Sections with higher numbers have higher seat numbers.
    #[sea_orm(primary_key, auto_increment = false)]
    pub section_number: i32,
    /// The name of the section, unique in the venue.
    pub name: String,
    /// The number of seats in the section.
    pub seat_count: i32,
    /// The rows as a JSON array: `[["A",10],["B",12]]`. `None` if the section has no rows.
    pub seat_rows: Option<String>,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
