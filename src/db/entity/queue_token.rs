//! A user's place in the queue of a concert.

use sea_orm::entity::prelude::*;

/// The state of a token; see `QueueState` in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The token is not admitted yet.
    Waiting,
    /// The token is admitted until `expire_time`.
    Active,
    /// The admission has expired.
    Expired,
    /// A payment completed the token.
    Completed,
    /// The user left the queue.
    Left,
}

/// A row of `queue_token`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "queue_token")]
pub struct Model {
    /// The key of the concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub concert_id: i64,
    /// The number in the queue, from 1 without gaps per concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub queue_number: i64,
    /// The id of the user.
    pub user_id: Uuid,
    /// The number of the token among the tokens of the user for the concert, from 1.
    pub turn: i64,
    /// The state. An ACTIVE token past its `expire_time` is EXPIRED, even before a pass sets the state.
    pub state: State,
    /// The time of issue.
    pub issue_time: i64,
    /// The time of admission.
    pub admit_time: Option<i64>,
    /// The end of the admission.
    pub expire_time: Option<i64>,
    /// The value of `expire_time` after the first use. `None` after the first use, or if no early use is required.
    pub claimed_expire_time: Option<i64>,
    /// The number of the departure, from 1 without gaps per concert.
    pub departure_number: Option<i64>,
}

crate::db::rows! {
    /// The key of a queue token's row: a concert and a number in its queue.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct TokenKey {
        /// The key of the concert in the database.
        pub concert_id: i64,
        /// The number in the queue, from 1 without gaps.
        pub queue_number: i64,
    }
}

impl Model {
    /// Returns the key of this row.
    pub fn key(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }
}

/// The relations of the table. There are none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
