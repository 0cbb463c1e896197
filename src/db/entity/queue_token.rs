//! A queue token: the number of a user in the queue of a concert, and its state.

use sea_orm::entity::prelude::*;
use serde::Deserialize;

/// The state of a token; see `QueueState` in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The token is not admitted yet.
    Waiting,
    /// The token is admitted. The admission ends at `expire_time`.
    Active,
    /// The admission expired before a payment.
    Expired,
    /// A payment completed the token.
    Completed,
    /// The user left the queue, before or after the admission.
    Left,
}

/// A row of `queue_token`.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Deserialize)]
#[sea_orm(table_name = "queue_token")]
pub struct Model {
    /// The key of the concert.
    #[sea_orm(primary_key, auto_increment = false)]
    pub concert_id: i64,
    /// The number in the queue. The numbers of a concert are issued from 1 without gaps.
    #[sea_orm(primary_key, auto_increment = false)]
    pub queue_number: i64,
    /// The id of the user.
    pub user_id: Uuid,
    /// The number of the token among the tokens of the user for the concert. If the user has no token, the turn of a
    /// new token is 1. Otherwise the turn of a new token is the turn of the user's last token plus 1.
    pub turn: i64,
    /// The stored state. An ACTIVE token past its `expire_time` counts as EXPIRED, even before a pass changes the
    /// stored state.
    pub state: State,
    /// The time at which the token was issued.
    pub issue_time: i64,
    /// The time at which the token was admitted. `None` for a token that was never admitted.
    pub admit_time: Option<i64>,
    /// The time at which the admission ends or ended. `None` for a token that was never admitted.
    pub expire_time: Option<i64>,
    /// The value that the first use of the admission gives to `expire_time`. `None` before the admission, after its
    /// first use, or if no early use is required.
    pub claimed_expire_time: Option<i64>,
    /// The number of the departure. `None` if the state is not LEFT. The departures of a concert are numbered from 1
    /// without gaps.
    pub departure_number: Option<i64>,
}

crate::db::rows! {
    /// The key of a queue token's row: a concert and a number in its queue.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct TokenKey {
        /// The key of the concert in the database.
        pub concert_id: i64,
        /// The number in the queue of the concert.
        pub queue_number: i64,
    }
}

impl Model {
    /// Returns the key of this row.
    pub fn key(&self) -> TokenKey {
        TokenKey { concert_id: self.concert_id, queue_number: self.queue_number }
    }
}

/// The relations of the table: none, because the queries contain their joins.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
