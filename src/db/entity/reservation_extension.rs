//! An extension of a hold by ExtendReservation.

use sea_orm::entity::prelude::*;

/// A row of `reservation_extension`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reservation_extension")]
pub struct Model {
    /// The id of the reservation that was extended.
    #[sea_orm(primary_key, auto_increment = false)]
    pub reservation_id: Uuid,
    /// The number of the extension among the extensions of the hold: 1 or 2.
    #[sea_orm(primary_key, auto_increment = false)]
    pub extension_number: i32,
    /// The end of the hold after this extension.
    pub expire_time: i64,
    /// The `request_id` of the call that made the extension. `None` if the call had no `request_id`.
    pub request_id: Option<Uuid>,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
