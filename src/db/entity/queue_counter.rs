//! How far the queue of a concert has come.

use sea_orm::entity::prelude::*;

/// A row of `queue_counter`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "queue_counter")]
pub struct Model {
    /// Which concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub concert_id: i64,
    /// The last number issued.
    pub issued_number: i64,
    /// The last number admitted: nobody up to it waits.
    pub admitted_number: i64,
    /// How many were admitted; fewer than the number where some had left before.
    pub admitted_count: i64,
    /// How many tokens have left.
    pub departed_count: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
