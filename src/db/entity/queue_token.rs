//! A place in the queue of a concert.

use sea_orm::entity::prelude::*;

/// What a token may do; see the proto `QueueState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Not admitted yet.
    Waiting,
    /// Admitted until `expire_time`.
    Active,
    /// The admission ran out.
    Expired,
    /// Paid.
    Completed,
    /// Left the queue.
    Left,
}

/// A row of `queue_token`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "queue_token")]
pub struct Model {
    /// The concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub concert_id: i64,
    /// Dense from 1 per concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub queue_number: i64,
    /// The user.
    pub user_id: Uuid,
    /// ACTIVE after `expire_time` means EXPIRED, also before a sweep says so.
    pub state: State,
    /// When it was issued.
    pub issue_time: i64,
    /// When it was admitted.
    pub admit_time: Option<i64>,
    /// When the admission ends.
    pub expire_time: Option<i64>,
    /// What `expire_time` becomes at the first use; `None` after it, or where no early use is required.
    pub claimed_expire_time: Option<i64>,
    /// Dense from 1 per concert in the order of leaving.
    pub departure_number: Option<i64>,
}

crate::db::rows! {
    /// Key of a queue token's row: a concert, and a place in its queue.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct TokenKey {
        /// The concert, as the database knows it.
        pub concert_id: i64,
        /// From 1, without gaps.
        pub queue_number: i64,
    }
}

impl Model {
    /// The key of this row.
    pub fn key(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }
}

/// Joins are written out where they are used.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
