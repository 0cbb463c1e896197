//! A concert, which has one queue.

use sea_orm::entity::prelude::*;

/// A row of `concert`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "concert")]
pub struct Model {
    /// The key in the database. The API never shows it.
    #[sea_orm(primary_key)]
    pub concert_id: i64,
    /// The code that callers use.
    #[sea_orm(unique)]
    pub concert_code: String,
    /// The name for display.
    pub name: String,
    /// The time at which admission starts.
    pub open_time: i64,
    /// Whether admission is paused.
    pub paused: bool,
    /// Maximum number of ACTIVE tokens. 0 means that only the unsold seats limit them.
    pub max_active_count: i32,
    /// Maximum number of seats of one user, held and paid together.
    pub seats_per_user_limit: i32,
    /// Maximum time for the first use of an admission, in microseconds. 0 means no limit. `None` means the server's
    /// default.
    pub claim_ttl: Option<i64>,
}

/// The relations of the table. There are none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
