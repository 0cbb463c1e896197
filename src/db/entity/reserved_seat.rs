//! A seat of a performance while it is held or sold; a free seat has no row.

use sea_orm::entity::prelude::*;

/// What holds the seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// In a hold that ends at `expire_time`.
    Held,
    /// Paid for.
    Sold,
}

/// A row of `reserved_seat`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "reserved_seat")]
pub struct Model {
    /// Which date.
    #[sea_orm(primary_key, auto_increment = false)]
    pub performance_id: i64,
    /// From 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seat_number: i32,
    /// Whose it is.
    pub reservation_id: Uuid,
    /// HELD past `expire_time` means free, before a sweep says so.
    pub state: State,
    /// When the hold ends; of no meaning once sold.
    pub expire_time: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
