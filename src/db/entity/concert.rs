//! A concert, which has one queue.

use sea_orm::entity::prelude::*;

/// The seed of a draw: 32 bytes in hexadecimal. Its debug output does not show the seed, because nobody may know the
/// seed before the draw.
#[derive(Clone, derive_more::Debug, PartialEq, Eq, DeriveValueType)]
pub struct DrawSeed(#[debug("***")] pub String);

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
    /// Maximum number of admissions per minute. 0 means no such maximum.
    pub max_admissions_per_minute: i32,
    /// The seed of the draw. `None` means that the concert has no draw.
    pub draw_seed: Option<DrawSeed>,
    /// The salt of the draw. Fixed when the draw is held.
    pub draw_salt: String,
    /// The source of the salt, as the operator named it.
    pub draw_salt_source: String,
    /// The number of tokens that took part in the draw. `None` before the draw is held, or if the concert has no draw.
    pub participant_count: Option<i64>,
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
