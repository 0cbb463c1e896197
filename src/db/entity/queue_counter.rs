//! How far the queue of a concert has come.

use sea_orm::entity::prelude::*;

/// A row of `queue_counter`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "queue_counter")]
pub struct Model {
    /// The concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub concert_id: i64,
    /// The last number issued.
    pub issued_number: i64,
    /// The last number admitted. No token up to it waits.
    pub admitted_number: i64,
    /// The number of tokens that were admitted. Tokens that left before their turn do not count.
    pub admitted_count: i64,
    /// The number of tokens that left, admitted or not.
    pub departed_count: i64,
    /// The number of tokens that left after they were admitted.
    pub left_admitted_count: i64,
    /// The number of tokens whose admission ran out and that say so.
    pub expired_count: i64,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
