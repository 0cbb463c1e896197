//! A concert, which has one queue.

use sea_orm::entity::prelude::*;

/// A row of `concert`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "concert")]
pub struct Model {
    /// The key in the database. No message of the API contains it.
    #[sea_orm(primary_key)]
    pub concert_id: i64,
    /// The unique code that callers use for the concert.
    #[sea_orm(unique)]
    pub concert_code: String,
    /// The name that clients show to users.
    pub name: String,
    /// The time at which admission starts.
    pub open_time: i64,
    /// Whether admission is paused. Admitted users may continue.
    pub paused: bool,
    /// Maximum number of ACTIVE tokens. 0 means no maximum. The number of unsold seats on sale always limits the ACTIVE
    /// tokens too.
    pub max_active_count: i32,
    /// Maximum number of seats that one user may hold or have paid at this concert, on all dates together.
    pub seats_per_user_limit: i32,
    /// Maximum time from an admission to its first use, in microseconds. 0 means no limit. `None` means the default of
    /// the server.
    pub claim_ttl: Option<i64>,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
