//! A held or sold seat of a performance. A free seat has no row, or a row whose hold has ended.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// The state of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The seat is in a hold that ends at `expire_time`.
    Held,
    /// The seat is paid for.
    Sold,
}

impl crate::db::Column for State {
    const TYPE: crate::db::Type = crate::db::Type::Text;
}

/// A row of `reserved_seat`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Deserialize)]
#[sea_orm(table_name = "reserved_seat")]
pub struct Model {
    /// The key of the performance.
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: i64,
    /// The number of the seat in the venue, from 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seat_number: i32,
    /// The id of the reservation that holds the seat or has paid for it.
    pub reservation_id: Uuid,
    /// The stored state. A HELD seat past its `expire_time` is free, even before a pass deletes the row.
    pub state: State,
    /// The end of the hold. This value has no meaning for a sold seat.
    pub expire_time: i64,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
