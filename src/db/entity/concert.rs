//! What is queued for.

use sea_orm::entity::prelude::*;

/// A row of `concert`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "concert")]
pub struct Model {
    /// Made by the database; never shown.
    #[sea_orm(primary_key)]
    pub concert_id: i64,
    /// The name that callers know it by.
    #[sea_orm(unique)]
    pub concert_code: String,
    /// For people.
    pub name: String,
    /// Nobody is admitted before.
    pub open_time: i64,
    /// Nobody is admitted while true.
    pub paused: bool,
    /// Bound of the ACTIVE tokens; 0: the unsold seats alone.
    pub max_active_count: i32,
    /// Seats that one user may have, held and paid together.
    pub seats_per_user_limit: i32,
    /// Time for a first sign of life; 0: no limit, `None`: the server's default.
    pub claim_ttl: Option<i64>,
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
