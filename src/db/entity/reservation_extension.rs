//! An extension of a hold.

use sea_orm::entity::prelude::*;

/// A row of `reservation_extension`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reservation_extension")]
pub struct Model {
    /// The reservation that was extended.
    #[sea_orm(primary_key, auto_increment = false)]
    pub reservation_id: Uuid,
    /// The number of the extension: 1 or 2.
    #[sea_orm(primary_key, auto_increment = false)]
    pub extension_number: i32,
    /// The new end of the hold.
    pub expire_time: i64,
    /// The request that made the extension.
    pub request_id: Option<Uuid>,
}

/// The relations of the table. There are none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
