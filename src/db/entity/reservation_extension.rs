//! A hold that was kept for longer.

use sea_orm::entity::prelude::*;

/// A row of `reservation_extension`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reservation_extension")]
pub struct Model {
    /// Which hold.
    #[sea_orm(primary_key, auto_increment = false)]
    pub reservation_id: Uuid,
    /// From 1; the schema bounds it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub extension_number: i32,
    /// Until when.
    pub expire_time: i64,
    /// The request that made it.
    pub request_id: Option<Uuid>,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
